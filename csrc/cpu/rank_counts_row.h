// One row from the caller's memory to the caller's memory: items brought together by level, targets
// of a level taken four at a time. Included once for each instruction set, hence no include guard.

#include "cpu/rank_counts_direct.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Calls visit(first item, how many, level) for runs of items of one level: long ones where a whole
// block is alike, which is most of a row with few relevant items.
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

template <class T, CountsPass pass>
void rank_counts_row(const RankCountsRow<T>& row, RankCountsScratch<T>& scratch) {
  constexpr int lanes = kLanes<T>;
  constexpr bool has_tangent = pass == CountsPass::kTangent || pass == CountsPass::kDoubleBackward;
  constexpr bool to_items = pass == CountsPass::kBackward || pass == CountsPass::kDoubleBackward;
  constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  const int64_t L = row.num_levels, P = row.num_targets;
  T* const out_end = row.out + (to_items ? row.items : P * L);
  if (row.items == 0 || (P == 0 && !to_items)) return;

  // Each level begins with a new vector; what takes no part goes behind all levels.
  int64_t count[256] = {}, begin[256], cursor[256];
  for_each_run(row.levels, row.items, [&](int64_t, auto n, int level) { count[level] += n(); });
  int64_t room = 0;
  for (int64_t l = 0; l < L; ++l) {
    begin[l] = cursor[l] = room;
    room += (count[l] + lanes - 1) / lanes * lanes;
  }
  std::fill(cursor + L, cursor + 256, room);

  // One place behind the last level takes everything that takes no part.
  const int64_t stride = room + 16;
  T* grouped = scratch.grouped.reserve(4 * stride);
  T* tangent = grouped + stride;
  T* gradient = tangent + stride;
  T* exponentials = gradient + stride;
  uint32_t* place = scratch.place.reserve(row.items);
  for_each_run(row.levels, row.items, [&](int64_t k, auto n, int level) {
    const int64_t to = cursor[level];
    for (int i = 0; i < n(); ++i) {
      place[k + i] = static_cast<uint32_t>(to + i);
      grouped[to + i] = row.scores[k + i];
      if constexpr (has_tangent) tangent[to + i] = row.tangent[k + i];
    }
    if (level < L) cursor[level] += n();
  });

  // Padding is one of the items, so that it widens no range.
  const int64_t any = std::find_if(count, count + L, [](int64_t n) { return n > 0; }) - count;
  for (int64_t l = 0; l < L && room > 0; ++l) {
    const int64_t from = begin[l] + count[l], to = l + 1 < L ? begin[l + 1] : room;
    std::fill(grouped + from, grouped + to, grouped[begin[any]]);
    std::fill(tangent + from, tangent + to, T(0));
  }

  T lo = 0, hi = 0;
  const bool finite = P == 0 || room == 0 || find_range(grouped, room, lo, hi);

  // A single target takes as many exponentials either way.
  const Comparator* const factored =
      std::find_if(row.comparators, row.comparators + 3,
                   [](const Comparator& c) { return c.kind == Comparison::kSigmoid; });
  double factored_tau = 0;
  if (factored != row.comparators + 3 && finite && P > 1 && std::isfinite(1 / factored->tau) &&
      (static_cast<double>(hi) - static_cast<double>(lo)) / factored->tau <= kMaxExponentRange<T>) {
    factored_tau = factored->tau;
    const double centre = 0.5 * (static_cast<double>(lo) + static_cast<double>(hi));
    centred_exponentials<T>(grouped, room, centre, 1 / factored_tau, exponentials);
  }
  if constexpr (to_items) {
    std::fill(gradient, gradient + room, finite ? T(0) : nan);
    std::fill(gradient + room, gradient + stride, T(0));
  } else {
    std::fill(row.out, out_end, finite ? T(0) : nan);
  }

  // Targets in the order of their levels; those that take no part are left out.
  int64_t* order = scratch.order.reserve(P);
  int64_t first[257] = {};
  for (int64_t t = 0; t < P; ++t) ++first[row.levels[row.targets[t]] + 1];
  std::partial_sum(first, first + 257, first);
  std::copy(first, first + 256, cursor);
  for (int64_t t = 0; t < P; ++t) order[cursor[row.levels[row.targets[t]]]++] = t;

  for (int64_t level = 0; finite && level < L; ++level) {
    for (int64_t t = first[level]; t < first[level + 1]; t += 4) {
      const int size = static_cast<int>(std::min<int64_t>(4, first[level + 1] - t));
      Targets<T> targets{};
      for (int i = 0; i < size; ++i) {
        targets.place[i] = place[row.targets[order[t + i]]];
        targets.kept[i] = grouped[targets.place[i]];
        if constexpr (has_tangent) targets.tangent[i] = tangent[targets.place[i]];
      }
      double to_targets[4] = {};
      for (int64_t l = 0; l < L; ++l) {
        if (count[l] == 0) continue;
        const Comparator& comparator = row.comparators[l < level ? 0 : l == level ? 1 : 2];
        Group<T> group{grouped, tangent, gradient, begin[l], begin[l] + count[l]};
        const double scale = pass == CountsPass::kCounts ? 1
                             : pass == CountsPass::kDoubleBackward
                                 ? 1 / comparator.tau / comparator.tau
                                 : 1 / comparator.tau;
        T weights[4] = {};
        double sums[4] = {};
        bool wanted = !to_items;
        if constexpr (to_items)
          for (int i = 0; i < size; ++i) {
            weights[i] = static_cast<T>(scale * row.grad[order[t + i] * L + l]);
            wanted |= weights[i] != 0;
          }
        if (!wanted) continue;
        const auto compare_all = [&](const auto& pairs) {
          direct_tile<T, std::decay_t<decltype(pairs)>, pass>(pairs, group, targets, size,
                                                              l == level, weights, sums);
        };
        switch (comparator.kind) {
          case Comparison::kSigmoid:
            if (comparator.tau == factored_tau) {
              group.kept = exponentials;
              for (int i = 0; i < size; ++i) targets.kept[i] = exponentials[targets.place[i]];
              compare_all(FactoredSigmoidPairs<T>());
              for (int i = 0; i < size; ++i) targets.kept[i] = grouped[targets.place[i]];
            } else {
              compare_all(SigmoidPairs<T>(comparator));
            }
            break;
          case Comparison::kSup:
            compare_all(SupPairs<T>(comparator));
            break;
          case Comparison::kStep:
            if constexpr (pass == CountsPass::kCounts) compare_all(StepPairs<T>(comparator));
        }
        for (int i = 0; i < size; ++i) {
          if constexpr (to_items)
            to_targets[i] += sums[i];
          else
            row.out[order[t + i] * L + l] = static_cast<T>(scale * sums[i]);
        }
      }
      if constexpr (to_items)
        for (int i = 0; i < size; ++i) gradient[targets.place[i]] -= static_cast<T>(to_targets[i]);
    }
  }
  if constexpr (to_items)
    for_each_run(row.levels, row.items, [&](int64_t k, auto n, int) {
      std::copy_n(gradient + place[k], n(), row.out + k);
    });
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
