"""How many items of each level outrank each target, as the equation reads."""

import torch
from torch import Tensor

from sodeep_fast.comparators import Comparator, Ramp, Sigmoid, Simple, Sup, by_level


def compare(comparator: Simple, x: Tensor) -> Tensor:
    """H(x) for a difference x = (score of the item) - (score of the target)."""
    if isinstance(comparator, Sigmoid):
        return torch.sigmoid(x / comparator.tau)
    if isinstance(comparator, Sup):
        delta, offset = comparator.resolved()
        soft = torch.sigmoid(x / comparator.tau)
        soft = torch.where(x > 0, comparator.start + soft, soft)
        return torch.where(x > delta, comparator.rho * (x - delta) + offset, soft)
    if isinstance(comparator, Ramp):
        ramp = torch.where(x > 0, comparator.beta * x + comparator.gamma, comparator.leak * x)
        return torch.where(x > (1 - comparator.gamma) / comparator.beta, 1.0, ramp)
    return torch.where(x == 0, comparator.at_zero, (x > 0).to(x.dtype))


def rank_counts(
    scores: Tensor,
    levels: Tensor,
    rows: Tensor,
    columns: Tensor,
    num_levels: int,
    comparator: Comparator,
) -> Tensor:
    """N[t, l] = sum over the items k of level l, other than target t itself, of H(s_k - s_t).

    Materialises (T, M), so it is for checking and for few targets.

    Arguments:
        scores: (B, M) floating-point scores.
        levels: (B, M) integers; items with a level of num_levels or more take no part.
        rows: (T,) the row of each target.
        columns: (T,) the column of each target.
        num_levels: L.
        comparator: H.

    Returns:
        (T, L) counts. NaN in the rows in which an item that takes part is not finite.
    """
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    taking_part = levels < num_levels
    poison = (scores * 0).masked_fill(~taking_part, 0).sum(-1)
    scores = scores.masked_fill(~taking_part, 0)

    x = scores[rows] - scores[rows, columns].unsqueeze(-1)
    relation = (levels[rows].long() - levels[rows, columns].long().unsqueeze(-1)).sign()
    values = torch.zeros_like(x)
    for which, simple in zip((-1, 0, 1), by_level(comparator), strict=True):
        values = torch.where(relation == which, compare(simple, x), values)
    itself = torch.arange(scores.shape[1], device=scores.device) == columns.unsqueeze(-1)
    counted = taking_part[rows] & ~itself & taking_part[rows, columns].unsqueeze(-1)
    values = values.masked_fill(~counted, 0)
    of_level = [values.masked_fill(levels[rows] != level, 0).sum(-1) for level in range(num_levels)]
    return torch.stack(of_level, -1) + poison[rows].unsqueeze(-1)
