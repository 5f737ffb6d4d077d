"""Counts of the items that outrank each target: public function, fakes, autograd, vmap."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sodeep_fast import _native
from sodeep_fast._checks import (
    check_choice,
    check_levels,
    check_mask,
    check_matrix,
    rank_dtype,
)
from sodeep_fast.comparators import Comparator, Sigmoid, check_comparator, encode
from sodeep_fast.ops import _backend
from sodeep_fast.ops._autograd import call, register_autograd
from sodeep_fast.ops._levels import compact_levels, find_marked
from sodeep_fast.ops._vmap import targets_batching_rule
from sodeep_fast.reference.rank_counts import rank_counts as reference_rank_counts

# Number of pairs that the reference compares at a time: 64 MiB in float32 for each of its
# intermediates.
REFERENCE_PAIRS = 1 << 24


class RankCounts(NamedTuple):
    """The counts of all targets, ordered by row, then by column.

    Attributes:
        counts: (T, L) soft count of the other items of each level that outrank the target.
        rows: (T,) int64, ascending: the row of each target.
        columns: (T,) int64, ascending within a row: which item each target is.
    """

    counts: Tensor
    rows: Tensor
    columns: Tensor


def rank_counts(
    scores: Tensor,
    levels: Tensor,
    *,
    comparator: Comparator | None = None,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    num_levels: int | None = None,
    method: str = "auto",
    backend: str = "auto",
) -> RankCounts:
    """Counts, for the target items of every row, how many items of each level outrank them.

    N[i, l] = sum over the items k != i of level l of H(s_k - s_i), where H is the comparator.
    Ranks, average precision, recall at k, NDCG and their hierarchical versions are built from these
    counts. Twice differentiable in `scores`. Only the counts take memory, whatever the number of
    pairs.

    Arguments:
        scores: (B, M) float16, bfloat16, float32 or float64; rows are independent.
        levels: (B, M) bool, or integers from 0 (irrelevant) to 254; bool and uint8 are cheapest.
        comparator: a `Sigmoid`, `Sup`, `Step`, `Ramp`, or a `ByLevel` of them. Default:
            `Sigmoid()`.
        targets: (B, M) bool, the items to return counts for. Default: those of level >= 1.
        mask: (B, M) bool, True where valid. Other items are not counted and are not targets,
            whatever their score and level. Default: all valid.
        num_levels: L, greater than the largest level. Default: inferred, 2 for bool; inferring it
            makes the host wait for a GPU.
        method: "direct" compares every pair. "linear" sorts each row and uses moments and running
            sums, so that many targets cost little more than few. It is as accurate; in float64 it
            leaves a `Sup` with delta below 3.5 tau to pairs, as sums would lose some digits. "auto"
            picks the one expected to be faster, row by row. The Triton kernels are direct.
        backend: "cpp", "triton" or "reference"; "auto" picks the best one built for the device of
            `scores`.

    Returns:
        (counts, rows, columns) of T targets: (T, L) counts, float64 for float64 scores and float32
        otherwise, and the items they belong to, in the order of `targets.nonzero()`. If a valid
        score of a row is not finite, all its counts are NaN. On a CPU, if there are fewer rows than
        threads and they are long, threads share the items of a row, and the last bit may depend on
        the number of threads.

    Raises:
        TypeError: scores that are not floating point, levels that are neither integer nor bool,
            targets or a mask that are not bool, or a comparator of another type.
        ValueError: scores that are not a matrix, other tensors of a different shape or device,
            levels below 0, of num_levels or more, or above 254, an unknown method or backend, or a
            backend that is not available here.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
        >>> levels = torch.tensor([[0, 1, 0, 1]])
        >>> sodeep_fast.rank_counts(scores, levels, comparator=sodeep_fast.Step())
        RankCounts(counts=tensor([[1., 0.],
                [2., 1.]]), rows=tensor([0, 0]), columns=tensor([1, 3]))
    """
    check_matrix(scores, "(B, M)")
    check_mask(targets, scores, "targets")
    check_mask(mask, scores)
    found = check_levels(levels, scores, num_levels, mask)
    comparator = Sigmoid() if comparator is None else comparator
    check_comparator(comparator)
    check_choice(method, _backend.METHODS, "method")

    compact = compact_levels(levels, mask)
    if targets is None:
        targets = compact if mask is None else (compact > 0) & mask
    elif mask is not None:
        targets = targets & mask
    rows, columns, offsets = find_marked(targets)

    backend = _backend.resolve(backend, scores, "rank_counts", method)
    if backend == "reference":
        counts = _by_reference(scores, compact, rows, columns, found, comparator)
    else:
        kinds, parameters = encode(comparator)
        name = "triton_rank_counts" if backend == "triton" else "rank_counts"
        counts = call(name, scores, compact, columns, offsets, found, kinds, parameters, method)
    return RankCounts(counts, rows, columns)


def _by_reference(
    scores: Tensor,
    levels: Tensor,
    rows: Tensor,
    columns: Tensor,
    num_levels: int,
    comparator: Comparator,
) -> Tensor:
    """Runs the reference a few targets at a time, recomputed in backward, to bound memory."""
    size = max(1, REFERENCE_PAIRS // max(1, scores.shape[1]))
    if len(rows) <= size:
        return reference_rank_counts(scores, levels, rows, columns, num_levels, comparator)
    parts = [
        checkpoint(
            reference_rank_counts,
            scores,
            levels,
            *chunk,
            num_levels,
            comparator,
            use_reentrant=False,
        )
        for chunk in zip(rows.split(size), columns.split(size), strict=True)
    ]
    return torch.cat(parts)


def _register(prefix: str) -> None:
    """Registers fakes, derivatives and vmap rules for the four operators of one implementation."""
    forward, tangent, backward, double_backward = (
        f"{prefix}rank_counts{suffix}"
        for suffix in ("", "_tangent", "_backward", "_double_backward")
    )

    def counts_like(scores: Tensor, columns: Tensor, num_levels: int) -> Tensor:
        shape = (columns.shape[0], num_levels)
        return torch.empty(shape, dtype=rank_dtype(scores), device=scores.device)

    def scores_like(scores: Tensor) -> Tensor:
        return torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)

    @torch.library.register_fake(f"sodeep_fast::{forward}")
    def _(scores: Tensor, levels: Tensor, columns: Tensor, offsets: Tensor, *rest: Any) -> Tensor:
        return counts_like(scores, columns, rest[0])

    @torch.library.register_fake(f"sodeep_fast::{tangent}")
    def _(
        tangent: Tensor,
        scores: Tensor,
        levels: Tensor,
        columns: Tensor,
        offsets: Tensor,
        *rest: Any,
    ) -> Tensor:
        return counts_like(scores, columns, rest[0])

    @torch.library.register_fake(f"sodeep_fast::{backward}")
    def _(grad: Tensor, scores: Tensor, *rest: Any) -> Tensor:
        return scores_like(scores)

    @torch.library.register_fake(f"sodeep_fast::{double_backward}")
    def _(tangent: Tensor, grad: Tensor, scores: Tensor, *rest: Any) -> Tensor:
        return scores_like(scores)

    call_tangent, call_backward, call_double_backward = (
        partial(call, name) for name in (tangent, backward, double_backward)
    )

    def setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        scores, levels, columns, offsets, *ctx.options = inputs
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(scores, levels, columns, offsets)

    def differentiate_forward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        result = call_backward(grad, *ctx.saved_tensors, *ctx.options)
        return result, *[None] * 7

    def setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.options = inputs[5:]

    def differentiate_backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        grad, *saved = ctx.saved_tensors
        for_grad = for_scores = None
        if ctx.needs_input_grad[0]:
            for_grad = call_tangent(tangent, *saved, *ctx.options).to(grad.dtype)
        if ctx.needs_input_grad[1]:
            for_scores = call_double_backward(tangent, grad, *saved, *ctx.options)
        return for_grad, for_scores, *[None] * 7

    register_autograd(forward, differentiate_forward, setup_forward)
    register_autograd(backward, differentiate_backward, setup_backward)

    for name, matrices, to_items in (
        (forward, 2, False),
        (tangent, 3, False),
        (backward, 3, True),
        (double_backward, 4, True),
    ):
        torch.library.register_vmap(
            f"sodeep_fast::{name}", targets_batching_rule(name, matrices, to_items)
        )


if _native.HAS_CPU:
    _register("")
    _register("triton_")
    if _backend.has_triton():
        for _suffix in ("", "_tangent", "_backward", "_double_backward"):
            _function = f"rank_counts{_suffix}"
            _backend.register_lazily(f"triton_{_function}", "rank_counts", _function)
