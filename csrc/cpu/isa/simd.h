// Vectors of one register's width, as compiler vector extensions: the same source for every
// instruction set. Included once for each by foreach_isa.h, hence no include guard.

// For functions of registers, which a call would pass through memory. In files with many
// instruction sets, which are large, the compiler does not inline them by itself.
#undef SODEEP_FAST_INLINE
#define SODEEP_FAST_INLINE inline __attribute__((always_inline))

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

template <class T>
struct Simd;

template <>
struct Simd<float> {
  typedef float V __attribute__((vector_size(SODEEP_FAST_VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(SODEEP_FAST_VECTOR_BYTES)));
  static constexpr int kLanes = SODEEP_FAST_VECTOR_BYTES / 4;
  static constexpr int kMantissaBits = 23;
  // Adding 1.5 * 2^23 rounds to an integer k; with 127 more, the low bits are the exponent of 2^k.
  static constexpr float kRound = 12582912.0f + 127;
  static constexpr float kLn2Hi = 0.693359375f, kLn2Lo = -2.12194440e-4f, kExpLimit = 87.0f;
};

template <>
struct Simd<double> {
  typedef double V __attribute__((vector_size(SODEEP_FAST_VECTOR_BYTES)));
  typedef int64_t I __attribute__((vector_size(SODEEP_FAST_VECTOR_BYTES)));
  static constexpr int kLanes = SODEEP_FAST_VECTOR_BYTES / 8;
  static constexpr int kMantissaBits = 52;
  static constexpr double kRound = 6755399441055744.0 + 1023;  // 1.5 * 2^52, and likewise
  static constexpr double kLn2Hi = 6.93147180369123816490e-01, kLn2Lo = 1.90821492927058770002e-10;
  static constexpr double kExpLimit = 708.0;
};

template <class T>
using Vec = typename Simd<T>::V;
template <class T>
using IntVec = typename Simd<T>::I;
template <class T>
constexpr int kLanes = Simd<T>::kLanes;

template <class T>
inline Vec<T> load(const T* from) {
  Vec<T> v;
  __builtin_memcpy(&v, from, sizeof(v));
  return v;
}

template <class T>
inline void store(T* to, Vec<T> v) {
  __builtin_memcpy(to, &v, sizeof(v));
}

template <class T>
inline Vec<T> broadcast(T x) {
  return x - Vec<T>{};
}

// Returns b where either is NaN.
template <class V>
inline V minimum(V a, V b) {
#if SODEEP_FAST_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<V, Vec<float>>) return (V)_mm512_min_ps((__m512)a, (__m512)b);
  if constexpr (std::is_same_v<V, Vec<double>>) return (V)_mm512_min_pd((__m512d)a, (__m512d)b);
#endif
  return a < b ? a : b;
}

template <class V>
inline V maximum(V a, V b) {
#if SODEEP_FAST_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<V, Vec<float>>) return (V)_mm512_max_ps((__m512)a, (__m512)b);
  if constexpr (std::is_same_v<V, Vec<double>>) return (V)_mm512_max_pd((__m512d)a, (__m512d)b);
#endif
  return a > b ? a : b;
}

// a * b + c, rounded once if the instruction set can. For sums of two products: the compiler would
// fuse one of them by itself, but not always the same one.
template <class T>
inline Vec<T> fused_multiply_add(Vec<T> a, Vec<T> b, Vec<T> c) {
#if SODEEP_FAST_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif SODEEP_FAST_VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

// 1 / x to more than half of the digits, for normal x whose reciprocal is normal.
template <class T>
inline Vec<T> reciprocal_guess(Vec<T> x) {
#if SODEEP_FAST_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    return (Vec<T>)_mm512_rcp14_ps((__m512)x);
  } else {
    const Vec<T> guess = (Vec<T>)_mm512_rcp14_pd((__m512d)x);
    return guess + guess * (1 - x * guess);
  }
#else
  return 1 / x;
#endif
}

// 1 / x to about one rounding error, for normal x whose reciprocal is normal.
template <class T>
inline Vec<T> reciprocal(Vec<T> x) {
#if SODEEP_FAST_VECTOR_BYTES == 64
  const Vec<T> guess = reciprocal_guess<T>(x);
  return guess + guess * (1 - x * guess);
#else
  return 1 / x;
#endif
}

// Terms of the exponential series on [-ln2/2, ln2/2] if the result is rounded to T.
template <class T>
constexpr int kExponentialTerms = sizeof(T) == 4 ? 7 : 13;

// exp(x) = scale * exp(rest) with |rest| <= ln2/2, for x within the range of normal results.
template <class T>
struct SplitExponent {
  Vec<T> rest, scale;

