"""One layer of a bidirectional LSTM in Triton, forward and backward: all its steps in one launch.

    [z_i, z_f, z_g, z_o] = u x_t + d + W h_{t-1}    i, f, o = sigmoid(z), g = tanh(z_g)
    c_t = f c_{t-1} + i g                           h_t = o tanh(c_t)

A program owns a tile of rows of one direction and runs all the steps; programs never wait for one
another. It holds the recurrent weights, which it reads once. Hidden units lie along the rows of
the products, so that 8 rows of scores fill a tile. State, sums and scores are float32. Only the two
factors of a product are rounded, to float16 or bfloat16, or not at all ("full": each product is
three of TF32, which together have float32's digits). One score per step is an outer product; for
several features, PyTorch multiplies all steps beforehand, and the kernel reads the products.

The forward saves the gates and the cell state for the backward. The backward writes the gradients
of the scores, which are sums over the gates. For inputs of several features, or if the weights
require gradients, it writes those of the gates instead, from which PyTorch computes the rest by
matrix products. In float16, each row's gradients are scaled by a power of two against underflow:
see TOP.

What it should cost on an H200 for (512, 100) scores, 128 hidden units and one layer, in float16:
128 programs of 8 rows, one per multiprocessor. In a step, each of them reads its weights from
shared memory, 128 KB in 1024 cycles; needs 7 special-function results for each of 1024 cells, at 16
a cycle 448 cycles; and issues some 400 instructions per warp, for 8 warps on 4 schedulers 800
cycles (backward: 2 results per cell, 128 cycles, and 510 instructions, 1020 cycles). With full
overlap, a step takes 0.52 us at 1.98 GHz; with none, 1.15 us. None of this is measured;
instructions are counted in the loops compiled for sm_90.

    pass                      launches   GFLOP   MB moved       expected
    inference                     1       13.4    53, 12 us    52 to 115 us
    forward that saves            1       13.4   184, 43 us    52 to 115 us
    backward to the scores        3       13.4   237, 55 us    75 to 125 us: 12 the row maxima,
                                                               2 the sum of both directions

Memory access is hidden behind the steps: inputs of the next step are prefetched. One row takes as
long as 528; from 529 rows on, a program of the forward takes 16. A second layer adds the product of
its input, 26.8 GFLOP and 315 MB, 75 us, and as much in the backward.
"""

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sodeep_fast.kernels import _config, _layouts, _lstm_layer
from sodeep_fast.kernels._arch import arch_of
from sodeep_fast.kernels._lstm_cell import gate_gradients, gates, hyperbolic_tangent
from sodeep_fast.kernels._products import TRITON_DTYPES, operand_dtype

# Rows that lie next to each other in what is saved, and the numbers per step and unit.
GRANULE = tl.constexpr(_layouts.LSTM_GRANULE)
SAVED = tl.constexpr(_layouts.LSTM_SAVED)
LARGEST_HALF = tl.constexpr(65504.0)
# Before rounding to float16, a row's gradients are scaled so that the largest is 1 / TOP to 2 /
# TOP: the backward may grow it by 2^19 before it overflows, and rounds small values to 2^-20 of it.
TOP = tl.constexpr(16.0)


@triton.jit
def _of_direction(direction, first_ptr, second_ptr):
    """Returns the pointer of this program's direction."""
    return first_ptr if direction == 0 else second_ptr


@triton.jit
def _load_weights(
    weight_ptr, gate, hidden, TRANSPOSED: tl.constexpr, HIDDEN: tl.constexpr, DTYPE: tl.constexpr,
    OPERAND: tl.constexpr,
):  # fmt: skip
    """Loads one gate's recurrent weights, [to, from] or transposed, 0 beyond `hidden`."""
    o_row = tl.arange(0, HIDDEN)[:, None]
    o_column = tl.arange(0, HIDDEN)[None, :]
    b_in = (o_row < hidden) & (o_column < hidden)
    if TRANSPOSED:
        o_weight = (gate * hidden + o_column) * hidden + o_row
    else:
        o_weight = (gate * hidden + o_row) * hidden + o_column
    b_w = tl.load(weight_ptr + o_weight, mask=b_in, other=0).to(tl.float32)
    if DTYPE.is_fp16():
        b_w = tl.clamp(b_w, -LARGEST_HALF, LARGEST_HALF, propagate_nan=tl.PropagateNan.ALL)
    return b_w.to(DTYPE).to(OPERAND)


