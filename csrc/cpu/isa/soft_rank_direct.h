// All pairs of a row: a vector of items i at a time, against every item j in turn.
// Included once for each instruction set, hence no include guard.

#include "cpu/isa/soft_rank_symmetric.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Two ways to compare a pair (i, j), with x = lam (s_j - s_i). Lanes hold items i, and an item j is
// the same in every lane. The slope and curvature are sigmoid'(x) and sigmoid''(x).

// One exponential per item: sigmoid(x) = e_j / (e_i + e_j) with e = exp(lam (s - centre)), for rows
// in which no product of kGroup of the e overflows or underflows. The forward sum puts g = kGroup
// items j over their common denominator, and so needs one reciprocal for all of them: with E_k
// their elementary symmetric polynomials and x = e_i, the sum over the group is
//
//     sum_k k E_k x^(g - k)  /  (x^g + sum_k E_k x^(g - k)),   k = 1 .. g,
//
// in which nothing cancels. In a tile of m g items, a group is every m-th item, so that a vector
// operation on neighbours serves neighbouring groups. Items left over at the end of the tile are
// added one by one.
template <class T, int kGroup>
struct FactoredPairs {
  // In units of 1 / lam.
  static constexpr double kMaxRange = (sizeof(T) == 4 ? 160 : 1360) / kGroup;
  static constexpr T kPadding = 1;
  static constexpr int kStep = kGroup;  // items j in one step of the forward sum
  static constexpr bool kPaired = kGroup > 1;

  const T* e;          // [padded n]
  const T* symmetric;  // [2 kGroup, stride] E_k, then k E_k; none where kGroup is 1
  int64_t stride;

  // Takes kGroup items at once: not items j to j + kGroup - 1, but those of group j / kGroup.
  inline Vec<T> outranked_by(Vec<T> e_i, int64_t j) const {
    if constexpr (!kPaired) return outranked_by_last(e_i, j);
    const T* group = symmetric + j / kGroup;
    const auto own = [&](int k) { return group[(k - 1) * stride]; };
    const auto times = [&](int k) { return group[(kGroup + k - 1) * stride]; };
    Vec<T> above = e_i * own(1) + times(2), below = e_i + own(1);
    for (int k = 3; k <= kGroup; ++k) above = above * e_i + times(k);
    for (int k = 2; k <= kGroup; ++k) below = below * e_i + own(k);
    return above * reciprocal<T>(below);
  }
  inline Vec<T> outranked_by_last(Vec<T> e_i, int64_t j) const {
    return e[j] * reciprocal<T>(e_i + e[j]);
  }
  inline Vec<T> slope(Vec<T> e_i, int64_t j) const { return slope(e_i, j, e_i + e[j]); }
  inline Vec<T> curvature(Vec<T> e_i, int64_t j) const {
    const Vec<T> sum = e_i + e[j];
    return slope(e_i, j, sum) * ((e_i - e[j]) * reciprocal<T>(sum));
  }

  // Each e is multiplied by an inverse first: inverse^2 alone may be near the ends of T's range,
  // with no room for a weight.
  inline Vec<T> slope(Vec<T> e_i, int64_t j, Vec<T> sum) const {
    const Vec<T> inverse = reciprocal<T>(sum);
    return (e[j] * inverse) * (e_i * inverse);
  }

  static int64_t extra_size(int64_t n) { return kPaired ? 2 * kGroup * group_stride(n) : 0; }
  // Whole vectors are read and written, so up to one vector more than there are groups.
  static int64_t group_stride(int64_t n) { return n / kGroup + kLanes<T>; }

  FactoredPairs(const T* scores, int64_t n, double lam, T lo, T hi, T* memory, T* extra)
      : e(memory), symmetric(extra), stride(group_stride(n)) {
    const double centre = 0.5 * (static_cast<double>(lo) + static_cast<double>(hi));
    centred_exponentials<T>(scores, n, centre, lam, memory);
    for (int64_t tile = 0; kPaired && tile < n; tile += kTile) {
      const int64_t groups = std::min(kTile, n - tile) / kGroup;
      for (int64_t first = 0; first < groups; first += kLanes<T>) {
        Vec<T> sums[kGroup] = {};
        for (int own = 0; own < kGroup; ++own) {
          const Vec<T> item = load<T>(memory + tile + own * groups + first);
          for (int k = own; k > 0; --k) sums[k] += sums[k - 1] * item;
          sums[0] += item;
        }
        T* group = extra + tile / kGroup + first;
        for (int k = 0; k < kGroup; ++k) {
          store<T>(group + k * stride, sums[k]);
          store<T>(group + (kGroup + k) * stride, sums[k] * static_cast<T>(k + 1));
        }
      }
    }
  }
};

