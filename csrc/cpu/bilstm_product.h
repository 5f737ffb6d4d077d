// Products of a few rows with a panel of columns, summed in registers. Included once for each
// instruction set, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// A panel holds kPanelVectors vectors of columns. The sums of kProductRows rows times a panel, a
// factor for each row and a vector of the panel fill the registers: 32 of AVX-512, 16 of the
// others.
constexpr int kPanelVectors = 4;
constexpr int kProductRows = SODEEP_FAST_VECTOR_BYTES == 64 ? 6 : 3;
template <class T>
constexpr int kPanelColumns = kPanelVectors * kLanes<T>;

// What is multiplied: numbers of T or, in the instruction set that multiplies pairs of bfloat16,
// two of them in the place of a float.
#ifdef SODEEP_FAST_BF16_PAIRS
constexpr int kPacked = 2;
#else
constexpr int kPacked = 1;
#endif

// The places of T that so many of them take.
inline int64_t packed_size(int64_t count) { return (count + kPacked - 1) / kPacked; }

// Vectors of such places from as many vectors of numbers as they take, which follow each other.
template <class T>
inline Vec<T> pack_terms(const Vec<T>* terms) {
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
inline void store_packed(T* to, Vec<T> v) {
#ifdef SODEEP_FAST_BF16_PAIRS
  const __m256bh half = _mm512_cvtneps_pbh((__m512)v);
  __builtin_memcpy(to, &half, sizeof(half));
#else
  store<T>(to, v);
#endif
}

// A place in every lane.
template <class T>
inline Vec<T> broadcast_packed(const T* from) {
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
inline Vec<T> multiply_add(Vec<T> factor, Vec<T> column, Vec<T> sum) {
#ifdef SODEEP_FAST_BF16_PAIRS
  return (Vec<T>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)factor, (__m512bh)column);
#else
  return sum + factor * column;
#endif
}

// sums[r] += rows[r] [depth] * panel [depth, kPanelColumns], depth in places
template <class T, int kRows>
inline __attribute__((always_inline)) void add_product(const T* const* rows, int64_t depth,
                                                       const T* panel,
                                                       Vec<T> (&sums)[kRows][kPanelVectors]) {
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> factors[kRows];
    for (int r = 0; r < kRows; ++r) factors[r] = broadcast_packed<T>(rows[r] + k);
    for (int v = 0; v < kPanelVectors; ++v) {
      const Vec<T> column = load<T>(panel + k * kPanelColumns<T> + v * kLanes<T>);
      for (int r = 0; r < kRows; ++r) sums[r][v] = multiply_add<T>(factors[r], column, sums[r][v]);
    }
  }
}

// Calls work(std::integral_constant<int, number of rows>, first row) until all rows are done.
template <int kRows = kProductRows, class F>
inline void for_each_rows(int64_t rows, F&& work, int64_t first = 0) {
  for (; rows - first >= kRows; first += kRows) work(std::integral_constant<int, kRows>(), first);
  if constexpr (kRows > 1) for_each_rows<kRows - 1>(rows, work, first);
}

// out[r] [columns] = (or +=, if kAdd) rows[r] [depth] * panel
template <class T, int kRows, bool kAdd>
__attribute__((noinline)) void product(const T* const* rows, int64_t depth, const T* panel,
                                       T* const* out, int64_t columns) {
  Vec<T> sums[kRows][kPanelVectors] = {};
  if constexpr (kAdd)
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kPanelVectors; ++v)
        sums[r][v] = load_first<T>(out[r] + v * kLanes<T>, columns - v * kLanes<T>);
  add_product<T, kRows>(rows, depth, panel, sums);
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kPanelVectors; ++v)
      store_first<T>(out[r] + v * kLanes<T>, sums[r][v], columns - v * kLanes<T>);
}

// out [kRows, kVectors vectors] += left [depth, kRows] transposed * right [depth, kVectors vectors]
template <class T, int kRows, int kVectors>
__attribute__((noinline)) void add_outer_product(const T* left, int64_t left_stride, const T* right,
                                                 int64_t right_stride, int64_t depth, T* out,
                                                 int64_t out_stride) {
  // From zero, not from `out`: a long sum of short ones has the smaller rounding error.
  Vec<T> sums[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> factors[kRows];
    for (int r = 0; r < kRows; ++r) factors[r] = broadcast<T>(left[k * left_stride + r]);
    for (int v = 0; v < kVectors; ++v) {
      const Vec<T> column = load<T>(right + k * right_stride + v * kLanes<T>);
      for (int r = 0; r < kRows; ++r) sums[r][v] += factors[r] * column;
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) {
      T* to = out + r * out_stride + v * kLanes<T>;
      store<T>(to, load<T>(to) + sums[r][v]);
    }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
