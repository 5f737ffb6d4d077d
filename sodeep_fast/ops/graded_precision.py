"""Average precisions over rank counts: value and gradient in one pass on a CPU, else PyTorch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sodeep_fast import _native
from sodeep_fast._checks import check_levels, check_mask, rank_dtype
from sodeep_fast.comparators import Comparator, check_comparator, encode
from sodeep_fast.ops import _backend
from sodeep_fast.ops._levels import IGNORED, compact_levels
from sodeep_fast.ops.rank_counts import RankCounts, rank_counts
from sodeep_fast.reference.graded_precision import graded_precision as reference_graded_precision

# Of fewer rows than threads, rank_counts divides the items among them; shorter rows do not pay.
LONG_ROW = 1 << 14


def has_kernel(scores: Tensor) -> bool:
    """Returns whether the one pass is there for such scores; the formula can be transformed."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if _backend.choose(scores.device.type, "graded_precision")[0] != "cpp":
        return False
    return len(scores) >= torch.get_num_threads() or scores.shape[1] < LONG_ROW


def graded_precision(
    scores: Tensor,
    levels: Tensor,
    comparator: Comparator,
    *,
    mask: Tensor | None = None,
    num_levels: int | None = None,
    missing: RankCounts | None = None,
    least: int = 1,
    relevances: Tensor | None = None,
    alpha: float = 1.0,
    soft: bool = False,
) -> Tensor:
    """Returns the average precision (B,) of every row, NaN where no item is relevant.

    The sum over targets i, which are the items of level >= 1, of (rel_i + sum over levels l of
    M[i, l] min(rel_i, rel_l)) / (1 + sum over levels l of N[i, l]), over the sum of the rel_i; N
    are the rank counts by `comparator`, and rel_l is the relevance of level l. Twice
    differentiable.

    Arguments:
        scores: (B, M) floating point.
        levels: (B, M) bool or integers below L, of all items.
        comparator: how N counts.
        mask: (B, M) bool, True where valid. Default: all valid.
        num_levels: L. Default: what is found.
        missing: M of the targets of level >= `least`; that of the others is N. Default: N.
        least: at least 1.
        relevances: (L,) or (B, L) floating point. Default: level^alpha over the number of targets
            of that level.
        alpha: positive.
        soft: whether N as M has a gradient too; for relevances by default.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
        >>> graded_precision(scores, torch.tensor([[1, 0, 1, 0]]), sodeep_fast.Step(), soft=True)
        tensor([0.8333])
    """
    rest, rest_rows = (None, None) if missing is None else (missing.counts, missing.rows)
    options = _Options(comparator, num_levels, least, alpha, soft)
    wants_more = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (relevances, rest)
    )
    if wants_more or not has_kernel(scores):
        return _by_formula(scores, levels, mask, rest, relevances, options)
    check_mask(mask, scores)
    check_comparator(comparator)
    options = options._replace(num_levels=check_levels(levels, scores, num_levels, mask))
    wants_gradient = torch.is_grad_enabled() and scores.requires_grad
    values: Tensor = _GradedPrecision.apply(
        scores, compact_levels(levels, mask), rest, rest_rows, relevances, options, wants_gradient
    )
    return values


class _Options(NamedTuple):
    comparator: Comparator
    num_levels: int | None
    least: int
    alpha: float
    soft: bool


def _by_formula(
    scores: Tensor,
    levels: Tensor,
    mask: Tensor | None,
    missing: Tensor | None,
    relevances: Tensor | None,
    options: _Options,
) -> Tensor:
    comparator, num_levels, least, alpha, soft = options
    found = rank_counts(scores, levels, comparator=comparator, mask=mask, num_levels=num_levels)
    return reference_graded_precision(
        found.counts, levels, found.rows, found.columns, missing, least, relevances, alpha, soft
    )


def _by_kernel(
    tensors: Sequence[Tensor | None], options: _Options, wants_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Returns the values and their gradients (B, M), of every row by itself."""
    scores, levels, missing, missing_rows, relevances = tensors
    comparator, num_levels, least, alpha, soft = options
    found: tuple[Tensor, Tensor] = torch.ops.sodeep_fast.graded_precision(
        scores, levels, num_levels, *encode(comparator), "auto",
        missing, missing_rows, least, relevances, alpha, soft, wants_gradient,
    )  # fmt: skip
    return found


class _GradedPrecision(torch.autograd.Function):
    """Forward finds the gradients too, which backward only scales, in place."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        *tensors, ctx.options, wants_gradient = given
        ctx.save_for_backward(*tensors)
        values, ctx.gradient = _by_kernel(tensors, ctx.options, wants_gradient)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scores, levels, missing, _, relevances = ctx.saved_tensors
        if torch.is_grad_enabled():  # which a second derivative enables
            values = _by_formula(
                scores, levels, levels != IGNORED, missing, relevances, ctx.options
            )
            (result,) = torch.autograd.grad(values, scores, grad, create_graph=True)
        else:
            gradient, ctx.gradient = ctx.gradient, None
            if gradient is None:  # the graph was kept, and its first backward has scaled it
                gradient = _by_kernel(ctx.saved_tensors, ctx.options, True)[1]
            result = gradient.mul_(grad.unsqueeze(-1)).to(scores.dtype)
        return result, *[None] * 6


if _native.HAS_CPU:

    @torch.library.register_fake("sodeep_fast::graded_precision")
    def _(scores: Tensor, levels: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        dtype, (rows, items) = rank_dtype(scores), scores.shape
        rows_wanted = rows if rest[-1] else 0
        return scores.new_empty(rows, dtype=dtype), scores.new_empty(
            (rows_wanted, items), dtype=dtype
        )
