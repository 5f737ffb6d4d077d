// Which method is expected to take the least time for a row. Costs are in ns, for value and
// gradient on one core. Included once for each instruction set, after soft_rank_direct.h and
// soft_rank_linear.h, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// How many vectors it takes where AVX-512 takes one: pairs gain most from wider ones.
constexpr double kVectorWidth = 64.0 / SODEEP_FAST_VECTOR_BYTES;

constexpr int64_t kPanelNumbers = 1 << 14;  // a bit each, 2 KiB

// The number of panels that have one of every `step`-th score, or somewhat less: panels are told
// apart by the rest of their number by kPanelNumbers.
template <class T>
int64_t occupied_panels(const T* scores, int64_t n, int64_t step, T lo, double lam) {
  constexpr int64_t kWord = 64;
  uint64_t seen[kPanelNumbers / kWord] = {};
  for (int64_t i = 0; i < n; i += step) {
    const double position = (static_cast<double>(scores[i]) - static_cast<double>(lo)) * lam;
    const int64_t number = static_cast<int64_t>(std::min(position, 1e18)) % kPanelNumbers;
    seen[number / kWord] |= uint64_t{1} << (number % kWord);
  }
  int64_t count = 0;
  for (const uint64_t word : seen) count += __builtin_popcountll(word);
  return count;
}

// Those of soft_rank_direct and soft_rank_linear are fitted to timings over n from 32 to 2048 and
// ranges from 1 to 3000 (Granite Rapids with AVX-512, 2026-11).
template <class T>
double direct_cost(int64_t n, double range) {
  constexpr bool single = sizeof(T) == 4;
  const auto items = static_cast<double>(n);
  double pair = single ? 0.63 : 2.1;
  if (range <= FactoredPairs<T, 1>::kMaxRange)
    pair = n <= kTile ? (single ? 0.08 : 0.24) : (single ? 0.145 : 0.33);
  return 800 + (single ? 8 : 25) * items + kVectorWidth * pair * items * items;
}

// `filled` is the share of the range in which panels are occupied. In double a panel costs more for
// every occupied panel near it.
template <class T>
double linear_cost(int64_t n, double panels, double filled) {
  const auto items = static_cast<double>(n);
  if (sizeof(T) == 4) return 650 + 10.6 * items + panels * 250;
  const double neighbours = std::min(panels, 2.0 * kPanelNear - 1) * filled;
  return 650 + 12.5 * items + panels * (780 + 47 * neighbours);
}

template <class T>
double linear_cost(int64_t n, double range) {
  const auto limit = static_cast<double>(panel_limit(range, n));
  return linear_cost<T>(n, limit, limit / (range + 1));
}

template <class T>
bool linear_is_faster(const T* scores, int64_t n, T lo, double lam, double range) {
  const double direct = direct_cost<T>(n, range);
  if (linear_cost<T>(n, range) < direct) return true;
  // Ties, clusters and outliers leave most panels empty. Counting pays if that may matter.
  const auto with = [&](int64_t panels) {
    return linear_cost<T>(n, static_cast<double>(panels), 1);
  };
  return with(1) < direct && with(occupied_panels(scores, n, 1, lo, lam)) < direct;
}

// The number of items near one and above it, on the average, and the number of occupied panels.
struct Crowding {
  double neighbours, panels;
};

// That of soft_rank_steep is fitted to timings over n from 20 to 100,000 and 0.05 to 4 items per
// 1 / lam (Zen 3 with AVX2, 2026-12).
template <class T>
double steep_cost(int64_t n, double neighbours) {
  constexpr bool single = sizeof(T) == 4;
  const double sort = n < kFewToSort ? (single ? 34 : 58) : (single ? 30 : 40);
  const double pair = single ? 0.95 : 2.05;
  return (single ? 1600 : 3000) +
         static_cast<double>(n) * (sort + kVectorWidth * pair * (neighbours + 3));
}

template <class T>
bool steep_is_fastest(int64_t n, double range, const Crowding& crowding, Method method) {
  const double steep = steep_cost<T>(n, crowding.neighbours);
  return steep < linear_cost<T>(n, crowding.panels, 1) &&
         (method == Method::kLinear || steep < direct_cost<T>(n, range));
}

// Whether a sample of the scores, in panels as much wider as it is smaller, is in nearly as many of
// them as it would be if it were spread evenly.
template <class T>
bool is_spread(const T* scores, int64_t n, T lo, double lam, double range) {
  constexpr int64_t kSample = 4096;
  const int64_t step = divide_up(n, kSample);
  const auto wider = static_cast<double>(step), count = static_cast<double>(divide_up(n, step));
  const double panels = std::min<double>(range / wider + 1, kPanelNumbers);
  const double expected = panels * (1 - std::exp(-count / panels));
  return static_cast<double>(occupied_panels(scores, n, step, lo, lam / wider)) > 0.6 * expected;
}

// Whether it pays to put the row in order, after which `steep_is_fastest` decides.
template <class T>
bool steep_may_be_fastest(const T* scores, int64_t n, T lo, double lam, double range,
                          Method method) {
  const Crowding even = {kPanelReach<T> * static_cast<double>(n) / range,
                         static_cast<double>(panel_limit(range, n))};
  return steep_is_fastest<T>(n, range, even, method) && is_spread(scores, n, lo, lam, range);
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
