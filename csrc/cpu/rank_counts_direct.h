// All items of one level against a few targets of one level: items in lanes, the targets the same
// in every lane. Included once for each instruction set, hence no include guard.

#include "cpu/centred_exponential.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// H(x), tau H'(x) and tau^2 H''(x) of a pair, from what is kept of item and target.
//
// Kept are the exponentials of the scores, for rows whose range allows it.
template <class T>
struct FactoredSigmoidPairs {
  inline Vec<T> value(Vec<T> e, Vec<T> own) const { return e * reciprocal<T>(own + e); }
  inline Vec<T> slope(Vec<T> e, Vec<T> own) const {
    const Vec<T> inverse = reciprocal<T>(own + e);
    return (e * inverse) * (own * inverse);
  }
  inline Vec<T> curvature(Vec<T> e, Vec<T> own) const {
    const Vec<T> inverse = reciprocal<T>(own + e);
    return (e * inverse) * (own * inverse) * ((own - e) * inverse);
  }
};

// Kept are the scores, here and below.
template <class T>
struct SigmoidPairs {
  T inverse_tau;

  explicit SigmoidPairs(const Comparator& c)
      : inverse_tau(static_cast<T>(std::min<double>(1 / c.tau, std::numeric_limits<T>::max()))) {}

  inline Vec<T> odds(Vec<T> s, Vec<T> own) const { return exponential<T>(inverse_tau * (own - s)); }
  inline Vec<T> value(Vec<T> s, Vec<T> own) const { return reciprocal<T>(1 + odds(s, own)); }
  inline Vec<T> slope(Vec<T> s, Vec<T> own) const {
    const Vec<T> against = odds(s, own), win = reciprocal<T>(1 + against);
    return against * win * win;
  }
  inline Vec<T> curvature(Vec<T> s, Vec<T> own) const {
    const Vec<T> against = odds(s, own), win = reciprocal<T>(1 + against);
    return against * win * win * ((against - 1) * win);
  }
};

template <class T>
struct SupPairs {
  SigmoidPairs<T> sigmoid;
  T rho, delta, start, offset, scaled_rho;

  explicit SupPairs(const Comparator& c)
      : sigmoid(c),
        rho(static_cast<T>(c.rho)),
        delta(static_cast<T>(c.delta)),
        start(static_cast<T>(c.start)),
        offset(static_cast<T>(c.offset)),
        scaled_rho(static_cast<T>(c.rho * c.tau)) {}

  inline Vec<T> value(Vec<T> s, Vec<T> own) const {
    const Vec<T> x = s - own, zero = {},
                 soft = sigmoid.value(s, own) + (x > 0 ? broadcast<T>(start) : zero);
    return x > delta ? rho * (x - delta) + offset : soft;
  }
  inline Vec<T> slope(Vec<T> s, Vec<T> own) const {
    return s - own > delta ? broadcast<T>(scaled_rho) : sigmoid.slope(s, own);
  }
  inline Vec<T> curvature(Vec<T> s, Vec<T> own) const {
    const Vec<T> zero = {};
    return s - own > delta ? zero : sigmoid.curvature(s, own);
  }
};

template <class T>
struct StepPairs {
  T at_zero;

  explicit StepPairs(const Comparator& c) : at_zero(static_cast<T>(c.at_zero)) {}

  inline Vec<T> value(Vec<T> s, Vec<T> own) const {
    const Vec<T> x = s - own, zero = {};
    return x > 0 ? broadcast<T>(1) : x < 0 ? zero : broadcast<T>(at_zero);
  }
};

// Up to four targets of one level.
template <class T>
struct Targets {
  T kept[4], tangent[4];
  int64_t place[4];  // among the grouped items
};

// The items of one level.
template <class T>
struct Group {
  const T *kept, *tangent;  // from the row's first grouped item on
  T* gradient;
  int64_t begin, end;  // begin is a multiple of the lanes, and so is the room behind
};

// Sums over lanes in T drift by their length, so they are kept this short, then go to double.
template <class T>
constexpr int64_t kBlock = 64 * kLanes<T>;

// Calls visit(first item, lane -> item) for the vectors of a group, and block_done() now and then.
template <class T, class Visit, class Done>
inline void for_each_block(const Group<T>& group, const Visit& visit, const Done& block_done) {
  constexpr int lanes = kLanes<T>;
  for (int64_t k = group.begin; k < group.end;) {
    const int64_t stop = std::min(k + kBlock<T>, group.end);
    for (; k + lanes <= stop; k += lanes) visit(k, std::false_type{});
    if (k < stop) {
      visit(k, std::true_type{});
      k = stop;
    }
    block_done();
  }
}

