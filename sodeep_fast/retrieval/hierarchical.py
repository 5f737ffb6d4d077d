"""Losses for items that are relevant to a degree: how many labels they share with the query."""

import torch
from torch import Tensor

from sodeep_fast.retrieval.loss import RetrievalLoss


class HierarchicalLoss(RetrievalLoss):
    """A loss whose `values` takes levels, from 0, nothing shared, to L, everything.

    Labels (B, L) are those of a hierarchy, finest first; labels (B,) are a hierarchy of one level.
    """

    def relation(self, labels: Tensor, item_labels: Tensor) -> Tensor:
        """Returns (B, M) how many labels are equal: bool for one, uint8 for several."""
        if labels.shape[1] == 1:
            return super().relation(labels, item_labels)
        if labels.shape[1] > 254:
            raise ValueError(f"labels must have at most 254 levels, got {labels.shape[1]}")
        levels = torch.zeros(
            (len(labels), len(item_labels)), dtype=torch.uint8, device=labels.device
        )
        for own, theirs in zip(labels.T, item_labels.T, strict=True):
            levels += own.unsqueeze(-1) == theirs
        return levels
