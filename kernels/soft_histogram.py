"""The triangular-kernel histogram in Triton: forward, backward and the derivative along a tangent.

    h_lb   = sum over the items i of level l of max(0, 1 - |t_i - b|),   t_i = (s_i - low) * scale
    grad_i = scale (g_l,k+1 - g_lk),   k the bin below t_i and l the level of i
    d_lb   = scale * sum over i of v_i ([b = k_i + 1] - [b = k_i])

with t limited to the bins, and no slope beyond them. Revaud et al., Learning with Average
Precision, ICCV 2019.

There are no atomics, so every call gives the same bits. One program owns a slice of a row and a
block of bins of one level, and compares every item with every bin, which costs less than sorting
items by bin. Long rows have many slices, whose sums PyTorch adds up.

What it should cost on an H200 for 4096 rows of 4096 items, 2 levels and 20 bins, padded to 32, in
float32: 1.07e9 pairs of item and bin. Its 132 multiprocessors at 1.98 GHz issue 3.3e13 thread
instructions a second, and it copies 4.3 TB/s. None of this is measured; instructions are counted
in the inner loops compiled for sm_90.

    pass       launches   MB moved     instructions a pair    expected
    forward       1       170, 40 us   28, 910 us (21, 340 us with one level)   910 us
    backward      1       151, 35 us   no pairs: two loads an item              35 us
    tangent       1       300, 70 us   41, 1330 us                              1330 us

(512, 100) takes 4 us forward and 2 us backward, mostly for the launch. Rows with several slices
need one more launch, for PyTorch's sum.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sodeep_fast._checks import rank_dtype
from sodeep_fast.kernels import _config
from sodeep_fast.kernels._arch import arch_of
from sodeep_fast.kernels._dense import dense
from sodeep_fast.kernels._products import triton_dtype

MOST_PROGRAMS = 1 << 31  # of a launch, which has fewer


@triton.jit
def _load_items(
    scores_ptr, levels_ptr, offset, start, end, num_levels, BLOCK: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Loads items start .. start + BLOCK of a row: offsets, scores and levels.

    Items that do not exist, or are ignored, have level num_levels.
    """
    o_item = start + tl.arange(0, BLOCK)
    b_in = o_item < end
    o_item = offset + o_item
    b_s = tl.load(scores_ptr + o_item, mask=b_in, other=0).to(DTYPE)
    b_level = tl.where(b_in, 0, num_levels)
    if levels_ptr is not None:
        b_level = tl.load(levels_ptr + o_item, mask=b_in, other=255).to(tl.int32)
        b_level = tl.minimum(b_level, num_levels)
    return o_item, b_in, b_s, b_level


@triton.jit
def _locate(b_s, low, scale, bins, DTYPE: tl.constexpr):
    """Returns positions, the bins below them, and whether they are between first and last bin."""
    last = tl.full([1], bins - 1, tl.int32).to(DTYPE)
    b_raw = (b_s - tl.full([1], low, DTYPE)) * tl.full([1], scale, DTYPE)
    # NaN becomes 0, as it fails every comparison.
    b_t = tl.where(b_raw > 0, b_raw, 0.0)
    b_t = tl.where(b_t < last, b_t, last)
    b_below = tl.minimum(b_t.to(tl.int32), tl.maximum(bins - 2, 0))
    return b_t, b_below, (b_raw >= 0) & (b_raw <= last)


