"""Recall at k from rank counts, in plain PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sodeep_fast._by_query import count_by_query, sum_by_query, sum_levels


def counted_recall(
    counts: Tensor,
    rows: Tensor,
    queries: int,
    ks: Sequence[float],
    temperature: float,
    clip: bool,
) -> Tensor:
    """Returns (B,); arguments of `sodeep_fast.ops.counted_recall`. For any device."""
    ranks = 1 + sum_levels(counts).unsqueeze(-1)
    cutoffs = torch.tensor(ks, dtype=ranks.dtype, device=ranks.device)
    found = sum_by_query(torch.sigmoid((cutoffs - ranks) / temperature), rows, queries)
    if clip:
        found = found.minimum(cutoffs)
    positives = count_by_query(rows, queries).unsqueeze(-1)
    recall = (found / cutoffs.minimum(positives.clamp(min=1))).mean(-1)
    return recall.masked_fill(positives.squeeze(-1) == 0, torch.nan)
