// Logarithms of vectors. Included once for each instruction set, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// log2(x) to about one rounding error, for normal x and infinity.
inline Vec<double> logarithm2(Vec<double> x) {
  using S = Simd<double>;
  constexpr double kSqrtHalf = 0.70710678118654752440, kLn2 = 0.69314718055994530942;
  IntVec<double> bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  // x = 2^exponent * mantissa, with a mantissa from sqrt(1/2) to sqrt(2).
  int64_t least;
  __builtin_memcpy(&least, &kSqrtHalf, sizeof(least));
  const IntVec<double> exponent = (bits - least) >> S::kMantissaBits;
  bits -= exponent << S::kMantissaBits;
  Vec<double> mantissa;
  __builtin_memcpy(&mantissa, &bits, sizeof(mantissa));
  // log(m) = 2 artanh((m - 1) / (m + 1)), whose argument is at most 0.172.
  const Vec<double> ratio = (mantissa - 1) / (mantissa + 1), square = ratio * ratio;
  constexpr int kTerms = 10;
  Vec<double> series = {};
  for (int k = kTerms; k >= 0; --k) series = series * square + 1.0 / (2 * k + 1);
  const Vec<double> result =
      __builtin_convertvector(exponent, Vec<double>) + ratio * series * (2 / kLn2);
  return x > std::numeric_limits<double>::max() ? x : result;
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
