// Counts ranks for all targets of a row, and takes a metric's derivatives back to the scores: the
// row is grouped and ordered once for both. Included once for each instruction set, hence no
// include guard.

#include "cpu/isa/rank_counts_row.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Lists the items of level 1 and more.
inline int64_t find_targets(const uint8_t* levels, int64_t items, int64_t num_levels,
                            int64_t* targets) {
  int64_t count = 0;
  for_each_run(levels, items, [&](int64_t k, auto n, int level) {
    const bool is_target = level > 0 && level < num_levels;
    if (n() > 1 && !is_target) return;
    // Branch-free, as the levels are unpredictable; `targets` has room for one more entry.
    for (int i = 0; i < n(); ++i) targets[count + i] = k + i;
    count += is_target ? n() : 0;
  });
  return count;
}

// First survey, then count, then pull_back.
template <class T>
class TargetCounts {
 public:
  TargetCounts(const CountedRow<T>& row, CountedScratch<T>& scratch)
      : row_(row), scratch_(scratch) {
    int64_t* targets = scratch.targets.reserve(row.items + 1);
    counted_.scores = row.scores, counted_.levels = row.levels, counted_.end = row.items;
    counted_.num_targets = find_targets(row.levels, row.items, row.num_levels, targets);
    counted_.targets = targets, counted_.num_levels = row.num_levels;
    counted_.method = row.method, counted_.comparators = row.comparators;
    counted_.sums = scratch.sums.reserve(size() * (2 * row.num_levels + 1));
  }

  // The targets, and once counted, their sums [num_levels, targets].
  const RankCountsRow<T>& counted() const { return counted_; }
  int64_t size() const { return counted_.num_targets; }

  // Prepares to count; false if there is nothing to count: then value and gradient are final.
  bool survey() {
    constexpr T nan = std::numeric_limits<T>::quiet_NaN();
    *row_.value = nan;
    if (wants_gradient()) std::fill_n(row_.gradient, row_.items, T(0));
    if (!survey_row(counted_, scratch_.counts, grouped_)) {
      for (int64_t k = 0; wants_gradient() && k < row_.items; ++k)
        if (row_.levels[k] < row_.num_levels) row_.gradient[k] = nan;
      return false;
    }
    if (size() == 0) return false;
    plan_ = wants_gradient() ? make_plan<T, kValue, kGradient>(counted_, grouped_)
                             : make_plan<T, kValue>(counted_, grouped_);
    grouped_.staying = plan_.any ? -1 : staying_level(counted_, grouped_);
    places_ = scratch_.counts.place.reserve(row_.items);
    group_row<T, kGradient>(counted_, scratch_.counts, places_, grouped_);
    flush_.emplace(may_flush<T>(row_.comparators));
    factored_ = factor_row(counted_, grouped_, plan_);
    return true;
  }

  void count() {
    std::fill_n(counted_.sums, size() * row_.num_levels, 0.0);
    // What pull_back subtracts from targets, and the slopes that it needs from the linear method.
    pulled_ = counted_.sums + size() * row_.num_levels;
    std::fill_n(pulled_, size(), 0.0);
    if (wants_gradient()) counted_.slopes = pulled_ + size();
    rank_counts_direct<T, kValue>(counted_, grouped_, plan_, factored_);
    if (!plan_.any) return;
    linear_.emplace(counted_, grouped_, OrderNeeds(row_.comparators, derivative_of(kValue)),
                    scratch_.counts);
    if (wants_gradient())
      linear_->template run<CountsPass::kCountsAndSlopes>(plan_);
    else
      linear_->template run<kValue>(plan_);
  }

  // Adds the counts by other comparators, pair by pair, for targets of level `least` and more.
  void count_directly(const Comparator* comparators, int64_t least, double* sums) const {
    RankCountsRow<T> counted = counted_;
    counted.comparators = comparators, counted.sums = sums;
    rank_counts_direct<T, kValue>(counted, grouped_, CountsPlan(), 0, least);
  }

  // Writes the gradient, if wanted, from the derivatives of the value with respect to the counts:
  // [num_levels, targets] if `by_level`, otherwise [targets], the same for all levels.
  void pull_back(const T* slopes, bool by_level) {
    if (!wants_gradient()) return;
    counted_.grad = slopes;
    counted_.grad_strides[0] = 1, counted_.grad_strides[1] = by_level ? size() : 0;
    counted_.sums = pulled_;
    counted_.gradient = row_.gradient;
    rank_counts_direct<T, kGradient>(counted_, grouped_, plan_, factored_);
    if (plan_.any) linear_->template run<kGradient>(plan_);
    scatter_gradient(counted_, grouped_, places_);
    for (int64_t t = 0; t < size(); ++t)
      row_.gradient[counted_.targets[t]] -= static_cast<T>(pulled_[t]);
    clear_negligible(row_.comparators, 1.0, row_.gradient, row_.items);
  }

 private:
  static constexpr auto kValue = CountsPass::kCounts, kGradient = CountsPass::kBackward;

  bool wants_gradient() const { return row_.gradient != nullptr; }

  const CountedRow<T>& row_;
  CountedScratch<T>& scratch_;
  RankCountsRow<T> counted_{};
  GroupedRow<T> grouped_;
  CountsPlan plan_;
  uint32_t* places_;
  std::optional<FlushToZero> flush_;
  double factored_;
  double* pulled_;
  std::optional<LinearRow<T>> linear_;
};

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
