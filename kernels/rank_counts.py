"""The rank counts and their derivatives in Triton: every target against every item of its row.

    counts    N[i, l] = sum over the items k of level l of H(s_k - s_i)
    tangent   sum over the items k of level l of H'(s_k - s_i) (v_k - v_i)
    backward  for item k, sum over the targets i of g[i, l_k] H'(s_k - s_i), minus, if k is a
              target, its own sum over the items m of g[k, l_m] H'(s_m - s_k)
    double    the same with H''(s_k - s_i) (v_k - v_i) in place of H'(s_k - s_i)

A target does not count itself; H may differ for items of a lower, the same and a higher level. x =
s_k - s_i is compared with 0 and delta in the scores' own precision. The sigmoid takes the
difference of halved scores, which never overflows, and two pairs share a division.

A program takes a few targets of one row and walks over its items. The number of targets per row is
only known on the device, so the grid has a slot for every few targets plus one for every row, and a
program finds its row by search. If the targets of a row fit in one program, its backward is one
walk. Otherwise that walk computes each target's own sum, and a second kernel, whose programs own
items and walk over the targets, writes the gradient. There are no atomic additions. A row with
targets and an unmasked non-finite score is NaN; other rows are unaffected.

What it should cost on an H200 for 4096 rows of 4096 items, 4 targets in each, 2 levels, float32:
67 million pairs. It copies 4.3 TB/s; its 132 multiprocessors at 1.98 GHz issue 3.3e13 thread
instructions a second, and 4.2e12 special-function results, of which a pair takes 1.5. None of this
is measured; instructions are counted in the inner loops compiled for sm_90.

    pass       launches   MB moved    special   instructions a pair   expected, the largest of these
    counts        1       84, 20 us    24 us    23, 45 us (SupAP 33)  45 us (SupAP 66 us)
    tangent       1      151, 35 us    24 us    29, 58 us             58 us
    backward      2      151, 35 us    24 us    28, 56 us (SupAP 34)  60 us, 4 of them the second
    double        2      218, 51 us    24 us    35, 70 us             74 us, 4 of them the second

In rows with more than TARGETS targets the backward visits a pair twice, in 28 and 36 instructions.
The counts visit all pairs again for every LEVELS levels. Fewer than about 500 groups of TARGETS
targets leave a large GPU partly idle, as no row is split among programs.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sodeep_fast._checks import rank_dtype
from sodeep_fast.kernels import _config
from sodeep_fast.kernels._arch import arch_of
from sodeep_fast.kernels._comparators import compare, encode_comparators, load_comparators
from sodeep_fast.kernels._compensated import FLUSH, collect, two_sum
from sodeep_fast.kernels._dense import dense
from sodeep_fast.kernels._products import triton_dtype

# Rows tested at a time in the search for a slot's row.
WAYS = tl.constexpr(128)
MOST_ITEMS = 1 << 30  # columns are 32-bit in the kernels


@triton.jit
def _row_of_slot(offsets_ptr, rows, stride, TARGETS: tl.constexpr):
    """Returns this program's row, its first target, and where the row's targets begin and end.

    The slots of row b begin at offsets[b] // TARGETS + b, which leaves it enough of them.
    """
    slot = tl.program_id(0).to(tl.int64)
    row = slot * 0
    while stride > 0:
        b_row = row + stride * tl.arange(0, WAYS)
        b_in = b_row < rows
        b_slot = tl.load(offsets_ptr + b_row, mask=b_in, other=0) // TARGETS + b_row
        row += stride * (tl.sum((b_in & (b_slot <= slot)).to(tl.int64)) - 1)
        stride = stride // WAYS
    begin = tl.load(offsets_ptr + row)
    end = tl.load(offsets_ptr + row + 1)
    return row, begin + TARGETS * (slot - (begin // TARGETS + row)), begin, end


@triton.jit
def _load_targets(
    scores_ptr, tangent_ptr, levels_ptr, columns_ptr, o_row, first, end, num_levels,
    TARGETS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Loads targets, [TARGETS, 1, 1]: number, whether they take part, column, level, score, v."""
    b_i = first + tl.arange(0, TARGETS)[:, None, None]
    b_in = b_i < end
    b_column = tl.load(columns_ptr + b_i, mask=b_in, other=0)
    b_level = tl.load(levels_ptr + o_row + b_column, mask=b_in, other=255).to(tl.int32)
    b_part = b_level < num_levels
    b_s = tl.load(scores_ptr + o_row + b_column, mask=b_part, other=0).to(DTYPE)
    b_v = b_s
    if tangent_ptr is not None:
        b_v = tl.load(tangent_ptr + o_row + b_column, mask=b_part, other=0).to(DTYPE)
    return b_i, b_part, b_column.to(tl.int32), b_level, b_s, b_v


