// Groups a row's items by level, followed by its targets. If nearly all items have the same level,
// those stay where they are. Included once for each instruction set, hence no include guard.

#include "cpu/isa/centred_exponential.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Each level's items begin with a new vector; after all levels come the targets, also by level.
template <class T>
struct GroupedRow {
  T *scores, *tangent, *gradient, *exponentials;  // [size], and room for items that take no part
  T* row_exponentials;                            // [items] as in the row, if a level stays there
  int64_t begin[256], count[256];                 // of the items of each level
  int64_t first[257];                             // target in `order` of each level
  int64_t items;                                  // that take part
  int64_t room, size;                             // places of items; of items and targets
  int64_t* order;                                 // [targets] the caller's numbers
  int64_t* place;                                 // [caller's number] of the target's item, or -1
  int staying;                                    // the level whose items stay in the row, or -1
  T lo, hi;                                       // of all scores

  int64_t end(int64_t level) const { return begin[level] + count[level]; }
  double range() const { return static_cast<double>(hi) - static_cast<double>(lo); }
  double centre() const { return 0.5 * (static_cast<double>(lo) + static_cast<double>(hi)); }
};

// The power of 1 / tau that turns tau H' or tau^2 H'' into H' or H''.
template <CountsPass pass>
double derivative_scale(const Comparator& comparator) {
  double scale = 1;
  for (int k = 0; k < derivative_of(pass); ++k) scale /= comparator.tau;
  return scale;
}

// Calls visit(first item, number, level) for runs of items of one level. Blocks of a single level
// are one run, which is most of a row with few relevant items; other items are runs of one.
template <class Visit>
inline void for_each_run(const uint8_t* levels, int64_t items, const Visit& visit) {
  constexpr int kRun = 16;
  int64_t k = 0;
  for (; k + kRun <= items; k += kRun) {
    uint64_t part[2];
    __builtin_memcpy(part, levels + k, sizeof(part));
    const uint64_t alike = levels[k] * 0x0101010101010101u;
    if (part[0] == alike && part[1] == alike) {
      visit(k, std::integral_constant<int, kRun>{}, levels[k]);
    } else {
      for (int64_t i = k; i < k + kRun; ++i) visit(i, std::integral_constant<int, 1>{}, levels[i]);
    }
  }
  for (; k < items; ++k) visit(k, std::integral_constant<int, 1>{}, levels[k]);
}

// Whether the items of a vector all have this level.
template <class T>
inline bool are_alike(const uint8_t* levels, int level) {
  constexpr int word = std::min<int>(kLanes<T>, 8);
  uint64_t differ = 0;
  for (int i = 0; i < kLanes<T>; i += word) {
    uint64_t part = 0;
    __builtin_memcpy(&part, levels + i, word);
    differ |= part ^ (level * (0x0101010101010101u >> (64 - 8 * word)));
  }
  return differ == 0;
}

// Widens lo..hi to include the scores of items below level `num_levels`; false if one is not
// finite.
template <class T>
bool widen_range(const T* scores, const uint8_t* levels, int64_t items, int num_levels, T& lo,
                 T& hi) {
  constexpr int lanes = kLanes<T>;
  const Vec<T> inside = broadcast<T>(lo);
  Vec<T> low = inside, high = broadcast<T>(hi), poison = {};
  for (int64_t k = 0; k < items; k += lanes) {
    Vec<T> x = load_first<T>(scores + k, items - k);
    if (k + lanes > items || levels[k] >= num_levels || !are_alike<T>(levels + k, levels[k]))
      x = load_levels<T>(levels + k, items - k) < num_levels ? x : inside;
    low = minimum(low, x);
    high = maximum(high, x);
    poison += x * 0;
  }
  lo = reduce<T>(low, [](T a, T b) { return std::min(a, b); });
  hi = reduce<T>(high, [](T a, T b) { return std::max(a, b); });
  return reduce<T>(poison, [](T a, T b) { return a + b; }) == 0;
}

