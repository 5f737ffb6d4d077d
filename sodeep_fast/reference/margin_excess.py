"""By how much scores are on the wrong side of a margin, as its equation reads."""

import torch
from torch import Tensor

from sodeep_fast._checks import rank_dtype


def margin_excess(
    scores: Tensor, positives: Tensor, mask: Tensor | None, pos_margin: float, neg_margin: float
) -> Tensor:
    """As `sodeep_fast.ops.margin_excess.margin_excess`; a score at its margin has no gradient."""
    negatives = ~positives if mask is None else ~positives & mask
    positives = positives if mask is None else positives & mask
    wide = scores.to(rank_dtype(scores))
    missed = torch.relu(pos_margin - wide).masked_fill(~positives, 0)
    exceeded = torch.relu(wide - neg_margin).masked_fill(~negatives, 0)
    return torch.stack([missed.sum(), exceeded.sum()])
