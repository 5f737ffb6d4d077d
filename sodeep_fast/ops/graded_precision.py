"""Average precisions from rank counts: one pass on a CPU, PyTorch elsewhere."""

from typing import Any

import torch
from torch import Tensor

from sodeep_fast import _native
from sodeep_fast._checks import rank_dtype
from sodeep_fast.ops import _backend
from sodeep_fast.ops._levels import compact_levels
from sodeep_fast.ops.rank_counts import RankCounts
from sodeep_fast.reference.graded_precision import graded_precision as reference_graded_precision


def has_kernel(counts: Tensor) -> bool:
    """Returns whether the one pass is there for such counts; the formula can be transformed."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return _backend.choose(counts.device.type, "graded_precision")[0] == "cpp"


def graded_precision(
    found: RankCounts,
    levels: Tensor,
    missing: RankCounts | None = None,
    *,
    least: int = 1,
    relevances: Tensor | None = None,
    alpha: float = 1.0,
    soft: bool = False,
) -> Tensor:
    """Returns the average precision (B,) of every row, NaN where no target is relevant.

    The sum over targets i of (rel_i + sum over levels l of M[i, l] min(rel_i, rel_l)) / (1 + sum
    over levels l of N[i, l]), over the sum of the rel_i; rel_l is the relevance of level l.

    Arguments:
        found: N and the targets, all of level >= 1.
        levels: (B, M) bool or integers below L, of all items.
        missing: M of the targets of level >= `least`; that of the others is N.
        least: at least 1.
        relevances: (L,) or (B, L) floating point. Default: level^alpha over the number of targets
            of that level.
        alpha: positive.
        soft: whether N as M has a gradient too; for relevances by default.

    Example:
        >>> import torch
        >>> place = torch.tensor([0])
        >>> found = RankCounts(torch.ones(1, 2), place, place)
        >>> graded_precision(found, torch.tensor([[True]]))
        tensor([0.6667])
    """
    rest, rest_rows = (None, None) if missing is None else (missing.counts, missing.rows)
    wants_more = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (relevances, rest)
    )
    if wants_more or not has_kernel(found.counts):
        return reference_graded_precision(
            found.counts, levels, found.rows, found.columns, rest, least, relevances, alpha, soft
        )
    values: Tensor = _GradedPrecision.apply(
        found.counts,
        compact_levels(levels, None),
        found.rows,
        found.columns,
        rest,
        rest_rows,
        least,
        relevances,
        alpha,
        soft,
    )
    return values


class _GradedPrecision(torch.autograd.Function):
    """Forward finds the derivatives by counts too, which backward only scales."""

    @staticmethod
    def forward(ctx: Any, counts: Tensor, *rest: Any) -> Tensor:
        values, slopes = torch.ops.sodeep_fast.graded_precision(counts, *rest)
        ctx.save_for_backward(counts, slopes, rest[1])
        result: Tensor = values
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        counts, slopes, rows = ctx.saved_tensors
        if torch.is_grad_enabled():  # which a second derivative enables
            slopes = _differentiable(slopes, counts)
        by_target = grad.index_select(0, rows).unsqueeze(-1)
        return (slopes * by_target).expand(counts.shape), *[None] * 9


def _differentiable(slopes: Tensor, counts: Tensor) -> Tensor:
    """The same slopes, m_l / rank - gain / rank^2, as a function of the counts; m_0 is 0."""
    ranks = 1 + counts.sum(-1, keepdim=True)
    fixed, first = ranks.detach(), slopes[:, :1]
    m = (slopes - first) * fixed
    gain = ((counts - counts.detach()) * m).sum(-1, keepdim=True) - first * fixed**2
    return m / ranks - gain / ranks**2


if _native.HAS_CPU:

    @torch.library.register_fake("sodeep_fast::graded_precision")
    def _(counts: Tensor, levels: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        dtype, soft = rank_dtype(counts), rest[-1]
        slopes = (len(counts), counts.shape[1] if soft else 1)
        return counts.new_empty(len(levels), dtype=dtype), counts.new_empty(slopes, dtype=dtype)