// One exponential for each pair, of the exact difference: any range.
template <class T>
struct ExactPairs {
  static constexpr T kPadding = 0;
  static constexpr int kStep = 1;
  static int64_t extra_size(int64_t) { return 0; }

  const T* s;  // [padded n]
  T lam;

  inline Vec<T> outranked_by(Vec<T> s_i, int64_t j) const {
    return reciprocal<T>(1 + exponential<T>(lam * (s_i - s[j])));
  }
  inline Vec<T> outranked_by_last(Vec<T> s_i, int64_t j) const { return outranked_by(s_i, j); }
  inline Vec<T> slope(Vec<T> s_i, int64_t j) const {
    const Vec<T> odds = exponential<T>(lam * (s_i - s[j])), win = reciprocal<T>(1 + odds);
    return odds * win * win;
  }
  inline Vec<T> curvature(Vec<T> s_i, int64_t j) const {
    const Vec<T> odds = exponential<T>(lam * (s_i - s[j])), win = reciprocal<T>(1 + odds);
    return odds * win * win * ((odds - 1) * win);
  }
  ExactPairs(const T* scores, int64_t n, double lam_, T, T, T* memory, T*)
      : s(memory), lam(static_cast<T>(std::min<double>(lam_, std::numeric_limits<T>::max()))) {
    std::copy(scores, scores + n, memory);
  }
};

// Sums over the items j from begin to end, for kVectors vectors of items i; not inlined, so that
// all of it stays in registers.
template <class T, int kDerivative, int kVectors, class Pairs>
__attribute__((noinline)) void direct_tile(const Pairs& pairs, const Vec<T>* items,
                                           const Vec<T> (*item_weights)[2],
                                           const T* const (&weights)[2], int64_t begin, int64_t end,
                                           Vec<T>* result) {
  constexpr int kStep = kDerivative == 0 ? Pairs::kStep : 1;
  Vec<T> own[kVectors], own_w[kVectors][2] = {}, sums[kVectors] = {};
  for (int v = 0; v < kVectors; ++v) {
    own[v] = items[v];
    for (int w = 0; w < kDerivative; ++w) own_w[v][w] = item_weights[v][w];
  }
  int64_t j = begin;
  while (j + kStep <= end) {
    const int64_t last = std::min(j + (kChain - 1) * kStep, end - kStep);
    Vec<T> chain[kVectors] = {};
    for (; j <= last; j += kStep)
      for (int v = 0; v < kVectors; ++v) {
        if constexpr (kDerivative == 0)
          chain[v] += pairs.outranked_by(own[v], j);
        else if constexpr (kDerivative == 1)
          chain[v] += pairs.slope(own[v], j) * (weights[0][j] - own_w[v][0]);
        else
          chain[v] += pairs.curvature(own[v], j) * (weights[0][j] - own_w[v][0]) *
                      (weights[1][j] - own_w[v][1]);
      }
    for (int v = 0; v < kVectors; ++v) sums[v] += chain[v];
  }
  if constexpr (kStep > 1)
    for (; j < end; ++j)
      for (int v = 0; v < kVectors; ++v) sums[v] += pairs.outranked_by_last(own[v], j);
  for (int v = 0; v < kVectors; ++v) result[v] = sums[v];
}