@triton.jit(do_not_specialize=["n", "num_levels", "bins"])
def soft_histogram_fwd_kernel(
    scores_ptr,  # [rows, n]
    levels_ptr,  # [rows, n] uint8, or None
    tangent_ptr,  # [rows, n], or None for the histogram itself
    out_ptr,  # [rows, slices, num_levels, bins]
    n,
    num_levels,
    bins,
    low: tl.float64,
    scale: tl.float64,
    DTYPE: tl.constexpr,
    SLICE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """Sums the shares of a slice's items of one level in a block of bins."""
    # The grid is below 2^31, so these divisions can be 32-bit; the products cannot.
    slices = tl.cdiv(n, SLICE).to(tl.int32)
    bin_blocks = tl.cdiv(bins, BLOCK_B)
    pid = tl.program_id(0)
    part = pid % (num_levels * bin_blocks)
    i_slice = pid // (num_levels * bin_blocks)
    level = part // bin_blocks
    o_bin = part % bin_blocks * BLOCK_B + tl.arange(0, BLOCK_B)
    offset = (i_slice // slices).to(tl.int64) * n
    begin = (i_slice % slices).to(tl.int64) * SLICE
    end = tl.minimum(begin + SLICE, n)

    b_sum = tl.zeros([BLOCK_N, BLOCK_B], DTYPE)
    b_nan = tl.zeros([BLOCK_N], tl.int32)
    for start in range(begin, end, BLOCK_N):
        o_item, b_in, b_s, b_level = _load_items(
            scores_ptr, levels_ptr, offset, start, end, num_levels, BLOCK_N, DTYPE
        )
        b_t, b_below, b_inside = _locate(b_s, low, scale, bins, DTYPE)
        b_nan |= ((b_s != b_s) & (b_level < num_levels)).to(tl.int32)
        b_counted = b_level == level
        if tangent_ptr is None:
            b_share = 1.0 - tl.abs(b_t[:, None] - o_bin[None, :].to(DTYPE))
            b_share = tl.where(b_counted[:, None] & (b_share > 0), b_share, 0.0)
        else:
            b_v = tl.load(tangent_ptr + o_item, mask=b_in, other=0).to(DTYPE)
            b_v = tl.where(b_counted & b_inside, b_v, 0.0)
            b_step = o_bin[None, :] - b_below[:, None]
            b_share = tl.where(b_step == 1, b_v[:, None], 0.0)
            b_share = tl.where(b_step == 0, -b_v[:, None], b_share)
        b_sum += b_share
    b_total = tl.sum(b_sum, axis=0)
    if tangent_ptr is not None:
        b_total = b_total * tl.full([1], scale, DTYPE)
    b_total = tl.where(tl.max(b_nan, axis=0) != 0, float("nan"), b_total)
    o_out = (i_slice.to(tl.int64) * num_levels + level) * bins + o_bin
    tl.store(out_ptr + o_out, b_total, mask=o_bin < bins)


@triton.jit(do_not_specialize=["n", "num_levels", "bins"])
def soft_histogram_bwd_kernel(
    grad_ptr,  # [rows, num_levels, bins]
    scores_ptr,  # [rows, n]
    levels_ptr,  # [rows, n] uint8, or None
    out_ptr,  # [rows, n] gradient of the scores
    n,
    num_levels,
    bins,
    low: tl.float64,
    scale: tl.float64,
    DTYPE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Writes every item's gradient: the slope of the bins' gradient between the two around it."""
    n_blocks = tl.cdiv(n, BLOCK_N).to(tl.int32)
    pid = tl.program_id(0)
    row = (pid // n_blocks).to(tl.int64)
    start = (pid % n_blocks).to(tl.int64) * BLOCK_N
    o_item, b_in, b_s, b_level = _load_items(
        scores_ptr, levels_ptr, row * n, start, n, num_levels, BLOCK_N, DTYPE
    )
    _, b_below, b_inside = _locate(b_s, low, scale, bins, DTYPE)
    b_counted = b_level < num_levels
    b_sloped = b_counted & b_inside & (bins > 1)
    o_bin = (row * num_levels + b_level) * bins + b_below
    b_lower = tl.load(grad_ptr + o_bin, mask=b_sloped, other=0).to(DTYPE)
    b_upper = tl.load(grad_ptr + o_bin + 1, mask=b_sloped, other=0).to(DTYPE)
    b_grad = (b_upper - b_lower) * tl.full([1], scale, DTYPE)
    b_grad = tl.where(b_counted & (b_s != b_s), float("nan"), b_grad)
    tl.store(out_ptr + o_item, b_grad, mask=b_in)


def _axis(compute: torch.dtype, bins: int, low: float, high: float) -> tuple[float, float]:
    """Returns low and the scale, bins per unit of score, within the range of `compute`."""
    most = torch.finfo(compute).max
    return max(-most, min(low, most)), min((bins - 1) / (high - low), most)


def _accumulate(
    scores: Tensor,
    tangent: Tensor | None,
    levels: Tensor | None,
    num_levels: int,
    bins: int,
    low: float,
    high: float,
) -> Tensor:
    compute = rank_dtype(scores)
    shape = (*scores.shape[:-1], num_levels, bins)
    if scores.numel() == 0:
        return torch.zeros(shape, dtype=compute, device=scores.device)
    n = scores.shape[-1]
    rows, slices = scores.numel() // n, triton.cdiv(n, _config.HISTOGRAM_SLICE)
    blocks = _config.histogram_blocks(compute == torch.float64, n, bins, arch_of(scores))
    grid = (rows * slices * num_levels * triton.cdiv(bins, blocks.bins),)
    if grid[0] >= MOST_PROGRAMS:
        raise ValueError(
            f"{rows} rows of {num_levels} levels and {bins} bins take {grid[0]} programs, and a "
            f"launch has fewer than {MOST_PROGRAMS}: give fewer rows at a time"
        )
    out = torch.empty((rows, slices, num_levels, bins), dtype=compute, device=scores.device)
    with torch.cuda.device_of(out):
        soft_histogram_fwd_kernel[grid](
            dense(scores), dense(levels), dense(tangent), out, n, num_levels, bins,
            *_axis(compute, bins, low, high),
            DTYPE=triton_dtype(compute), SLICE=_config.HISTOGRAM_SLICE, BLOCK_N=blocks.items,
            BLOCK_B=blocks.bins, num_warps=blocks.warps, maxnreg=_config.MAX_REGISTERS,
        )  # fmt: skip
    return out.sum(1).view(shape) if slices > 1 else out.view(shape)


def soft_histogram(scores: Tensor, levels: Tensor | None, *options: Any) -> Tensor:
    """Implements the operator `triton_soft_histogram`."""
    return _accumulate(scores, None, levels, *options)


def soft_histogram_tangent(
    tangent: Tensor, scores: Tensor, levels: Tensor | None, *options: Any
) -> Tensor:
    """Implements the operator `triton_soft_histogram_tangent`."""
    return _accumulate(scores, tangent, levels, *options)


def soft_histogram_backward(
    grad: Tensor,
    scores: Tensor,
    levels: Tensor | None,
    num_levels: int,
    bins: int,
    low: float,
    high: float,
) -> Tensor:
    """Implements the operator `triton_soft_histogram_backward`."""
    compute = rank_dtype(scores)
    out = torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)
    if out.numel() == 0:
        return out
    n = scores.shape[-1]
    block = _config.histogram_items(n)
    grid = (scores.numel() // n * triton.cdiv(n, block),)
    with torch.cuda.device_of(out):
        soft_histogram_bwd_kernel[grid](
            dense(grad), dense(scores), dense(levels), out, n, num_levels, bins,
            *_axis(compute, bins, low, high),
            DTYPE=triton_dtype(compute), BLOCK_N=block, maxnreg=_config.MAX_REGISTERS,
        )  # fmt: skip
    return out
