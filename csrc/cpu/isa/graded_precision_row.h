// One row's average precision and its gradient: the row is grouped and ordered once for both.
// Included once for each instruction set, hence no include guard.

#include "cpu/isa/rank_counts_row.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

constexpr uint8_t kHidden = 255;  // a level that takes no part

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

// Counts exactly for the `count` targets of level row.least or more, using an order of their own;
// writes to exact [num_levels, target].
template <class T>
void count_exactly(const GradedRow<T>& row, RankCountsRow<T> counted, int64_t count,
                   const Comparator* steps, double* exact, GradedScratch<T>& scratch) {
  const int64_t L = row.num_levels, P = counted.num_targets;
  int64_t* chosen = scratch.chosen.reserve(2 * count);
  int64_t* number = chosen + count;
  for (int64_t t = 0, at = 0; at < count; ++t) {
    chosen[at] = counted.targets[t], number[at] = t;
    at += row.levels[chosen[at]] >= row.least;
  }
  counted.targets = chosen, counted.num_targets = count, counted.comparators = steps;
  counted.sums = scratch.exact.reserve(count * L);
  if (row.least == 1) {
    // Hiding level 0, which has no relevance, costs less than counting it.
    uint8_t* shown = scratch.levels.reserve(row.items);
    std::replace_copy(row.levels, row.levels + row.items, shown, uint8_t(0), kHidden);
    counted.levels = shown;
  }
  rank_counts_row<T, CountsPass::kCounts>(counted, scratch.counts);
  for (int64_t l = 0; l < L; ++l)
    for (int64_t at = 0; at < count; ++at) exact[l * P + number[at]] = counted.sum_of(at, l);
}