  inline explicit SplitExponent(Vec<T> x) {
    using S = Simd<T>;
    const Vec<T> rounded = x * T(1.44269504088896340736) + S::kRound;
    const Vec<T> power = rounded - S::kRound;
    rest = (x - power * S::kLn2Hi) - power * S::kLn2Lo;
    IntVec<T> bits;
    __builtin_memcpy(&bits, &rounded, sizeof(bits));
    bits = bits << S::kMantissaBits;
    __builtin_memcpy(&scale, &bits, sizeof(scale));
  }
};

// The series of exp(x) on [-ln2/2, ln2/2] from x^kFirst / kFirst! on, divided by x^kFirst.
template <class T, int kFirst, int kTerms = kExponentialTerms<T>>
inline Vec<T> exponential_series(Vec<T> x) {
  T inverse_factorial[kTerms + 1] = {1};
  for (int k = 1; k <= kTerms; ++k) inverse_factorial[k] = inverse_factorial[k - 1] / k;
  Vec<T> value = broadcast<T>(inverse_factorial[kTerms]);
  for (int k = kTerms - 1; k >= kFirst; --k) value = value * x + inverse_factorial[k];
  return value;
}

// exp(x) to about one rounding error; x is first limited to the range of normal results.
template <class T, int kTerms = kExponentialTerms<T>>
inline Vec<T> exponential(Vec<T> x) {
  using S = Simd<T>;
  x = minimum(maximum(x, broadcast<T>(-S::kExpLimit)), broadcast<T>(S::kExpLimit));
  const SplitExponent<T> split(x);
  return exponential_series<T, 0, kTerms>(split.rest) * split.scale;
}

// Folds the lanes into one, half of them at a time.
template <class T, class F>
inline T reduce(Vec<T> v, F fold) {
  T lane[kLanes<T>];
  store<T>(lane, v);
  for (int half = kLanes<T> / 2; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) lane[k] = fold(lane[k], lane[k + half]);
  return lane[0];
}

// All bits set in the first `count` lanes.
template <class T>
inline IntVec<T> first_lanes(int64_t count) {
  IntVec<T> lane;
  for (int k = 0; k < kLanes<T>; ++k) lane[k] = k;
  const auto limit = static_cast<std::remove_reference_t<decltype(lane[0])>>(count);
  return (IntVec<T>)(lane < limit);
}

#if SODEEP_FAST_VECTOR_BYTES == 64
// The same as a processor mask, for fewer than all lanes.
inline uint16_t mask_of_first(int64_t count) {
  return static_cast<uint16_t>((1u << std::max<int64_t>(0, count)) - 1);
}
#endif

// Loads the first `count` lanes (none if it is negative); the rest are zero. Reads nothing beyond
// them.
template <class T>
inline Vec<T> load_first(const T* from, int64_t count) {
  if (count >= kLanes<T>) return load<T>(from);
#if SODEEP_FAST_VECTOR_BYTES == 64
  const uint16_t mask = mask_of_first(count);
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_maskz_loadu_ps(mask, from);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm512_maskz_loadu_pd(mask, from);
#elif SODEEP_FAST_VECTOR_BYTES == 32
  const auto mask = (__m256i)first_lanes<T>(count);
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_maskload_ps(from, mask);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm256_maskload_pd(from, mask);
#else
  T lane[kLanes<T>] = {};
  for (int64_t k = 0; k < count; ++k) lane[k] = from[k];
  return load<T>(lane);
#endif
}

// The levels of the first `count` items, as lanes; the rest are 255, which takes no part. GCC 12
// makes better code of arrays than of vectors of bytes: 5% of H-AP, a third of a histogram.
template <class T>
inline IntVec<T> load_levels(const uint8_t* from, int64_t count) {
  using Int = std::remove_reference_t<decltype(std::declval<IntVec<T>>()[0])>;
  constexpr int lanes = kLanes<T>;
  uint8_t levels[lanes];
  std::fill(levels, levels + lanes, 255);
  if (count >= lanes)
    __builtin_memcpy(levels, from, lanes);
  else
    std::copy_n(from, count, levels);
  Int wide[lanes];
  std::copy(levels, levels + lanes, wide);
  IntVec<T> result;
  __builtin_memcpy(&result, wide, sizeof(result));
  return result;
}

template <class T>
inline void store_first(T* to, Vec<T> v, int64_t count) {
  if (count >= kLanes<T>) return store<T>(to, v);
#if SODEEP_FAST_VECTOR_BYTES == 64
  const uint16_t mask = mask_of_first(count);
  if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(to, mask, (__m512)v);
  if constexpr (sizeof(T) == 8) _mm512_mask_storeu_pd(to, mask, (__m512d)v);
#elif SODEEP_FAST_VECTOR_BYTES == 32
  const auto mask = (__m256i)first_lanes<T>(count);
  if constexpr (sizeof(T) == 4) _mm256_maskstore_ps(to, mask, (__m256)v);
  if constexpr (sizeof(T) == 8) _mm256_maskstore_pd(to, mask, (__m256d)v);
#else
  T lane[kLanes<T>];
  store<T>(lane, v);
  for (int64_t k = 0; k < count; ++k) to[k] = lane[k];
#endif
}

// As many of T as a vector has doubles.
template <class T>
struct Narrow {
  typedef T V __attribute__((vector_size(kLanes<double> * sizeof(T))));
};

template <class T>
inline Vec<double> load_as_double(const T* from) {
  typename Narrow<T>::V v;
  __builtin_memcpy(&v, from, sizeof(v));
#if SODEEP_FAST_VECTOR_BYTES == 64  // the compiler would convert it in two halves
  if constexpr (sizeof(T) == 4) return (Vec<double>)_mm512_cvtps_pd((__m256)v);
#endif
  return __builtin_convertvector(v, Vec<double>);
}

template <class T>
inline void store_as(T* to, Vec<double> v) {
  const auto narrow = __builtin_convertvector(v, typename Narrow<T>::V);
  __builtin_memcpy(to, &narrow, sizeof(narrow));
}

// A long sum of vectors of T, in double, with the rounding errors of its additions summed
// separately (Knuth's two-sum).
template <class T>
class LongSum {
 public:
  inline void add(Vec<T> x) {
    T lane[kLanes<T>];
    store<T>(lane, x);
    for (int k = 0; k < kParts; ++k) {
      const Vec<double> part = load_as_double(lane + k * kLanes<double>);
      const Vec<double> sum = total_[k] + part, kept = sum - part;
      error_[k] += (total_[k] - kept) + (part - (sum - kept));
      total_[k] = sum;
    }
  }

