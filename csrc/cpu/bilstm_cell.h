// The cell of an LSTM, a vector of units at a time. Included once for each instruction set, hence
// no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// The gates after their activation and the new states.
template <class T>
struct LstmCell {
  Vec<T> i, f, g, o, c, hidden = {};
};

#ifndef SODEEP_FAST_ROUNDS

// exp(x) to twice the digits of T, nearly, as scale + scale * part; x within [-limit, limit], NaN
// stays NaN.
template <class T>
struct AccurateExponential {
  Vec<T> scale, part;

  SODEEP_FAST_INLINE AccurateExponential(Vec<T> x, T limit) {
    x = minimum(broadcast<T>(limit), maximum(broadcast<T>(-limit), x));
    const SplitExponent<T> split(x);
    scale = split.scale;
    part = split.rest + (split.rest * split.rest) * exponential_series<T, 2>(split.rest);
  }

  SODEEP_FAST_INLINE Vec<T> minus_one() const { return part * scale + (scale - 1); }

  // numerator / (exp(x) + 1), rounded little more than once: the rounding error of the denominator
  // counts too.
  SODEEP_FAST_INLINE Vec<T> divide_by_plus_one(Vec<T> numerator) const {
    const Vec<T> base = scale + 1, denominator = part * scale + base;
    const Vec<T> lost = part * scale + (base - denominator);
    const Vec<T> guess = reciprocal_guess<T>(denominator), quotient = numerator * guess;
    const Vec<T> missing = (numerator - quotient * denominator) - quotient * lost;
    return quotient + missing * guess;
  }
};

template <class T>
SODEEP_FAST_INLINE Vec<T> hyperbolic_tangent(Vec<T> x) {
  constexpr T kSaturated = sizeof(T) == 4 ? 20 : 40;  // the result rounds to 1
  const AccurateExponential<T> e(2 * x, kSaturated);
  return e.divide_by_plus_one(e.minus_one());
}

template <class T>
SODEEP_FAST_INLINE Vec<T> sigmoid(Vec<T> x) {
  const AccurateExponential<T> e(-x, Simd<T>::kExpLimit);
  return e.divide_by_plus_one(broadcast<T>(1));
}

// Of the gates before their activation and the cell state of the step before.
template <class T>
SODEEP_FAST_INLINE LstmCell<T> run_cell(Vec<T> i, Vec<T> f, Vec<T> g, Vec<T> o, Vec<T> c) {
  LstmCell<T> cell{sigmoid<T>(i), sigmoid<T>(f), hyperbolic_tangent<T>(g), sigmoid<T>(o), {}};
  cell.c = cell.f * c + cell.i * cell.g;
  cell.hidden = cell.o * hyperbolic_tangent<T>(cell.c);
  return cell;
}

#else

// 2^(factor * x), at most 2^40, to 3e-6 of itself; NaN stays NaN.
SODEEP_FAST_INLINE Vec<float> power_of_two(Vec<float> x, float factor) {
  const __m512 power = _mm512_min_ps(_mm512_set1_ps(40), (__m512)(x * factor));
  const Vec<float> rest = (Vec<float>)_mm512_reduce_ps(power, _MM_FROUND_TO_NEAREST_INT);
  // The polynomial of degree 4 with the smallest relative error on [-1/2, 1/2].
  Vec<float> value = 9.57053114e-03f * rest + 5.59186622e-02f;
  value = (value * rest + 2.40247356e-01f) * rest + 6.93121646e-01f;
  value = value * rest + 9.99999263e-01f;
  return (Vec<float>)_mm512_scalef_ps((__m512)value, (__m512)((Vec<float>)power - rest));
}

constexpr float kLog2E = 1.44269504f;

template <class T>
SODEEP_FAST_INLINE Vec<T> hyperbolic_tangent(Vec<T> x) {
  const Vec<T> e = power_of_two(x, -2 * kLog2E);
  return (1 - e) * reciprocal<T>(1 + e);
}

// What is multiplied has three digits; so the activations share their denominators, two divisions
// instead of five.
template <class T>
SODEEP_FAST_INLINE LstmCell<T> run_cell(Vec<T> i, Vec<T> f, Vec<T> g, Vec<T> o, Vec<T> c) {
  const Vec<T> of_i = 1 + power_of_two(i, -kLog2E), of_f = 1 + power_of_two(f, -kLog2E);
  const Vec<T> e = power_of_two(g, -2 * kLog2E), of_g = 1 + e, i_g = of_i * of_g;
  const Vec<T> inverse = reciprocal<T>(i_g * of_f), f_inverse = of_f * inverse;
  LstmCell<T> cell;
  cell.i = of_g * f_inverse;
  cell.f = i_g * inverse;
  cell.g = (1 - e) * (of_i * f_inverse);
  cell.c = cell.f * c + (1 - e) * f_inverse;
  const Vec<T> of_o = 1 + power_of_two(o, -kLog2E), e_c = power_of_two(cell.c, -2 * kLog2E);
  const Vec<T> inverse_o = reciprocal<T>(of_o * (1 + e_c));
  cell.o = (1 + e_c) * inverse_o;
  cell.hidden = (1 - e_c) * inverse_o;
  return cell;
}

#endif

// Derivatives with respect to the gates before their activation, and to the cell state of the step
// before, from those with respect to the hidden state and, by later steps, the cell state; and the
// hidden state itself.
template <class T>
SODEEP_FAST_INLINE LstmCell<T> differentiate_cell(const LstmCell<T>& cell, Vec<T> c_before,
                                                  Vec<T> grad_h, Vec<T> grad_c) {
  const Vec<T> tanh_c = hyperbolic_tangent<T>(cell.c);
  const Vec<T> total = grad_c + grad_h * cell.o * (1 - tanh_c * tanh_c);
  return {total * cell.g * (cell.i * (1 - cell.i)),
          total * c_before * (cell.f * (1 - cell.f)),
          total * cell.i * (1 - cell.g * cell.g),
          grad_h * tanh_c * (cell.o * (1 - cell.o)),
          total * cell.f,
          cell.o * tanh_c};
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
