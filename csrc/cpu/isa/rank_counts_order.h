// Orders the items and targets of a row together, by score or by panel. Included once for each
// instruction set, hence no include guard.

#include "cpu/isa/panel_order.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// First `together`, items and those targets that are not among them, in order. Then split: items by
// level, followed by all targets.
template <class T>
struct SplitOrder {
  T *scores, *tangent;  // [size]
  uint32_t* slot;       // [size] place in the grouped row
  int64_t begin[257];   // of the items of each level, and of the targets
  bool sorted;          // by score; otherwise by panel only
  int64_t size;         // items and targets
  OrderedRow<T> together;
  int64_t entries;           // of `together`
  uint8_t* classes;          // [entries] of `together`: level of an item, num_levels of a target
  uint32_t* targets_before;  // [entries + 1] targets before each place of `together`
  uint32_t* target_at;       // [targets] where in `together` each is
};

// Finds for each target i, in order, the first entry of `together` with s_k - s_i > threshold. The
// difference is computed as in the direct method, so that both decide alike.
template <class T>
void first_beyond(const SplitOrder<T>& split, int64_t targets, T threshold, uint32_t* first) {
  constexpr int lanes = kLanes<T>;
  constexpr int64_t kFew = 10 * lanes;  // vector comparisons take less time than searches
  const auto n = static_cast<int32_t>(split.entries);
  const T *scores = split.together.scores, *target_scores = split.scores + split.size - targets;
  // Searches from `at`, which must not be after the result.
  const auto search = [&](int32_t at, T score) {
    int32_t step = 1;
    for (; at + step <= n && !(scores[at + step - 1] - score > threshold); step *= 2) at += step;
    for (; step > 0; step /= 2)
      if (at + step <= n && !(scores[at + step - 1] - score > threshold)) at += step;
    return at;
  };
  int32_t end = 0;
  for (int64_t i = 0; i < targets; i += lanes) {
    const int64_t count = std::min<int64_t>(lanes, targets - i);
    const int32_t begin = search(end, target_scores[i]);
    end = search(begin, target_scores[i + count - 1]);
    if (end - begin > kFew) {
      for (int64_t k = 0; k < count; ++k)
        first[i + k] = search(k > 0 ? first[i + k - 1] : begin, target_scores[i + k]);
      continue;
    }
    const Vec<T> score = load_first<T>(target_scores + i, count);
    IntVec<T> passed = {};
    for (int32_t k = begin; k < end; ++k) passed -= !(scores[k] - score > threshold);
    for (int64_t k = 0; k < count; ++k) first[i + k] = static_cast<uint32_t>(begin + passed[k]);
  }
}

// The same for s_k > s_i (above) and s_k >= s_i (level).
template <class T>
void first_above(const SplitOrder<T>& split, int64_t targets, uint32_t* level, uint32_t* above) {
  const T* scores = split.together.scores;
  for (int64_t i = 0; i < targets; ++i) {
    int64_t begin = split.target_at[i], end = begin + 1;
    const T score = scores[begin];
    if (i > 0 && above[i - 1] >= end) {
      level[i] = level[i - 1];
      above[i] = above[i - 1];
      continue;
    }
    while (begin > 0 && scores[begin - 1] >= score) --begin;
    while (end < split.entries && !(scores[end] > score)) ++end;
    level[i] = static_cast<uint32_t>(begin);
    above[i] = static_cast<uint32_t>(end);
  }
}

// How a row must be ordered for its comparators.
struct OrderNeeds {
  bool sorted = false;
  double steepest = 0;  // the largest 1 / tau; 0 where no panels are needed

  OrderNeeds(const Comparator* comparators, int derivative) {
    double gentlest = std::numeric_limits<double>::infinity();
    for (int c = 0; c < 3; ++c) {
      if (!comparators[c].has_derivative(derivative)) continue;
      sorted |= comparators[c].kind != Comparison::kSigmoid;
      if (!comparators[c].has_sigmoid()) continue;
      steepest = std::max(steepest, 1 / comparators[c].tau);
      gentlest = std::min(gentlest, 1 / comparators[c].tau);
    }
    sorted |= gentlest < steepest;
  }
};

