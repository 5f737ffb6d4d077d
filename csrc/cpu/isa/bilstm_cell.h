// The cell of an LSTM, a vector of units at a time. Included once for each instruction set, hence
// no include guard.
//
// A cell is a chain of dependent operations, longer than a processor can look ahead. So all gates
// of a few vectors are interleaved: one stage is computed for all of them, then the next.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

#define SODEEP_FAST_EACH(k, count) _Pragma("GCC unroll 8") for (int k = 0; k < (count); ++k)

constexpr int kCellsTogether = 3;

// The gates after their activation, the new cell state, and the new hidden state.
template <class T>
struct LstmCell {
  Vec<T> i, f, g, o, c, hidden;
};

#ifndef SODEEP_FAST_ROUNDS

// exp(x) as scale + scale * part, which together have more digits than one T; NaN stays NaN.
template <class T>
struct AccurateExponential {
  Vec<T> scale, part;

  AccurateExponential() = default;
  SODEEP_FAST_INLINE explicit AccurateExponential(Vec<T> x) {
    constexpr T kLimit = Simd<T>::kExpLimit;
    const SplitExponent<T> split(minimum(broadcast<T>(kLimit), maximum(broadcast<T>(-kLimit), x)));
    scale = split.scale;
    part = split.rest + (split.rest * split.rest) * series(split.rest);
  }

  SODEEP_FAST_INLINE Vec<T> minus_one() const { return part * scale + (scale - 1); }

  // numerator / (exp(x) + 1), with little more than one rounding error: that of the denominator is
  // corrected.
  SODEEP_FAST_INLINE Vec<T> divide_by_plus_one(Vec<T> numerator) const {
    const Vec<T> base = scale + 1, denominator = part * scale + base;
    const Vec<T> lost = part * scale + (base - denominator);
    const Vec<T> guess = reciprocal_guess<T>(denominator), quotient = numerator * guess;
    const Vec<T> missing = (numerator - quotient * denominator) - quotient * lost;
    return quotient + missing * guess;
  }

 private:
  // (exp(x) - 1 - x) / x^2 on [-ln2/2, ln2/2]
  static SODEEP_FAST_INLINE Vec<T> series(Vec<T> x) {
    if constexpr (sizeof(T) == 8) return exponential_series<T, 2>(x);
    // The polynomial of degree 4 with which exp(x) has the smallest relative error, 4e-9.
    Vec<T> value = T(1.38146132e-03) * x + T(8.36870991e-03);
    value = (value * x + T(4.16683874e-02)) * x + T(1.66665207e-01);
    return value * x + T(4.99999935e-01);
  }
};

template <class T, int kCount>
SODEEP_FAST_INLINE void to_hyperbolic_tangents(Vec<T> (&x)[kCount]) {
  AccurateExponential<T> e[kCount];
  SODEEP_FAST_EACH (k, kCount) e[k] = AccurateExponential<T>(2 * x[k]);
  SODEEP_FAST_EACH (k, kCount) x[k] = e[k].divide_by_plus_one(e[k].minus_one());
}

template <class T>
SODEEP_FAST_INLINE Vec<T> hyperbolic_tangent(Vec<T> x) {
  Vec<T> one[1] = {x};
  to_hyperbolic_tangents<T>(one);
  return one[0];
}

// From the gates' preactivations, times their factors, and the previous cell states.
template <class T, int kCount>
SODEEP_FAST_INLINE void run_cells(const Vec<T> (&gates)[kCount][kGates],
                                  const Vec<T> (&c_before)[kCount], LstmCell<T> (&cells)[kCount]) {
  AccurateExponential<T> e[kCount][kGates];
  Vec<T> active[kCount][kGates], tangents[kCount];
  SODEEP_FAST_EACH (k, kCount)
    SODEEP_FAST_EACH (gate, kGates) e[k][gate] = AccurateExponential<T>(gates[k][gate]);
  SODEEP_FAST_EACH (k, kCount)
    SODEEP_FAST_EACH (gate, kGates)
      active[k][gate] = e[k][gate].divide_by_plus_one(gate == kTangent ? e[k][gate].minus_one()
                                                                       : broadcast<T>(1));
  SODEEP_FAST_EACH (k, kCount) {
    LstmCell<T>& cell = cells[k];
    cell.i = active[k][0], cell.f = active[k][1], cell.g = active[k][2], cell.o = active[k][3];
    cell.c = tangents[k] = fused_multiply_add<T>(cell.i, cell.g, cell.f * c_before[k]);
  }
  to_hyperbolic_tangents<T>(tangents);
  SODEEP_FAST_EACH (k, kCount) cells[k].hidden = cells[k].o * tangents[k];
}