@triton.jit
def _load_columns(p, hidden, HIDDEN: tl.constexpr):
    """Loads one number for each gate and hidden unit, four of [HIDDEN, 1]."""
    o_unit = tl.arange(0, HIDDEN)[:, None]
    b_in = o_unit < hidden
    return (
        tl.load(p + o_unit, mask=b_in, other=0).to(tl.float32),
        tl.load(p + hidden + o_unit, mask=b_in, other=0).to(tl.float32),
        tl.load(p + 2 * hidden + o_unit, mask=b_in, other=0).to(tl.float32),
        tl.load(p + 3 * hidden + o_unit, mask=b_in, other=0).to(tl.float32),
    )


@triton.jit
def _load_inputs(
    input_ptr, per_step, per_row, direction, step, hidden, o_row, b_in, SCALAR: tl.constexpr,
    HIDDEN: tl.constexpr,
):  # fmt: skip
    """Loads a step's scores, four times [1, ROWS], or its products by gate, [HIDDEN, ROWS]."""
    o_input = step * per_step + o_row * per_row
    if SCALAR:
        b_x = tl.load(input_ptr + o_input, mask=b_in, other=0)[None, :]
        inputs = b_x, b_x, b_x, b_x
    else:
        o_unit = tl.arange(0, HIDDEN)[:, None]
        p = input_ptr + (o_input + 4 * direction * hidden)[None, :] + o_unit
        b_in = b_in[None, :] & (o_unit < hidden)
        inputs = (
            tl.load(p, mask=b_in, other=0),
            tl.load(p + hidden, mask=b_in, other=0),
            tl.load(p + 2 * hidden, mask=b_in, other=0),
            tl.load(p + 3 * hidden, mask=b_in, other=0),
        )
    return inputs


@triton.jit
def _saved_at(saved_ptr, direction, step, steps, batch, o_row, HIDDEN: tl.constexpr):
    """Returns the pointers to a step's saved numbers, [HIDDEN, ROWS] for the first of them."""
    granules = tl.cdiv(batch, GRANULE)
    o_granule = (direction * steps + step) * granules + o_row // GRANULE
    o_number = o_granule * (SAVED * HIDDEN * GRANULE) + o_row % GRANULE
    return saved_ptr + o_number[None, :] + tl.arange(0, HIDDEN)[:, None] * GRANULE


