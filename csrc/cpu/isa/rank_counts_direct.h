// Compares all items of one level with a few targets of one level: lanes hold items, a target is
// the same in every lane. Included once for each instruction set, hence no include guard.

#include "cpu/isa/rank_counts_group.h"
#include "cpu/isa/rank_counts_pairs.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Up to four targets of one level.
template <class T>
struct Targets {
  T scores[4], exponentials[4], tangent[4];
  int64_t place[4];  // among the grouped items, or -1
};

// The items of one level: all from begin to end or, if levels are given, those with that level.
template <class T>
struct Group {
  const T *scores, *exponentials, *tangent;  // from the row's first (grouped) item on
  T* gradient;
  const uint8_t* levels;  // or null
  int level;
  int64_t begin, end;
};

// The rounding error of a sum in T grows with its length: such sums are kept this short, and then
// added in double.
template <class T>
constexpr int64_t kBlock = 64 * kLanes<T>;

// Calls visit(first item, whether its vector also holds other groups' items) for the vectors of a
// group, and block_done() after at most kBlock items.
template <class T, class Visit, class Done>
inline void for_each_block(const Group<T>& group, const Visit& visit, const Done& block_done) {
  constexpr int lanes = kLanes<T>;
  for (int64_t k = group.begin; k < group.end;) {
    const int64_t stop = std::min(k + kBlock<T>, group.end);
    for (; k < stop; k += lanes) {
      // Beyond the last item, there may be no levels to read.
      if (k + lanes > stop || (group.levels && !are_alike<T>(group.levels + k, group.level)))
        visit(k, std::true_type{});
      else
        visit(k, std::false_type{});
    }
    block_done();
  }
}

template <class T>
inline IntVec<T> lane_numbers() {
  IntVec<T> lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
  return lane;
}

// Which lanes hold an item of the group.
template <class T>
inline IntVec<T> member_lanes(const Group<T>& group, int64_t first) {
  if (group.levels) return load_levels<T>(group.levels + first, group.end - first) == group.level;
  return lane_numbers<T>() < static_cast<int>(std::min<int64_t>(group.end - first, kLanes<T>));
}

// Which lanes hold another item than the target's own.
template <class T>
inline IntVec<T> other_lanes(int64_t first, int64_t self) {
  const bool is_here = self >= first && self < first + kLanes<T>;
  return lane_numbers<T>() != (is_here ? static_cast<int>(self - first) : -1);
}

template <class T, class Pairs, CountsPass pass>
inline Vec<T> compare(const Pairs& pairs, Scored<T> item, Scored<T> own) {
  if constexpr (derivative_of(pass) == 0)
    return pairs.value(item, own);
  else if constexpr (derivative_of(pass) == 1)
    return pairs.slope(item, own);
  else
    return pairs.curvature(item, own);
}

// kCounts, kTangent: adds to sums[t] what the group adds to target t.
// kBackward, kDoubleBackward: adds to the items' gradient, and to sums[t] all that target t adds.
template <class T, class Pairs, CountsPass pass, int kTargets, bool kOwn>
__attribute__((noinline)) void direct_group(const Pairs& pairs, const Group<T>& group,
                                            const Targets<T>& targets, const T* weights,
                                            double* sums) {
  Scored<T> own[kTargets];
  Vec<T> own_tangent[kTargets], weight[kTargets], partial[kTargets] = {};
#pragma GCC unroll 4
  for (int t = 0; t < kTargets; ++t) {
    own[t] = {broadcast<T>(targets.scores[t]), broadcast<T>(targets.exponentials[t])};
    own_tangent[t] = broadcast<T>(has_tangent(pass) ? targets.tangent[t] : 0);
    weight[t] = broadcast<T>(to_items(pass) ? weights[t] : 0);
  }
  const auto visit = [&](int64_t k, auto is_mixed) {
    // Grouped items are followed by room for a vector.
    const int64_t count = is_mixed() && group.levels ? group.end - k : kLanes<T>;
    const Vec<T> zero = {};
    Scored<T> items{load_first<T>(group.scores + k, count), zero};
    if constexpr (Pairs::kFactored)
      items.exponential = load_first<T>(group.exponentials + k, count);
    Vec<T> tangent = {}, gradient = {};
    if constexpr (has_tangent(pass)) tangent = load_first<T>(group.tangent + k, count);
    if constexpr (to_items(pass)) gradient = load_first<T>(group.gradient + k, count);
    IntVec<T> is_member = {};
    if constexpr (is_mixed()) is_member = member_lanes(group, k);
    // Unrolled early, so that the partial sums live in registers.
#pragma GCC unroll 4
    for (int t = 0; t < kTargets; ++t) {
      Vec<T> term = compare<T, Pairs, pass>(pairs, items, own[t]);
      if constexpr (has_tangent(pass)) term *= tangent - own_tangent[t];
      if constexpr (kOwn) term = other_lanes<T>(k, targets.place[t]) ? term : zero;
      if constexpr (is_mixed()) term = is_member ? term : zero;
      partial[t] += term;
      if constexpr (to_items(pass)) gradient += weight[t] * term;
    }
    if constexpr (to_items(pass)) store_first<T>(group.gradient + k, gradient, count);
  };
  for_each_block(group, visit, [&] {
#pragma GCC unroll 4
    for (int t = 0; t < kTargets; ++t) {
      sums[t] += reduce<T>(partial[t], [](T a, T b) { return a + b; }) *
                 static_cast<double>(to_items(pass) ? weights[t] : T(1));
      partial[t] = Vec<T>{};
    }
  });
}

