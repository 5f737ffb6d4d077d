"""The exact rank, by comparing all pairs."""

import torch
from torch import Tensor


def hard_rank(
    scores: Tensor,
    *,
    mask: Tensor | None = None,
    normalize: bool = False,
    ties: str = "average",
) -> Tensor:
    """Ranks by counting: 1 + the number of larger scores, ties as `sodeep_fast.hard_rank`.

    Materialises (..., n, n), so it is for checking. Same arguments as `sodeep_fast.hard_rank`.
    """
    values = scores if scores.dtype == torch.float64 else scores.float()
    valid = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    other, own = scores.unsqueeze(-2), scores.unsqueeze(-1)
    counted = valid.unsqueeze(-2)
    above = ((other > own) & counted).sum(-1)
    tied = ((other == own) & counted).sum(-1)
    index = torch.arange(scores.shape[-1], device=scores.device)
    tied_before = ((other == own) & counted & (index < index.unsqueeze(-1))).sum(-1)
    offset = {
        "average": (tied + 1) / 2,
        "min": torch.ones_like(tied),
        "max": tied,
        "ordinal": tied_before + 1,
    }[ties]
    ranks = (above + offset).to(values.dtype)
    if scores.is_floating_point():
        undefined = (scores.isnan() & valid).any(-1, keepdim=True)
        ranks = ranks.masked_fill(undefined, float("nan"))
    if normalize:
        ranks = ranks / valid.sum(-1, keepdim=True)
    return ranks.masked_fill(~valid, 0)
