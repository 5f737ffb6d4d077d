// Products of a few rows with a panel of columns, summed in registers. Included once for each
// instruction set, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// A panel holds kPanelVectors vectors of columns. The sums of kProductRows rows times a panel, a
// factor for each row and a vector of the panel fill the vector registers: AVX-512 has 32, the
// others have 16. Tiles have 16 rows.
constexpr int kPanelVectors = 4;
#ifdef SODEEP_FAST_BF16_TILES
constexpr int kProductRows = 16;
#else
constexpr int kProductRows = SODEEP_FAST_VECTOR_BYTES == 64 ? 6 : 3;
#endif
template <class T>
constexpr int kPanelColumns = kPanelVectors * kLanes<T>;

// A place of a product's operand holds a number of T or, in the instruction sets that multiply
// bfloat16, two of those. Products take whole steps of kDepthStep places.
//
// With bfloat16, a number is rounded to one, or it is the sum of kPieces of them, each with the
// next eight of its binary digits. A row has all first pieces, then all second ones, and so on.
#ifdef SODEEP_FAST_BF16_PAIRS
constexpr int kPacked = 2, kPieces = SODEEP_FAST_BF16_PIECES;
#else
constexpr int kPacked = 1, kPieces = 1;
#endif
// Set if products are of single bfloat16, three digits; the code around them then has few more.
#if defined(SODEEP_FAST_BF16_PAIRS) && SODEEP_FAST_BF16_PIECES == 1
#define SODEEP_FAST_ROUNDS
#endif
#ifdef SODEEP_FAST_BF16_TILES
constexpr int kDepthStep = 16;
#else
constexpr int kDepthStep = 1;
#endif

// The places that `count` numbers take in one piece; in packed_row_size, those in all pieces.
inline int64_t packed_size(int64_t count) {
  constexpr int64_t kStep = kPacked * kDepthStep;
  return (count + kStep - 1) / kStep * kDepthStep;
}

inline int64_t packed_row_size(int64_t count) { return kPieces * packed_size(count); }

template <class T>
int64_t packed_panel_size(int64_t count) {
  return packed_row_size(count) * kPanelColumns<T>;
}

// Where a panel has the first pieces of a vector of columns at a place of its depth. The layout is
// [step of the depth, vector, piece from last to first, place in the step, lane], the order in
// which it is read.
template <class T>
int64_t panel_offset(int64_t place, int64_t vector) {
  const int64_t part = place / kDepthStep * kPanelVectors + vector;
  return ((part * kPieces + kPieces - 1) * kDepthStep + place % kDepthStep) * kLanes<T>;
}

// From there to the next pieces.
template <class T>
constexpr int64_t kPanelPiece = -kDepthStep * kLanes<T>;

#ifdef SODEEP_FAST_BF16_PAIRS

SODEEP_FAST_INLINE Vec<float> widen(__m256i bits) {
  return (Vec<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
}

// Rounds v to bfloat16 and leaves the rest in it.
SODEEP_FAST_INLINE __m256i take_piece(Vec<float>& v) {
  const __m256i piece = (__m256i)_mm512_cvtneps_pbh((__m512)v);
  if constexpr (kPieces > 1) v -= widen(piece);
  return piece;
}

// Stores a vector of consecutive numbers.
template <class T>
SODEEP_FAST_INLINE void store_packed(T* to, int64_t next_piece, Vec<T> v) {
  for (int piece = 0; piece < kPieces; ++piece)
    _mm256_storeu_si256((__m256i*)(to + piece * next_piece), take_piece(v));
}

// Interleaves the lanes of two vectors.
SODEEP_FAST_INLINE Vec<float> pair(__m256i a, __m256i b) {
  return (Vec<float>)_mm512_or_si512(_mm512_cvtepu16_epi32(a), (__m512i)widen(b));
}

// Stores two vectors as pairs, whose products are summed together.
template <class T>
SODEEP_FAST_INLINE void store_terms(T* to, int64_t next_piece, Vec<T> a, Vec<T> b) {
  for (int piece = 0; piece < kPieces; ++piece)
    store<T>(to + piece * next_piece, pair(take_piece(a), take_piece(b)));
}

// Interleaves one piece of a vector of two packed rows; those beyond the `left` rows are zeros.
template <class T>
SODEEP_FAST_INLINE Vec<T> load_terms(const T* rows, int64_t stride, int64_t left) {
  const auto load = [&](int r) {
    return left > r ? _mm256_loadu_si256((const __m256i*)(rows + r * stride)) : __m256i{};
  };
  return pair(load(0), load(1));
}

#else

template <class T>
SODEEP_FAST_INLINE void store_packed(T* to, int64_t, Vec<T> v) {
  store<T>(to, v);
}

template <class T>
SODEEP_FAST_INLINE Vec<T> load_terms(const T* rows, int64_t, int64_t) {
  return load<T>(rows);
}

#endif

// Stores kPacked vectors, interleaved.
template <class T>
SODEEP_FAST_INLINE void store_terms(T* to, int64_t next_piece, const Vec<T>* terms) {
#ifdef SODEEP_FAST_BF16_PAIRS
  store_terms<T>(to, next_piece, terms[0], terms[1]);
#else
  store_packed<T>(to, next_piece, terms[0]);
#endif
}

// Calls work(std::integral_constant<int, number of rows>, first row) until all rows are done. With
// tiles, the number is always kRows: the last call may reach beyond the rows.
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

// Copies a place to every lane.
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

// sum + factor * column, over all numbers of a place
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

// to [kRows, kPanelColumns] = rows [kRows, depth] * panel [depth, kPanelColumns], or += if it adds.
// The depth, and the strides from row to row and from piece to piece, are in places.
template <class T, int kRows>
__attribute__((noinline)) void product(const T* rows, int64_t stride, int64_t, int64_t depth,
                                       const T* panel, T* to, bool adds = false) {
  // Unrolled by hand, as the compiler would otherwise keep the sums in memory around the loop.
  Vec<T> sums[kRows][kPanelVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kPanelVectors; ++v)
      sums[r][v] = adds ? load<T>(to + r * kPanelColumns<T> + v * kLanes<T>) : Vec<T>{};
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
