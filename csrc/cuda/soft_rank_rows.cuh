// What the soft rank's kernels share: the rows they work on, and one pair's term.
#pragma once

#include <cstdint>
#include <limits>

#include "cuda/launch.cuh"

namespace sodeep_fast {

template <class T>
constexpr T kLargest = std::numeric_limits<T>::max();
template <class T>
constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();

// A call's rows, in the type that is computed with. See csrc/cuda/soft_rank.h for the buffers.
template <class T>
struct Rows {
  int64_t rows, n;
  double lam;
  bool normalize;
  const T* scores;
  const uint8_t* mask;
  const T* grad;
  const T* grad_grad;
  T* out;

  // At most `most` of the rows, from row `first` on.
  Rows slice(int64_t first, int64_t most) const {
    Rows part = *this;
    part.rows = rows - first < most ? rows - first : most;
    part.scores += first * n;
    part.out += first * n;
    if (mask) part.mask += first * n;
    if (grad) part.grad += first * n;
    if (grad_grad) part.grad_grad += first * n;
    return part;
  }

  __device__ bool valid(int64_t at) const { return mask == nullptr || mask[at] != 0; }

  // Half a score: the difference of two halves never overflows.
  __device__ T half_score(int64_t at) const { return scores[at] / 2; }

  // Multiplies a difference of half scores to give lam (s_j - s_i) / log 2.
  __device__ T rate() const { return static_cast<T>(lam * (2 * 1.4426950408889634)); }

  // The factor that turns a sum over `count` valid items into derivative kDerivative.
  template <int kDerivative>
  __device__ double scale(int64_t count) const {
    double factor = normalize ? 1.0 / static_cast<double>(count > 0 ? count : 1) : 1.0;
    for (int k = 0; k < kDerivative; ++k) factor *= lam;
    return factor;
  }
};

__device__ inline float quotient(float a, float b) { return __fdividef(a, b); }
// For 1 <= b < 2^126: two Newton steps from the float32 reciprocal, without the subroutine that a
// full double division calls for other ranges.
__device__ inline double quotient(double a, double b) {
  double inverse = __fdividef(1.0f, static_cast<float>(b));
  inverse = fma(inverse, fma(-b, inverse, 1.0), inverse);
  inverse = fma(inverse, fma(-b, inverse, 1.0), inverse);
  return a * inverse;
}
__device__ inline float power_of_two(float x) { return exp2f(x); }
__device__ inline double power_of_two(double x) { return exp2(x); }

// sigmoid(-60 log 2) = 2^-60 is 0 to rounding, and products of two denominators stay finite.
constexpr int kSaturated = 60;

template <class T>
struct Fraction {
  T numerator, denominator;
};

// sigmoid(x) or a derivative of it as a fraction, from -x / log 2.
template <class T, int kDerivative>
__device__ Fraction<T> sigmoid_fraction(T minus_x) {
  if constexpr (kDerivative == 0) {
    const T capped = minus_x < T(kSaturated) ? minus_x : T(kSaturated);
    return {T(1), T(1) + power_of_two(capped)};
  } else {
    const T u = power_of_two(-fabs(minus_x)), one = T(1) + u;
    if constexpr (kDerivative == 1) return {u, one * one};
    const T curve = u - u * u;
    return {minus_x < T(0) ? -curve : curve, one * one * one};
  }
}

// An unevaluated sum that carries its rounding error (Knuth's two-sum).
template <class T>
struct Compensated {
  T total = 0, error = 0;

  __device__ void add(T term) {
    const T sum = total + term, kept = sum - term;
    error += (total - kept) + (term - (sum - kept));
    total = sum;
  }
};

}  // namespace sodeep_fast
