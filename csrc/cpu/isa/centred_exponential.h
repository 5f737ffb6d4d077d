// One exponential for each score rather than for each pair: sigmoid(lam (b - a)) = e_b / (e_a +
// e_b) with e = exp(lam (score - centre)). Included once for each instruction set, hence no include
// guard.

#include "cpu/isa/simd.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// The largest range of scores, in units of 1 / lam, at which no e, nor a sum of two, overflows or
// underflows.
template <class T>
constexpr double kMaxExponentRange = sizeof(T) == 4 ? 160 : 1360;

// The exponent is computed in twice the precision: its rounding would act like an error in the
// score.
template <class T>
inline Vec<double> centred_exponential(Vec<double> s, double centre, double lam) {
  const Vec<double> offset = s - centre;
  const Vec<double> z = lam * offset;
  const Vec<double> value = exponential<double, kExponentialTerms<T>>(z);
  if constexpr (sizeof(T) == 4) return value;
  // Rounding errors of the difference (Knuth's two-sum) and of the product.
  const Vec<double> shifted = offset + centre;
  const Vec<double> offset_error = (s - shifted) + ((shifted - offset) - centre);
  Vec<double> product_error;
  for (int k = 0; k < kLanes<double>; ++k) product_error[k] = std::fma(lam, offset[k], -z[k]);
  return value + value * (product_error + lam * offset_error);
}

#if SODEEP_FAST_VECTOR_BYTES >= 32
// a b - c, rounded once.
inline Vec<float> multiply_subtract(Vec<float> a, Vec<float> b, Vec<float> c) {
#if SODEEP_FAST_VECTOR_BYTES == 64
  return (Vec<float>)_mm512_fmsub_ps((__m512)a, (__m512)b, (__m512)c);
#else
  return (Vec<float>)_mm256_fmsub_ps((__m256)a, (__m256)b, (__m256)c);
#endif
}

// The same in twice as many lanes, with pairs of floats: a rounded number and its rounding error.
struct CentredExponential {
  float centre, centre_rest, lam, lam_rest;

  CentredExponential(double centre_, double lam_)
      : centre(static_cast<float>(centre_)),
        centre_rest(static_cast<float>(centre_ - centre)),
        lam(static_cast<float>(lam_)),
        lam_rest(static_cast<float>(lam_ - lam)) {}

  inline Vec<float> operator()(Vec<float> s) const {
    const Vec<float> offset = s - centre, shifted = offset + centre;
    const Vec<float> offset_rest = (s - shifted) + ((shifted - offset) - centre) - centre_rest;
    const Vec<float> z = lam * offset;
    const Vec<float> z_rest = multiply_subtract(broadcast<float>(lam), offset, z) +
                              (lam * offset_rest + lam_rest * offset);
    const SplitExponent<float> split(z);
    return exponential_series<float, 0>(split.rest + z_rest) * split.scale;
  }
};
#endif

// Calls convert(from, to) for vectors of `step` scores, the last one padded.
template <class T, int step, class Convert>
inline void convert_all(const T* from, int64_t n, T* to, const Convert& convert) {
  int64_t i = 0;
  for (; i + step <= n; i += step) convert(from + i, to + i);
  if (i < n) {
    T tail[step] = {}, converted[step];
    for (int64_t k = i; k < n; ++k) tail[k - i] = from[k];
    convert(tail, converted);
    std::copy(converted, converted + (n - i), to + i);
  }
}

template <class T>
void centred_exponentials(const T* from, int64_t n, double centre, double lam, T* to) {
#if SODEEP_FAST_VECTOR_BYTES >= 32
  if constexpr (sizeof(T) == 4) {
    const CentredExponential exponential_of(centre, lam);
    return convert_all<T, kLanes<T>>(
        from, n, to, [&](const T* in, T* out) { store<T>(out, exponential_of(load<T>(in))); });
  }
#endif
  convert_all<T, kLanes<double>>(from, n, to, [&](const T* in, T* out) {
    store_as<T>(out, centred_exponential<T>(load_as_double(in), centre, lam));
  });
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
