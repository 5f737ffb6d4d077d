"""The pairwise sigmoid rank, as its equation reads."""

import torch
from torch import Tensor


def soft_rank(
    scores: Tensor, lam: float = 10.0, *, mask: Tensor | None = None, normalize: bool = False
) -> Tensor:
    """Ranks by all pairs: rank_i = 1 + sum over j != i of sigmoid(lam (s_j - s_i)).

    Materialises (..., n, n), so it is for checking and for small rows. Same arguments as
    `sodeep_fast.soft_rank`. SoDeep eq. (11) and (12), plus one.
    """
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    poison = scores * 0
    if mask is not None:
        poison = poison.masked_fill(~mask, 0)
        scores = scores.masked_fill(~mask, 0)
    beaten_by = torch.sigmoid(lam * (scores.unsqueeze(-2) - scores.unsqueeze(-1)))
    if mask is not None:
        beaten_by = beaten_by.masked_fill(~mask.unsqueeze(-2), 0)
    # The diagonal adds sigmoid(0) = 1/2; a non-finite score makes its whole row NaN.
    ranks = beaten_by.sum(-1) + 0.5 + poison.sum(-1, keepdim=True)
    if normalize:
        ranks = ranks / (scores.shape[-1] if mask is None else mask.sum(-1, keepdim=True))
    return ranks if mask is None else ranks.masked_fill(~mask, 0)
