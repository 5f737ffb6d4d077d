// Computes one row from and to the caller's memory: grouping and choice of method. Included once
// for each instruction set, hence no include guard.

#include "cpu/isa/rank_counts_direct.h"
#include "cpu/isa/rank_counts_linear.h"
#include "cpu/isa/rank_counts_plan.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Whether subnormal differences may be flushed: no comparator can tell them from zero.
template <class T>
bool may_flush(const Comparator* comparators) {
  return std::all_of(comparators, comparators + 3, [](const Comparator& c) {
    return !c.has_sigmoid() || is_flat_near_zero<T>(1 / c.tau);
  });
}

// Copies the gradients of grouped items to their places in the row.
template <class T>
void scatter_gradient(const RankCountsRow<T>& row, const GroupedRow<T>& grouped,
                      const uint32_t* places) {
  for_each_run(row.levels + row.begin, row.end - row.begin, [&](int64_t k, auto n, int level) {
    if (level != grouped.staying)
      std::copy_n(grouped.gradient + places[k], n(), row.gradient + row.begin + k);
  });
}

template <class T, CountsPass pass>
bool rank_counts_row(const RankCountsRow<T>& row, RankCountsScratch<T>& scratch) {
  GroupedRow<T> grouped;
  if (!survey_row(row, scratch, grouped)) return false;

  const int64_t sums = row.num_targets * (to_items(pass) ? 1 : row.num_levels);
  std::fill(row.sums, row.sums + sums, 0.0);
  if constexpr (to_items(pass)) std::fill(row.gradient + row.begin, row.gradient + row.end, T(0));
  const bool is_flat = std::none_of(row.comparators, row.comparators + 3, [](const Comparator& c) {
    return c.has_derivative(derivative_of(pass));
  });
  if (grouped.first[row.num_levels] == 0 || grouped.items == 0 || is_flat) return true;

  const auto plan = make_plan<T, pass>(row, grouped);
  grouped.staying = plan.any ? -1 : staying_level(row, grouped);
  uint32_t* places = scratch.place.reserve(row.end - row.begin);
  group_row<T, pass>(row, scratch, places, grouped);
  const FlushToZero flush(may_flush<T>(row.comparators));
  rank_counts_direct<T, pass>(row, grouped, plan, factor_row(row, grouped, plan));
  const OrderNeeds needs(row.comparators, derivative_of(pass));
  if (plan.any) LinearRow<T>(row, grouped, needs, scratch).template run<pass>(plan);
  if constexpr (to_items(pass)) scatter_gradient(row, grouped, places);
  return true;
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
