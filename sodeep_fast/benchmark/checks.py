"""Shared by the checks of providers: which elements they check, and how they refuse."""

import torch
from torch import Tensor

from sodeep_fast.benchmark.model import WrongResult

SPOTS = 8  # elements checked in each checked row


def some_rows(count: int) -> list[int]:
    """Returns the rows that are checked: the first, the middle and the last."""
    return sorted({0, count // 2, count - 1})


def some_elements(scores: Tensor) -> Tensor:
    """Returns positions that are checked in a row, evenly spread."""
    n = scores.shape[-1]
    return torch.linspace(0, n - 1, min(SPOTS, n), device=scores.device).long()


def within(error: Tensor, bound: Tensor, what: str) -> None:
    """Raises `WrongResult` unless every error is within its bound, of the same shape."""
    # NaN compares false, so it is refused too.
    if not bool((error.abs() <= bound).all()):
        error, bound = error.flatten(), bound.flatten()
        worst = (error.abs() / bound).nan_to_num(nan=torch.inf).argmax()
        raise WrongResult(f"{what} is off by {error[worst]:.3g}, allowed {bound[worst]:.3g}")
