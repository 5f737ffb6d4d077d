// The exact ranks of one row: by counting where it is short, by sorting where it is long.
// Included once for each instruction set, hence no include guard.

#include "cpu/simd.h"
#include "cpu/sorted_order.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// The rank of an item that `above` items exceed and `tied` items equal, itself among them, of which
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

// n^2 comparisons, a vector of items against every item in turn.
template <class T>
void rank_by_counting(const T* scores, int64_t n, Ties ties, T divisor, T* out) {
  for (int64_t first = 0; first < n; first += kLanes<T>) {
    const Vec<T> own = load_first<T>(scores + first, n - first);
    IntVec<T> above = {}, tied = {}, before = {};
    // A comparison is -1 where it holds.
    for (int64_t j = 0; j < n; ++j) {
      above -= scores[j] > own;
      tied -= scores[j] == own;
    }
    for (int lane = 0; ties == Ties::kOrdinal && lane < kLanes<T> && first + lane < n; ++lane)
      for (int64_t j = 0; j < first + lane; ++j) before[lane] += scores[j] == own[lane];
    const Vec<T> rank =
        rank_of(ties, __builtin_convertvector(above, Vec<T>), __builtin_convertvector(tied, Vec<T>),
                __builtin_convertvector(before, Vec<T>));
    store_first<T>(out + first, rank / divisor, n - first);
  }
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
  constexpr int64_t kShort = 256;  // where counting and sorting cost the same (AVX-512, 2026-11)
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
  const bool has_nan = std::any_of(scores, scores + n, [](T score) { return score != score; });
  const T divisor = row.normalize ? static_cast<T>(n) : T(1);
  if (has_nan)
    std::fill(out, out + n, std::numeric_limits<T>::quiet_NaN());
  else if (n <= kShort)
    rank_by_counting(scores, n, row.ties, divisor, out);
  else
    rank_by_sorting(scores, n, row.ties, divisor, scratch, out);
  for (int64_t i = 0; valid != nullptr && i < n; ++i) row.out[valid[i]] = out[i];
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
