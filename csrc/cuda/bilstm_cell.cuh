// The cell of an LSTM: gates from their preactivations, and their derivatives. As kernels/
// _lstm_cell.py computes them for rounded products: accurate to about 1e-5.
#pragma once

#include "cuda/bilstm_mma.cuh"

namespace sodeep_fast {

constexpr float kLog2E = 1.4426950408889634f;
// sigmoid(-30 log 2) = 2^-30 is 0 to the rounding of half types, and four such denominators
// multiply without overflow.
constexpr float kSaturatedHalf = 30.0f;

struct Gates {
  float i, f, g, o;
};

// exp(-rate x), at most 2^kSaturatedHalf; NaN stays NaN.
__device__ inline float decay(float x, float rate) {
  return exponential_2(smaller(x * (-rate * kLog2E), kSaturatedHalf));
}

__device__ inline float hyperbolic_tangent(float x) {
  const float e = decay(x, 2.0f);
  return (1.0f - e) * reciprocal(1.0f + e);
}

// All four share one division, the slowest of their instructions.
__device__ inline Gates gates_of(const Gates& sums) {
  const float i = 1.0f + decay(sums.i, 1.0f);
  const float f = 1.0f + decay(sums.f, 1.0f);
  const float o = 1.0f + decay(sums.o, 1.0f);
  const float e = decay(sums.g, 2.0f), g = 1.0f + e;
  const float i_f = i * f, g_o = g * o, inverse = reciprocal(i_f * g_o);
  const float by_if = g_o * inverse, by_go = i_f * inverse;
  return {f * by_if, i * by_if, (1.0f - e) * (o * by_go), g * by_go};
}

// The gradients of the preactivations, from those of the hidden state and, through later steps, of
// the cell state; grad_c becomes that of the step before. The cell state of the step before is not
// needed by itself: f times it is c - i g.
__device__ inline Gates gate_gradients(const Gates& gates, float c, float grad_h, float& grad_c) {
  const float tanh = hyperbolic_tangent(c);
  grad_c += grad_h * gates.o * (1.0f - tanh * tanh);
  const Gates grads = {grad_c * gates.g * (gates.i * (1.0f - gates.i)),
                       grad_c * (c - gates.i * gates.g) * (1.0f - gates.f),
                       grad_c * gates.i * (1.0f - gates.g * gates.g),
                       grad_h * tanh * (gates.o * (1.0f - gates.o))};
  grad_c *= gates.f;
  return grads;
}

}  // namespace sodeep_fast
