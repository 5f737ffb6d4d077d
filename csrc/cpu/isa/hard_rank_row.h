// The exact ranks of one row: by counting if it is short, by sorting if it is long.
// Included once for each instruction set, hence no include guard.

#include "cpu/isa/simd.h"
#include "cpu/isa/sorted_order.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// The rank of an item with `above` greater items and `tied` equal ones, itself included, of which
// `before` come before it.
template <class N>
inline N rank_of(Ties ties, N above, N tied, N before) {
  switch (ties) {
    case Ties::kMin:
      return above + 1;
    case Ties::kMax:
      return above + tied;
    case Ties::kOrdinal:
      return above + before + 1;
    default:
      return above + (tied + 1) / 2;
  }
}

// Calls found(first item, counts) with the number of items above each item of a vector or, if
// kTied, tied with it. Makes n^2 comparisons: a few vectors of items with every item in turn.
template <class T, bool kTied, class Found>
inline void count_pairs(const T* scores, int64_t n, const Found& found) {
  constexpr int kTogether = 4;
  const IntVec<T> one = IntVec<T>{} + 1;
  for (int64_t first = 0; first < n; first += kTogether * kLanes<T>) {
    Vec<T> own[kTogether];
    IntVec<T> counts[kTogether] = {};
    for (int v = 0; v < kTogether; ++v)
      own[v] = load_first<T>(scores + first + v * kLanes<T>, n - first - v * kLanes<T>);
    for (int64_t j = 0; j < n; ++j)
#pragma GCC unroll 4
      for (int v = 0; v < kTogether; ++v)
        if constexpr (kTied)
          counts[v] = scores[j] == own[v] ? counts[v] + one : counts[v];
        else
          counts[v] = scores[j] > own[v] ? counts[v] + one : counts[v];
    for (int v = 0; v < kTogether && first + v * kLanes<T> < n; ++v)
      found(first + v * kLanes<T>, __builtin_convertvector(counts[v], Vec<T>));
  }
}

template <class T>
inline T sum(const T* from, int64_t n) {
  Vec<T> total = {};
  for (int64_t k = 0; k < n; k += kLanes<T>) total += load_first<T>(from + k, n - k);
  return reduce<T>(total, [](T a, T b) { return a + b; });
}

template <class T>
inline bool has_nan(const T* scores, int64_t n) {
  Vec<T> found = {};
  for (int64_t k = 0; k < n; k += kLanes<T>) {
    const Vec<T> score = load_first<T>(scores + k, n - k);
    found = score == score ? found : broadcast<T>(1);
  }
  return reduce<T>(found, [](T a, T b) { return a + b; }) != 0;
}

template <class T>
void rank_by_counting(const T* scores, int64_t n, Ties ties, T divisor, T* out) {
  count_pairs<T, false>(scores, n,
                        [&](int64_t k, Vec<T> above) { store_first<T>(out + k, above, n - k); });
  // Without ties, one item of every pair is above the other.
  const bool has_ties = sum<T>(out, n) != T(n) * T(n - 1) / 2;
  const auto finish = [&](int64_t k, Vec<T> tied) {
    Vec<T> before = {};
    for (int lane = 0; ties == Ties::kOrdinal && has_ties && lane < kLanes<T>; ++lane)
      if (k + lane < n)
        before[lane] = static_cast<T>(std::count(scores, scores + k + lane, scores[k + lane]));
    const Vec<T> rank = rank_of(ties, load_first<T>(out + k, n - k), tied, before);
    store_first<T>(out + k, rank / divisor, n - k);
  };
  if (has_ties) return count_pairs<T, true>(scores, n, finish);
  for (int64_t k = 0; k < n; k += kLanes<T>) finish(k, broadcast<T>(1));
}

template <class T>
void rank_by_sorting(const T* scores, int64_t n, Ties ties, T divisor, HardRankScratch<T>& scratch,
                     T* out) {
  uint32_t* order = scratch.order.reserve(n);  // ascending, equal scores by position
  sorted_order(scores, n, scratch.keys, order);
  for (int64_t begin = 0, end; begin < n; begin = end) {
    for (end = begin + 1; end < n && scores[order[end]] == scores[order[begin]];) ++end;
    for (int64_t i = begin; i < end; ++i)
      out[order[i]] =
          static_cast<T>(rank_of<double>(ties, n - end, end - begin, i - begin)) / divisor;
  }
}

template <class T>
void hard_rank_row(const HardRankRow<T>& row, HardRankScratch<T>& scratch) {
  // Rows of this length take as long by sorting: somewhat longer without ties, less with many (Xeon
  // with AVX-512, and limited to AVX2, 2026-11).
  constexpr int64_t kShort = (sizeof(T) == 4 ? 16 : 24) * kLanes<T>;
  const T* scores = row.scores;
  T* out = row.out;
  int64_t n = row.n;
  uint32_t* valid = nullptr;
  if (row.mask != nullptr) {
    valid = scratch.valid.reserve(n);
    n = find_valid(row.mask, n, valid);
    T* compact = scratch.compact.reserve(2 * n);
    for (int64_t i = 0; i < n; ++i) compact[i] = row.scores[valid[i]];
    std::fill(row.out, row.out + row.n, T(0));
    scores = compact;
    out = compact + n;
  }
  const T divisor = row.normalize ? static_cast<T>(n) : T(1);
  if (has_nan(scores, n))
    std::fill(out, out + n, std::numeric_limits<T>::quiet_NaN());
  else if (n <= kShort)
    rank_by_counting(scores, n, row.ties, divisor, out);
  else
    rank_by_sorting(scores, n, row.ties, divisor, scratch, out);
  for (int64_t i = 0; valid != nullptr && i < n; ++i) row.out[valid[i]] = out[i];
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
