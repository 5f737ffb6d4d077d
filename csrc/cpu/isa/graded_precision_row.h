// One row's average precision and its gradient. Included once for each instruction set, hence no
// include guard.

#include "cpu/isa/counted_row.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

constexpr uint8_t kHidden = 255;  // a level that takes no part

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
  counted.sums = scratch.chosen_exact.reserve(count * L);
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
  TargetCounts<T> targets(row, scratch);
  const RankCountsRow<T>& counted = targets.counted();
  const int64_t L = row.num_levels, P = targets.size();
  const auto exact_targets = std::count_if(counted.targets, counted.targets + P, [&](int64_t item) {
    return row.levels[item] >= row.least;
  });
  constexpr int64_t kFew = 16;  // for these, pairs take less time than a second order
  const Comparator steps[3] = {row.step, row.step, row.step};
  double* exact = nullptr;
  if (exact_targets > 0) {
    exact = scratch.exact.reserve(P * L);
    std::fill_n(exact, P * L, 0.0);
  }
  if (exact_targets > kFew) count_exactly(row, counted, exact_targets, steps, exact, scratch);

  if (!targets.survey()) return;
  if (exact_targets > 0 && exact_targets <= kFew) targets.count_directly(steps, row.least, exact);
  targets.count();
  T* slopes = scratch.slopes.reserve(P * (row.soft ? L : 1));
  grade_targets(row, counted, exact, slopes);
  targets.pull_back(slopes, row.soft);
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