// Adds to count[l] the number of bytes equal to l, for the first `num_levels` levels.
inline void count_levels(const uint8_t* levels, int64_t items, int64_t num_levels, int64_t* count) {
  // This many comparisons of a vector take less time than one visit to each item.
  constexpr int64_t kFewLevels = 16;
  if (num_levels > kFewLevels) {
    int64_t all[256] = {};
    for_each_run(levels, items, [&](int64_t, auto n, int level) { all[level] += n(); });
    for (int64_t l = 0; l < num_levels; ++l) count[l] += all[l];
    return;
  }
  constexpr int64_t kBytes = SODEEP_FAST_VECTOR_BYTES, kBlock = 255 * kBytes;
  typedef uint8_t Bytes __attribute__((vector_size(kBytes)));
  for (int64_t l = 0; l < num_levels; ++l) {
    int64_t k = 0, found = 0;
    while (k + kBytes <= items) {
      Bytes sums = {};
      for (const int64_t stop = std::min(k + kBlock, items); k + kBytes <= stop; k += kBytes) {
        Bytes part;
        __builtin_memcpy(&part, levels + k, kBytes);
        sums -= (Bytes)(part == static_cast<uint8_t>(l));
      }
      for (int64_t i = 0; i < kBytes; ++i) found += sums[i];
    }
    for (; k < items; ++k) found += levels[k] == l;
    count[l] += found;
  }
}

// Counts items and targets by level, and finds their range. False if a score that takes part is not
// finite.
template <class T>
bool survey_row(const RankCountsRow<T>& row, RankCountsScratch<T>& scratch,
                GroupedRow<T>& grouped) {
  const int64_t L = row.num_levels, P = row.num_targets, items = row.end - row.begin;
  std::fill(grouped.count, grouped.count + L, 0);
  count_levels(row.levels + row.begin, items, L, grouped.count);
  grouped.items = std::accumulate(grouped.count, grouped.count + L, int64_t(0));

  // Targets in the order of their levels; those that take no part are last.
  grouped.order = scratch.order.reserve(2 * P);
  grouped.place = grouped.order + P;
  uint8_t* levels = scratch.target_levels.reserve(P);
  for (int64_t t = 0; t < P; ++t) levels[t] = row.levels[row.targets[t]];
  int64_t next[257];
  std::fill(next, next + L + 1, 0);
  count_levels(levels, P, L, next);
  std::exclusive_scan(next, next + L + 1, grouped.first, int64_t(0));
  std::copy(grouped.first, grouped.first + L + 1, next);
  constexpr int64_t kFewLevels = 8;
  if (L <= kFewLevels) {
    // One pass per level: with cursors in memory, every target would wait for the one before it.
    for (int64_t l = 0; l < L; ++l)
      for (int64_t t = 0, at = next[l]; at < next[l + 1]; ++t) {
        grouped.order[at] = t;
        at += levels[t] == l;
      }
    for (int64_t t = 0, at = next[L]; at < P; ++t) {
      grouped.order[at] = t;
      at += levels[t] >= L;
    }
  } else {
    for (int64_t t = 0; t < P; ++t) grouped.order[next[std::min<int64_t>(levels[t], L)]++] = t;
  }
  if (grouped.first[L] == 0) return true;

  grouped.lo = grouped.hi = row.scores[row.targets[grouped.order[0]]];
  bool finite = std::isfinite(grouped.lo), has_others = false;
  for (int64_t t = 0; t < P; ++t)
    has_others |= row.targets[t] < row.begin || row.targets[t] >= row.end;
  for (int64_t at = 1; has_others && at < grouped.first[L]; ++at) {
    const int64_t item = row.targets[grouped.order[at]];
    finite &= std::isfinite(row.scores[item]);
    grouped.lo = std::min(grouped.lo, row.scores[item]);
    grouped.hi = std::max(grouped.hi, row.scores[item]);
  }
  return finite && widen_range(row.scores + row.begin, row.levels + row.begin, items,
                               static_cast<int>(L), grouped.lo, grouped.hi);
}

