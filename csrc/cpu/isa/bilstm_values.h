// Loads and stores the numbers that are kept for the backward, and those that one layer passes to
// another. Included once for each instruction set, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

#ifdef SODEEP_FAST_ROUNDS

// The type of a cell's kept values: half precision, which still has more digits than the products.
template <class T>
using Saved = Half;

SODEEP_FAST_INLINE void store_saved(Half* to, Vec<float> v, int64_t count) {
  constexpr float kLargest = 65504;
  v = minimum(broadcast<float>(kLargest), maximum(broadcast<float>(-kLargest), v));
  Half lanes[kLanes<float>];
  const __m256i halves = _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
  if (count >= kLanes<float>) return _mm256_storeu_si256((__m256i*)to, halves);
  _mm256_storeu_si256((__m256i*)lanes, halves);
  std::copy(lanes, lanes + count, to);
}

SODEEP_FAST_INLINE Vec<float> load_saved(const Half* from, int64_t count) {
  if (count >= kLanes<float>)
    return (Vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
  Half lanes[kLanes<float>] = {};
  std::copy(from, from + count, lanes);
  return load_saved(lanes, kLanes<float>);
}

SODEEP_FAST_INLINE __m256i load_bits(const Bf16* from, int64_t count) {
  if (count >= kLanes<float>) return _mm256_loadu_si256((const __m256i*)from);
  Bf16 lanes[kLanes<float>] = {};
  std::copy(from, from + count, lanes);
  return load_bits(lanes, kLanes<float>);
}

SODEEP_FAST_INLINE Vec<float> load_value(const Bf16* from, int64_t count) {
  return widen(load_bits(from, count));
}

SODEEP_FAST_INLINE void store_value(Bf16* to, Vec<float> v, int64_t count) {
  Bf16 lanes[kLanes<float>];
  const __m256i bits = take_piece(v);
  if (count >= kLanes<float>) return _mm256_storeu_si256((__m256i*)to, bits);
  _mm256_storeu_si256((__m256i*)lanes, bits);
  std::copy(lanes, lanes + count, to);
}

// Packs a row of numbers into packed_row_size(count) places.
inline void pack_row(const Bf16* from, int64_t count, float* to) {
  const int64_t size = 2 * packed_size(count);
  Bf16* values = reinterpret_cast<Bf16*>(to);
  __builtin_memcpy(values, from, count * sizeof(Bf16));
  __builtin_memset(values + count, 0, (size - count) * sizeof(Bf16));
}

#else

// The type of a cell's kept values.
template <class T>
using Saved = T;

template <class T>
SODEEP_FAST_INLINE void store_saved(T* to, Vec<T> v, int64_t count) {
  store_first<T>(to, v, count);
}

template <class T>
SODEEP_FAST_INLINE Vec<T> load_saved(const T* from, int64_t count) {
  return load_first<T>(from, count);
}

// Packs a row of numbers into packed_row_size(count) places.
template <class T>
void pack_row(const T* from, int64_t count, T* to) {
  const int64_t size = packed_size(count);
  for (int piece = 0; piece < kPieces; ++piece)
    std::fill(to + piece * size + count / kPacked, to + (piece + 1) * size, T(0));
  int64_t k = 0;
  for (; k + kLanes<T> <= count; k += kLanes<T>)
    store_packed<T>(to + k / kPacked, size, load<T>(from + k));
  if (k == count) return;
  T last[kPieces * kLanes<T>];
  store_packed<T>(last, kLanes<T>, load_first<T>(from + k, count - k));
  for (int piece = 0; piece < kPieces; ++piece)
    std::copy_n(last + piece * kLanes<T>, (count - k + kPacked - 1) / kPacked,
                to + piece * size + k / kPacked);
}

#endif

// The type of what one layer passes to another.
template <class T>
using Value = LstmValue<T, Saved<T>>;

// Also for numbers that are never rounded.
template <class T>
SODEEP_FAST_INLINE Vec<T> load_value(const T* from, int64_t count) {
  return load_first<T>(from, count);
}

template <class T>
SODEEP_FAST_INLINE void store_value(T* to, Vec<T> v, int64_t count) {
  store_first<T>(to, v, count);
}

template <class T, class Number>
void add(Number* sums, const T* a, const T* b, int64_t count) {
  for (int64_t k = 0; k < count; k += kLanes<T>) {
    const int64_t left = count - k;
    store_value(sums + k, load_first<T>(a + k, left) + load_first<T>(b + k, left), left);
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
