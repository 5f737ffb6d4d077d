"""One minus Spearman's rank correlation, as its equation reads."""

import torch
from torch import Tensor

from sodeep_fast.reference.hard_rank import hard_rank
from sodeep_fast.sorters.protocol import Sorter, relative_ranks


def spearman_loss(
    predictions: Tensor, targets: Tensor, sorter: Sorter, *, mask: Tensor | None = None
) -> Tensor:
    """The loss row by row, valid entries picked out. Arguments of `sodeep_fast.spearman_loss`."""
    valid = torch.ones_like(predictions, dtype=torch.bool) if mask is None else mask
    losses = []
    for prediction, target, keep in zip(
        torch.atleast_2d(predictions).flatten(0, -2),
        torch.atleast_2d(targets).flatten(0, -2),
        torch.atleast_2d(valid).flatten(0, -2),
        strict=True,
    ):
        n = int(keep.sum())
        if n < 2:
            continue
        ranks = n * relative_ranks(sorter, prediction[keep])
        exact = hard_rank(target[keep])
        losses.append(6 * (ranks - exact).square().sum() / (n * (n**2 - 1)))
    return torch.stack(losses).mean() if losses else (predictions * 0).sum()
