"""The pairwise sigmoid rank in Triton, all pairs: forward, backward and double backward.

    rank_i = 1 + sum over j != i of sigmoid(x_ji),          x_ji = lam (s_j - s_i)
    grad_k = lam sum over j of sigmoid'(x_jk) (g_j - g_k)
    h_m    = lam^2 sum over j of sigmoid''(x_jm) (g_j - g_m) (v_j - v_m)

over the valid j, where g is the gradient of the ranks, v the gradient of grad, and h the resulting
second gradient of the scores. SoDeep (Engilberge et al., CVPR 2019), eq. (11) and (12), plus one.

One program owns a tile of targets and walks over all sources of their rows, so nothing n x n exists
and each derivative is one launch. Every term is a fraction, and two fractions share one division
(a/b + c/d = (a d + c b) / (b d)), because the reciprocal is the slowest instruction of a pair.
Where a row spans at most `NARROW` powers of two, exp(x) is a product of one exponential per target
and one per source. In a wider row such factors would overflow or lose their low digits, so every
pair computes its own exponential. A row with a non-finite valid score is NaN; other rows are
unaffected.

What it should cost on an H200 in float32, with one launch per pass and negligible memory traffic
(0.6 and 10 MB at most): 132 multiprocessors at 1.98 GHz issue 3.3e13 thread instructions a second,
and 4.2e12 special-function results, of which a pair takes 1.5 to 2.5. None of this is measured;
instructions are counted in the inner loops compiled for sm_90, and tiles are padded.

                      (512, 100): 7 million pairs       (8, 100000): 8e10 pairs
    forward           22 instructions a pair, 5 us      19 instructions a pair, 46 ms
    backward          28, 6 us                          25, 60 ms
    of the backward   42, 9 us                          37, 89 ms

A launch and the scan of the row before the sums add 2 to 4 us each time.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sodeep_fast._checks import rank_dtype
from sodeep_fast.kernels import _config
from sodeep_fast.kernels._arch import arch_of
from sodeep_fast.kernels._compensated import FLUSH, two_sum
from sodeep_fast.kernels._dense import dense
from sodeep_fast.kernels._numbers import LOG2_E, SATURATED
from sodeep_fast.kernels._products import triton_dtype

# Exponents of a narrow row are at most half of this many powers of two, with relative errors of
# eps / 2. So a product of two exponentials has a relative error of at most 16 eps, and its sigmoid
# an error of 4 eps: n of them stay within the 4 eps n that they are allowed. This also bounds the
# denominators.
NARROW = tl.constexpr(46.0)


@triton.jit
def _load(p_rows, o_rows, b_row_in, start, n, BLOCK: tl.constexpr, DTYPE: tl.constexpr):
    """Loads columns start .. start + BLOCK of some rows, 0 where they do not exist."""
    o_n = tl.arange(0, BLOCK)
    left = tl.minimum(n - start, BLOCK).to(tl.int32)
    b_in = b_row_in[:, None] & (o_n < left)[None, :]
    return tl.load(p_rows + ((o_rows + start)[:, None] + o_n[None, :]), mask=b_in, other=0).to(
        DTYPE
    )


@triton.jit
def _load_valid(mask_ptr, o_rows, b_row_in, start, n, BLOCK: tl.constexpr):
    """Returns which of columns start .. start + BLOCK of some rows exist and are valid."""
    o_n = tl.arange(0, BLOCK)
    left = tl.minimum(n - start, BLOCK).to(tl.int32)
    b_valid = b_row_in[:, None] & (o_n < left)[None, :]
    if mask_ptr is not None:
        offsets = (o_rows + start)[:, None] + o_n[None, :]
        b_valid = b_valid & (tl.load(mask_ptr + offsets, mask=b_valid, other=0) != 0)
    return b_valid


@triton.jit
def _store(p_rows, mask_ptr, b_value, o_rows, b_row_in, start, n, BLOCK: tl.constexpr):
    """Stores columns start .. start + BLOCK of some rows, 0 where masked."""
    o_n = tl.arange(0, BLOCK)
    left = tl.minimum(n - start, BLOCK).to(tl.int32)
    b_in = b_row_in[:, None] & (o_n < left)[None, :]
    offsets = (o_rows + start)[:, None] + o_n[None, :]
    if mask_ptr is not None:
        b_valid = tl.load(mask_ptr + offsets, mask=b_in, other=0) != 0
        b_value = tl.where(b_valid, b_value, 0.0)
    tl.store(p_rows + offsets, b_value, mask=b_in)


@triton.jit
def _own(rows, n, BLOCK_R: tl.constexpr, BLOCK_I: tl.constexpr):
    """Returns this program's rows' offsets, which of the rows exist, and its first target."""
    # The grid is below 2^31, so this division can be 32-bit; the products cannot.
    n_blocks = tl.cdiv(n, BLOCK_I).to(tl.int32)
    pid = tl.program_id(0)
    i_row = (pid // n_blocks).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    return i_row * n, i_row < rows, (pid % n_blocks).to(tl.int64) * BLOCK_I


@triton.jit
def _survey(
    scores_ptr, mask_ptr, o_rows, b_row_in, n, BLOCK_R: tl.constexpr, BLOCK: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Returns each row's count of valid scores, whether all are finite, its middle and its span.

    Middle and span, like all scores that kernels use, are halved, so that no difference overflows.
    """
    b_count = tl.zeros([BLOCK_R, BLOCK], tl.int32)
    b_bad = tl.zeros([BLOCK_R, BLOCK], tl.int32)
    b_low = tl.full([BLOCK_R, BLOCK], float("inf"), DTYPE)
    b_high = tl.full([BLOCK_R, BLOCK], float("-inf"), DTYPE)
    for start in range(0, n, BLOCK):
        b_s = 0.5 * _load(scores_ptr, o_rows, b_row_in, start, n, BLOCK, DTYPE)
        b_valid = _load_valid(mask_ptr, o_rows, b_row_in, start, n, BLOCK)
        b_used = b_valid & (tl.abs(b_s) < float("inf"))
        b_count += b_valid.to(tl.int32)
        b_bad |= b_valid.to(tl.int32) - b_used.to(tl.int32)
        b_low = tl.minimum(b_low, tl.where(b_used, b_s, float("inf")))
        b_high = tl.maximum(b_high, tl.where(b_used, b_s, float("-inf")))
    low = tl.min(b_low, axis=1)
    high = tl.max(b_high, axis=1)
    some = low <= high
    low = tl.where(some, low, 0.0)
    high = tl.where(some, high, 0.0)
    middle = 0.5 * (low + high)
    return tl.sum(b_count, axis=1), tl.max(b_bad, axis=1) == 0, middle[:, None], high - low


