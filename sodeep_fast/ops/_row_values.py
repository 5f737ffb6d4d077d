"""Values of rows whose kernels find the gradients in the same pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sodeep_fast._checks import rank_dtype
from sodeep_fast._compiler import are_tracing
from sodeep_fast.ops import _backend
from sodeep_fast.ops._autograd import take
from sodeep_fast.ops._pullback import extend, follows

Kernel = Callable[..., tuple[Tensor, Tensor]]
Formula = Callable[..., Tensor]


# With fewer rows than threads, rank_counts divides items among threads; shorter rows do not pay
# off.
LONG_ROW = 1 << 16


def has_kernel(scores: Tensor, operator: str) -> bool:
    """Returns whether a one-pass kernel serves these scores; `torch.func` needs the formula."""
    if are_tracing() or not _backend.prefers_cpp(scores, operator):
        return False
    return len(scores) >= torch.get_num_threads() or scores.shape[1] < LONG_ROW


def rows_like(scores: Tensor, levels: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    """Returns what a kernel would, without values; the last option is whether to find gradients."""
    dtype, (rows, items) = rank_dtype(scores), scores.shape
    shape = (rows if options[-1] else 0, items)
    return scores.new_empty(rows, dtype=dtype), scores.new_empty(shape, dtype=dtype)


def row_values(kernel: Kernel, formula: Formula, scores: Tensor, *others: Tensor | None) -> Tensor:
    """Returns the value (B,) of every row of scores (B, M); twice differentiable in them.

    Arguments:
        kernel: takes the scores, the others, and whether to find the gradient. Returns the values
            and their gradients (B, M), of each row by itself.
        formula: takes the same tensors and returns the values, with a graph, for the second
            derivative.
        scores: (B, M) floating point.
        others: what else the values depend on; they get no gradient.
    """
    if follows(scores):
        found, slopes = kernel(scores.detach(), *others, True)
        # What comes back is finite: it does not depend on the values.
        return extend(found, lambda grad: slopes.mul_(grad.unsqueeze(-1)).to(scores.dtype))
    wants_gradient = torch.is_grad_enabled() and scores.requires_grad
    values: Tensor = _RowValues.apply(kernel, formula, wants_gradient, scores, *others)
    return values


class _RowValues(torch.autograd.Function):
    """Forward finds the gradients too, which backward only scales, in place."""

    @staticmethod
    def forward(
        ctx: Any, kernel: Kernel, formula: Formula, wants_gradient: bool, *tensors: Tensor | None
    ) -> Tensor:
        ctx.kernel, ctx.formula = kernel, formula
        values, slopes = kernel(*tensors, wants_gradient)
        ctx.save_for_backward(*tensors, slopes)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, slopes = ctx.saved_tensors
        scores = tensors[0]
        if torch.is_grad_enabled():  # which a second derivative enables
            (result,) = torch.autograd.grad(ctx.formula(*tensors), scores, grad, create_graph=True)
        else:
            slopes = take(ctx, slopes)
            if slopes is None:
                slopes = ctx.kernel(*tensors, True)[1]
            result = _scale_rows(slopes, scores.dtype, grad)
        return None, None, None, result, *[None] * (len(tensors) - 1)


def _scale_rows(slopes: Tensor, dtype: torch.dtype, grad: Tensor) -> Tensor:
    """Multiplies rows in place; a NaN or inf in `grad` leaves what has no part in its row at 0."""
    idle = None if grad.isfinite().all() else slopes == 0
    slopes.mul_(grad.unsqueeze(-1))
    return (slopes if idle is None else slopes.masked_fill_(idle, 0)).to(dtype)
