"""The triplet loss on ranks, query by query and positive by positive."""

import torch
from torch import Tensor

from sodeep_fast.sorters.protocol import Sorter, relative_ranks


def rank_triplet_loss(
    scores: Tensor,
    sorter: Sorter,
    margin: float,
    *,
    hardest: int = 1,
    positives: Tensor | None = None,
) -> Tensor:
    """SoDeep eq. (9) and (10), rows and columns as queries. As `sodeep_fast.rank_triplet_loss`."""
    if positives is None:
        positives = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    total = (scores * 0).sum()
    for matrix, relevance in ((scores, positives), (scores.T, positives.T)):
        losses = []
        for row, relevant in zip(matrix, relevance, strict=True):
            if relevant.all() or not relevant.any():
                continue
            ranks = relative_ranks(sorter, row)
            negatives = ranks[~relevant].sort().values[:hardest]
            hinges = [
                torch.relu(margin + rank - negative)
                for rank in ranks[relevant]
                for negative in negatives
            ]
            losses.append(torch.stack(hinges).sum() / relevant.sum())
        if losses:
            total = total + torch.stack(losses).mean()
    return total
