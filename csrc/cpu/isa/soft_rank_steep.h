// The sums of a steep row: of its scores in order, only near neighbours are not saturated, and each
// pair of them is taken once. Included once for each instruction set, after soft_rank_linear.h,
// hence no include guard.

#include "cpu/isa/soft_rank_costs.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// A row in order, padded with scores that are far from all others.
template <class T, int kDerivative>
class SteepRow {
 public:
  static constexpr int64_t kBlockItems = 2048;  // of one task

  SteepRow(const T* row_scores, const T* const (&row_weights)[2], int64_t n, double lam,
           SoftRankScratch<T>& scratch)
      : n_(n),
        lam_(static_cast<T>(std::min<double>(lam, std::numeric_limits<T>::max()))),
        scores_(scratch.order.sorted.reserve((1 + kDerivative) * (n + kPadding))),
        order_(scratch.order.origin.reserve(n)) {
    sorted_order(row_scores, n, scratch.order.keys, order_);
    const auto gather = [&](const T* from, T* to, T padding) {
      for (int64_t i = 0; i < n; ++i) to[i] = from[order_[i]];
      std::fill_n(to + n, kPadding, padding);
    };
    gather(row_scores, scores_, std::numeric_limits<T>::infinity());
    for (int k = 0; k < kDerivative; ++k) {
      weights_[k] = scores_ + (1 + k) * (n + kPadding);
      gather(row_weights[k], weights_[k], T(0));
    }
  }

  // How many items above an item are not saturated, on the average, and the number of occupied
  // panels, both estimated from every lanes-th item.
  Crowding crowding() const {
    double neighbours = 0, panels = 0;
    for (int64_t i = 0, in_panel = 0, in_reach = 0; i < n_; i += lanes) {
      while (in_panel < n_ && distance(i, in_panel) < 1) ++in_panel;
      while (in_reach < n_ && distance(i, in_reach) <= kReach) ++in_reach;
      neighbours += static_cast<double>(in_reach - i - 1);
      panels += 1 / static_cast<double>(in_panel - i);
    }
    const auto samples = static_cast<double>(divide_up(n_, lanes));
    return {neighbours / samples, panels * static_cast<double>(n_) / samples};
  }

  // Writes scale times the values of the items from `begin` to `end`; false if one has too many
  // neighbours.
  bool write(int64_t begin, int64_t end, double scale, T* out) const {
    int64_t from = begin;
    while (from > 0 && distance(from - 1, begin) <= kReach)
      if (begin - --from > kMostNeighbours) return false;
    T taken[kMostNeighbours + kBlockItems + kPadding], given[std::size(taken)];
    std::fill_n(taken, end - from + kPadding, T(0));
    std::fill_n(given, end - from + kPadding, T(0));
    if (!sum_pairs(from, end, taken, given)) return false;
    // Items above count in full, but for what the sums take from the pairs that are not saturated.
    for (int64_t i = begin; i < end; ++i) {
      const int64_t above = kDerivative == 0 ? n_ - i : 0;
      const T sum = given[i - from] - taken[i - from];
      out[order_[i]] = static_cast<T>(scale * (static_cast<double>(above) + sum));
    }
    return true;
  }

 private:
  static constexpr int64_t lanes = kLanes<T>;
  static constexpr int kReach = kPanelReach<T>;
  // Items that look for their neighbours together: enough that the sums of one distance have left
  // the processor's store buffer before the next distance reads them, shifted.
  static constexpr int64_t kTileItems = 8 * lanes;
  static constexpr int64_t kMostNeighbours = 256;  // longer sums in T have too much rounding error
  static constexpr int64_t kPadding = kTileItems + kMostNeighbours + lanes;

  // In units of 1 / lam.
  T distance(int64_t lower, int64_t upper) const {
    return lam_ * (scores_[upper] - scores_[lower]);
  }

  // Adds up, from item `from` on, what the items up to `end` give to those above them, and what is
  // taken from them.
  bool sum_pairs(int64_t from, int64_t end, T* taken, T* given) const {
    for (int64_t tile = from; tile < end; tile += kTileItems) {
      bool any_near = true;
      for (int64_t steps = 1; any_near; ++steps) {
        if (steps > kMostNeighbours) return false;
        Vec<T> nearest = broadcast<T>(kReach + 1);
        for (int64_t i = tile; i < tile + kTileItems; i += lanes) {
          const int64_t j = i + steps;
          const Vec<T> x = lam_ * (load<T>(scores_ + j) - load<T>(scores_ + i));
          nearest = minimum(x, nearest);
          const Vec<T> value = given_to_upper(x, i, j);
          T *lower = taken + (i - from), *upper = given + (j - from);
          store<T>(lower, load<T>(lower) + value);
          store<T>(upper, load<T>(upper) + value);
        }
        any_near = reduce<T>(nearest, [](T a, T b) { return std::min(a, b); }) <= kReach;
      }
    }
    return true;
  }

  // The lower items i lose the same. Their distances x are not negative, and infinite or NaN in the
  // padding.
  SODEEP_FAST_INLINE Vec<T> given_to_upper(Vec<T> x, int64_t i, int64_t j) const {
    const SplitExponent<T> split(-x);
    const Vec<T> odds = exponential_series<T, 0>(split.rest) * split.scale;
    const Vec<T> win = reciprocal<T>(1 + odds), loss = odds * win;
    Vec<T> value = loss;
    if constexpr (kDerivative > 0) value *= win;
    if constexpr (kDerivative == 2) value *= win - loss;
    for (int k = 0; k < kDerivative; ++k)
      value *= load<T>(weights_[k] + i) - load<T>(weights_[k] + j);
    return x < 2 * kReach ? value : Vec<T>{};  // beyond, `odds` may be anything
  }

  int64_t n_;
  T lam_;
  T* scores_;
  T* weights_[2];
  uint32_t* order_;
};

// out[i] = scale * the sum of SoftRankRow, all scores finite. Returns false if another method is
// expected to take less time, or a weight is not finite: it has to reach the whole row. `out` is
// then arbitrary.
template <class T, int kDerivative>
bool soft_rank_steep(const T* scores, const T* const (&weights)[2], int64_t n, double lam,
                     double range, Method method, double scale, SoftRankScratch<T>& scratch,
                     T* out) {
  using Row = SteepRow<T, kDerivative>;
  for (int k = 0; k < kDerivative; ++k)
    if (!std::isfinite(middle_of(weights[k], n))) return false;
  const Row row(scores, weights, n, lam, scratch);
  if (!steep_is_fastest<T>(n, range, row.crowding(), method)) return false;

  constexpr int64_t kBlock = Row::kBlockItems, kGrain = kParallelItems / (4 * kBlock);
  std::atomic<bool> done = true;
  torch::stable::parallel_for(0, divide_up(n, kBlock), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; done && block < end; ++block)
      if (!row.write(block * kBlock, std::min(n, (block + 1) * kBlock), scale, out)) done = false;
  });
  return done;
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
