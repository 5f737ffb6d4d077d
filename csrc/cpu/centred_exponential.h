// One exponential for each score rather than for each pair: sigmoid(lam (b - a)) = e_b / (e_a +
// e_b) with e = exp(lam (score - centre)). Included once for each instruction set, hence no include
// guard.

#include "cpu/simd.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// How far apart, in units of 1 / lam, scores may be so that no e overflows or underflows, nor a sum
// of two.
template <class T>
constexpr double kMaxExponentRange = sizeof(T) == 4 ? 160 : 1360;

// The exponent is taken in twice the precision: its rounding would be an error of the score.
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

// Writes whole vectors of double: `to` has room for n rounded up.
template <class T>
void centred_exponentials(const T* from, int64_t n, double centre, double lam, T* to) {
  constexpr int step = kLanes<double>;
  const auto convert = [&](const T* in, T* out) {
    store_as<T>(out, centred_exponential<T>(load_as_double(in), centre, lam));
  };
  int64_t i = 0;
  for (; i + step <= n; i += step) convert(from + i, to + i);
  if (i < n) {
    T tail[step] = {};
    for (int64_t k = i; k < n; ++k) tail[k - i] = from[k];
    convert(tail, to + i);
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