#else

// 2^x, at most 2^40, to a relative error of 3e-6; NaN stays NaN.
SODEEP_FAST_INLINE Vec<float> power_of_two(Vec<float> x) {
  const __m512 power = _mm512_min_ps(_mm512_set1_ps(40), (__m512)x);
  const Vec<float> rest = (Vec<float>)_mm512_reduce_ps(power, _MM_FROUND_TO_NEAREST_INT);
  // The polynomial of degree 4 with the smallest relative error on [-1/2, 1/2].
  Vec<float> value = 9.57053114e-03f * rest + 5.59186622e-02f;
  value = (value * rest + 2.40247356e-01f) * rest + 6.93121646e-01f;
  value = value * rest + 9.99999263e-01f;
  return (Vec<float>)_mm512_scalef_ps((__m512)value, (__m512)((Vec<float>)power - rest));
}

template <class T>
SODEEP_FAST_INLINE Vec<T> hyperbolic_tangent(Vec<T> x) {
  const Vec<T> e = power_of_two(x * kTangentFactor);
  return (1 - e) * reciprocal<T>(1 + e);
}

// From the gates' preactivations, times their factors, and the previous cell states. Products are
// of numbers with three digits, so the activations may share denominators: two divisions instead of
// five.
template <class T, int kCount>
SODEEP_FAST_INLINE void run_cells(const Vec<T> (&gates)[kCount][kGates],
                                  const Vec<T> (&c_before)[kCount], LstmCell<T> (&cells)[kCount]) {
  Vec<T> e[kCount][kGates], of_c[kCount];
  SODEEP_FAST_EACH (k, kCount)
    SODEEP_FAST_EACH (gate, kGates) e[k][gate] = power_of_two(gates[k][gate]);
  SODEEP_FAST_EACH (k, kCount) {
    LstmCell<T>& cell = cells[k];
    const Vec<T> of_i = 1 + e[k][0], of_f = 1 + e[k][1], of_g = 1 + e[k][kTangent];
    const Vec<T> i_g = of_i * of_g, less = 1 - e[k][kTangent];
    const Vec<T> inverse = reciprocal<T>(i_g * of_f), f_inverse = of_f * inverse;
    cell.i = of_g * f_inverse;
    cell.f = i_g * inverse;
    cell.g = less * (of_i * f_inverse);
    cell.c = fused_multiply_add<T>(less, f_inverse, cell.f * c_before[k]);
  }
  SODEEP_FAST_EACH (k, kCount) of_c[k] = power_of_two(cells[k].c * kTangentFactor);
  SODEEP_FAST_EACH (k, kCount) {
    LstmCell<T>& cell = cells[k];
    const Vec<T> of_o = 1 + e[k][3], more = 1 + of_c[k];
    const Vec<T> inverse = reciprocal<T>(of_o * more);
    cell.o = more * inverse;
    cell.hidden = (1 - of_c[k]) * inverse;
  }
}

#endif

// The gradients of a cell's preactivations and of the previous cell state; and its hidden state.
template <class T>
struct LstmCellGrads {
  Vec<T> gates[kGates], c_before, hidden;
};

// From the gradients of the hidden state and, through later steps, of the cell state.
template <class T>
SODEEP_FAST_INLINE LstmCellGrads<T> differentiate_cell(const LstmCell<T>& cell, Vec<T> grad_h,
                                                       Vec<T> grad_c) {
  const Vec<T> by_o = grad_h * cell.o, tanh_c = hyperbolic_tangent<T>(cell.c);
  const Vec<T> total = grad_c + by_o * (1 - tanh_c * tanh_c), by_i = total * cell.i;
  const Vec<T> kept = cell.c - cell.i * cell.g;  // f times the previous cell state
  return {{by_i * cell.g * (1 - cell.i), total * kept * (1 - cell.f), by_i * (1 - cell.g * cell.g),
           by_o * tanh_c * (1 - cell.o)},
          total * cell.f,
          cell.o * tanh_c};
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
