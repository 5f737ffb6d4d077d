// The gradient of a short row, each pair once: with d = (g_j - g_i) / (e_i + e_j)^2 the pair adds
// e_i e_j d to item i and subtracts it from item j. Included once for each instruction set, hence
// no include guard.

#include "cpu/isa/centred_exponential.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// The rounding error of sums in T grows with their length, most for nearly tied rows. So kChain
// terms are summed one by one, such sums are added up for kTile items, and those in a long sum.
constexpr int64_t kChain = 16, kTile = 128;

// Vectors are stored twice, side by side, so that one load rotates them by any number of lanes.
template <class T>
constexpr int64_t kTurning = 2 * kLanes<T>;

// A row's exponentials, weights and sums. An item has kSums sums, which the vectors that it is
// paired with use in turn, so that none gets long.
template <class T>
struct SymmetricRow {
  static constexpr int64_t kSums = std::max<int64_t>(1, kTile / (kChain * kLanes<T>));

  const T *e, *g;  // [vectors, kTurning]
  T* sums;         // [kSums, vectors, lanes]
  int64_t vectors;

  inline Vec<T> exponential(int64_t vector, int turn = 0) const {
    return load<T>(e + vector * kTurning<T> + turn);
  }
  inline Vec<T> weight(int64_t vector, int turn = 0) const {
    return load<T>(g + vector * kTurning<T> + turn);
  }
  inline T* sum_of(int64_t vector, int64_t partner) const {
    return sums + (partner % kSums * vectors + vector) * kLanes<T>;
  }
  inline void add(int64_t vector, int64_t partner, Vec<T> some) const {
    T* sum = sum_of(vector, partner);
    store<T>(sum, load<T>(sum) + some);
  }
};

// sigmoid' (g_j - g_i). Each e is multiplied by an inverse first: inverse^2 alone may be near the
// ends of T's range, with no room for a weight.
template <class T>
inline Vec<T> sloped_difference(Vec<T> e_i, Vec<T> e_j, Vec<T> g_i, Vec<T> g_j) {
  const Vec<T> inverse = reciprocal<T>(e_i + e_j);
  return (e_i * inverse) * (e_j * inverse) * (g_j - g_i);
}

// All pairs of the items of kVectors vectors with those of another.
template <class T, int kVectors>
__attribute__((noinline)) void pair_vectors(const SymmetricRow<T>& row, int64_t first,
                                            int64_t other) {
  constexpr int lanes = kLanes<T>;
  Vec<T> e[kVectors], g[kVectors], sums[kVectors] = {};
  for (int v = 0; v < kVectors; ++v) {
    e[v] = row.exponential(first + v);
    g[v] = row.weight(first + v);
  }
  // Lane k holds item k + turn of the other vector; after all turns, that is item k again.
  Vec<T> others = {};
  for (int turn = 0; turn < lanes; ++turn) {
    const Vec<T> e_j = row.exponential(other, turn), g_j = row.weight(other, turn);
    Vec<T> taken = {};
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Vec<T> given = sloped_difference<T>(e[v], e_j, g[v], g_j);
      sums[v] += given;
      taken += given;
    }
    others = turned<T>(others - taken);
  }
  row.add(other, first / kVectors, others);
  for (int v = 0; v < kVectors; ++v) row.add(first + v, other, sums[v]);
}

// All pairs within each of kVectors vectors, from both sides. Runs first, and initializes the sums.
template <class T, int kVectors>
__attribute__((noinline)) void pair_within(const SymmetricRow<T>& row, int64_t first) {
  constexpr int lanes = kLanes<T>;
  Vec<T> e[kVectors], g[kVectors], sums[kVectors] = {};
  for (int v = 0; v < kVectors; ++v) {
    e[v] = row.exponential(first + v);
    g[v] = row.weight(first + v);
  }
  for (int turn = 1; turn < lanes; ++turn)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Vec<T> e_j = row.exponential(first + v, turn);
      sums[v] += sloped_difference<T>(e[v], e_j, g[v], row.weight(first + v, turn));
    }
  for (int v = 0; v < kVectors; ++v) {
    store<T>(row.sum_of(first + v, 0), sums[v]);
    for (int k = 1; k < row.kSums; ++k) store<T>(row.sum_of(first + v, k), Vec<T>{});
  }
}

// Calls visit(first, how many as a constant) for `count` vectors, as many at a time as registers
// hold.
template <class Visit>
inline void for_each_vectors(int64_t count, const Visit& visit) {
  constexpr int most = SODEEP_FAST_VECTOR_BYTES == 64 ? 4 : 2;
  int64_t first = 0;
  for (; first + most <= count; first += most) visit(first, std::integral_constant<int, most>{});
  switch (count - first) {
    case 3:
      return visit(first, std::integral_constant<int, std::min(most, 3)>{});
    case 2:
      return visit(first, std::integral_constant<int, std::min(most, 2)>{});
    case 1:
      return visit(first, std::integral_constant<int, 1>{});
    default:
      return;
  }
}

// out[i] = scale * sum over j of sigmoid' (g_j - g_i), for rows in which no product of two e
// overflows or underflows, short enough for sums in T.
template <class T>
void symmetric_gradient(const T* scores, const T* weight, int64_t n, double lam, T lo, T hi,
                        double scale, Buffer<T>& scratch, T* out) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t vectors = (n + lanes - 1) / lanes, padded = vectors * lanes;
  T* exponentials = scratch.reserve((5 + SymmetricRow<T>::kSums) * padded);
  T *e = exponentials + padded, *g = e + 2 * padded, *sums = g + 2 * padded;
  const double centre = 0.5 * (static_cast<double>(lo) + static_cast<double>(hi));
  centred_exponentials<T>(scores, n, centre, lam, exponentials);
  // Items beyond the end add nothing.
  std::fill(exponentials + n, exponentials + padded, T(0));
  for (int64_t v = 0; v < vectors; ++v) {
    const Vec<T> own = load<T>(exponentials + v * lanes);
    const Vec<T> own_weight = load_first<T>(weight + v * lanes, n - v * lanes);
    for (int64_t copy = 0; copy < 2; ++copy) {
      store<T>(e + v * kTurning<T> + copy * lanes, own);
      store<T>(g + v * kTurning<T> + copy * lanes, own_weight);
    }
  }

  const SymmetricRow<T> row{e, g, sums, vectors};
  const FlushToZero flush(is_flat_near_zero<T>(lam));
  for_each_vectors(vectors,
                   [&](int64_t first, auto count) { pair_within<T, count()>(row, first); });
  for (int64_t other = 1; other < vectors; ++other)
    for_each_vectors(
        other, [&](int64_t first, auto count) { pair_vectors<T, count()>(row, first, other); });
  for (int64_t v = 0; v < vectors; ++v) {
    Vec<T> sum = load<T>(row.sum_of(v, 0));
    for (int k = 1; k < row.kSums; ++k) sum += load<T>(row.sum_of(v, k));
    store_first<T>(out + v * lanes, sum * static_cast<T>(scale), n - v * lanes);
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