// out[i] = scale * sum for `kVectors` vectors of items from `first` on.
template <class T, int kDerivative, int kVectors, class Pairs>
void direct_vectors(const Pairs& pairs, const T* items, const T* const (&weights)[2], int64_t n,
                    int64_t first, double scale, T* out) {
  constexpr int lanes = kLanes<T>;
  // A rank is 1 + the sum over the other items; the sum over all items includes sigmoid(0) = 1/2
  // for the item itself. To a derivative, it adds nothing.
  constexpr double kSelf = kDerivative == 0 ? 0.5 : 0.0;

  Vec<T> own[kVectors], own_w[kVectors][2] = {}, partial[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    own[v] = load<T>(items + first + v * lanes);
    for (int w = 0; w < kDerivative; ++w)
      own_w[v][w] = load_first<T>(weights[w] + first + v * lanes, n - first - v * lanes);
  }
  const auto put = [&](int v, Vec<T> value) {
    store_first<T>(out + first + v * lanes, value, n - first - v * lanes);
  };
  if (n <= kTile) {
    direct_tile<T, kDerivative, kVectors>(pairs, own, own_w, weights, 0, n, partial);
    for (int v = 0; v < kVectors; ++v) put(v, (partial[v] + T(kSelf)) * static_cast<T>(scale));
    return;
  }
  LongSum<T> sums[kVectors];
  for (int64_t tile = 0; tile < n; tile += kTile) {
    direct_tile<T, kDerivative, kVectors>(pairs, own, own_w, weights, tile,
                                          std::min(tile + kTile, n), partial);
    for (int v = 0; v < kVectors; ++v) sums[v].add(partial[v]);
  }
  for (int v = 0; v < kVectors; ++v) put(v, sums[v].scaled(scale, kSelf));
}

template <class T, int kDerivative, class Pairs>
void direct_with(const T* scores, const T* const (&weights)[2], int64_t n, double lam, T lo, T hi,
                 double scale, SoftRankScratch<T>& scratch, T* out) {
  constexpr int lanes = kLanes<T>;
  const int64_t padded = (n + lanes - 1) / lanes * lanes;
  T* items = scratch.direct.reserve(padded + lanes + Pairs::extra_size(n));
  const Pairs pairs(scores, n, lam, lo, hi, items, items + padded + lanes);
  std::fill(items + n, items + padded, Pairs::kPadding);

  constexpr int64_t kPairsPerTask = 1 << 18;
  const int64_t grain = std::max<int64_t>(4, kPairsPerTask / (n * lanes));
  torch::stable::parallel_for(0, padded / lanes, grain, [&](int64_t begin, int64_t end) {
    const FlushToZero flush(is_flat_near_zero<T>(lam));
    const auto advance = [&](auto vectors) {
      direct_vectors<T, kDerivative, vectors()>(pairs, items, weights, n, begin * lanes, scale,
                                                out);
      begin += vectors();
    };
    // A single vector waits for its own sum at every step, so avoid leaving one over.
    while (begin < end) {
      const int64_t left = end - begin;
      switch (left >= 8 ? 4 : left > 4 ? (left + 1) / 2 : left) {
        case 4:
          advance(std::integral_constant<int, 4>{});
          break;
        case 3:
          advance(std::integral_constant<int, 3>{});
          break;
        case 2:
          advance(std::integral_constant<int, 2>{});
          break;
        default:
          advance(std::integral_constant<int, 1>{});
      }
    }
  });
}

// out[i] = scale * the sum of SoftRankRow, all scores finite and between lo and hi.
template <class T, int kDerivative>
void soft_rank_direct(const T* scores, const T* const (&weights)[2], int64_t n, double lam, T lo,
                      T hi, double scale, SoftRankScratch<T>& scratch, T* out) {
  const double range = lam * (static_cast<double>(hi) - static_cast<double>(lo));
  using Grouped = FactoredPairs<T, 4>;
  using Paired = FactoredPairs<T, 2>;
  using Factored = FactoredPairs<T, 1>;
  // With two vectors or fewer, taking each pair only once would cost what it saves.
  if constexpr (kDerivative == 1)
    if (n > 2 * kLanes<T> && n <= kTile && range <= Paired::kMaxRange)
      return symmetric_gradient<T>(scores, weights[0], n, lam, lo, hi, scale, scratch.direct, out);
  if constexpr (kDerivative == 0)
    if (range <= Grouped::kMaxRange)
      return direct_with<T, 0, Grouped>(scores, weights, n, lam, lo, hi, scale, scratch, out);
  const auto method = range <= Paired::kMaxRange     ? direct_with<T, kDerivative, Paired>
                      : range <= Factored::kMaxRange ? direct_with<T, kDerivative, Factored>
                                                     : direct_with<T, kDerivative, ExactPairs<T>>;
  method(scores, weights, n, lam, lo, hi, scale, scratch, out);
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
