"""The retrieval losses as their papers' programs compute them: every triple of a batch, in PyTorch.

Written from the equations, for comparison. Their memory (batch x batch x batch) and the passes over
it are those of the programs; the values are those of `sodeep_fast.losses`. The same metrics over
the reference operator, which only compares positives with items, are here too.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Compare = Callable[[Tensor], Tensor]
LEVELS = 3  # of a hierarchy of classes and groups: how many labels are shared, from none to both
Metric = Callable[[Tensor, Tensor], Tensor]  # scores (B, M) and levels (B, M) -> (B,)


def sigmoid(tau: float = 0.01) -> Compare:
    """The comparator of Smooth-AP."""
    return lambda x: torch.sigmoid(x / tau)


def step(x: Tensor) -> Tensor:
    """Counts what is ahead or tied."""
    return (x >= 0).to(x.dtype)


def sup(tau: float = 0.01, rho: float = 100.0, delta: float = 0.05, start: float = 0.5) -> Compare:
    """The comparator of SupAP, continuous at delta."""
    offset = start + float(torch.sigmoid(torch.tensor(delta / tau, dtype=torch.float64)))

    def compare(x: Tensor) -> Tensor:
        soft = torch.sigmoid(x / tau) + start * (x > 0)
        return torch.where(x > delta, rho * (x - delta) + offset, soft)

    return compare


def outranked(scores: Tensor, compare: Compare) -> Tensor:
    """Returns (B, M, M): at [b, i, k], by how much item k outranks item i; 0 for k = i."""
    others = 1 - torch.eye(scores.shape[1], dtype=scores.dtype, device=scores.device)
    return compare(scores.unsqueeze(1) - scores.unsqueeze(2)) * others


def outranked_by_level(scores: Tensor, levels: Tensor, lower: Compare) -> Tensor:
    """Like `outranked`, by `lower` for less relevant items, exactly for the others."""
    less = (levels.unsqueeze(1) < levels.unsqueeze(2)).to(scores.dtype)
    return less * outranked(scores, lower) + (1 - less) * outranked(scores, step).detach()


def average_precision(triples: Tensor, positive: Tensor) -> Tensor:
    """Returns (B,): the mean over positives of their rank among positives over their rank."""
    positive = positive.to(triples.dtype)
    among_positives = 1 + (triples * positive.unsqueeze(1)).sum(-1)
    among_all = 1 + triples.sum(-1)
    return (among_positives / among_all * positive).sum(-1) / positive.sum(-1)


def smooth_ap(scores: Tensor, levels: Tensor) -> Tensor:
    """Smooth-AP (Brown et al., ECCV 2020)."""
    return average_precision(outranked(scores, sigmoid()), levels > 0)


def sup_ap(scores: Tensor, levels: Tensor) -> Tensor:
    """SupAP (Ramzi et al., NeurIPS 2021)."""
    return average_precision(outranked_by_level(scores, levels, sup()), levels > 0)


def smooth_recall(scores: Tensor, levels: Tensor, ks: Sequence[int] = (1, 2, 4, 8, 16)) -> Tensor:
    """Recall@k (Patel et al., CVPR 2022), one k at a time."""
    positive = (levels > 0).to(scores.dtype)
    ranks = 1 + outranked(scores, sigmoid()).sum(-1)
    total = torch.zeros_like(scores[:, 0])
    for k in ks:
        found = (torch.sigmoid(k - ranks) * positive).sum(-1).clamp(max=k)
        total = total + found / positive.sum(-1).clamp(max=k)
    return total / len(ks)


def smooth_ndcg(scores: Tensor, levels: Tensor) -> Tensor:
    """NDCG with ranks by sigmoids (Ramzi et al., SupRank, TPAMI 2025)."""
    gain = levels.to(scores.dtype).exp2() - 1
    ranks = 1 + outranked(scores, sigmoid()).sum(-1)
    best = gain.sort(-1, descending=True).values
    position = torch.arange(2, scores.shape[1] + 2, device=scores.device)
    return (gain / (1 + ranks).log2()).sum(-1) / (best / position.log2()).sum(-1)


def h_ap(scores: Tensor, levels: Tensor) -> Tensor:
    """H-AP (Ramzi et al., HAPPIER, ECCV 2022): relevances level / number of that level."""
    # With a given number of levels, it compiles.
    counts = torch.nn.functional.one_hot(levels.long(), LEVELS).sum(1)
    relevance = levels.to(scores.dtype) / counts.gather(-1, levels.long())
    shared = relevance.unsqueeze(1).minimum(relevance.unsqueeze(2))
    found = relevance + (shared * outranked(scores, step).detach()).sum(-1)
    ranks = 1 + outranked_by_level(scores, levels, sup()).sum(-1)
    return (found / ranks).sum(-1) / relevance.sum(-1)


def calibration(scores: Tensor, same: Tensor) -> Tensor:
    """ROADMAP's calibration (Ramzi et al., NeurIPS 2021), a scalar; `same` (B, M) bool."""
    positive = (0.9 - scores).clamp(min=0) * same
    negative = (scores - 0.6).clamp(min=0) * ~same
    return _mean_of_active(positive) + _mean_of_active(negative)


def _mean_of_active(excess: Tensor) -> Tensor:
    return excess.sum() / (excess > 0).sum().clamp(min=1)


ALL_TRIPLES: dict[str, Metric] = {
    "smooth_ap": smooth_ap,
    "sup_ap": sup_ap,
    "smooth_recall": smooth_recall,
    "smooth_ndcg": smooth_ndcg,
    "h_ap": h_ap,
}