@triton.jit
def _load_items(
    scores_ptr, tangent_ptr, levels_ptr, o_row, start, items, num_levels, ITEMS: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Loads items, [1, 1, ITEMS]: column, whether they take part, level, and score and v, or 0."""
    b_k = start + tl.arange(0, ITEMS)[None, None, :]
    b_in = b_k < items
    b_level = tl.load(levels_ptr + o_row + b_k, mask=b_in, other=255).to(tl.int32)
    b_part = b_level < num_levels
    b_s = tl.load(scores_ptr + o_row + b_k, mask=b_in, other=0).to(DTYPE)
    b_s = tl.where(b_part, b_s, 0.0)
    b_v = b_s
    if tangent_ptr is not None:
        b_v = tl.load(tangent_ptr + o_row + b_k, mask=b_in, other=0).to(DTYPE)
        b_v = tl.where(b_part, b_v, 0.0)
    return b_k, b_part, b_level, b_s, b_v


@triton.jit
def _weighted(
    grad_ptr, num_levels, targets, things, comparators, KINDS: tl.constexpr, ORDER: tl.constexpr,
    TARGETS: tl.constexpr, ITEMS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """g[i, l_k] H'(s_k - s_i), or g[i, l_k] H''(s_k - s_i) (v_k - v_i); 0 for i = k."""
    b_i, b_taken, b_column, b_own, b_t, b_u = targets
    b_k, b_part, b_level, b_s, b_v = things
    b_counted = b_taken & b_part & (b_k != b_column)
    b_g = tl.load(grad_ptr + (b_i * num_levels + b_level), mask=b_counted, other=0).to(DTYPE)
    if ORDER == 2:
        b_g = b_g * (b_v - b_u)
    return b_g * compare(b_s, b_level, b_t, b_own, comparators, KINDS, ORDER, TARGETS, ITEMS)


@triton.jit
def _fold(b_term):
    """Adds the two halves of a tile of items, which are in the same threads."""
    halves: tl.constexpr = [b_term.shape[0], b_term.shape[1], 2, b_term.shape[2] // 2]
    return tl.sum(tl.reshape(b_term, halves), axis=2)


@triton.jit
def _spoilt(b_s):
    """1 where a score is infinite or NaN, else 0."""
    return 1 - (tl.abs(b_s) < float("inf")).to(tl.int32)


@triton.jit(do_not_specialize=["comparators", "rows", "items", "num_levels", "stride"])
def rank_counts_fwd_kernel(
    scores_ptr,  # [rows, items]
    tangent_ptr,  # [rows, items] v, or None
    levels_ptr,  # [rows, items] uint8
    columns_ptr,  # [all targets] int64
    offsets_ptr,  # [rows + 1] int64: where each row's targets begin
    out_ptr,  # [all targets, num_levels]
    comparators,  # see encode_comparators
    rows,
    items,
    num_levels,
    stride,  # of the first step of _row_of_slot
    KINDS: tl.constexpr,
    DTYPE: tl.constexpr,
    TARGETS: tl.constexpr,
    LEVELS: tl.constexpr,
    ITEMS: tl.constexpr,
):
    """Writes the counts of a few targets and levels or, given v, their derivative along v."""
    ORDER: tl.constexpr = 0 if tangent_ptr is None else 1
    row, first, _begin, end = _row_of_slot(offsets_ptr, rows, stride, TARGETS)
    if first >= end:
        return
    o_row = row * items
    numbers = load_comparators(comparators, len(KINDS), DTYPE)
    b_i, b_taken, b_column, b_own, b_t, b_u = _load_targets(
        scores_ptr, tangent_ptr, levels_ptr, columns_ptr, o_row, first, end, num_levels,
        TARGETS, DTYPE,
    )  # fmt: skip
    b_l = tl.program_id(1) * LEVELS + tl.arange(0, LEVELS)[None, :, None]
    total = tl.zeros([TARGETS, LEVELS, ITEMS // 2], DTYPE)
    error = tl.zeros([TARGETS, LEVELS, ITEMS // 2], DTYPE)
    b_spoilt = tl.zeros([1, 1, ITEMS], tl.int32)
    for chunk in range(0, items, FLUSH * ITEMS):
        b_sum = tl.zeros([TARGETS, LEVELS, ITEMS // 2], DTYPE)
        for start in range(chunk, tl.minimum(chunk + FLUSH * ITEMS, items), ITEMS):
            b_k, _part, b_level, b_s, b_v = _load_items(
                scores_ptr, tangent_ptr, levels_ptr, o_row, start, items, num_levels,
                ITEMS, DTYPE,
            )  # fmt: skip
            b_spoilt |= _spoilt(b_s)
            b_h = compare(b_s, b_level, b_t, b_own, numbers, KINDS, ORDER, TARGETS, ITEMS)
            if ORDER == 1:
                b_h = b_h * (b_v - b_u)
            b_h = tl.where(b_k == b_column, 0.0, b_h)
            b_sum += _fold(tl.where(b_level == b_l, b_h, 0.0))
        total, error = two_sum(total, error, b_sum)
    b_count = collect(total, error, 2)
    b_count = tl.where(b_taken, b_count, 0.0)
    b_count = tl.where(tl.max(b_spoilt) > 0, float("nan"), b_count)
    b_stored = (b_i < end) & (b_l < num_levels)
    tl.store(out_ptr + (b_i * num_levels + b_l), b_count, mask=b_stored)


@triton.jit(do_not_specialize=["comparators", "rows", "items", "num_levels", "stride"])
def rank_counts_bwd_targets_kernel(
    tangent_ptr,  # [rows, items] v, or None
    grad_ptr,  # [all targets, num_levels] g
    scores_ptr,  # [rows, items]
    levels_ptr,  # [rows, items] uint8
    columns_ptr,  # [all targets] int64
    offsets_ptr,  # [rows + 1] int64: where each row's targets begin
    own_ptr,  # [all targets] each target's own sum, for rows with more than TARGETS
    spoilt_ptr,  # [rows] int32: 1 if a score is not finite, for rows with more than TARGETS
    out_ptr,  # [rows, items] the gradient of the scores, for rows with 1 to TARGETS targets
    comparators,  # see encode_comparators
    rows,
    items,
    num_levels,
    stride,  # of the first step of _row_of_slot
    KINDS: tl.constexpr,
    DTYPE: tl.constexpr,
    TARGETS: tl.constexpr,
    ITEMS: tl.constexpr,
):
    """Writes the gradient of a row's scores or, given v, of its product with v; or part of it."""
    ORDER: tl.constexpr = 1 if tangent_ptr is None else 2
    row, first, begin, end = _row_of_slot(offsets_ptr, rows, stride, TARGETS)
    if first >= end:
        return
    is_whole = end - begin <= TARGETS
    o_row = row * items
    numbers = load_comparators(comparators, len(KINDS), DTYPE)
    targets = _load_targets(
        scores_ptr, tangent_ptr, levels_ptr, columns_ptr, o_row, first, end, num_levels,
        TARGETS, DTYPE,
    )  # fmt: skip
    total = tl.zeros([TARGETS, 1, ITEMS // 2], DTYPE)
    error = tl.zeros([TARGETS, 1, ITEMS // 2], DTYPE)
    b_spoilt = tl.zeros([1, 1, ITEMS], tl.int32)
    for chunk in range(0, items, FLUSH * ITEMS):
        b_sum = tl.zeros([TARGETS, 1, ITEMS // 2], DTYPE)
        for start in range(chunk, tl.minimum(chunk + FLUSH * ITEMS, items), ITEMS):
            things = _load_items(
                scores_ptr, tangent_ptr, levels_ptr, o_row, start, items, num_levels, ITEMS, DTYPE
            )
            b_spoilt |= _spoilt(things[3])
            b_term = _weighted(
                grad_ptr, num_levels, targets, things, numbers, KINDS, ORDER, TARGETS, ITEMS,
                DTYPE,
            )  # fmt: skip
            b_sum += _fold(b_term)
            b_out = tl.sum(b_term, axis=0, keep_dims=True)
            b_stored = (things[0] < items) & is_whole
            tl.store(out_ptr + o_row + things[0], b_out, mask=b_stored)
        total, error = two_sum(total, error, b_sum)
    b_own = collect(total, error, 2)
    is_spoilt = tl.max(b_spoilt)
    if is_whole:
        # Here this program reads and changes what it stored above.
        tl.debug_barrier()
        p_out = out_ptr + o_row + targets[2]
        b_out = tl.load(p_out, mask=targets[1], other=0)
        tl.store(p_out, b_out - b_own, mask=targets[1])
        if is_spoilt > 0:
            tl.debug_barrier()
            for start in range(0, items, ITEMS):
                b_k = start + tl.arange(0, ITEMS)
                b_level = tl.load(levels_ptr + o_row + b_k, mask=b_k < items, other=255)
                b_nan = tl.full([ITEMS], float("nan"), DTYPE)
                tl.store(out_ptr + o_row + b_k, b_nan, mask=b_level < num_levels)
    else:
        tl.store(own_ptr + targets[0], b_own, mask=targets[1])
        tl.store(spoilt_ptr + row, is_spoilt)


@triton.jit(do_not_specialize=["comparators", "items", "num_levels", "tiles"])
def rank_counts_bwd_items_kernel(
    tangent_ptr,  # [rows, items] v, or None
    grad_ptr,  # [all targets, num_levels] g
    scores_ptr,  # [rows, items]
    levels_ptr,  # [rows, items] uint8
    columns_ptr,  # [all targets] int64
    offsets_ptr,  # [rows + 1] int64: where each row's targets begin
    own_ptr,  # [all targets] each target's own sum
    spoilt_ptr,  # [rows] int32: 1 if a score is not finite
    out_ptr,  # [rows, items] the gradient of the scores, except for rows with 1 to TARGETS targets
    comparators,  # see encode_comparators
    items,
    num_levels,
    tiles,  # of items per program
    KINDS: tl.constexpr,
    DTYPE: tl.constexpr,
    TARGETS: tl.constexpr,
    ITEMS: tl.constexpr,
):
    """Writes the gradients that rank_counts_bwd_targets_kernel leaves, of a few items."""
    ORDER: tl.constexpr = 1 if tangent_ptr is None else 2
    n_parts = tl.cdiv(items, tiles * ITEMS)
    row = (tl.program_id(0) // n_parts).to(tl.int64)
    begin = tl.load(offsets_ptr + row)
    end = tl.load(offsets_ptr + row + 1)
    if (end > begin) & (end - begin <= TARGETS):
        return
    o_row = row * items
    numbers = load_comparators(comparators, len(KINDS), DTYPE)
    is_spoilt = tl.load(spoilt_ptr + row, mask=end > begin, other=0) > 0
    part = tl.program_id(0) % n_parts * (tiles * ITEMS)
    for start in range(part, tl.minimum(part + tiles * ITEMS, items), ITEMS):
        things = _load_items(
            scores_ptr, tangent_ptr, levels_ptr, o_row, start, items, num_levels, ITEMS, DTYPE
        )
        b_k, b_part, _level, _s, _v = things
        total = tl.zeros([1, 1, ITEMS], DTYPE)
        error = tl.zeros([1, 1, ITEMS], DTYPE)
        for first in range(begin, end, TARGETS):
            targets = _load_targets(
                scores_ptr, tangent_ptr, levels_ptr, columns_ptr, o_row, first, end, num_levels,
                TARGETS, DTYPE,
            )  # fmt: skip
            b_own = tl.load(own_ptr + targets[0], mask=targets[1], other=0)
            b_term = _weighted(
                grad_ptr, num_levels, targets, things, numbers, KINDS, ORDER, TARGETS, ITEMS, DTYPE
            )
            b_term = tl.where(targets[1] & (b_k == targets[2]), -b_own, b_term)
            total, error = two_sum(total, error, tl.sum(b_term, axis=0, keep_dims=True))
        b_out = tl.where(b_part & is_spoilt, float("nan"), total + error)
        tl.store(out_ptr + o_row + b_k, b_out, mask=b_k < items)


class _Call:
    """The arguments that all passes share, in the kernels' form, and how to launch a kernel."""

    def __init__(
        self,
        scores: Tensor,
        levels: Tensor,
        columns: Tensor,
        offsets: Tensor,
        num_levels: int,
        kinds: Sequence[int],
        parameters: Sequence[float],
        method: str,  # there is one, all pairs
    ) -> None:
        self.rows, self.items = scores.shape
        if self.items >= MOST_ITEMS:
            raise ValueError(f"rows must have less than 2^30 items, got {self.items}")
        self.total = len(columns)
        self.num_levels = num_levels
        self.scores = scores.contiguous()
        self.rest = (levels.contiguous(), columns.contiguous(), offsets.contiguous())
        self.dtype = rank_dtype(scores)
        self.kinds, self.comparators = encode_comparators(
            kinds, parameters, torch.finfo(self.dtype).max
        )

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Returns memory for a result, on the device of the scores."""
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.scores.device)

    def blocks(self, levels: int) -> _config.CountsBlocks:
        """Returns the tile of programs that keep separate sums for `levels` levels."""
        per_row = triton.cdiv(self.total, max(self.rows, 1))
        float64, arch = self.dtype == torch.float64, arch_of(self.scores)
        return _config.counts_blocks(float64, self.items, per_row, levels, arch)

    def slots(self, blocks: _config.CountsBlocks) -> tuple[int, int]:
        """Returns the number of slots, which are programs, and the first step of their search."""
        stride = 1
        while stride * WAYS.value < self.rows:
            stride *= WAYS.value
        return self.total // blocks.targets + self.rows, stride

    def launch(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        blocks: _config.CountsBlocks,
        *buffers: Tensor | None,
        **options: int,
    ) -> None:
        """Runs a kernel on the device of the scores."""
        with torch.cuda.device_of(self.scores):
            kernel[grid](
                *buffers,
                comparators=self.comparators,
                items=self.items,
                num_levels=self.num_levels,
                **options,
                KINDS=self.kinds,
                DTYPE=triton_dtype(self.dtype),
                TARGETS=blocks.targets,
                ITEMS=blocks.items,
                num_warps=blocks.warps,
                maxnreg=_config.MAX_REGISTERS,
            )

    def count(self, tangent: Tensor | None) -> Tensor:
        """Returns the counts, or their derivative along a tangent."""
        out = self.empty(self.total, self.num_levels)
        if out.numel() > 0:
            blocks = self.blocks(self.num_levels)
            slots, stride = self.slots(blocks)
            grid = (slots, triton.cdiv(self.num_levels, blocks.levels))
            buffers = (self.scores, dense(tangent), *self.rest, out)
            self.launch(
                rank_counts_fwd_kernel, grid, blocks, *buffers,
                rows=self.rows, stride=stride, LEVELS=blocks.levels,
            )  # fmt: skip
        return out

    def differentiate(self, tangent: Tensor | None, grad: Tensor) -> Tensor:
        """Returns the gradient of the scores, or its derivative along a tangent."""
        out = self.empty(self.rows, self.items)
        if self.total == 0 or out.numel() == 0:
            return out.zero_().to(self.scores.dtype)
        blocks = self.blocks(1)
        slots, stride = self.slots(blocks)
        own = self.empty(self.total)
        spoilt = self.empty(self.rows, dtype=torch.int32)
        buffers = (dense(tangent), grad.contiguous(), self.scores, *self.rest, own, spoilt, out)
        self.launch(
            rank_counts_bwd_targets_kernel, (slots,), blocks, *buffers,
            rows=self.rows, stride=stride,
        )  # fmt: skip
        # Enough programs for any GPU, but not more: each costs its launch even without work.
        tiles = max(1, self.rows * triton.cdiv(self.items, blocks.items) // _config.COUNTS_PROGRAMS)
        grid = (self.rows * triton.cdiv(self.items, tiles * blocks.items),)
        self.launch(rank_counts_bwd_items_kernel, grid, blocks, *buffers, tiles=tiles)
        return out.to(self.scores.dtype)


def rank_counts(scores: Tensor, *rest: Any) -> Tensor:
    """Implements the operator `triton_rank_counts`."""
    return _Call(scores, *rest).count(None)


def rank_counts_tangent(tangent: Tensor, scores: Tensor, *rest: Any) -> Tensor:
    """Implements the operator `triton_rank_counts_tangent`."""
    return _Call(scores, *rest).count(tangent)


def rank_counts_backward(grad: Tensor, scores: Tensor, *rest: Any) -> Tensor:
    """Implements the operator `triton_rank_counts_backward`."""
    return _Call(scores, *rest).differentiate(None, grad)


def rank_counts_double_backward(
    tangent: Tensor, grad: Tensor, scores: Tensor, *rest: Any
) -> Tensor:
    """Implements the operator `triton_rank_counts_double_backward`."""
    return _Call(scores, *rest).differentiate(tangent, grad)
