// Sums over the items of panels by power moments; see math/sigmoid_panels.h. Included once for each
// instruction set, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Adds the power moments of weight w over a piece: sum of w t^b, b < p. w is 1 where it is null.
// Powers come four at a time, t^(4q + r) = t^4q * t^r, so most cost one multiply-add.
template <class T>
void add_moments(const T* scores, const T* weight, int64_t count, PanelCentre<T> centre, T scale,
                 double* moments) {
  constexpr int p = kPanelOrder<T>, lanes = kLanes<T>;
  Vec<T> sums[p] = {};
  const auto accumulate = [&](Vec<T> t, Vec<T> w) {
    const Vec<T> t2 = t * t, t4 = t2 * t2;
    const Vec<T> low[4] = {w, w * t, w * t2, w * t2 * t};
    for (int r = 0; r < 4; ++r) sums[r] += low[r];
    Vec<T> high = t4;
    for (int q = 4; q < p; q += 4) {
      for (int r = 0; r < 4; ++r) sums[q + r] += low[r] * high;
      high = high * t4;
    }
  };
  const auto flush = [&] {
    for (int first = 0; first < p; first += lanes) {
      Vec<T> rows[lanes] = {};
      for (int b = first; b < std::min(first + lanes, p); ++b) {
        rows[b - first] = sums[b];
        sums[b] = Vec<T>{};
      }
      const Vec<T> total = transposed_sum<T>(rows);
      for (int b = first; b < std::min(first + lanes, p); ++b) moments[b] += total[b - first];
    }
  };
  const auto position = [&](Vec<T> score) { return ((score - centre.hi) - centre.lo) * scale; };

  // Sums in T drift by their length, so they are kept this short.
  constexpr int64_t kBlock = 64 * lanes;
  int64_t i = 0;
  while (i + lanes <= count) {
    const int64_t stop = std::min(i + kBlock, count);
    for (; i + lanes <= stop; i += lanes)
      accumulate(position(load<T>(scores + i)), weight ? load<T>(weight + i) : broadcast<T>(1));
    if (i + lanes <= count) flush();
  }
  if (i < count) {
    // Lanes behind the end repeat the last score, with weight 0.
    T tail[lanes], tail_weight[lanes] = {};
    for (int64_t k = 0; k < lanes; ++k) tail[k] = scores[std::min(i + k, count - 1)];
    for (int64_t k = i; k < count; ++k) tail_weight[k - i] = weight ? weight[k] : T(1);
    accumulate(position(load<T>(tail)), load<T>(tail_weight));
  }
  flush();
}

// sum of a_k t^k over k < p.
template <class T>
inline Vec<T> evaluate_powers(const T (&a)[kPanelOrder<T>], Vec<T> t) {
  Vec<T> value = broadcast<T>(a[kPanelOrder<T> - 1]);
  for (int k = kPanelOrder<T> - 2; k >= 0; --k) value = value * t + a[k];
  return value;
}

// Which of a list of panels a panel sees unsaturated.
struct PanelWindow {
  int64_t begin, end;
};

// Moves a window on to a panel at `place`, no lower than the one before.
template <class T>
inline void advance(PanelWindow& window, const Panel* panels, int64_t panel_count, int64_t place) {
  while (window.begin < panel_count && place - panels[window.begin].place >= kPanelReach<T>)
    ++window.begin;
  window.end = std::max(window.begin, window.end);
  while (window.end < panel_count && panels[window.end].place - place < kPanelReach<T>)
    ++window.end;
}

// Power coefficients, at a panel, of the sums over the items in its window, by each of several
// tables; [table][weight][power].
template <class T, int kWeights, int kTables>
void gather_coefficients(const double* const (&tables)[kTables], const double* moments,
                         const Panel* panels, PanelWindow window, int64_t place,
                         double (&coefficients)[kTables][kWeights][kPanelOrder<T>]) {
  constexpr int p = kPanelOrder<T>, reach = kPanelReach<T>, lanes = kLanes<double>;
  // Independent chains of additions, enough to hide their latency.
  constexpr int kChains = std::max(1, 8 / (kTables * kWeights * (p / lanes)));
  Vec<double> sums[kChains][kTables][kWeights][p / lanes] = {};
  for (int64_t other = window.begin; other < window.end; ++other) {
    const int64_t entry = (panels[other].place - place + reach - 1) * p * p;
    const double* moment = moments + other * kWeights * p;
    for (int b = 0; b < p; ++b)
      for (int t = 0; t < kTables; ++t)
        for (int a = 0; a < p / lanes; ++a) {
          const Vec<double> row = load<double>(tables[t] + entry + b * p + a * lanes);
          for (int w = 0; w < kWeights; ++w) sums[b % kChains][t][w][a] += row * moment[w * p + b];
        }
  }
  for (int t = 0; t < kTables; ++t)
    for (int w = 0; w < kWeights; ++w)
      for (int a = 0; a < p / lanes; ++a) {
        for (int chain = 1; chain < kChains; ++chain) sums[0][t][w][a] += sums[chain][t][w][a];
        store<double>(&coefficients[t][w][a * lanes], sums[0][t][w][a]);
      }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
