"""Frozen blocks of one-dimensional convolution in Triton: values, gradient of the inputs, tangent.

    z[t, o] = sum over j, c of x[t + j - left, c] w[o, c, j] + b[o], x being 0 beyond its ends
    y = activate(scale z + shift), scale and shift those of batch normalization by fixed statistics

A block is one launch: a matrix product of windows and kernels, with everything that follows fused
onto its sums. Positions lie along rows and channels along columns, so the window of a position is
taps x channels contiguous numbers in memory, and no window is materialized. The gradient of the
inputs is the same product with the taps reversed, followed by the slope and scale of the block
before. The tangent, which differentiates the gradient, is the product of the values, with slopes
instead of activations. Sums, normalization and activation are float32. Products are of float16 or
bfloat16; for float32, they are three of TF32, which together have float32's digits, or one, if
PyTorch is allowed that too.

The backward only needs the signs of the inputs of an activation. They are saved as bits, an eighth
of a byte per number, while outputs of 2 or 4 bytes could not be freed. They also work for negative
slopes, with which the output does not determine the sign.

A tile takes one position of many rows before the next position, and skips taps beyond the ends for
the whole tile: half of a kernel of 2n - 1 taps over n positions.

What it should cost on an H200 for the released network's (512, 100) in float16: 57 us a pass on its
tensor cores, at 790 TFLOP/s. But a tile of 128 x 128 sums reads its windows and kernels from the
second-level cache, a byte for every 64 FLOP, and smaller tiles more: the ten blocks take 190 to 210
us for that at 5.5 TB/s. None of this is measured.

    pass                     launches   GFLOP   MB moved      expected
    forward, saving or not      10       44.8   156, 36 us    210 us: 20 the launches
    backward to the inputs      10       44.8   156, 36 us    230 us: 20 the launches

Float32 reads three times as many bytes, in tiles of half the size. A single row takes 28 to 35 us:
20 for the launches, and the rest waiting, in up to 64 steps of a loop.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sodeep_fast.kernels import _config, _layouts
from sodeep_fast.kernels._arch import arch_of
from sodeep_fast.kernels._precisions import DTYPES
from sodeep_fast.kernels._products import operand_dtype


@triton.jit
def _load_channels(p, o_channel, b_column):
    """Loads a number for each channel."""
    return tl.load(p + o_channel, mask=b_column, other=0).to(tl.float32)


@triton.jit
def _load_scale(variance_ptr, gain_ptr, o_channel, b_column, eps):
    """Returns what batch normalization multiplies each channel by."""
    b_variance = _load_channels(variance_ptr, o_channel, b_column)
    b_scale = tl.div_rn(1.0, tl.sqrt_rn(b_variance + eps))
    if gain_ptr is not None:
        b_scale *= _load_channels(gain_ptr, o_channel, b_column)
    return b_scale


@triton.jit
def _activate(
    b_x, bias_ptr, mean_ptr, variance_ptr, gain_ptr, shift_ptr, slope_ptr, signs_ptr, o_signs,
    b_row, first, o_channel, b_column, words, eps, RELU: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Applies bias, normalization and activation to sums, and saves the activation's signs."""
    # What is added to a channel is one number, which takes fewer registers than its parts.
    b_added = tl.zeros([BLOCK_N], tl.float32)
    if bias_ptr is not None:
        b_added += _load_channels(bias_ptr, o_channel, b_column)
    if variance_ptr is not None:
        b_scale = _load_scale(variance_ptr, gain_ptr, o_channel, b_column, eps)
        b_added = (b_added - _load_channels(mean_ptr, o_channel, b_column)) * b_scale
        if shift_ptr is not None:
            b_added += _load_channels(shift_ptr, o_channel, b_column)
        b_x *= b_scale[None, :]
    b_x += b_added[None, :]
    if signs_ptr is not None:
        b_bits = tl.where(b_x > 0, 1 << (o_channel % 8)[None, :], 0)
        b_word = tl.sum(tl.reshape(b_bits, [BLOCK_M, BLOCK_N // 8, 8]), axis=2)
        o_word = first // 8 + tl.arange(0, BLOCK_N // 8)
        b_in = b_row[:, None] & (o_word < words)[None, :]
        tl.store(signs_ptr + o_signs[:, None] + o_word[None, :], b_word.to(tl.uint8), mask=b_in)
    if slope_ptr is not None:
        b_x = tl.where(b_x > 0, b_x, b_x * tl.load(slope_ptr).to(tl.float32))
    elif RELU:
        b_x = tl.maximum(b_x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return b_x


@triton.jit
def _differentiate(
    b_x, variance_ptr, gain_ptr, slope_ptr, signs_ptr, o_signs, b_row, o_number, b_column, channels,
    eps,
):  # fmt: skip
    """Multiplies gradients by the slopes of activation and normalization."""
    if signs_ptr is not None:
        p = signs_ptr + o_signs[:, None] + (o_number // 8)[None, :]
        b_word = tl.load(p, mask=b_row[:, None] & b_column[None, :], other=0).to(tl.int32)
        b_other = tl.zeros_like(b_x)
        if slope_ptr is not None:
            b_other = b_x * tl.load(slope_ptr).to(tl.float32)
        b_x = tl.where(((b_word >> (o_number % 8)[None, :]) & 1) != 0, b_x, b_other)
    if variance_ptr is not None:
        b_x *= _load_scale(variance_ptr, gain_ptr, o_number % channels, b_column, eps)[None, :]
    return b_x


@triton.jit
def _finish(
    b_x, bias_ptr, mean_ptr, variance_ptr, gain_ptr, shift_ptr, slope_ptr, signs_ptr, p_output,
    o_signs, b_row, first, width, of, words, eps, DERIVED: tl.constexpr, RELU: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Finishes and stores the sums of some channels."""
    o_number = first + tl.arange(0, BLOCK_N)
    b_column = o_number < width
    if DERIVED:
        b_x = _differentiate(
            b_x, variance_ptr, gain_ptr, slope_ptr, signs_ptr, o_signs, b_row, o_number, b_column,
            of, eps,
        )  # fmt: skip
    else:
        b_x = _activate(
            b_x, bias_ptr, mean_ptr, variance_ptr, gain_ptr, shift_ptr, slope_ptr, signs_ptr,
            o_signs, b_row, first, o_number, b_column, words, eps, RELU, BLOCK_M, BLOCK_N,
        )  # fmt: skip
    tl.store(p_output[:, None] + o_number[None, :], b_x, mask=b_row[:, None] & b_column[None, :])


@triton.jit(
    do_not_specialize=["rows", "entering", "leaving", "taps", "left", "words", "signs_row"],
    do_not_specialize_on_alignment=["signs_ptr"],
)
def conv_stack_kernel(
    input_ptr,  # [rows, entering, channels]
    weight_ptr,  # [width, taps, channels], or if REVERSED [channels, taps, width]
    bias_ptr,  # [of], like the next four; each may be None
    mean_ptr,
    variance_ptr,
    gain_ptr,
    shift_ptr,
    slope_ptr,  # [1], None for ReLU and for no activation
    signs_ptr,  # bytes of signs, rows signs_row apart: written, or read if DERIVED; or None
    output_ptr,  # [rows, leaving, width]
    rows,
    entering,  # positions
    leaving,
    channels,
    taps,
    left,  # zeros before the first position
    width,
    of,  # channels of the normalization, which divide width
    words,  # bytes of signs per position
    signs_row,
    eps,
    REVERSED: tl.constexpr,
    DERIVED: tl.constexpr,
    RELU: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    ALIGN: tl.constexpr,  # divides channels and width
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Multiplies the windows of a tile of positions by a tile of kernels."""
    if ALIGN > 1:  # so that the compiler knows how many numbers it may move at a time
        channels = channels // ALIGN * ALIGN
        width = width // ALIGN * ALIGN
    tiles = tl.cdiv(width, BLOCK_N)
    pid = tl.program_id(0)
    rows = rows.to(tl.int64)
    entering = entering.to(tl.int64)
    leaving = leaving.to(tl.int64)
    o_m = (pid // tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_number = pid % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    b_row = o_m < rows * leaving
    b_column = o_number < width
    o_row = o_m % rows
    o_position = o_m // rows

    # The part of every window that lies within the row.
    b_skipped = left - o_position.to(tl.int32)
    b_first = tl.maximum(b_skipped, 0) * channels
    b_end = tl.where(b_row, tl.minimum(b_skipped + entering.to(tl.int32), taps), 0) * channels
    depth = taps * channels
    begin = tl.min(tl.where(b_row, b_first, depth)) // BLOCK_K * BLOCK_K
    end = tl.max(b_end)
    p_input = input_ptr + ((o_row * entering + o_position - left) * channels)[:, None]
    b_sum = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(begin, end, BLOCK_K):
        o_k = start + tl.arange(0, BLOCK_K)
        b_in = (o_k[None, :] >= b_first[:, None]) & (o_k[None, :] < b_end[:, None])
        b_x = tl.load(p_input + o_k[None, :], mask=b_in, other=0)
        if REVERSED:
            o_tap = taps - 1 - o_k // channels
            o_weight = (o_k % channels).to(tl.int64) * taps + o_tap
            o_weight = o_weight[:, None] * width + o_number[None, :]
        else:
            o_weight = o_number.to(tl.int64)[None, :] * depth + o_k[:, None]
        b_in = (o_k < depth)[:, None] & b_column[None, :]
        b_w = tl.load(weight_ptr + o_weight, mask=b_in, other=0)
        b_sum = tl.dot(b_x.to(OPERAND), b_w.to(OPERAND), b_sum, input_precision=PRECISION)

    o_signs = o_row * signs_row + o_position * words
    p_output = output_ptr + (o_row * leaving + o_position) * width
    first = pid % tiles * BLOCK_N
    if BLOCK_N > 64:
        # One half after the other, or the parameters of all channels would fill the registers.
        b_halves = tl.permute(tl.reshape(b_sum, [BLOCK_M, 2, BLOCK_N // 2]), [0, 2, 1])
        b_left, b_right = tl.split(b_halves)
        _finish(
            b_left, bias_ptr, mean_ptr, variance_ptr, gain_ptr, shift_ptr, slope_ptr, signs_ptr,
            p_output, o_signs, b_row, first, width, of, words, eps, DERIVED, RELU, BLOCK_M,
            BLOCK_N // 2,
        )  # fmt: skip
        _finish(
            b_right, bias_ptr, mean_ptr, variance_ptr, gain_ptr, shift_ptr, slope_ptr, signs_ptr,
            p_output, o_signs, b_row, first + BLOCK_N // 2, width, of, words, eps, DERIVED, RELU,
            BLOCK_M, BLOCK_N // 2,
        )  # fmt: skip
    else:
        _finish(
            b_sum, bias_ptr, mean_ptr, variance_ptr, gain_ptr, shift_ptr, slope_ptr, signs_ptr,
            p_output, o_signs, b_row, first, width, of, words, eps, DERIVED, RELU, BLOCK_M, BLOCK_N,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=["rows", "positions", "words", "signs_row"],
    do_not_specialize_on_alignment=["signs_ptr"],
)
def conv_stack_slopes_kernel(
    input_ptr,  # [rows, positions, channels]
    variance_ptr,  # as above
    gain_ptr,
    slope_ptr,
    signs_ptr,
    output_ptr,  # [rows, positions, channels]
    rows,
    positions,
    channels,
    words,
    signs_row,
    eps,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Multiplies a gradient by the slopes of the last block, which no product follows."""
    tiles = tl.cdiv(channels, BLOCK_N)
    pid = tl.program_id(0)
    rows = rows.to(tl.int64)
    o_m = (pid // tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_channel = pid % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    b_row = o_m < rows * positions
    b_column = o_channel < channels
    o_number = (o_m * channels)[:, None] + o_channel[None, :]
    b_in = b_row[:, None] & b_column[None, :]
    b_x = tl.load(input_ptr + o_number, mask=b_in, other=0).to(tl.float32)
    b_x = _differentiate(
        b_x, variance_ptr, gain_ptr, slope_ptr, signs_ptr,
        o_m // positions * signs_row + o_m % positions * words, b_row, o_channel, b_column,
        channels, eps,
    )  # fmt: skip
    tl.store(output_ptr + o_number, b_x, mask=b_in)


class _Block:
    """The parameters of a block, and where the signs of its activation lie among a row's."""

    def __init__(
        self, parameters: Sequence[Any], left: int, eps: float, relu: bool, offset: int
    ) -> None:
        weight, *others, slope = parameters
        self.weight = weight.mT.contiguous()  # [width, taps, channels]
        self.width, self.taps, self.channels = self.weight.shape
        if any(value is not None and value.shape != (self.width,) for value in others):
            raise ValueError(f"parameters of a block must have {self.width} channels")
        others = [None if value is None else value.contiguous() for value in others]
        self.bias, self.mean, self.variance, self.gain, self.shift = others
        self.slope = slope
        self.left, self.eps, self.relu, self.offset = left, eps, relu, offset
        self.bends = relu or self.slope is not None

    def of_values(self, signs: Tensor | None) -> dict[str, Any]:
        """Returns the kernel arguments for normalization and activation, and for saving signs."""
        added = {"bias_ptr": self.bias, "mean_ptr": self.mean, "shift_ptr": self.shift}
        return {**self.of_slopes(signs), **added, "RELU": self.relu}

    def of_slopes(self, signs: Tensor | None) -> dict[str, Any]:
        """Returns the kernel arguments for multiplying by this block's slopes."""
        bytes_of = signs[:, self.offset :] if self.bends and signs is not None else None
        return {
            "variance_ptr": self.variance,
            "gain_ptr": self.gain,
            "slope_ptr": self.slope,
            "signs_ptr": bytes_of,
            "signs_row": 0 if bytes_of is None else bytes_of.stride(0),
            "eps": self.eps,
        }


PRODUCTS = {dtype: products for products, dtype in DTYPES.items()}
# Positions and channels of a program without a product: 8 numbers per thread.
SLOPES_TILE = (32, 32)
# What a kernel is passed for the parts that a block does not have.
NOTHING = {
    **dict.fromkeys(("bias_ptr", "mean_ptr", "variance_ptr", "gain_ptr", "shift_ptr")),
    **dict.fromkeys(("slope_ptr", "signs_ptr")),
    **{"signs_row": 0, "eps": 0.0, "RELU": False},
}


class _Stack:
    """The blocks, and how to launch a kernel for one of them."""

    def __init__(
        self,
        source: Tensor,
        entering: int,
        parameters: Sequence[Tensor | None],
        paddings: Sequence[int],
        eps: Sequence[float],
        relus: Sequence[bool],
        tf32: bool,
    ) -> None:
        self.positions, offsets = _layouts.conv_layout(entering, parameters, paddings, relus)
        self.signs_row = offsets.pop()
        step = _layouts.CONV_PARAMETERS
        self.blocks = [
            _Block(parameters[step * i : step * (i + 1)], paddings[2 * i], eps[i], relus[i], offset)
            for i, offset in enumerate(offsets)
        ]
        self.leading = source.shape[:-2]
        self.source = source.contiguous().view(self.leading.numel(), *source.shape[-2:])
        self.precision = "tf32" if tf32 else "tf32x3"

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Returns memory for `shape` numbers of every row, on the device of the source."""
        dtype = self.source.dtype if dtype is None else dtype
        return torch.empty((len(self.source), *shape), dtype=dtype, device=self.source.device)

    def restore(self, rows: Tensor) -> Tensor:
        """Returns a result with the leading dimensions of the source."""
        return rows.view(*self.leading, *rows.shape[1:])

    def convolve(self, hidden: Tensor, index: int, reverse: bool, **options: Any) -> Tensor:
        """Multiplies windows by the kernels of a block; `options` say how to finish the sums."""
        block = self.blocks[index]
        entering, leaving = self.positions[index : index + 2]
        width, taps, left = block.width, block.taps, block.left
        if reverse:
            entering, leaving = leaving, entering
            width, left = block.channels, taps - 1 - left
        rows, positions, channels = hidden.shape
        if (positions, channels) != (entering, block.width if reverse else block.channels):
            raise ValueError(
                f"a block of {tuple(block.weight.shape)} cannot take {tuple(hidden.shape)}"
            )
        output = self.empty(leaving, width)
        of = width
        if reverse and entering == 1 and taps == leaving and width % 8 == 0:
            # With one position, whose kernel sees the whole row, this is a plain product; windows
            # would be mostly zeros.
            width, leaving, taps, left = width * leaving, 1, 1, 0
        if rows == 0:
            return output
        full = hidden.dtype == torch.float32
        align = math.gcd(channels, width, 8)
        tile = _config.conv_blocks(
            full, rows * leaving, width, taps * channels, align, arch_of(hidden)
        )
        grid = (triton.cdiv(rows * leaving, tile.positions) * triton.cdiv(width, tile.channels),)
        with torch.cuda.device_of(hidden):
            conv_stack_kernel[grid](
                hidden,
                block.weight,
                output_ptr=output,
                rows=rows,
                entering=entering,
                leaving=leaving,
                channels=channels,
                taps=taps,
                left=left,
                width=width,
                of=of,
                words=triton.cdiv(width, 8),
                **{**NOTHING, **options},
                REVERSED=reverse,
                OPERAND=operand_dtype(PRODUCTS[hidden.dtype]),
                PRECISION=self.precision,
                ALIGN=align,
                BLOCK_M=tile.positions,
                BLOCK_N=tile.channels,
                BLOCK_K=tile.depth,
                num_warps=tile.warps,
                num_stages=tile.stages,
                maxnreg=tile.registers,
            )
        return output

    def multiply_by_slopes(self, grad: Tensor, signs: Tensor) -> Tensor:
        """Returns a gradient before the last block's normalization and activation."""
        last = self.blocks[-1]
        rows, positions, channels = grad.shape
        if grad.numel() == 0 or not (last.bends or last.variance is not None):
            return grad
        output = torch.empty_like(grad)
        tiles = triton.cdiv(rows * positions, SLOPES_TILE[0]), triton.cdiv(channels, SLOPES_TILE[1])
        with torch.cuda.device_of(grad):
            conv_stack_slopes_kernel[(math.prod(tiles),)](
                grad,
                output_ptr=output,
                rows=rows,
                positions=positions,
                channels=channels,
                words=triton.cdiv(channels, 8),
                **last.of_slopes(signs),
                BLOCK_M=SLOPES_TILE[0],
                BLOCK_N=SLOPES_TILE[1],
            )
        return output


def conv_stack(
    input: Tensor,
    parameters: Sequence[Tensor | None],
    paddings: Sequence[int],
    eps: Sequence[float],
    relus: Sequence[bool],
    saves: bool,
    tf32: bool,
) -> tuple[Tensor, Tensor]:
    """Implements the operator `triton_conv_stack`."""
    stack = _Stack(input, input.shape[-2], parameters, paddings, eps, relus, tf32)
    signs = stack.empty(stack.signs_row if saves else 0, dtype=torch.uint8)
    hidden = stack.source
    for index, block in enumerate(stack.blocks):
        options = block.of_values(signs if saves else None)
        hidden = stack.convolve(hidden, index, False, DERIVED=False, **options)
    return stack.restore(hidden), stack.restore(signs)


def conv_stack_backward(
    grad: Tensor,
    signs: Tensor,
    parameters: Sequence[Tensor | None],
    paddings: Sequence[int],
    eps: Sequence[float],
    relus: Sequence[bool],
    tf32: bool,
) -> Tensor:
    """Implements the operator `triton_conv_stack_backward`."""
    entering = _layouts.conv_entering(grad.shape[-2], parameters, paddings)
    stack = _Stack(grad, entering, parameters, paddings, eps, relus, tf32)
    signs = signs.contiguous().view(len(stack.source), stack.signs_row)
    hidden = stack.multiply_by_slopes(stack.source, signs)
    for index in reversed(range(len(stack.blocks))):
        options = stack.blocks[index - 1].of_slopes(signs) if index > 0 else {}
        hidden = stack.convolve(hidden, index, True, DERIVED=True, **options)
    return stack.restore(hidden)


def conv_stack_tangent(
    tangent: Tensor,
    signs: Tensor,
    parameters: Sequence[Tensor | None],
    paddings: Sequence[int],
    eps: Sequence[float],
    relus: Sequence[bool],
    tf32: bool,
) -> Tensor:
    """Implements the operator `triton_conv_stack_tangent`."""
    stack = _Stack(tangent, tangent.shape[-2], parameters, paddings, eps, relus, tf32)
    signs = signs.contiguous().view(len(stack.source), stack.signs_row)
    hidden = stack.source
    for index, block in enumerate(stack.blocks):
        hidden = stack.convolve(hidden, index, False, DERIVED=True, **block.of_slopes(signs))
    return stack.restore(hidden)