template <class T>
SplitOrder<T> split_order(const RankCountsRow<T>& row, const GroupedRow<T>& grouped,
                          const OrderNeeds& needs, RankCountsScratch<T>& scratch) {
  constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
  const int64_t L = row.num_levels, targets = grouped.first[L];
  SplitOrder<T> split{};
  int64_t items = 0, base[257] = {};  // base: first slot of each level minus its first entry
  for (int64_t l = 0; l < L; ++l) {
    split.begin[l] = items;
    base[l] = grouped.begin[l] - items;
    items += grouped.count[l];
  }
  split.begin[L] = items;
  split.size = items + targets;
  const int64_t stride = split.size + targets + 16;  // room for targets that are not items
  split.scores = scratch.split.reserve(3 * stride);
  split.tangent = split.scores + stride;
  T* entries = split.tangent + stride;
  uint32_t* memory = scratch.slots.reserve(4 * stride);
  split.slot = memory;
  split.targets_before = memory + stride;
  split.target_at = memory + 2 * stride;
  uint32_t* target_of = memory + 3 * stride;
  split.classes = scratch.classes.reserve(2 * stride);
  uint8_t* classes = split.classes + stride;

  int64_t n = items;
  for (int64_t l = 0; l < L; ++l) {
    const int64_t begin = split.begin[l], count = grouped.count[l];
    std::copy_n(grouped.scores + grouped.begin[l], count, entries + begin);
    std::fill_n(classes + begin, count, static_cast<uint8_t>(l));
    std::fill_n(target_of + begin, count, kNone);
    for (int64_t at = grouped.first[l]; at < grouped.first[l + 1]; ++at) {
      const int64_t own = grouped.place[grouped.order[at]];
      int64_t entry = begin + own - grouped.begin[l];
      if (own < 0 || target_of[entry] != kNone) {  // in another part, or a repeated target
        entry = n++;
        entries[entry] = grouped.scores[grouped.room + at];
        classes[entry] = static_cast<uint8_t>(L);
      }
      target_of[entry] = static_cast<uint32_t>(at);
    }
  }
  split.entries = n;

  split.sorted = needs.sorted;
  const double range = needs.steepest * grouped.range();
  split.together = reserve_order<T>(n, range, scratch.ordered);
  if (needs.sorted)
    order_by_score(entries, n, scratch.ordered, split.together);
  else if (needs.steepest > 0)
    order_by_panel(entries, n, needs.steepest, grouped.lo, range, scratch.ordered, split.together);

  int64_t cursor[257];
  std::copy(split.begin, split.begin + L, cursor);
  cursor[L] = split.size;  // entries that are not items go after everything else
  uint32_t target = 0;
  const auto place = [&](const SplitOrder<T> to) {  // a local copy, which stores cannot change
    T* target_scores = to.scores + items;
    uint32_t* target_slots = to.slot + items;
    const auto room = static_cast<uint32_t>(grouped.room);
    for (int64_t k = 0; k < n; ++k) {
      const uint32_t entry = to.together.origin[k], own = target_of[entry];
      const T score = to.together.scores[k];
      const uint8_t c = classes[entry];
      const int64_t at = cursor[c]++;
      to.classes[k] = c;
      to.scores[at] = score;
      to.slot[at] = static_cast<uint32_t>(entry + base[c]);
      to.targets_before[k] = target;
      to.target_at[target] = static_cast<uint32_t>(k);
      target_scores[target] = score;
      target_slots[target] = room + own;
      target += own != kNone;
    }
    to.targets_before[n] = target;
  };
  place(split);
  if (row.tangent != nullptr) {
    // Shifting v by a constant changes nothing but the rounding: the sums take differences.
    T lo, hi;
    const bool finite = find_range(grouped.tangent, grouped.size, lo, hi);
    const T shift = finite ? lo / 2 + hi / 2 : std::numeric_limits<T>::quiet_NaN();
    for (int64_t k = 0; k < split.size; ++k)
      split.tangent[k] = grouped.tangent[split.slot[k]] - shift;
  }
  return split;
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
