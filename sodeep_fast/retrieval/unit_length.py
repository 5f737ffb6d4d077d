"""Scales vectors to unit length, with a backward that keeps one matrix instead of several."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sodeep_fast._compiler import are_tracing

SHORTEST = 1e-12  # shorter vectors are divided by this, as torch.nn.functional.normalize does


def unit_length(vectors: Tensor) -> Tensor:
    """Returns the rows of (n, D) over their Euclidean lengths; twice differentiable.

    Example:
        >>> import torch
        >>> unit_length(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """
    if are_tracing():
        return functional.normalize(vectors, dim=-1, eps=SHORTEST)
    result: Tensor = _UnitLength.apply(vectors)
    return result


class _UnitLength(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        units = vectors / length.clamp(SHORTEST)
        ctx.save_for_backward(vectors, units, length)
        return units

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        vectors, units, length = ctx.saved_tensors
        differentiable = torch.is_grad_enabled()  # for a second derivative
        if differentiable:
            length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        # Removes the component along the vector, unless the length is clamped.
        along = torch.linalg.vecdot(grad, units).unsqueeze(-1)
        along = along.masked_fill(length < SHORTEST, 0)
        across, divisor = torch.addcmul(grad, along, units, value=-1), length.clamp(SHORTEST)
        return across / divisor if differentiable else across.div_(divisor)
