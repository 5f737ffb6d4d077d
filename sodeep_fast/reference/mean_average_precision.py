"""The soft ranks of the positives, class by class."""

import torch
from torch import Tensor

from sodeep_fast.sorters.protocol import Sorter, relative_ranks


def mean_average_precision_loss(
    scores: Tensor, labels: Tensor, sorter: Sorter, *, reduction: str = "sum"
) -> Tensor:
    """SoDeep eq. (7), one sorter call per class that has a positive.

    Arguments of `sodeep_fast.mean_average_precision_loss`.
    """
    terms = []
    for column, label in zip(scores.T, labels.T, strict=True):
        if label.any():
            ranks = relative_ranks(sorter, column)
            terms += [rank for rank, positive in zip(ranks, label, strict=True) if positive]
    if not terms:
        return (scores * 0).sum()
    return torch.stack(terms).sum() if reduction == "sum" else torch.stack(terms).mean()
