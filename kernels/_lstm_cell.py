"""The cell of an LSTM in Triton: gates from their preactivations, and their derivatives."""

import triton
import triton.language as tl

from sodeep_fast.kernels._numbers import LOG2_E

# sigmoid(-30 log 2) = 2^-30 is 0 to the rounding of half types, and four such denominators multiply
# without overflow.
SATURATED_HALF = tl.constexpr(30.0)
# sigmoid(x) for x < -100 log 2 is 0 to the rounding of float32.
SATURATED = tl.constexpr(100.0)
# Below this the tanh is a polynomial: the difference of exponentials would lose digits.
SMALL = tl.constexpr(0.625)


@triton.jit
def _decay(b_x, rate: tl.constexpr, most: tl.constexpr):
    """exp(-rate x), at most 2^most; NaN stays NaN."""
    return tl.exp2(tl.minimum(b_x * (-rate * LOG2_E), most, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def hyperbolic_tangent(b_x, EXACT: tl.constexpr):
    """tanh(x): to a few rounding errors of its value if EXACT, else to those of 1."""
    if not EXACT:
        b_e = _decay(b_x, 2.0, SATURATED_HALF)
        return (1.0 - b_e) / (1.0 + b_e)
    b_size = tl.abs(b_x)
    b_e = _decay(b_size, 2.0, SATURATED)
    b_large = (1.0 - b_e) / (1.0 + b_e)
    # Cephes, tanhf.
    b_q = b_x * b_x
    b_p = -5.70498872745e-3 * b_q + 2.06390887954e-2
    b_p = (b_p * b_q - 5.37397155531e-2) * b_q + 1.33314422036e-1
    b_small = (b_p * b_q - 3.33332819422e-1) * b_q * b_x + b_x
    return tl.where(b_size < SMALL, b_small, tl.where(b_x < 0, -b_large, b_large))


@triton.jit
def gates(b_i, b_f, b_g, b_o, EXACT: tl.constexpr):
    """The gates i, f, g, o from their preactivations.

    Unless EXACT, all four share one division, the slowest of their instructions.
    """
    if EXACT:
        b_i = 1.0 / (1.0 + _decay(b_i, 1.0, SATURATED))
        b_f = 1.0 / (1.0 + _decay(b_f, 1.0, SATURATED))
        b_o = 1.0 / (1.0 + _decay(b_o, 1.0, SATURATED))
        return b_i, b_f, hyperbolic_tangent(b_g, True), b_o
    b_i = 1.0 + _decay(b_i, 1.0, SATURATED_HALF)
    b_f = 1.0 + _decay(b_f, 1.0, SATURATED_HALF)
    b_o = 1.0 + _decay(b_o, 1.0, SATURATED_HALF)
    b_e = _decay(b_g, 2.0, SATURATED_HALF)
    b_g = 1.0 + b_e
    b_if, b_go = b_i * b_f, b_g * b_o
    b_inverse = 1.0 / (b_if * b_go)
    b_by_if, b_by_go = b_go * b_inverse, b_if * b_inverse
    return b_f * b_by_if, b_i * b_by_if, (1.0 - b_e) * (b_o * b_by_go), b_g * b_by_go


@triton.jit
def gate_gradients(b_i, b_f, b_g, b_o, b_c, b_grad_h, b_grad_c, EXACT: tl.constexpr):
    """The gradients of the preactivations, and of the cell state of the step before.

    Arguments: the gates, the cell state, and the gradients of the hidden state and, through later
    steps, of the cell state. The cell state of the step before is not needed by itself: f times it
    is c - i g.
    """
    b_tanh = hyperbolic_tangent(b_c, EXACT)
    b_grad_c += b_grad_h * b_o * (1.0 - b_tanh * b_tanh)
    b_grad_o = b_grad_h * b_tanh * (b_o * (1.0 - b_o))
    b_grad_i = b_grad_c * b_g * (b_i * (1.0 - b_i))
    b_grad_g = b_grad_c * b_i * (1.0 - b_g * b_g)
    b_grad_f = b_grad_c * (b_c - b_i * b_g) * (1.0 - b_f)
    return b_grad_i, b_grad_f, b_grad_g, b_grad_o, b_grad_c * b_f
