"""Gradients without autograd, whose functions and engine cost more than a small operator.

A loss of embeddings needs the gradient of its scores at once. Where an operator finds it together
with its value, `value_and_pullback` takes it from there. The functions on the way say how they
pull a gradient back: `extend`. Anything else on the way, and autograd differentiates all of it.
"""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

Pullback = Callable[[Tensor], Tensor | None]


class _Path:
    """From a leaf to the last result that is known to depend on it alone."""

    def __init__(self, leaf: Tensor) -> None:
        self.end = leaf
        self.pulls: list[Callable[[Tensor], Tensor]] = []

    def pull(self, grad: Tensor) -> Tensor:
        for pull in reversed(self.pulls):
            grad = pull(grad)
        return grad


class _Current(threading.local):
    path: _Path | None = None


_current = _Current()


def follows(tensor: Tensor) -> bool:
    """Returns whether a function of `tensor` may use `extend` instead of autograd."""
    return _current.path is not None and _current.path.end is tensor


def extend(result: Tensor, pull: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns `result`, which was computed from a tensor that `follows`.

    `pull` takes the gradient of the result to that of the tensor, and is called once at most.
    """
    path = _current.path
    assert path is not None, "to be called by functions of a tensor that follows"
    path.end = result
    path.pulls.append(pull)
    return result


def value_and_pullback(
    function: Callable[[Tensor], Tensor], tensor: Tensor
) -> tuple[Tensor, Pullback]:
    """Returns `function(tensor)`, without a graph, and what takes its gradient to the tensor's.

    That is to be called once at most, and returns None if the result does not depend on the tensor.
    """
    leaf = tensor.detach().requires_grad_()
    path, outer = _Path(leaf), _current.path
    try:
        _current.path = path
        with torch.enable_grad():
            value = function(leaf)
        if path.pulls and path.end is value:
            return value, path.pull
        if path.pulls:  # whose results have no graph, and which lead elsewhere
            _current.path = None
            with torch.enable_grad():
                value = function(leaf)
    finally:
        _current.path = outer
    return value.detach(), lambda grad: _differentiate(value, leaf, grad)


def _differentiate(value: Tensor, leaf: Tensor, grad: Tensor) -> Tensor | None:
    if not value.requires_grad:
        return None
    (result,) = torch.autograd.grad(value, leaf, grad, allow_unused=True)
    return result