@triton.jit
def _scores(
    scores_ptr, mask_ptr, o_rows, b_row_in, start, n, middle, BLOCK: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Loads columns start .. start + BLOCK: half scores, the middle where invalid, and weights."""
    b_valid = _load_valid(mask_ptr, o_rows, b_row_in, start, n, BLOCK)
    b_s = 0.5 * _load(scores_ptr, o_rows, b_row_in, start, n, BLOCK, DTYPE)
    return tl.where(b_valid, b_s, middle), b_valid.to(DTYPE)


@triton.jit
def _flush(total, error, b_sum):
    """Adds a tile's sums to a total that carries its rounding error."""
    return two_sum(total, error, tl.sum(b_sum, axis=1))


@triton.jit
def _sigmoid_fraction(b_w, b_s, b_t, rate, middle, b_up, narrow: tl.constexpr):
    """sigmoid(x) = 1 / (1 + exp(-x)) times the weight, as numerator [R, J, 1] and denominator."""
    if narrow:
        b_down = tl.exp2(rate * (middle - b_s))
        b_power = b_up[:, None, :] * b_down[:, :, None]
    else:
        b_minus_x = rate[:, :, None] * (b_t[:, None, :] - b_s[:, :, None])
        b_power = tl.exp2(tl.minimum(b_minus_x, SATURATED))
    return b_w[:, :, None], 1.0 + b_power


@triton.jit
def _slope_fraction(b_w, b_s, b_h, b_t, b_g, rate, middle, b_up, narrow: tl.constexpr):
    """sigmoid'(x) (g_j - g_k): 1 / (exp(x) + 2 + exp(-x)), or u / (1 + u)^2 with u = exp(-|x|)."""
    b_numerator = b_w[:, :, None] * (b_h[:, :, None] - b_g[:, None, :])
    if narrow:
        b_shift = rate * (middle - b_s)
        b_power = b_up[:, None, :] * tl.exp2(b_shift)[:, :, None]
        b_inverse = (1.0 / b_up)[:, None, :] * tl.exp2(-b_shift)[:, :, None]
        b_denominator = b_power + (b_inverse + 2.0)
    else:
        b_x = rate[:, :, None] * (b_t[:, None, :] - b_s[:, :, None])
        b_u = tl.exp2(-tl.abs(b_x))
        b_numerator = b_numerator * b_u
        b_denominator = (1.0 + b_u) * (1.0 + b_u)
    return b_numerator, b_denominator


@triton.jit
def _curve_fraction(b_w, b_s, b_h, b_q, b_t, b_g, b_v, rate):
    """sigmoid''(x) (g_j - g_m) (v_j - v_m), sigmoid'' = -sign(x) u (1 - u) / (1 + u)^3."""
    b_minus_x = rate[:, :, None] * (b_t[:, None, :] - b_s[:, :, None])
    b_u = tl.exp2(-tl.abs(b_minus_x))
    b_moment = (b_h[:, :, None] - b_g[:, None, :]) * (b_q[:, :, None] - b_v[:, None, :])
    b_curve = b_w[:, :, None] * (b_u - b_u * b_u)
    b_curve = tl.where(b_minus_x < 0, -b_curve, b_curve)
    b_one = 1.0 + b_u
    return b_curve * b_moment, b_one * b_one * b_one


@triton.jit
def _ranks(
    scores_ptr, mask_ptr, o_rows, b_row_in, n, b_t, rate, middle, narrow: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Sums sigmoid over all sources for a tile of targets."""
    b_up = b_t
    if narrow:
        b_up = tl.exp2(rate * (b_t - middle))
    total = tl.zeros([BLOCK_R, BLOCK_I], DTYPE)
    error = tl.zeros([BLOCK_R, BLOCK_I], DTYPE)
    chunk: tl.constexpr = FLUSH * 2 * BLOCK_J
    for chunk_start in range(0, n, chunk):
        b_sum = tl.zeros([BLOCK_R, BLOCK_J, BLOCK_I], DTYPE)
        for start in range(chunk_start, tl.minimum(chunk_start + chunk, n), 2 * BLOCK_J):
            b_s, b_w = _scores(
                scores_ptr, mask_ptr, o_rows, b_row_in, start, n, middle, BLOCK_J, DTYPE
            )
            b_a, b_b = _sigmoid_fraction(b_w, b_s, b_t, rate, middle, b_up, narrow)
            b_s, b_w = _scores(
                scores_ptr, mask_ptr, o_rows, b_row_in, start + BLOCK_J, n, middle, BLOCK_J, DTYPE
            )
            b_c, b_d = _sigmoid_fraction(b_w, b_s, b_t, rate, middle, b_up, narrow)
            b_sum += (b_a * b_d + b_c * b_b) / (b_b * b_d)
        total, error = _flush(total, error, b_sum)
    return total + (error + 0.5)


@triton.jit
def _slopes(
    grad_ptr, scores_ptr, mask_ptr, o_rows, b_row_in, n, b_t, b_g, rate, middle,
    narrow: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Sums sigmoid' times the differences of g over all sources for a tile of targets."""
    b_up = b_t
    if narrow:
        b_up = tl.exp2(rate * (b_t - middle))
    total = tl.zeros([BLOCK_R, BLOCK_I], DTYPE)
    error = tl.zeros([BLOCK_R, BLOCK_I], DTYPE)
    chunk: tl.constexpr = FLUSH * 2 * BLOCK_J
    for chunk_start in range(0, n, chunk):
        b_sum = tl.zeros([BLOCK_R, BLOCK_J, BLOCK_I], DTYPE)
        for start in range(chunk_start, tl.minimum(chunk_start + chunk, n), 2 * BLOCK_J):
            b_s, b_w = _scores(
                scores_ptr, mask_ptr, o_rows, b_row_in, start, n, middle, BLOCK_J, DTYPE
            )
            b_h = _gradients(grad_ptr, mask_ptr, o_rows, b_row_in, start, n, BLOCK_J, DTYPE)
            b_a, b_b = _slope_fraction(b_w, b_s, b_h, b_t, b_g, rate, middle, b_up, narrow)
            b_s, b_w = _scores(
                scores_ptr, mask_ptr, o_rows, b_row_in, start + BLOCK_J, n, middle, BLOCK_J, DTYPE
            )
            b_h = _gradients(
                grad_ptr, mask_ptr, o_rows, b_row_in, start + BLOCK_J, n, BLOCK_J, DTYPE
            )
            b_c, b_d = _slope_fraction(b_w, b_s, b_h, b_t, b_g, rate, middle, b_up, narrow)
            b_sum += (b_a * b_d + b_c * b_b) / (b_b * b_d)
        total, error = _flush(total, error, b_sum)
    return total + error


@triton.jit
def _gradients(
    grad_ptr, mask_ptr, o_rows, b_row_in, start, n, BLOCK: tl.constexpr, DTYPE: tl.constexpr
):
    """Loads columns of an incoming gradient, 0 where masked, where it may be NaN."""
    b_g = _load(grad_ptr, o_rows, b_row_in, start, n, BLOCK, DTYPE)
    if mask_ptr is not None:
        b_valid = _load_valid(mask_ptr, o_rows, b_row_in, start, n, BLOCK)
        b_g = tl.where(b_valid, b_g, 0.0)
    return b_g


@triton.jit(do_not_specialize=["rows", "n"])
def soft_rank_fwd_kernel(
    scores_ptr,  # [rows, n]
    mask_ptr,  # [rows, n] bool, or None
    ranks_ptr,  # [rows, n]
    rows,
    n,
    lam: tl.float64,
    NORMALIZE: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """rank_i = 1/2 + sum over valid j of sigmoid(lam (s_j - s_i)): j = i adds the other half."""
    n = n.to(tl.int64)
    o_rows, b_row_in, start = _own(rows, n, BLOCK_R, BLOCK_I)
    count, finite, middle, span = _survey(
        scores_ptr, mask_ptr, o_rows, b_row_in, n, BLOCK_R, 2 * BLOCK_J, DTYPE
    )
    b_t, _ = _scores(scores_ptr, mask_ptr, o_rows, b_row_in, start, n, middle, BLOCK_I, DTYPE)
    rate = tl.full([1, 1], lam * (2 * LOG2_E), DTYPE)
    if tl.max(span, axis=0) * tl.max(rate) <= NARROW:
        b_rank = _ranks(
            scores_ptr, mask_ptr, o_rows, b_row_in, n, b_t, rate, middle, True,
            BLOCK_R, BLOCK_I, BLOCK_J, DTYPE,
        )  # fmt: skip
    else:
        b_rank = _ranks(
            scores_ptr, mask_ptr, o_rows, b_row_in, n, b_t, rate, middle, False,
            BLOCK_R, BLOCK_I, BLOCK_J, DTYPE,
        )  # fmt: skip
    if NORMALIZE:
        b_rank = b_rank / tl.maximum(count, 1).to(DTYPE)[:, None]
    b_rank = tl.where(finite[:, None], b_rank, float("nan"))
    _store(ranks_ptr, mask_ptr, b_rank, o_rows, b_row_in, start, n, BLOCK_I)


@triton.jit(do_not_specialize=["rows", "n"])
def soft_rank_bwd_kernel(
    grad_ptr,  # [rows, n] gradient of the ranks
    scores_ptr,  # [rows, n]
    mask_ptr,  # [rows, n] bool, or None
    out_ptr,  # [rows, n] gradient of the scores
    rows,
    n,
    lam: tl.float64,
    NORMALIZE: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """grad_k = lam sum over valid j of sigmoid'(lam (s_j - s_k)) (g_j - g_k)."""
    n = n.to(tl.int64)
    o_rows, b_row_in, start = _own(rows, n, BLOCK_R, BLOCK_I)
    count, finite, middle, span = _survey(
        scores_ptr, mask_ptr, o_rows, b_row_in, n, BLOCK_R, 2 * BLOCK_J, DTYPE
    )
    b_t, _ = _scores(scores_ptr, mask_ptr, o_rows, b_row_in, start, n, middle, BLOCK_I, DTYPE)
    b_g = _gradients(grad_ptr, mask_ptr, o_rows, b_row_in, start, n, BLOCK_I, DTYPE)
    rate = tl.full([1, 1], lam * (2 * LOG2_E), DTYPE)
    if tl.max(span, axis=0) * tl.max(rate) <= NARROW:
        b_sum = _slopes(
            grad_ptr, scores_ptr, mask_ptr, o_rows, b_row_in, n, b_t, b_g, rate, middle, True,
            BLOCK_R, BLOCK_I, BLOCK_J, DTYPE,
        )  # fmt: skip
    else:
        b_sum = _slopes(
            grad_ptr, scores_ptr, mask_ptr, o_rows, b_row_in, n, b_t, b_g, rate, middle, False,
            BLOCK_R, BLOCK_I, BLOCK_J, DTYPE,
        )  # fmt: skip
    b_grad = tl.full([1, 1], lam, DTYPE) * b_sum
    if NORMALIZE:
        b_grad = b_grad / tl.maximum(count, 1).to(DTYPE)[:, None]
    b_grad = tl.where(finite[:, None], b_grad, float("nan"))
    _store(out_ptr, mask_ptr, b_grad, o_rows, b_row_in, start, n, BLOCK_I)


@triton.jit(do_not_specialize=["rows", "n"])
def soft_rank_bwd_bwd_kernel(
    grad_grad_ptr,  # [rows, n] gradient of the scores' gradient
    grad_ptr,  # [rows, n] gradient of the ranks
    scores_ptr,  # [rows, n]
    mask_ptr,  # [rows, n] bool, or None
    out_ptr,  # [rows, n] second gradient of the scores
    rows,
    n,
    lam: tl.float64,
    NORMALIZE: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """h_m = lam^2 sum over valid j of sigmoid''(lam (s_j - s_m)) (g_j - g_m) (v_j - v_m)."""
    n = n.to(tl.int64)
    o_rows, b_row_in, start = _own(rows, n, BLOCK_R, BLOCK_I)
    count, finite, middle, _ = _survey(
        scores_ptr, mask_ptr, o_rows, b_row_in, n, BLOCK_R, 2 * BLOCK_J, DTYPE
    )
    b_t, _ = _scores(scores_ptr, mask_ptr, o_rows, b_row_in, start, n, middle, BLOCK_I, DTYPE)
    b_g = _gradients(grad_ptr, mask_ptr, o_rows, b_row_in, start, n, BLOCK_I, DTYPE)
    b_v = _gradients(grad_grad_ptr, mask_ptr, o_rows, b_row_in, start, n, BLOCK_I, DTYPE)
    rate = tl.full([1, 1], lam * (2 * LOG2_E), DTYPE)
    total = tl.zeros([BLOCK_R, BLOCK_I], DTYPE)
    error = tl.zeros([BLOCK_R, BLOCK_I], DTYPE)
    chunk: tl.constexpr = FLUSH * BLOCK_J
    for chunk_start in range(0, n, chunk):
        b_sum = tl.zeros([BLOCK_R, BLOCK_J, BLOCK_I], DTYPE)
        for i in range(chunk_start, tl.minimum(chunk_start + chunk, n), BLOCK_J):
            b_s, b_w = _scores(scores_ptr, mask_ptr, o_rows, b_row_in, i, n, middle, BLOCK_J, DTYPE)
            b_h = _gradients(grad_ptr, mask_ptr, o_rows, b_row_in, i, n, BLOCK_J, DTYPE)
            b_q = _gradients(grad_grad_ptr, mask_ptr, o_rows, b_row_in, i, n, BLOCK_J, DTYPE)
            b_a, b_b = _curve_fraction(b_w, b_s, b_h, b_q, b_t, b_g, b_v, rate)
            b_sum += b_a / b_b
        total, error = _flush(total, error, b_sum)
    slope = tl.full([1, 1], lam, DTYPE)
    b_second = slope * (slope * (total + error))
    if NORMALIZE:
        b_second = b_second / tl.maximum(count, 1).to(DTYPE)[:, None]
    b_second = tl.where(finite[:, None], b_second, float("nan"))
    _store(out_ptr, mask_ptr, b_second, o_rows, b_row_in, start, n, BLOCK_I)


def _launch(
    kernel: Any, buffers: tuple[Tensor | None, ...], out: Tensor, lam: float, **flags: Any
) -> None:
    """Runs one pairwise kernel over every row of `out`, on its device."""
    n = out.shape[-1]
    if out.numel() == 0:
        return
    rows = out.numel() // n
    compute = rank_dtype(out)
    blocks = _config.pairwise_blocks(compute == torch.float64, n, arch_of(out))
    grid = (triton.cdiv(rows, blocks.rows) * triton.cdiv(n, blocks.targets),)
    # The kernels hold 2 lam / log 2 in `compute`, where it must stay finite.
    lam = min(lam, torch.finfo(compute).max / 4)
    with torch.cuda.device_of(out):
        kernel[grid](
            *map(dense, buffers),
            out,
            rows,
            n,
            lam,
            **flags,
            BLOCK_R=blocks.rows,
            BLOCK_I=blocks.targets,
            BLOCK_J=blocks.sources,
            num_warps=blocks.warps,
            maxnreg=_config.MAX_REGISTERS,
        )


def soft_rank(
    scores: Tensor, mask: Tensor | None, lam: float, normalize: bool, method: str
) -> Tensor:
    """Implements the operator `triton_soft_rank`; there is one method, all pairs."""
    ranks = torch.empty(scores.shape, dtype=rank_dtype(scores), device=scores.device)
    flags = {"NORMALIZE": normalize, "DTYPE": triton_dtype(rank_dtype(scores))}
    _launch(soft_rank_fwd_kernel, (scores, mask), ranks, lam, **flags)
    return ranks


def soft_rank_backward(
    grad: Tensor, scores: Tensor, mask: Tensor | None, lam: float, normalize: bool, method: str
) -> Tensor:
    """Implements the operator `triton_soft_rank_backward`."""
    out = torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)
    flags = {"NORMALIZE": normalize, "DTYPE": triton_dtype(rank_dtype(scores))}
    _launch(soft_rank_bwd_kernel, (grad, scores, mask), out, lam, **flags)
    return out


def soft_rank_double_backward(
    grad_grad: Tensor,
    grad: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    lam: float,
    normalize: bool,
    method: str,
) -> Tensor:
    """Implements the operator `triton_soft_rank_double_backward`."""
    out = torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)
    flags = {"NORMALIZE": normalize, "DTYPE": triton_dtype(rank_dtype(scores))}
    _launch(soft_rank_bwd_bwd_kernel, (grad_grad, grad, scores, mask), out, lam, **flags)
    return out
