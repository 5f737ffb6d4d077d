// The calibration of a row's scores in one pass. Included once for each instruction set, hence no
// include guard.

#include "cpu/isa/simd.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Widens a vector of bytes to lanes; unless kWhole, only `count` bytes, with zeros after them.
template <class T, bool kWhole>
inline IntVec<T> load_bytes(const uint8_t* from, int64_t count) {
  uint8_t filled[kLanes<T>] = {};
  if constexpr (!kWhole) std::copy_n(from, count, filled);
  const uint8_t* bytes = kWhole ? from : filled;
#if SODEEP_FAST_VECTOR_BYTES == 64  // the compiler would convert them one by one
  if constexpr (sizeof(T) == 4)
    return (IntVec<T>)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)bytes));
  else
    return (IntVec<T>)_mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i*)bytes));
#else
  std::remove_reference_t<decltype(std::declval<IntVec<T> >()[0])> wide[kLanes<T>];
  std::copy_n(bytes, kLanes<T>, wide);
  IntVec<T> result;
  __builtin_memcpy(&result, wide, sizeof(result));
  return result;
#endif
}

constexpr uint8_t kAllTakePart[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

// A vector of a row's items, from item k on.
template <class T>
struct MarginLanes {
  Vec<T> score;
  IntVec<T> is_positive, is_negative;

  template <class Whole>
  inline MarginLanes(const MarginRow<T>& row, int64_t k, Whole) {
    constexpr bool kWhole = Whole::value;
    const int64_t count = row.n - k;
    score = kWhole ? load<T>(row.scores + k) : load_first<T>(row.scores + k, count);
    const uint8_t* mask = row.mask ? row.mask + k : kAllTakePart;
    const IntVec<T> positive = load_bytes<T, kWhole>(row.positives + k, count) != 0;
    const IntVec<T> taking_part = load_bytes<T, kWhole>(mask, count) != 0;
    is_positive = positive & taking_part;
    is_negative = ~positive & taking_part;
  }
};

// Calls visit(first item, whether the vector is whole) for the vectors from begin to end.
template <class T, class Visit>
inline void for_each_vector(int64_t begin, int64_t end, const Visit& visit) {
  int64_t k = begin;
  for (; k + kLanes<T> <= end; k += kLanes<T>) visit(k, std::true_type{});
  if (k < end) visit(k, std::false_type{});
}

// x where it is above 0 or NaN and takes part; 0 elsewhere.
template <class T>
inline Vec<T> above_zero(Vec<T> x, IntVec<T> taking_part) {
  const Vec<T> zero = {};
  return (taking_part & ~(x <= zero)) ? x : zero;
}

template <class T>
MarginSums margin_sums(const MarginRow<T>& row) {
  // The rounding error of a sum in T grows with its length: such sums are kept this short, and then
  // added in double.
  constexpr int64_t kBlock = 64 * kLanes<T>;
  MarginSums result{};
  for (int64_t begin = 0; begin < row.n; begin += kBlock) {
    Vec<T> excess[2] = {};
    IntVec<T> active[2] = {};
    for_each_vector<T>(begin, std::min(begin + kBlock, row.n), [&](int64_t k, auto whole) {
      const MarginLanes<T> items(row, k, whole);
      excess[0] += above_zero<T>(row.pos_margin - items.score, items.is_positive);
      excess[1] += above_zero<T>(items.score - row.neg_margin, items.is_negative);
      active[0] -= items.is_positive & (items.score < row.pos_margin);
      active[1] -= items.is_negative & (items.score > row.neg_margin);
    });
    for (int kind = 0; kind < 2; ++kind) {
      result.excess[kind] += reduce<T>(excess[kind], [](T a, T b) { return a + b; });
      for (int lane = 0; lane < kLanes<T>; ++lane) result.active[kind] += active[kind][lane];
    }
  }
  return result;
}

template <class T>
void margin_slopes(const MarginRow<T>& row, T pos_slope, T neg_slope, T* out) {
  const Vec<T> zero = {}, slopes[2] = {broadcast<T>(pos_slope), broadcast<T>(neg_slope)};
  for_each_vector<T>(0, row.n, [&](int64_t k, auto whole) {
    const MarginLanes<T> items(row, k, whole);
    const Vec<T> own = (items.is_negative & (items.score > row.neg_margin)) ? slopes[1] : zero;
    store_first<T>(out + k, (items.is_positive & (items.score < row.pos_margin)) ? slopes[0] : own,
                   row.n - k);
  });
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
