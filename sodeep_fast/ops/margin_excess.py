"""How far scores are on the wrong side of a margin: one pass on a CPU, PyTorch elsewhere."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from sodeep_fast import _native
from sodeep_fast._checks import rank_dtype
from sodeep_fast._compiler import are_tracing
from sodeep_fast.ops import _backend
from sodeep_fast.ops._levels import find_marked
from sodeep_fast.ops._pullback import extend, follows
from sodeep_fast.reference.margin_excess import margin_excess as reference_margin_excess


def margin_excess(
    scores: Tensor, positives: Tensor, mask: Tensor | None, pos_margin: float, neg_margin: float
) -> Tensor:
    """Returns (2,): the sums of how far positives miss their margin and others exceed theirs.

    Arguments:
        scores: (B, M) floating point, checked.
        positives: (B, M) bool, True for a positive.
        mask: (B, M) bool, True for what takes part. Default: all.
        pos_margin: what scores of positives should reach.
        neg_margin: what the others should not exceed.

    Example:
        >>> import torch
        >>> margin_excess(torch.tensor([[0.5, 0.5]]), torch.tensor([[True, False]]), None, 0.9, 0.2)
        tensor([0.4000, 0.3000])
    """
    if are_tracing():
        return reference_margin_excess(scores, positives, mask, pos_margin, neg_margin)
    if follows(scores) and _has_kernel(scores):
        known, options = scores.detach(), (positives, mask, pos_margin, neg_margin)
        sums = torch.ops.sodeep_fast.margin_excess(known, *options)[0]
        return extend(sums, partial(_kernel_gradient, known, *options))
    result: Tensor = _MarginExcess.apply(scores, positives, mask, pos_margin, neg_margin)
    return result


def count_active(
    scores: Tensor, positives: Tensor, mask: Tensor | None, pos_margin: float, neg_margin: float
) -> Tensor:
    """Returns (2,) int64: how many terms of each sum of `margin_excess` are above 0."""
    scores = scores.detach()
    if _has_kernel(scores):
        active: Tensor = torch.ops.sodeep_fast.margin_excess(
            scores, positives, mask, pos_margin, neg_margin
        )[1]
        return active
    rows, columns = _find_positives(positives, mask)
    scores = scores.to(rank_dtype(scores))
    own = scores[rows, columns]
    over = scores > neg_margin
    if mask is not None:
        over &= mask
    return torch.stack(
        [
            (own < pos_margin).count_nonzero(),
            over.count_nonzero() - (own > neg_margin).count_nonzero(),
        ]
    )


def _has_kernel(scores: Tensor) -> bool:
    return _backend.prefers_cpp(scores, "margin_excess")


def _kernel_gradient(
    scores: Tensor,
    positives: Tensor,
    mask: Tensor | None,
    pos_margin: float,
    neg_margin: float,
    grad: Tensor,
) -> Tensor:
    found: Tensor = torch.ops.sodeep_fast.margin_excess_backward(
        grad, scores, positives, mask, pos_margin, neg_margin
    )
    return found


def _find_positives(positives: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns rows and columns of positives that take part; the host waits for a GPU."""
    rows, columns, _ = find_marked(positives if mask is None else positives & mask)
    return rows, columns


class _MarginExcess(torch.autograd.Function):
    """Handles the few positives separately; autograd would keep four matrices."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        positives: Tensor,
        mask: Tensor | None,
        pos_margin: float,
        neg_margin: float,
    ) -> Tensor:
        ctx.margins = pos_margin, neg_margin
        if _has_kernel(scores):
            ctx.save_for_backward(scores, mask, positives)
            found: Tensor = torch.ops.sodeep_fast.margin_excess(
                scores, positives, mask, *ctx.margins
            )[0]
            return found
        rows, columns = _find_positives(positives, mask)
        ctx.save_for_backward(scores, mask, rows, columns)
        wide = rank_dtype(scores)
        excess = scores.to(wide, copy=True).sub_(neg_margin).clamp_(min=0)
        excess[rows, columns] = 0
        if mask is not None:
            excess.masked_fill_(~mask, 0)
        own = scores[rows, columns].to(wide)
        return torch.stack([(pos_margin - own).clamp_(min=0).sum(), excess.sum()])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scores, mask, *where = ctx.saved_tensors
        pos_margin, neg_margin = ctx.margins
        if len(where) == 1:  # the kernel's forward
            if not torch.is_grad_enabled():  # which a second derivative enables
                slopes = _kernel_gradient(scores, where[0], mask, pos_margin, neg_margin, grad)
                return slopes, None, None, None, None
            where = _find_positives(where[0], mask)
        rows, columns = where
        pos_grad, neg_grad = grad.to(scores.dtype)
        wide = rank_dtype(scores)
        over = scores.to(wide) > neg_margin
        if mask is not None:
            over &= mask
        result = torch.zeros_like(scores).masked_fill_(over, neg_grad)
        own = scores[rows, columns].to(wide)
        result[rows, columns] = torch.where(own < pos_margin, -pos_grad, 0)
        return result, None, None, None, None


if _native.HAS_CPU:

    @torch.library.register_fake("sodeep_fast::margin_excess")
    def _(scores: Tensor, positives: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
        excess = scores.new_empty(2, dtype=rank_dtype(scores))
        return excess, scores.new_empty(2, dtype=torch.int64)

    @torch.library.register_fake("sodeep_fast::margin_excess_backward")
    def _(grad: Tensor, scores: Tensor, *options: Any) -> Tensor:
        return torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)