  // scale * (sum + offset)
  inline Vec<T> scaled(double scale, double offset) const {
    T lane[kLanes<T>];
    for (int k = 0; k < kParts; ++k)
      store_as<T>(lane + k * kLanes<double>, scale * (total_[k] + error_[k] + offset));
    return load<T>(lane);
  }

 private:
  static constexpr int kParts = kLanes<T> / kLanes<double>;
  Vec<double> total_[kParts] = {}, error_[kParts] = {};
};

// Finds the smallest and the largest of n > 0 values; false if one is not finite.
template <class T>
bool find_range(const T* values, int64_t n, T& lo, T& hi) {
  Vec<T> low = broadcast<T>(values[0]), high = low, poison = {};
  const auto visit = [&](Vec<T> x) {
    low = minimum(low, x);
    high = maximum(high, x);
    poison += x * 0;
  };
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) visit(load<T>(values + i));
  if (i < n) {
    T lane[kLanes<T>];
    for (int k = 0; k < kLanes<T>; ++k) lane[k] = values[std::min(i + k, n - 1)];
    visit(load<T>(lane));
  }
  lo = reduce<T>(low, [](T a, T b) { return std::min(a, b); });
  hi = reduce<T>(high, [](T a, T b) { return std::max(a, b); });
  return reduce<T>(poison, [](T a, T b) { return a + b; }) == 0;
}

