"""Losses that treat rows independently, a few rows at a time, value and gradient together."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sodeep_fast._checks import check_count, check_scores

RowLoss = Callable[..., Tensor]


def loss_in_parts(loss: RowLoss, scores: Tensor, *others: Tensor, rows: int = 48) -> Tensor:
    """Returns a loss of every row, keeping only the scores' gradient for backward.

    Computes the gradient of a few rows right after their loss, while the intermediate results are
    in the caches, and then frees these. With many rows, this is faster than backward over all at
    once, and takes memory only for a few. The loss must treat rows independently, and its weights
    must be frozen, as a sorter's are by default. Once differentiable in `scores`.

    Arguments:
        loss: takes the same rows of `scores` and of `others`, returns their losses (rows,).
        scores: (b, ...) floating point.
        others: (b, ...) each, such as the exact ranks; they get no gradient.
        rows: number of rows at a time; a multiple of 48 suits `bilstm` best. Default: 48.

    Returns:
        (b,) losses.

    Raises:
        TypeError: scores that are not floating point, others that are not tensors, `rows` that is
            not an integer, or a loss that is not callable or does not return a tensor.
        ValueError: others of a different length, `rows` below 1, a loss of another shape, or a loss
            through which anything but the scores requires a gradient, such as trainable weights.

    Example:
        >>> import torch, sodeep_fast
        >>> sorter = sodeep_fast.LSTMSorter(hidden_size=8)
        >>> scores = torch.randn(100, 20, requires_grad=True)
        >>> ranks = sodeep_fast.hard_rank(scores, normalize=True)
        >>> def loss(scores, ranks):
        ...     return (sorter(scores) - ranks).abs().mean(-1)
        >>> sodeep_fast.loss_in_parts(loss, scores, ranks).mean().backward()
    """
    if not callable(loss):
        raise TypeError(
            f"loss must be a function of rows that returns their losses, got {type(loss).__name__}"
        )
    check_scores(scores)
    check_count(rows, "rows")
    for other in others:
        if not isinstance(other, Tensor):
            raise TypeError(f"others must be torch.Tensors, got {type(other).__name__}")
        if other.dim() == 0:
            raise ValueError(f"others must have {len(scores)} rows, got a scalar tensor")
        if len(other) != len(scores):
            raise ValueError(f"others must have {len(scores)} rows, got {len(other)}")
    parts = zip(*(tensor.split(rows) for tensor in (scores.detach(), *others)), strict=True)
    if not (torch.is_grad_enabled() and scores.requires_grad):
        return torch.cat([_checked(loss(*part), len(part[0])) for part in parts])
    values, grads = [], []
    for part, *rest in parts:
        leaf = part.requires_grad_()
        value = _checked(loss(leaf, *rest), len(part))
        if any(other is not leaf for other in _leaves(value)):
            raise ValueError("loss must want the gradient of the scores alone: freeze its weights")
        if value.requires_grad:
            grads += torch.autograd.grad(value, leaf, torch.ones_like(value))
        else:
            grads.append(torch.zeros_like(leaf))
        values.append(value.detach())
    result: Tensor = _WithGradient.apply(scores, torch.cat(values), torch.cat(grads))
    return result


class _WithGradient(torch.autograd.Function):
    """Values by row, with their gradients already computed."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, values: Tensor, grads: Tensor) -> Tensor:
        ctx.save_for_backward(grads)
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        (grads,) = ctx.saved_tensors
        of_rows = grad[0].to(grads.dtype).view(-1, *[1] * (grads.dim() - 1))
        return grads * of_rows, None, None


def _checked(value: Tensor, rows: int) -> Tensor:
    """Returns `value`, or raises unless it has one entry per row."""
    if not isinstance(value, Tensor):
        raise TypeError(f"loss must return a torch.Tensor, got {type(value).__name__}")
    if value.shape != (rows,):
        raise ValueError(f"loss must return one value per row, {(rows,)}, got {tuple(value.shape)}")
    return value


def _leaves(value: Tensor) -> Iterator[Tensor]:
    """Yields the tensors that the graph of `value` computes gradients of."""
    seen, left = set(), [value.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        left += [following for following, _ in node.next_functions]
