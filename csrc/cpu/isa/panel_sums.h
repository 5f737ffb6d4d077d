// Sums over the items of all panels, as seen from one panel: near panels by a table, far ones by
// exponentials; see math/sigmoid_panels.h and cpu/far_panels.h. Included once for each instruction
// set, hence no include guard.

#include "cpu/isa/panel_moments.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// The tables of one derivative of the sigmoid.
struct PanelTables {
  const double *near, *far;
};

template <class T, int kDerivative>
PanelTables panel_tables() {
  static const std::vector<double> near = make_panel_table<T, kDerivative>(kPanelNear),
                                   far = make_far_table<T, kDerivative>();
  return {near.data(), far.data()};
}

// The panels of a list that are near a given one.
struct PanelWindow {
  int64_t begin, end;
};

template <class T, int kWeights>
class PanelSums {
 public:
  static constexpr int p = kPanelOrder<T>, kMoments = kWeights * p;

  // The size of the far sums, which find_far writes.
  static int64_t far_size(int64_t points) { return points * kWeights * kSums; }

  // From the moments [item_count][weight][power] of the panels `items` to coefficients at the
  // panels `points`, both in order of their places.
  PanelSums(const Panel* items, int64_t item_count, const double* moments, const Panel* points,
            double* far)
      : items_(items), item_count_(item_count), moments_(moments), points_(points), far_(far) {
    static const std::vector<double> powers = make_far_moments<T>(), decays = make_far_decays<T>();
    powers_ = powers.data(), decays_ = decays.data();
  }

  // Computes the far sums of the points from begin to end, of which there is at least one.
  void find_far(int64_t begin, int64_t end) {
    add_far<false>(begin, end);
    add_far<true>(begin, end);
  }

  // The coefficients at a point by each of several tables, after find_far. The window starts as {}
  // and is passed on from point to point, in order.
  template <int kTables>
  void gather(int64_t point, const PanelTables (&tables)[kTables], PanelWindow& window,
              double (&coefficients)[kTables][kWeights][p]) const {
    constexpr int lanes = kLanes<double>;
    // Independent chains of additions, enough to hide their latency.
    constexpr int kChains = std::max(1, 8 / (kTables * kWeights * (p / lanes)));
    const int64_t place = points_[point].place;
    while (window.begin < item_count_ && items_[window.begin].place <= place - kPanelNear)
      ++window.begin;
    window.end = std::max(window.begin, window.end);
    while (window.end < item_count_ && items_[window.end].place < place + kPanelNear) ++window.end;

    Vec<double> sums[kChains][kTables][kWeights][p / lanes] = {};
    // Adds `terms` rows of a table, times given[weight][term].
    const auto add = [&](auto terms, const auto& table, const double* given) {
      for (int b = 0; b < terms(); ++b)
        for (int t = 0; t < kTables; ++t)
          for (int a = 0; a < p / lanes; ++a) {
            const Vec<double> row = load<double>(table(t) + b * p + a * lanes);
            for (int w = 0; w < kWeights; ++w)
              sums[b % kChains][t][w][a] += row * given[w * terms() + b];
          }
    };
    for (int64_t other = window.begin; other < window.end; ++other) {
      const int64_t entry = (items_[other].place - place + kPanelNear - 1) * p * p;
      add(
          std::integral_constant<int, p>{}, [&](int t) { return tables[t].near + entry; },
          moments_ + other * kMoments);
    }
    add(
        std::integral_constant<int, kSums>{}, [&](int t) { return tables[t].far; },
        far_ + point * kWeights * kSums);
    for (int t = 0; t < kTables; ++t)
      for (int w = 0; w < kWeights; ++w)
        for (int a = 0; a < p / lanes; ++a) {
          for (int chain = 1; chain < kChains; ++chain) sums[0][t][w][a] += sums[chain][t][w][a];
          store<double>(&coefficients[t][w][a * lanes], sums[0][t][w][a]);
        }
  }

 private:
  static constexpr int kTerms = kFarTerms<T>, kSums = kFarSums<T>;

  // Running sums over the panels on one side of the points. They start within reach of the first
  // point, so that different ranges of points are independent of each other.
  template <bool kAbove>
  void add_far(int64_t begin, int64_t end) {
    constexpr int kSign = kAbove ? -1 : 1;
    const auto item = [&](int64_t k) -> int64_t { return kAbove ? item_count_ - 1 - k : k; };
    const auto place_of = [&](const Panel& panel) { return kSign * panel.place; };
    const auto decay = [&](int64_t distance) {
      return decays_ + std::clamp<int64_t>(distance, 0, kPanelReach<T>) * kTerms;
    };
    const int64_t first_place = place_of(points_[kAbove ? end - 1 : begin]);
    int64_t next = 0;
    for (int64_t size = item_count_; size > 0; size /= 2)
      while (next + size <= item_count_ &&
             place_of(items_[item(next + size - 1)]) <= first_place - kPanelReach<T>)
        next += size;

    double sums[kWeights][kTerms] = {};
    int64_t at = first_place - kPanelReach<T>;
    const auto move_to = [&](int64_t place, double (&to)[kWeights][kTerms]) {
      const double* factor = decay(place - at);
      for (int w = 0; w < kWeights; ++w)
        for (int k = 0; k < kTerms; ++k) to[w][k] = sums[w][k] * factor[k];
    };
    for (int64_t i = begin; i < end; ++i) {
      const int64_t point = kAbove ? begin + end - 1 - i : i;
      const int64_t place = place_of(points_[point]);
      for (; next < item_count_; ++next) {
        const Panel& panel = items_[item(next)];
        if (place_of(panel) > place - kPanelNear) break;
        move_to(place_of(panel), sums);
        at = place_of(panel);
        const double* moments = moments_ + item(next) * kMoments;
        for (int w = 0; w < kWeights; ++w)
          for (int b = 0; b < p; ++b)
            for (int k = 0; k < kTerms; ++k)
              sums[w][k] += powers_[b * kSums + (kAbove ? 0 : kTerms) + k] * moments[w * p + b];
      }
      double here[kWeights][kTerms];
      move_to(place, here);
      for (int w = 0; w < kWeights; ++w)
        std::copy_n(here[w], kTerms, far_ + (point * kWeights + w) * kSums + (kAbove ? 0 : kTerms));
    }
  }

  const Panel* items_;
  int64_t item_count_;
  const double* moments_;
  const Panel* points_;
  double* far_;
  const double *powers_, *decays_;
};

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