template <class T, class Pairs, CountsPass pass>
void direct_tile(const Pairs& pairs, const Group<T>& group, const Targets<T>& targets, int count,
                 bool own, const T* weights, double* sums) {
  // Each target excludes itself, in its own lane, so targets are visited one by one.
  for (int t = 0; own && t < count; ++t) {
    const Targets<T> one{
        {targets.scores[t]}, {targets.exponentials[t]}, {targets.tangent[t]}, {targets.place[t]}};
    direct_group<T, Pairs, pass, 1, true>(pairs, group, one, weights + t, sums + t);
  }
  if (own) return;
  using Kernel = void (*)(const Pairs&, const Group<T>&, const Targets<T>&, const T*, double*);
  static constexpr Kernel kernels[4] = {
      direct_group<T, Pairs, pass, 1, false>, direct_group<T, Pairs, pass, 2, false>,
      direct_group<T, Pairs, pass, 3, false>, direct_group<T, Pairs, pass, 4, false>};
  kernels[count - 1](pairs, group, targets, weights, sums);
}

// The temperature for which one exponential is computed per item and target, or 0. With a single
// target, that saves nothing.
template <class T>
double factored_temperature(const RankCountsRow<T>& row, double range) {
  for (int c = 0; c < 3 && row.num_targets > 1; ++c) {
    const Comparator& comparator = row.comparators[c];
    if (comparator.has_sigmoid() && std::isfinite(1 / comparator.tau) &&
        range / comparator.tau <= kMaxExponentRange<T>)
      return comparator.tau;
  }
  return 0;
}

template <class T, CountsPass pass>
Group<T> group_of(const RankCountsRow<T>& row, const GroupedRow<T>& grouped, int level) {
  if (level != grouped.staying)
    return {grouped.scores, grouped.exponentials, grouped.tangent,   grouped.gradient, nullptr,
            level,          grouped.begin[level], grouped.end(level)};
  return {row.scores + row.begin,
          grouped.row_exponentials,
          has_tangent(pass) ? row.tangent + row.begin : nullptr,
          to_items(pass) ? row.gradient + row.begin : nullptr,
          row.levels + row.begin,
          level,
          0,
          row.end - row.begin};
}

// Whether a level has so few items that it is faster to have targets in the lanes.
template <class T, CountsPass pass>
bool are_few(const GroupedRow<T>& grouped, const Comparator& comparator, int64_t level,
             int64_t target_level) {
  return pass == CountsPass::kCounts && comparator.kind == Comparison::kStep &&
         level != grouped.staying && grouped.count[level] <= 4 * kLanes<T> &&
         grouped.first[target_level + 1] - grouped.first[target_level] >= kLanes<T>;
}

// Counts the items of a level that are ahead of each target of another level, or of the same one.
template <class T>
void count_few(const RankCountsRow<T>& row, const GroupedRow<T>& grouped, double at_zero,
               int64_t level, int64_t target_level) {
  const int64_t end = grouped.first[target_level + 1];
  for (int64_t at = grouped.first[target_level]; at < end; at += kLanes<T>) {
    const int64_t count = std::min<int64_t>(kLanes<T>, end - at);
    const Vec<T> own = load_first<T>(grouped.scores + grouped.room + at, count);
    IntVec<T> above = {}, tied = {};
    for (int64_t k = grouped.begin[level]; k < grouped.end(level); ++k) {
      above -= grouped.scores[k] > own;
      tied -= grouped.scores[k] == own;
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t t = grouped.order[at + i];
      const bool is_itself = level == target_level && grouped.place[t] >= 0;
      row.sum_of(t, level) =
          static_cast<double>(above[i]) + at_zero * static_cast<double>(tied[i] - is_itself);
    }
  }
}