// The level with so many items that comparing these in place, between the others, costs less than
// moving them; or -1.
template <class T>
int staying_level(const RankCountsRow<T>& row, const GroupedRow<T>& grouped) {
  constexpr int64_t kOthers = 16;  // at most one item in 16 has another level
  const int64_t items = row.end - row.begin;
  const auto* most = std::max_element(grouped.count, grouped.count + row.num_levels);
  return items - *most <= items / kOthers ? static_cast<int>(most - grouped.count) : -1;
}

// Groups the items begin..end of a row, except those of the level `staying`. places[k] is where
// item begin + k went; items that take no part go to places after all others.
template <class T, CountsPass pass>
void group_row(const RankCountsRow<T>& row, RankCountsScratch<T>& scratch, uint32_t* places,
               GroupedRow<T>& grouped) {
  constexpr int lanes = kLanes<T>;
  const int64_t L = row.num_levels, P = row.num_targets, items = row.end - row.begin;
  const uint8_t* levels = row.levels + row.begin;

  int64_t cursor[256];
  grouped.room = 0;
  for (int64_t l = 0; l < L; ++l) {
    grouped.begin[l] = cursor[l] = grouped.room;
    if (l != grouped.staying) grouped.room += (grouped.count[l] + lanes - 1) / lanes * lanes;
  }
  const int64_t taking_part = grouped.first[L];
  grouped.size = grouped.room + taking_part;

  // Items that take no part go after all others, each run overwriting the one before.
  constexpr int kRun = 16;
  std::fill(cursor + L, cursor + 256, grouped.size);
  const int64_t stride = (grouped.size + lanes - 1) / lanes * lanes + kRun;
  grouped.scores = scratch.grouped.reserve(4 * stride + (grouped.staying < 0 ? 0 : items + lanes));
  grouped.tangent = grouped.scores + stride;
  grouped.gradient = grouped.tangent + stride;
  grouped.exponentials = grouped.gradient + stride;
  grouped.row_exponentials = grouped.exponentials + stride;
  for_each_run(levels, items, [&](int64_t k, auto n, int level) {
    if (level == grouped.staying) return;
    const int64_t to = cursor[level];
    for (int i = 0; i < n(); ++i) {
      places[k + i] = static_cast<uint32_t>(to + i);
      grouped.scores[to + i] = row.scores[row.begin + k + i];
      if constexpr (has_tangent(pass)) grouped.tangent[to + i] = row.tangent[row.begin + k + i];
    }
    if (level < L) cursor[level] += n();
  });
  for (int64_t at = 0; at < P; ++at) {
    const int64_t t = grouped.order[at], item = row.targets[t];
    const bool is_here = item >= row.begin && item < row.end;
    const bool stays = row.levels[item] == grouped.staying;
    grouped.place[t] = !is_here ? -1 : stays ? item - row.begin : places[item - row.begin];
    if (at >= taking_part) continue;
    grouped.scores[grouped.room + at] = row.scores[item];
    if constexpr (has_tangent(pass)) grouped.tangent[grouped.room + at] = row.tangent[item];
  }
  if constexpr (to_items(pass)) std::fill(grouped.gradient, grouped.gradient + stride, T(0));

  // Padding repeats the score of a target, so that it widens no range.
  for (int64_t l = 0; l < L; ++l) {
    if (l == grouped.staying) continue;
    const int64_t from = grouped.end(l), to = l + 1 < L ? grouped.begin[l + 1] : grouped.room;
    std::fill(grouped.scores + from, grouped.scores + to, grouped.scores[grouped.room]);
    std::fill(grouped.tangent + from, grouped.tangent + to, T(0));
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
