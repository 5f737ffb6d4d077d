// The cell of an LSTM, a vector of units at a time. Included once for each instruction set, hence
// no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// exp(x) to twice the digits of T, nearly, as scale + scale * part; x within [-limit, limit], NaN
// stays NaN.
template <class T>
struct AccurateExponential {
  Vec<T> scale, part;

  inline AccurateExponential(Vec<T> x, T limit) {
    x = minimum(broadcast<T>(limit), maximum(broadcast<T>(-limit), x));
    const SplitExponent<T> split(x);
    scale = split.scale;
    part = split.rest + (split.rest * split.rest) * exponential_series<T, 2>(split.rest);
  }

  inline Vec<T> minus_one() const { return part * scale + (scale - 1); }

  // numerator / (exp(x) + 1), rounded little more than once: the rounding error of the denominator
  // counts too.
  inline Vec<T> divide_by_plus_one(Vec<T> numerator) const {
    const Vec<T> base = scale + 1, denominator = part * scale + base;
    const Vec<T> lost = part * scale + (base - denominator);
    const Vec<T> guess = reciprocal_guess<T>(denominator), quotient = numerator * guess;
    const Vec<T> missing = (numerator - quotient * denominator) - quotient * lost;
    return quotient + missing * guess;
  }
};

template <class T>
inline Vec<T> hyperbolic_tangent(Vec<T> x) {
  constexpr T kSaturated = sizeof(T) == 4 ? 20 : 40;  // the result rounds to 1
  const AccurateExponential<T> e(2 * x, kSaturated);
  return e.divide_by_plus_one(e.minus_one());
}

template <class T>
inline Vec<T> sigmoid(Vec<T> x) {
  const AccurateExponential<T> e(-x, Simd<T>::kExpLimit);
  return e.divide_by_plus_one(broadcast<T>(1));
}

template <class T>
struct LstmCell {
  Vec<T> i, f, g, o, c;
};

// Of the gates before their activation and the cell state of the step before.
template <class T>
inline LstmCell<T> run_cell(Vec<T> i, Vec<T> f, Vec<T> g, Vec<T> o, Vec<T> c) {
  LstmCell<T> cell{sigmoid<T>(i), sigmoid<T>(f), hyperbolic_tangent<T>(g), sigmoid<T>(o), {}};
  cell.c = cell.f * c + cell.i * cell.g;
  return cell;
}

// Derivatives with respect to the gates before their activation, and to the cell state of the step
// before, from those with respect to the hidden state and, by later steps, the cell state.
template <class T>
inline LstmCell<T> differentiate_cell(const LstmCell<T>& cell, Vec<T> c_before, Vec<T> grad_h,
                                      Vec<T> grad_c) {
  const Vec<T> tanh_c = hyperbolic_tangent<T>(cell.c);
  const Vec<T> total = grad_c + grad_h * cell.o * (1 - tanh_c * tanh_c);
  return {total * cell.g * (cell.i * (1 - cell.i)), total * c_before * (cell.f * (1 - cell.f)),
          total * cell.i * (1 - cell.g * cell.g), grad_h * tanh_c * (cell.o * (1 - cell.o)),
          total * cell.f};
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