@triton.jit(do_not_specialize=["per_step", "per_row", "steps", "batch"])
def bilstm_fwd_kernel(
    input_ptr,  # scores of every step and row, or if not SCALAR their [2, 4, hidden] products
    per_step,  # strides of steps and rows
    per_row,
    column_a_ptr,  # [4, hidden] weights of the scores, first direction; unused unless SCALAR
    column_b_ptr,  # and of the second
    weight_a_ptr,  # [4, hidden, hidden] recurrent
    weight_b_ptr,
    bias_a_ptr,  # [4, hidden]
    bias_b_ptr,
    more_a_ptr,  # [4, hidden], the second bias
    more_b_ptr,
    output_ptr,  # [steps, batch, 2, hidden]
    saved_ptr,  # [2, steps, granules of rows, SAVED, HIDDEN, GRANULE] i, f, g, o and c, or None
    steps,
    batch,
    hidden,
    SCALAR: tl.constexpr,
    DTYPE: tl.constexpr,
    OPERAND: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Runs all steps of one direction for a tile of rows."""
    EXACT: tl.constexpr = DTYPE.is_fp32()
    direction = tl.program_id(1)
    steps = steps.to(tl.int64)
    batch = batch.to(tl.int64)
    per_step = per_step.to(tl.int64)
    per_row = per_row.to(tl.int64)
    o_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    b_in = o_row < batch
    o_unit = tl.arange(0, HIDDEN)[:, None]
    b_out = b_in[None, :] & (o_unit < hidden)
    # A granule is written as a whole, with its rows beyond the batch.
    b_saved = (o_row < tl.cdiv(batch, GRANULE) * GRANULE)[None, :]

    p_weight = _of_direction(direction, weight_a_ptr, weight_b_ptr)
    w_i = _load_weights(p_weight, 0, hidden, False, HIDDEN, DTYPE, OPERAND)
    w_f = _load_weights(p_weight, 1, hidden, False, HIDDEN, DTYPE, OPERAND)
    w_g = _load_weights(p_weight, 2, hidden, False, HIDDEN, DTYPE, OPERAND)
    w_o = _load_weights(p_weight, 3, hidden, False, HIDDEN, DTYPE, OPERAND)
    d_i, d_f, d_g, d_o = _load_columns(
        _of_direction(direction, bias_a_ptr, bias_b_ptr), hidden, HIDDEN
    )
    e_i, e_f, e_g, e_o = _load_columns(
        _of_direction(direction, more_a_ptr, more_b_ptr), hidden, HIDDEN
    )
    d_i, d_f, d_g, d_o = d_i + e_i, d_f + e_f, d_g + e_g, d_o + e_o
    u_i, u_f, u_g, u_o = 1.0, 1.0, 1.0, 1.0
    if SCALAR:
        u_i, u_f, u_g, u_o = _load_columns(
            _of_direction(direction, column_a_ptr, column_b_ptr), hidden, HIDDEN
        )

    b_h = tl.zeros([HIDDEN, ROWS], OPERAND)
    b_c = tl.zeros([HIDDEN, ROWS], tl.float32)
    step = direction * (steps - 1)
    x_i, x_f, x_g, x_o = _load_inputs(
        input_ptr, per_step, per_row, direction, step, hidden, o_row, b_in, SCALAR, HIDDEN
    )
    for k in range(steps):
        # Prefetches what the next step reads while this one computes.
        then = step + 1 - 2 * direction
        b_more = b_in & (k + 1 < steps)
        n_i, n_f, n_g, n_o = _load_inputs(
            input_ptr, per_step, per_row, direction, then, hidden, o_row, b_more, SCALAR, HIDDEN
        )
        z_i = tl.dot(w_i, b_h, x_i * u_i + d_i, input_precision="tf32x3")
        z_f = tl.dot(w_f, b_h, x_f * u_f + d_f, input_precision="tf32x3")
        z_g = tl.dot(w_g, b_h, x_g * u_g + d_g, input_precision="tf32x3")
        z_o = tl.dot(w_o, b_h, x_o * u_o + d_o, input_precision="tf32x3")
        b_i, b_f, b_g, b_o = gates(z_i, z_f, z_g, z_o, EXACT)
        b_c = b_f * b_c + b_i * b_g
        b_y = b_o * hyperbolic_tangent(b_c, EXACT)
        b_h = b_y.to(DTYPE).to(OPERAND)
        o_out = ((step * batch + o_row) * 2 + direction)[None, :] * hidden + o_unit
        tl.store(output_ptr + o_out, b_y, mask=b_out)
        if saved_ptr is not None:
            p = _saved_at(saved_ptr, direction, step, steps, batch, o_row, HIDDEN)
            tl.store(p, b_i, mask=b_saved)
            tl.store(p + HIDDEN * GRANULE, b_f, mask=b_saved)
            tl.store(p + 2 * HIDDEN * GRANULE, b_g, mask=b_saved)
            tl.store(p + 3 * HIDDEN * GRANULE, b_o, mask=b_saved)
            b_kept = b_c
            if not EXACT:
                b_kept = tl.clamp(b_c, -LARGEST_HALF, LARGEST_HALF, tl.PropagateNan.ALL)
            tl.store(p + 4 * HIDDEN * GRANULE, b_kept, mask=b_saved)
        x_i, x_f, x_g, x_o = n_i, n_f, n_g, n_o
        step = then


@triton.jit
def _load_saved(
    grad_ptr, saved_ptr, direction, step, steps, batch, hidden, o_row, b_in, HIDDEN: tl.constexpr
):
    """Loads a step's gradient of the hidden states, and its i, f, g, o and c, [HIDDEN, ROWS]."""
    o_unit = tl.arange(0, HIDDEN)[:, None]
    o_grad = ((step * batch + o_row) * 2 + direction)[None, :] * hidden + o_unit
    p = _saved_at(saved_ptr, direction, step, steps, batch, o_row, HIDDEN)
    return (
        tl.load(grad_ptr + o_grad, mask=b_in[None, :] & (o_unit < hidden), other=0),
        tl.load(p, mask=b_in[None, :], other=0),
        tl.load(p + HIDDEN * GRANULE, mask=b_in[None, :], other=0),
        tl.load(p + 2 * HIDDEN * GRANULE, mask=b_in[None, :], other=0),
        tl.load(p + 3 * HIDDEN * GRANULE, mask=b_in[None, :], other=0),
        tl.load(p + 4 * HIDDEN * GRANULE, mask=b_in[None, :], other=0),
    )


@triton.jit
def _power_below(b_x):
    """The power of two at or below |x|, clamped to 2^-100 and 2^100."""
    b_bits = tl.abs(b_x).to(tl.int32, bitcast=True) & 0x7F800000
    b_bits = tl.minimum(tl.maximum(b_bits, 27 << 23), 227 << 23)
    return b_bits.to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["steps", "batch"])
