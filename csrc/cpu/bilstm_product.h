// Products of a few rows with a panel of columns, summed in registers. Included once for each
// instruction set, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// A panel holds kPanelVectors vectors of columns. The sums of kProductRows rows times a panel, a
// factor for each row and a vector of the panel fill the registers: 32 of AVX-512, 16 of the
// others. Tiles have 16 rows.
constexpr int kPanelVectors = 4;
#ifdef SODEEP_FAST_BF16_TILES
constexpr int kProductRows = 16;
#else
constexpr int kProductRows = SODEEP_FAST_VECTOR_BYTES == 64 ? 6 : 3;
#endif
template <class T>
constexpr int kPanelColumns = kPanelVectors * kLanes<T>;

// What is multiplied: numbers of T or, in the instruction sets that multiply bfloat16, two of them
// in the place of a float. Products take whole steps of kDepthStep places.
#ifdef SODEEP_FAST_BF16_PAIRS
constexpr int kPacked = 2;
#else
constexpr int kPacked = 1;
#endif
#ifdef SODEEP_FAST_BF16_TILES
constexpr int kDepthStep = 16;
#else
constexpr int kDepthStep = 1;
#endif

// The places of T that so many of them take.
inline int64_t packed_size(int64_t count) {
  constexpr int64_t kStep = kPacked * kDepthStep;
  return (count + kStep - 1) / kStep * kDepthStep;
}

// Vectors of such places from as many vectors of numbers as they take, which follow each other.
template <class T>
SODEEP_FAST_INLINE Vec<T> pack_terms(const Vec<T>* terms) {
#ifdef SODEEP_FAST_BF16_PAIRS
  const auto half = [&](int k) {
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)terms[k]));
  };
  return (Vec<T>)_mm512_or_si512(half(0), _mm512_slli_epi32(half(1), 16));
#else
  return *terms;
#endif
}

// Writes one vector of numbers.
template <class T>
SODEEP_FAST_INLINE void store_packed(T* to, Vec<T> v) {
#ifdef SODEEP_FAST_BF16_PAIRS
  const __m256bh half = _mm512_cvtneps_pbh((__m512)v);
  __builtin_memcpy(to, &half, sizeof(half));
#else
  store<T>(to, v);
#endif
}

// Packs a row of numbers into packed_size(count) places.
template <class T>
void pack_row(const T* from, int64_t count, T* to) {
  std::fill(to + count / kPacked, to + packed_size(count), T(0));
  int64_t k = 0;
  for (; k + kLanes<T> <= count; k += kLanes<T>)
    store_packed<T>(to + k / kPacked, load<T>(from + k));
  if (k == count) return;
  T last[kLanes<T>];
  store_packed<T>(last, load_first<T>(from + k, count - k));
  std::copy(last, last + (count - k + kPacked - 1) / kPacked, to + k / kPacked);
}

// Calls work(std::integral_constant<int, number of rows>, first row) until all rows are done. Tiles
// are always whole; the last one's rows may be too many.
template <int kRows = kProductRows, class F>
inline void for_each_rows(int64_t rows, F&& work, int64_t first = 0) {
#ifdef SODEEP_FAST_BF16_TILES
  for (; first < rows; first += kRows) work(std::integral_constant<int, kRows>(), first);
#else
  for (; rows - first >= kRows; first += kRows) work(std::integral_constant<int, kRows>(), first);
  if constexpr (kRows > 1) for_each_rows<kRows - 1>(rows, work, first);
#endif
}

// The rows in memory that for_each_rows may touch.
inline int64_t padded_rows(int64_t rows) {
#ifdef SODEEP_FAST_BF16_TILES
  return (rows + kProductRows - 1) / kProductRows * kProductRows;
#else
  return rows;
#endif
}

#ifndef SODEEP_FAST_BF16_TILES

// A place in every lane.
template <class T>
SODEEP_FAST_INLINE Vec<T> broadcast_packed(const T* from) {
#ifdef SODEEP_FAST_BF16_PAIRS
  int32_t pair;
  __builtin_memcpy(&pair, from, sizeof(pair));
  return (Vec<T>)_mm512_set1_epi32(pair);
#else
  return broadcast<T>(*from);
#endif
}

// sum + factor * column, of as many terms as are packed
template <class T>
SODEEP_FAST_INLINE Vec<T> multiply_add(Vec<T> factor, Vec<T> column, Vec<T> sum) {
#ifdef SODEEP_FAST_BF16_PAIRS
  return (Vec<T>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)factor, (__m512bh)column);
#else
  return sum + factor * column;
#endif
}

struct Tiles {
  explicit Tiles(int64_t) {}
};

// sums [kRows, kPanelColumns] = rows [kRows, depth] * panel [depth, kPanelColumns], depth in places
template <class T, int kRows>
__attribute__((noinline)) void product(const T* rows, int64_t stride, int64_t depth, const T* panel,
                                       T* to) {
  // Unrolled by hand, or the compiler keeps the sums in memory at both ends of the loop.
  Vec<T> sums[kRows][kPanelVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kPanelVectors; ++v) sums[r][v] = Vec<T>{};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> factors[kRows];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) factors[r] = broadcast_packed<T>(rows + r * stride + k);
#pragma GCC unroll 4
    for (int v = 0; v < kPanelVectors; ++v) {
      const Vec<T> column = load<T>(panel + k * kPanelColumns<T> + v * kLanes<T>);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) sums[r][v] = multiply_add<T>(factors[r], column, sums[r][v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kPanelVectors; ++v)
      store<T>(to + r * kPanelColumns<T> + v * kLanes<T>, sums[r][v]);
}

#endif

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