// Half-way from the smallest to the largest of n > 0 values; NaN if one is not finite. Subtracting
// it from the values reduces the rounding errors of their differences.
template <class T>
T middle_of(const T* values, int64_t n) {
  T smallest, largest;
  const bool finite = find_range(values, n, smallest, largest);
  return finite ? smallest / 2 + largest / 2 : std::numeric_limits<T>::quiet_NaN();
}

#ifdef __clang__
#define SODEEP_FAST_SHUFFLE(T, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SODEEP_FAST_SHUFFLE(T, a, b, ...) __builtin_shuffle(a, b, IntVec<T>{__VA_ARGS__})
#endif

// Sums of pairs of lanes that are `half` apart: those of a in lanes whose number has the bit `half`
// unset, those of b in the others.
template <class T, int half, size_t... lane>
inline Vec<T> fold(Vec<T> a, Vec<T> b, std::index_sequence<lane...>) {
  constexpr int n = kLanes<T>;
  return SODEEP_FAST_SHUFFLE(T, a, b, ((lane & half ? n : 0) + (lane & ~half))...) +
         SODEEP_FAST_SHUFFLE(T, a, b, ((lane & half ? n : 0) + (lane | half))...);
}

// Exchanges the lanes of a whose number has the bit `half` set with those of b that have it unset.
template <class T, int half, size_t... lane>
inline void exchange(Vec<T>& a, Vec<T>& b, std::index_sequence<lane...>) {
  constexpr int n = kLanes<T>;
  const Vec<T> kept = a;
  a = SODEEP_FAST_SHUFFLE(T, kept, b, (lane & half ? n + (lane & ~half) : lane)...);
  b = SODEEP_FAST_SHUFFLE(T, kept, b, (lane & half ? n + lane : lane | half)...);
}

template <class T, size_t... lane>
inline Vec<T> turned(Vec<T> v, std::index_sequence<lane...>) {
  return SODEEP_FAST_SHUFFLE(T, v, v, ((lane + 1) % sizeof...(lane))...);
}
#undef SODEEP_FAST_SHUFFLE

// Rotates the lanes: each moves to the place before it, the first to the last.
template <class T>
inline Vec<T> turned(Vec<T> v) {
  return turned<T>(v, std::make_index_sequence<kLanes<T>>());
}

template <class T, int half = 1>
inline void transpose(Vec<T> (&rows)[kLanes<T>]) {
  if constexpr (half < kLanes<T>) {
    for (int i = 0; i < kLanes<T>; ++i)
      if (!(i & half))
        exchange<T, half>(rows[i], rows[i + half], std::make_index_sequence<kLanes<T>>());
    transpose<T, 2 * half>(rows);
  }
}

// Lane L of the result is the sum over the lanes of rows[L]; three instructions a row.
template <class T, int half = 1>
SODEEP_FAST_INLINE Vec<T> transposed_sum(Vec<T> (&rows)[kLanes<T>]) {
  if constexpr (half == kLanes<T>) {
    return rows[0];
  } else {
    for (int i = 0; i < kLanes<T>; i += 2 * half)
      rows[i] = fold<T, half>(rows[i], rows[i + half], std::make_index_sequence<kLanes<T>>());
    return transposed_sum<T, 2 * half>(rows);
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
