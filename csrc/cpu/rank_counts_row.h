// One row from the caller's memory to the caller's memory: groups, choice of method. Included once
// for each instruction set, hence no include guard.

#include "cpu/rank_counts_direct.h"
#include "cpu/rank_counts_linear.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Panels need a width, and positions inside them, that T can hold.
template <class T>
bool has_panels(const Comparator* comparators) {
  const double largest = std::numeric_limits<T>::max();
  return std::all_of(comparators, comparators + 3, [=](const Comparator& c) {
    return !c.has_sigmoid() || (c.tau <= largest && 2 / c.tau <= largest);
  });
}

// Expected costs in ns on one AVX-512 core, fitted to timings of both methods (2026-11): 128 to
// 8192 items, 2 to 2048 targets, 2 and 6 levels, ranges of 3 to 1000 temperatures. A panel pays for
// every occupied panel in its reach; pairs gain most from width.
template <class T, CountsPass pass>
bool linear_is_faster(const RankCountsRow<T>& row, const GroupedRow<T>& grouped) {
  constexpr bool single = sizeof(T) == 4, value = derivative_of(pass) == 0;
  const int64_t L = row.num_levels;
  // Items by the relation of their level to the target's; which levels meet which comparator.
  double pairs[3] = {};
  const int64_t items = grouped.items;
  int64_t levels[3] = {}, below = 0;
  for (int64_t l = 0; l < L; ++l) {
    const auto targets = static_cast<double>(grouped.first[l + 1] - grouped.first[l]);
    const int64_t own = grouped.count[l];
    pairs[0] += targets * static_cast<double>(below);
    pairs[1] += targets * static_cast<double>(own);
    pairs[2] += targets * static_cast<double>(items - below - own);
    levels[0] += own > 0 && grouped.first[l + 1] < grouped.first[L];
    levels[1] += own > 0 && targets > 0;
    levels[2] += own > 0 && grouped.first[l] > 0;
    below += own;
  }

  const OrderNeeds<pass> needs(row.comparators);
  const auto targets = static_cast<double>(grouped.first[L]);
  const double entries = static_cast<double>(items) + targets;
  const double factored = factored_temperature(row, grouped.range());
  double direct = 1500 + entries;
  double linear = 1500 + entries * (needs.sorted ? (single ? 13 : 18) : (single ? 4.5 : 6));
  for (int which = 0; which < 3; ++which) {
    const Comparator& comparator = row.comparators[which];
    if (!comparator.has_derivative(derivative_of(pass))) continue;
    if (!comparator.has_sigmoid()) {
      direct += pairs[which] * (single ? 0.1 : 0.16);
      linear += 3 * targets * static_cast<double>(levels[which]);
      continue;
    }
    double pair = single ? 0.35 : 0.45;
    if (comparator.tau == factored) pair = single ? (value ? 0.05 : 0.1) : (value ? 0.115 : 0.21);
    if (comparator.kind == Comparison::kSup && value) pair += single ? 0.04 : 0.07;
    direct += pairs[which] * pair * (64.0 / SODEEP_FAST_VECTOR_BYTES);

    // Relations that share a comparator share their sums.
    int first = 0;
    while (!(row.comparators[first] == comparator)) ++first;
    if (first < which && levels[first] >= levels[which]) continue;
    const auto sums = static_cast<double>(levels[which] - (first < which ? levels[first] : 0));
    const double range = grouped.range() / comparator.tau;
    const auto panels = static_cast<double>(panel_limit(range, static_cast<int64_t>(entries)));
    const double neighbours = std::min(panels, 2.0 * kPanelReach<T> - 1) * panels / (range + 1);
    const double visit = single ? (value ? 1.5 : 2.5) : (value ? 10 : 15);
    linear += sums * (5 * targets + panels * (single ? 20 : 40) +
                      std::min(panels, targets) * neighbours * visit);
  }
  return linear < direct;
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

  const bool linear =
      row.method != CountsMethod::kDirect && has_panels<T>(row.comparators) &&
      (row.method == CountsMethod::kLinear || linear_is_faster<T, pass>(row, grouped));
  grouped.staying = linear ? -1 : staying_level(row, grouped);
  uint32_t* places = scratch.place.reserve(row.end - row.begin);
  group_row<T, pass>(row, scratch, places, grouped);
  const FlushToZero flush(std::all_of(
      row.comparators, row.comparators + 3,
      [](const Comparator& c) { return !c.has_sigmoid() || is_flat_near_zero<T>(1 / c.tau); }));
  if (linear)
    LinearRow<T, pass>(row, grouped, scratch).run();
  else
    rank_counts_direct<T, pass>(row, grouped);
  if constexpr (to_items(pass))
    for_each_run(row.levels + row.begin, row.end - row.begin, [&](int64_t k, auto n, int level) {
      if (level != grouped.staying)
        std::copy_n(grouped.gradient + places[k], n(), row.gradient + row.begin + k);
    });
  return true;
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
