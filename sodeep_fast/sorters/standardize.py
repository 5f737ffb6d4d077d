"""Rows of mean 0 and standard deviation 1, whatever their shift and scale were."""

import torch
from torch import Tensor


def standardize(rows: Tensor, mask: Tensor | None = None) -> Tensor:
    """Subtracts each row's mean and divides by its standard deviation; differentiable.

    A row is divided by its largest deviation first, so that no square overflows or underflows. A
    constant row becomes zeros, which have no gradient. A non-finite score makes its row NaN.

    Arguments:
        rows: (b, n) floating-point scores.
        mask: (b, n) bool, True where valid; other entries become 0. Default: all valid.

    Returns:
        (b, n) scores of mean 0 and standard deviation 1 (over n, not n - 1).

    Example:
        >>> import torch
        >>> from sodeep_fast.sorters.standardize import standardize
        >>> standardize(torch.tensor([[1e30, 3e30], [5.0, 5.0]]))
        tensor([[-1.,  1.],
                [ 0.,  0.]])
    """
    rows = _fill(rows, mask)
    # Scaled by the largest score first, so that neither the sum nor a difference overflows.
    largest = rows.detach().abs().amax(-1, keepdim=True)
    rows = rows / largest.masked_fill(largest == 0, 1)
    # After subtracting the smallest score, a constant row is exactly 0, and a narrow one keeps its
    # digits.
    known = rows.detach() if mask is None else rows.detach().masked_fill(~mask, torch.inf)
    rows = _fill(rows - known.amin(-1, keepdim=True), mask)
    centred = _fill(rows - _mean(rows, mask), mask)
    spread = centred.detach().abs().amax(-1, keepdim=True)
    constant = spread == 0
    centred = centred / spread.masked_fill(constant, torch.inf)
    return centred / _mean(centred.square(), mask).masked_fill(constant, 1).sqrt()


def _fill(rows: Tensor, mask: Tensor | None) -> Tensor:
    return rows if mask is None else rows.masked_fill(~mask, 0)


def _mean(rows: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return rows.mean(-1, keepdim=True)
    return rows.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
