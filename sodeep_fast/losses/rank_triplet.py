"""SoDeep's surrogate of recall: a triplet loss on soft ranks, with the hardest negatives."""

import torch
from torch import Tensor, nn

from sodeep_fast._checks import (
    check_count,
    check_mask,
    check_matrix,
    check_number,
    check_sorter,
)
from sodeep_fast.sorters.protocol import Sorter, relative_ranks


def rank_triplet_loss(
    scores: Tensor,
    sorter: Sorter,
    margin: float,
    *,
    hardest: int = 1,
    positives: Tensor | None = None,
) -> Tensor:
    """Returns the hinge loss between ranks of positives and of the hardest negatives, both ways.

    For a query and its positive p: the sum, over the `hardest` negatives c of smallest rank, of
    max(0, margin + rank_p - rank_c), with ranks divided by the number of items. It is averaged over
    the query's positives, then over queries. The result is that for rows as queries plus that for
    columns as queries. SoDeep (Engilberge et al., CVPR 2019), eq. (9) and (10).

    Arguments:
        scores: (B, M) floating-point scores of B queries and M items, larger for more similar.
        sorter: scores (b, n) -> ranks (b, n), called with (B, M) and with (M, B). Its attribute
            `normalize` says whether its ranks are divided by n; a sorter without it is assumed to
            divide, as SoDeep's do.
        margin: in units of rank / n, at least 0; the paper's alpha.
        hardest: number of negatives to sum over per query. Default: 1, as in the paper.
        positives: (B, M) bool, True where query and item belong together; all others are negatives.
            If queries are among the items, mark them as their own positives. Default: the diagonal
            of a square matrix.

    Returns:
        A scalar, the mean over row queries plus that over column queries. Queries without a
        positive or a negative are left out; if that leaves none, 0, still with a graph.

    Raises:
        TypeError: scores that are not floating point, positives that are not bool, a margin or a
            `hardest` that is not a number, or a sorter that is not callable.
        ValueError: scores that are not a matrix (a square one where positives are not given),
            positives of a different shape or device, a negative margin, `hardest` below 1, or a
            sorter that returns a different shape.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[2.0, 4.0, 0.0], [0.0, 6.0, 4.0], [-2.0, 0.0, 2.0]])
        >>> sodeep_fast.rank_triplet_loss(scores, sodeep_fast.HandcraftedSorter(), margin=0.2)
        tensor(0.3556)
    """
    check_matrix(scores, "(B, B)" if positives is None else "(B, M)", square=positives is None)
    check_sorter(sorter)
    check_number(margin, "margin", least=0)
    check_count(hardest, "hardest")
    check_mask(positives, scores, "positives")
    # Made contiguous once, rather than by the sorter for every derivative.
    other_way = scores.T.contiguous(), None if positives is None else positives.T
    return _one_way(scores, positives, sorter, margin, hardest) + _one_way(
        *other_way, sorter, margin, hardest
    )


def _one_way(
    scores: Tensor, positives: Tensor | None, sorter: Sorter, margin: float, hardest: int
) -> Tensor:
    """Returns the mean over the queries, which are the rows."""
    ranks = relative_ranks(sorter, scores)
    if positives is None:
        diagonal = torch.arange(len(scores), device=scores.device).unsqueeze(-1)
        own, is_positive = ranks.gather(-1, diagonal), torch.ones_like(diagonal, dtype=torch.bool)
        others = ranks.detach().scatter(-1, diagonal, torch.inf)
    else:
        own, is_positive = ranks, positives
        others = ranks.detach().masked_fill(positives, torch.inf)
    smallest, hard = others.topk(min(hardest, scores.shape[1]), largest=False)
    # If there are fewer negatives than `hardest`, infinite ranks add nothing to the hinge.
    negatives = ranks.gather(-1, hard).masked_fill(smallest.isinf(), torch.inf)
    hinges = torch.relu(margin + own.unsqueeze(-1) - negatives.unsqueeze(-2)).sum(-1)
    counts = is_positive.sum(-1)
    losses = hinges.masked_fill(~is_positive, 0).sum(-1) / counts.clamp(min=1)
    counted = (counts > 0) & (counts < scores.shape[1])
    return losses.masked_fill(~counted, 0).sum() / counted.sum().clamp(min=1)


class RankTripletLoss(nn.Module):
    """A triplet loss on ranks with the hardest negatives: the module form of `rank_triplet_loss`.

    SoDeep (Engilberge et al., CVPR 2019), eq. (9) and (10). A sorter that is a module becomes a
    submodule, so its parameters are frozen or trained with the rest.

    Arguments:
        sorter: scores (b, n) -> ranks (b, n), as in `rank_triplet_loss`.
        margin: in units of rank / n, at least 0; the paper's alpha.
        hardest: number of negatives to sum over per query. Default: 1, as in the paper.

    Raises:
        TypeError: a sorter that is not callable, or a margin or a `hardest` that is not a number.
        ValueError: a negative margin, or `hardest` below 1.

    Example:
        >>> import torch, sodeep_fast
        >>> loss = sodeep_fast.RankTripletLoss(sodeep_fast.HandcraftedSorter(), margin=0.2)
        >>> loss(torch.eye(5))
        tensor(0.)
    """

    def __init__(self, sorter: Sorter, margin: float, hardest: int = 1) -> None:
        super().__init__()
        check_sorter(sorter)
        check_number(margin, "margin", least=0)
        check_count(hardest, "hardest")
        self.sorter = sorter
        self.margin = margin
        self.hardest = hardest

    def forward(self, scores: Tensor, positives: Tensor | None = None) -> Tensor:
        """Returns the loss, a scalar; arguments as in `rank_triplet_loss`."""
        return rank_triplet_loss(
            scores, self.sorter, self.margin, hardest=self.hardest, positives=positives
        )

    def extra_repr(self) -> str:
        """Returns the margin and the number of hardest negatives."""
        return f"margin={self.margin}, hardest={self.hardest}"