def bilstm_bwd_kernel(
    grad_ptr,  # [steps, batch, 2, hidden] gradient of the output
    saved_ptr,  # [2, steps, granules of rows, SAVED, HIDDEN, GRANULE] i, f, g, o and c
    largest_ptr,  # [batch] the largest of each row's gradient, or None: nothing is scaled
    column_a_ptr,  # [4, hidden] weights of the scores, of the first direction; unused without out
    column_b_ptr,  # and of the second
    weight_a_ptr,  # [4, hidden, hidden] recurrent
    weight_b_ptr,
    out_ptr,  # [2, steps, batch] gradient of the scores by direction, or None
    gates_ptr,  # instead, [steps, batch, 2, 4, hidden], of the gates / their scale, or None
    scale_ptr,  # [batch] that scale, written only with largest_ptr
    steps,
    batch,
    hidden,
    DTYPE: tl.constexpr,
    OPERAND: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Runs all steps of one direction backwards for a tile of rows."""
    EXACT: tl.constexpr = DTYPE.is_fp32()
    direction = tl.program_id(1)
    steps = steps.to(tl.int64)
    batch = batch.to(tl.int64)
    o_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    b_in = o_row < batch
    o_unit = tl.arange(0, HIDDEN)[:, None]
    b_scale = tl.full([ROWS], 1.0, tl.float32)
    if largest_ptr is not None:
        b_scale = TOP * _power_below(tl.load(largest_ptr + o_row, mask=b_in, other=1))
        tl.store(scale_ptr + o_row, b_scale, mask=b_in & (direction == 0))
    b_unscale = 1.0 / b_scale

    p_weight = _of_direction(direction, weight_a_ptr, weight_b_ptr)
    w_i = _load_weights(p_weight, 0, hidden, True, HIDDEN, DTYPE, OPERAND)
    w_f = _load_weights(p_weight, 1, hidden, True, HIDDEN, DTYPE, OPERAND)
    w_g = _load_weights(p_weight, 2, hidden, True, HIDDEN, DTYPE, OPERAND)
    w_o = _load_weights(p_weight, 3, hidden, True, HIDDEN, DTYPE, OPERAND)
    u_i, u_f, u_g, u_o = 1.0, 1.0, 1.0, 1.0
    if out_ptr is not None:
        u_i, u_f, u_g, u_o = _load_columns(
            _of_direction(direction, column_a_ptr, column_b_ptr), hidden, HIDDEN
        )

    b_grad_h = tl.zeros([HIDDEN, ROWS], tl.float32)
    b_grad_c = tl.zeros([HIDDEN, ROWS], tl.float32)
    step = (1 - direction) * (steps - 1)
    b_grad, b_i, b_f, b_g, b_o, b_c = _load_saved(
        grad_ptr, saved_ptr, direction, step, steps, batch, hidden, o_row, b_in, HIDDEN
    )
    for k in range(steps):
        # Prefetches what the next step reads while this one computes.
        then = step + 2 * direction - 1
        b_more = b_in & (k + 1 < steps)
        n_grad, n_i, n_f, n_g, n_o, n_c = _load_saved(
            grad_ptr, saved_ptr, direction, then, steps, batch, hidden, o_row, b_more, HIDDEN
        )
        b_grad_h += b_grad * b_unscale[None, :]
        a_i, a_f, a_g, a_o, b_grad_c = gate_gradients(
            b_i.to(tl.float32), b_f.to(tl.float32), b_g.to(tl.float32), b_o.to(tl.float32),
            b_c.to(tl.float32), b_grad_h, b_grad_c, EXACT,
        )  # fmt: skip
        if out_ptr is not None:
            b_out = tl.sum(a_i * u_i + a_f * u_f + a_g * u_g + a_o * u_o, axis=0) * b_scale
            tl.store(out_ptr + (direction * steps + step) * batch + o_row, b_out, mask=b_in)
        a_i, a_f, a_g, a_o = a_i.to(DTYPE), a_f.to(DTYPE), a_g.to(DTYPE), a_o.to(DTYPE)
        if gates_ptr is not None:
            o_gate = ((step * batch + o_row) * 8 + 4 * direction)[None, :] * hidden + o_unit
            b_out_in = b_in[None, :] & (o_unit < hidden)
            tl.store(gates_ptr + o_gate, a_i, mask=b_out_in)
            tl.store(gates_ptr + o_gate + hidden, a_f, mask=b_out_in)
            tl.store(gates_ptr + o_gate + 2 * hidden, a_g, mask=b_out_in)
            tl.store(gates_ptr + o_gate + 3 * hidden, a_o, mask=b_out_in)
        # Two sums, so that a product need not wait for the one before.
        b_if = tl.dot(w_i, a_i.to(OPERAND), input_precision="tf32x3")
        b_go = tl.dot(w_g, a_g.to(OPERAND), input_precision="tf32x3")
        b_if = tl.dot(w_f, a_f.to(OPERAND), b_if, input_precision="tf32x3")
        b_go = tl.dot(w_o, a_o.to(OPERAND), b_go, input_precision="tf32x3")
        b_grad_h = b_if + b_go
        b_grad, b_i, b_f, b_g, b_o, b_c = n_grad, n_i, n_f, n_g, n_o, n_c
        step = then


class _Layer(_lstm_layer.Layer):
    def launch(self, kernel: Any, backward: bool, *buffers: Any, **options: Any) -> None:
        """Runs a kernel for every tile of rows and both directions."""
        padded = _layouts.lstm_padded(self.hidden)
        full, scalar = self.products == "full", self.features == 1
        blocks = _config.lstm_blocks(backward, full, scalar, self.batch, arch_of(self.input))
        with torch.cuda.device_of(self.input):
            kernel[(triton.cdiv(self.batch, blocks.rows), 2)](
                *buffers,
                steps=self.steps,
                batch=self.batch,
                hidden=self.hidden,
                **options,
                DTYPE=TRITON_DTYPES[self.products],
                OPERAND=operand_dtype(self.products),
                HIDDEN=padded,
                ROWS=blocks.rows,
                num_warps=blocks.warps(padded),
            )

    def run(
        self, entering: Tensor, head: Tensor | None, output: Tensor, saved: Tensor | None
    ) -> None:
        """Runs all steps; there is no head."""
        self.launch(
            bilstm_fwd_kernel, False, entering, *entering.stride()[:2],
            *(weight for k in range(4) for weight in self.of_both(k)),
            output, saved, SCALAR=self.features == 1,
        )  # fmt: skip

    def run_backward(
        self, grad: Tensor, head: Tensor | None, saved: Tensor, *buffers: Tensor | None
    ) -> None:
        """Runs all steps backwards; there is no head."""
        largest, *found = buffers
        self.launch(
            bilstm_bwd_kernel, True, grad, saved, largest, *self.of_both(0), *self.of_both(1),
            *found,
        )  # fmt: skip


bilstm_layer = functools.partial(_lstm_layer.forward, _Layer)
bilstm_layer_backward = functools.partial(_lstm_layer.backward, _Layer)