// Which lanes hold an item of the group that is not the target itself.
template <class T>
inline IntVec<T> counted_lanes(int64_t first, int64_t end, int64_t self) {
  using Int = std::remove_reference_t<decltype(std::declval<IntVec<T>>()[0])>;
  IntVec<T> lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
  return (lane < static_cast<Int>(std::min<int64_t>(end - first, kLanes<T>))) &
         (lane != static_cast<Int>(self >= first && self < first + kLanes<T> ? self - first : -1));
}

template <class T, class Pairs, CountsPass pass>
inline Vec<T> compare(const Pairs& pairs, Vec<T> item, Vec<T> own) {
  if constexpr (pass == CountsPass::kCounts)
    return pairs.value(item, own);
  else if constexpr (pass == CountsPass::kDoubleBackward)
    return pairs.curvature(item, own);
  else
    return pairs.slope(item, own);
}

// kCounts, kTangent: adds to sums[t] what the group adds to target t.
// kBackward, kDoubleBackward: adds to the items' gradient, and to sums[t] all of that for target t.
template <class T, class Pairs, CountsPass pass, int kTargets, bool kOwn>
__attribute__((noinline)) void direct_group(const Pairs& pairs, const Group<T>& group,
                                            const Targets<T>& targets, const T* weights,
                                            double* sums) {
  constexpr bool has_tangent = pass == CountsPass::kTangent || pass == CountsPass::kDoubleBackward;
  constexpr bool to_items = pass == CountsPass::kBackward || pass == CountsPass::kDoubleBackward;
  Vec<T> own[kTargets], own_tangent[kTargets], weight[kTargets], partial[kTargets] = {};
  for (int t = 0; t < kTargets; ++t) {
    own[t] = broadcast<T>(targets.kept[t]);
    own_tangent[t] = broadcast<T>(has_tangent ? targets.tangent[t] : 0);
    weight[t] = broadcast<T>(to_items ? weights[t] : 0);
  }
  const auto visit = [&](int64_t k, auto is_tail) {
    const Vec<T> items = load<T>(group.kept + k), zero = {};
    Vec<T> tangent = {}, gradient = {};
    if constexpr (has_tangent) tangent = load<T>(group.tangent + k);
    if constexpr (to_items) gradient = load<T>(group.gradient + k);
    for (int t = 0; t < kTargets; ++t) {
      Vec<T> term = compare<T, Pairs, pass>(pairs, items, own[t]);
      if constexpr (has_tangent) term *= tangent - own_tangent[t];
      if constexpr (to_items) term *= weight[t];
      if constexpr (kOwn || is_tail())
        term = counted_lanes<T>(k, group.end, kOwn ? targets.place[t] : -1) ? term : zero;
      partial[t] += term;
      if constexpr (to_items) gradient += term;
    }
    if constexpr (to_items) store<T>(group.gradient + k, gradient);
  };
  for_each_block(group, visit, [&] {
    for (int t = 0; t < kTargets; ++t) {
      sums[t] += reduce<T>(partial[t], [](T a, T b) { return a + b; });
      partial[t] = Vec<T>{};
    }
  });
}

template <class T, class Pairs, CountsPass pass>
void direct_tile(const Pairs& pairs, const Group<T>& group, const Targets<T>& targets, int count,
                 bool own, const T* weights, double* sums) {
  // Each target leaves itself out, at a lane of its own.
  for (int t = 0; own && t < count; ++t) {
    const Targets<T> one{{targets.kept[t]}, {targets.tangent[t]}, {targets.place[t]}};
    direct_group<T, Pairs, pass, 1, true>(pairs, group, one, weights + t, sums + t);
  }
  if (own) return;
  using Kernel = void (*)(const Pairs&, const Group<T>&, const Targets<T>&, const T*, double*);
  static constexpr Kernel kernels[4] = {
      direct_group<T, Pairs, pass, 1, false>, direct_group<T, Pairs, pass, 2, false>,
      direct_group<T, Pairs, pass, 3, false>, direct_group<T, Pairs, pass, 4, false>};
  kernels[count - 1](pairs, group, targets, weights, sums);
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