// Computes the exponentials for a temperature, which it returns, or returns 0.
template <class T>
double factor_row(const RankCountsRow<T>& row, const GroupedRow<T>& grouped,
                  const CountsPlan& plan) {
  // If sums do most of the work, too few pairs are left to be worth an exponential per item.
  const double factored = plan.any ? 0 : factored_temperature(row, grouped.range());
  if (factored != 0)
    centred_exponentials<T>(grouped.scores, grouped.size, grouped.centre(), 1 / factored,
                            grouped.exponentials);
  if (factored != 0 && grouped.staying >= 0)
    centred_exponentials<T>(row.scores + row.begin, row.end - row.begin, grouped.centre(),
                            1 / factored, grouped.row_exponentials);
  return factored;
}

// Computes what the plan does not leave to sums, for targets of level `least` or more; `factored`
// is the result of factor_row.
template <class T, CountsPass pass>
void rank_counts_direct(const RankCountsRow<T>& row, const GroupedRow<T>& grouped,
                        const CountsPlan& plan, double factored, int64_t least = 0) {
  const int64_t L = row.num_levels;
  bool is_left[3][256];  // by relation of the levels
  for (int which = 0; which < 3; ++which) {
    const bool has_any = row.comparators[which].has_derivative(derivative_of(pass));
    const bool* by_sums = plan.by_sums[first_alike(row.comparators, which)];
    for (int64_t l = 0; l < L; ++l)
      is_left[which][l] = has_any && grouped.count[l] > 0 && !(plan.any && by_sums[l]);
  }

  for (int64_t level = least; level < L; ++level) {
    bool has_any = false;
    bool is_few[256];
    for (int64_t l = 0; l < L; ++l) {
      const int which = l < level ? 0 : l == level ? 1 : 2;
      const Comparator& comparator = row.comparators[which];
      is_few[l] = is_left[which][l] && are_few<T, pass>(grouped, comparator, l, level);
      if (is_few[l]) count_few(row, grouped, comparator.at_zero, l, level);
      has_any |= is_left[which][l] && !is_few[l];
    }
    if (!has_any) continue;
    for (int64_t t = grouped.first[level]; t < grouped.first[level + 1]; t += 4) {
      const int size = static_cast<int>(std::min<int64_t>(4, grouped.first[level + 1] - t));
      Targets<T> targets{};
      for (int i = 0; i < size; ++i) {
        const int64_t at = grouped.room + t + i;
        targets.place[i] = grouped.place[grouped.order[t + i]];
        targets.scores[i] = grouped.scores[at];
        if (factored != 0) targets.exponentials[i] = grouped.exponentials[at];
        if constexpr (has_tangent(pass)) targets.tangent[i] = grouped.tangent[at];
      }
      double to_targets[4] = {};
      for (int64_t l = 0; l < L; ++l) {
        const int which = l < level ? 0 : l == level ? 1 : 2;
        if (!is_left[which][l] || is_few[l]) continue;
        const Comparator& comparator = row.comparators[which];
        const Group<T> group = group_of<T, pass>(row, grouped, static_cast<int>(l));
        const double scale = derivative_scale<pass>(comparator);
        T weights[4] = {};
        double sums[4] = {};
        bool wanted = !to_items(pass);
        if constexpr (to_items(pass))
          for (int i = 0; i < size; ++i) {
            weights[i] = static_cast<T>(scale * row.grad_of(grouped.order[t + i], l));
            wanted |= weights[i] != 0;
          }
        if (!wanted) continue;
        const auto compare_all = [&](const auto& pairs) {
          direct_tile<T, std::decay_t<decltype(pairs)>, pass>(pairs, group, targets, size,
                                                              l == level, weights, sums);
        };
        const bool is_factored = comparator.tau == factored;
        if (comparator.kind == Comparison::kStep) {
          if constexpr (pass == CountsPass::kCounts) compare_all(StepPairs<T>(comparator));
        } else if (comparator.kind == Comparison::kRamp) {
          if constexpr (derivative_of(pass) < 2) compare_all(RampPairs<T>(comparator));
        } else if (comparator.kind == Comparison::kSup) {
          if (is_factored)
            compare_all(SupPairs<T, FactoredSigmoid<T>>(comparator));
          else
            compare_all(SupPairs<T, ExactSigmoid<T>>(comparator));
        } else if (is_factored) {
          compare_all(FactoredSigmoid<T>(comparator));
        } else {
          compare_all(ExactSigmoid<T>(comparator));
        }
        for (int i = 0; i < size; ++i) {
          if constexpr (to_items(pass))
            to_targets[i] += sums[i];
          else
            row.sum_of(grouped.order[t + i], l) = scale * sums[i];
        }
      }
      if constexpr (to_items(pass))
        for (int i = 0; i < size; ++i) row.sums[grouped.order[t + i]] += to_targets[i];
    }
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