// Computes the value from the counts of all targets, and its derivatives with respect to them:
// slopes [num_levels, targets] if row.soft, otherwise [targets], the same for all levels. If
// `exact` is null, no target has exact counts.
template <class T>
void grade_targets(const GradedRow<T>& row, const RankCountsRow<T>& counted, const double* exact,
                   T* slopes) {
  constexpr int64_t kBlock = 64;
  const int64_t L = row.num_levels, P = counted.num_targets;
  int64_t number[256] = {};
  for (int64_t t = 0; t < P; ++t) ++number[row.levels[counted.targets[t]]];
  double relevance[256], most = 0, found = 0;
  for (int64_t l = 0; l < L; ++l) {
    relevance[l] = static_cast<double>(row.relevances[l]);
    if (row.is_shared) relevance[l] /= static_cast<double>(std::max<int64_t>(number[l], 1));
    most += static_cast<double>(number[l]) * relevance[l];
  }
  const double share = most == 0 ? 0 : 1 / most;
  for (int64_t begin = 0; begin < P; begin += kBlock) {
    const int64_t count = std::min(kBlock, P - begin);
    double own[kBlock], rank[kBlock], gain[kBlock], soft[kBlock];
    for (int64_t i = 0; i < count; ++i) {
      const int64_t level = row.levels[counted.targets[begin + i]];
      own[i] = relevance[level];
      soft[i] = level < row.least;
    }
    for (int64_t i = 0; i < count; ++i) rank[i] = 1, gain[i] = own[i];
    for (int64_t l = 0; l < L; ++l) {
      const double* counts = counted.sums + l * P + begin;
      const double* exactly = exact == nullptr ? counts : exact + l * P + begin;
      for (int64_t i = 0; i < count; ++i) {
        const double outranking = soft[i] != 0 ? counts[i] : exactly[i];
        rank[i] += counts[i];
        gain[i] += outranking * std::min(own[i], relevance[l]);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      const double per_rank = 1 / rank[i];
      gain[i] *= per_rank;
      rank[i] = per_rank * share;
    }
    for (int64_t i = 0; i < count; ++i) found += gain[i];
    for (int64_t l = 0; l < (row.soft ? L : 1); ++l)
      for (int64_t i = 0; i < count; ++i) {
        const double per_gain = row.soft ? soft[i] * std::min(own[i], relevance[l]) : 0;
        slopes[l * P + begin + i] = static_cast<T>(rank[i] * (per_gain - gain[i]));
      }
  }
  *row.value = most == 0 ? std::numeric_limits<T>::quiet_NaN() : static_cast<T>(found * share);
}

template <class T>
void graded_precision_row(const GradedRow<T>& row, GradedScratch<T>& scratch) {
  constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  constexpr auto kValue = CountsPass::kCounts, kGradient = CountsPass::kBackward;
  const int64_t L = row.num_levels;
  RankCountsRow<T> counted{};
  counted.scores = row.scores, counted.levels = row.levels, counted.end = row.items;
  int64_t* targets = scratch.targets.reserve(row.items + 1);
  const int64_t P = find_targets(row.levels, row.items, L, targets);
  counted.targets = targets, counted.num_targets = P, counted.num_levels = L;
  counted.method = row.method, counted.comparators = row.comparators;
  *row.value = nan;
  if (row.gradient != nullptr) std::fill_n(row.gradient, row.items, T(0));
  const auto exact_targets = std::count_if(
      targets, targets + P, [&](int64_t item) { return row.levels[item] >= row.least; });
  constexpr int64_t kFew = 16;  // for these, pairs take less time than a second order
  const Comparator steps[3] = {row.step, row.step, row.step};
  double* sums = scratch.sums.reserve(P * (3 * L + 1));
  std::fill_n(sums, P * (L + 1), 0.0);
  double* exact = sums + P * (2 * L + 1);
  if (exact_targets > 0) std::fill_n(exact, P * L, 0.0);
  if (exact_targets > kFew) count_exactly(row, counted, exact_targets, steps, exact, scratch);

  GroupedRow<T> grouped;
  if (!survey_row(counted, scratch.counts, grouped)) {
    for (int64_t k = 0; row.gradient != nullptr && k < row.items; ++k)
      if (row.levels[k] < L) row.gradient[k] = nan;
    return;
  }
  if (P == 0) return;
  const auto plan = row.gradient == nullptr ? make_plan<T, kValue>(counted, grouped)
                                            : make_plan<T, kValue, kGradient>(counted, grouped);
  grouped.staying = plan.any ? -1 : staying_level(counted, grouped);
  uint32_t* places = scratch.counts.place.reserve(row.items);
  group_row<T, kGradient>(counted, scratch.counts, places, grouped);
  const FlushToZero flush(may_flush<T>(row.comparators));
  const double factored = factor_row(counted, grouped, plan);
  if (exact_targets > 0 && exact_targets <= kFew) {
    counted.comparators = steps, counted.sums = exact;
    rank_counts_direct<T, kValue>(counted, grouped, CountsPlan(), 0, row.least);
    counted.comparators = row.comparators;
  }
  counted.sums = sums;
  if (row.gradient != nullptr) counted.slopes = sums + P * (L + 1);
  rank_counts_direct<T, kValue>(counted, grouped, plan, factored);
  std::optional<LinearRow<T>> linear;
  if (plan.any) {
    const OrderNeeds needs(row.comparators, derivative_of(kValue));
    linear.emplace(counted, grouped, needs, scratch.counts);
    if (row.gradient == nullptr)
      linear->template run<kValue>(plan);
    else
      linear->template run<CountsPass::kCountsAndSlopes>(plan);
  }
  T* slopes = scratch.slopes.reserve(P * (row.soft ? L : 1));
  grade_targets(row, counted, exact_targets > 0 ? exact : nullptr, slopes);
  if (row.gradient == nullptr) return;

  counted.grad = slopes;
  counted.grad_strides[0] = 1, counted.grad_strides[1] = row.soft ? P : 0;
  counted.sums = sums + P * L;
  counted.gradient = row.gradient;
  rank_counts_direct<T, kGradient>(counted, grouped, plan, factored);
  if (plan.any) linear->template run<kGradient>(plan);
  scatter_gradient(counted, grouped, places);
  for (int64_t t = 0; t < P; ++t) row.gradient[targets[t]] -= static_cast<T>(counted.sums[t]);
  clear_negligible(row.comparators, 1.0, row.gradient, row.items);
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
