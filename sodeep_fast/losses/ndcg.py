"""Normalized discounted cumulative gain with soft ranks."""

from typing import Any

from torch import Tensor

from sodeep_fast._checks import check_matrix
from sodeep_fast.comparators import (
    SUP_AP,
    Comparator,
    Sigmoid,
    Simple,
    bounded_by,
    check_comparator,
)
from sodeep_fast.ops.counted_ndcg import counted_ndcg
from sodeep_fast.retrieval.hierarchical import HierarchicalLoss


def smooth_ndcg(
    scores: Tensor, levels: Tensor, tau: float = 0.01, *, mask: Tensor | None = None
) -> Tensor:
    """Returns the smooth normalized discounted cumulative gain of every query.

    The sum over items of (2^level - 1) / log2(1 + rank), with ranks by sigmoids, over that of the
    best order. Ramzi et al., SupRank, TPAMI 2025, whose program keeps a query in its own gallery.

    Arguments:
        scores: (B, M) floating-point scores of B queries and M items, larger for more relevant.
        levels: (B, M) bool or integers from 0, irrelevant, to 254: the gain is 2^level - 1.
        tau: temperature of the sigmoids, in units of score.
        mask: (B, M) bool, True where the item is in the query's gallery. Default: all are.

    Returns:
        (B,) values; NaN if a score is not finite, or if no item is relevant; the latter NaN has no
        gradient, so `torch.nanmean` leaves it out.

    Raises:
        TypeError: scores that are not floating point, levels that are neither integer nor bool, a
            mask that is not bool, or tau that is not a number.
        ValueError: scores that are not a matrix, levels or a mask of a different shape or device,
            levels out of range, or tau that is not positive.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
        >>> sodeep_fast.smooth_ndcg(scores, torch.tensor([[1, 2, 0, 0]]))
        tensor([0.7967])
    """
    return discounted_gain(scores, levels, Sigmoid(tau), mask)


def sup_ndcg(
    scores: Tensor, levels: Tensor, comparator: Simple | None = None, *, mask: Tensor | None = None
) -> Tensor:
    """Returns SupRank's bound on the normalized discounted cumulative gain of every query.

    As `smooth_ndcg`, but counts less relevant items by `comparator` and the others exactly. Ramzi
    et al., SupRank, TPAMI 2025.

    Arguments:
        scores: (B, M) floating-point scores of B queries and M items, larger for more relevant.
        levels: (B, M) bool or integers from 0, irrelevant, to 254: the gain is 2^level - 1.
        comparator: how less relevant items are counted. Default: `Sup()`.
        mask: (B, M) bool, True where the item is in the query's gallery. Default: all are.

    Returns:
        (B,) values, NaN as in `smooth_ndcg`.

    Raises:
        TypeError, ValueError: as `smooth_ndcg`.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
        >>> sodeep_fast.sup_ndcg(scores, torch.tensor([[1, 2, 0, 0]]))
        tensor([0.5431])
    """
    return discounted_gain(scores, levels, bounded_by(comparator), mask)


def discounted_gain(
    scores: Tensor, levels: Tensor, comparator: Comparator, mask: Tensor | None
) -> Tensor:
    """Returns the normalized discounted cumulative gain of every query, ranks by `comparator`."""
    check_matrix(scores, "(B, M)")
    return counted_ndcg(scores, levels, comparator, mask=mask)


class NDCGLoss(HierarchicalLoss):
    """1 - the normalized discounted cumulative gain of embeddings, averaged over the queries.

    The gain of an item is 2^level - 1, where its level is the number of labels it shares with the
    query. Ramzi et al., SupRank, TPAMI 2025. By default a query is in its own gallery, at the
    highest level, as in the official program; `exclude_query=True` gives the metric's own
    convention.

    Arguments:
        comparator: how ranks are counted. Default: `ByLevel()`, SupRank's bound with the `Sup` of
            its paper. Its configuration files use `ByLevel(Sup(offset=1.44))`; its smooth NDCG is
            `Sigmoid(0.01)`.
        options: those of `RetrievalLoss`.

    Raises:
        TypeError: an invalid comparator.

    Example:
        >>> import torch, sodeep_fast
        >>> loss = sodeep_fast.NDCGLoss(sodeep_fast.Sigmoid(0.01), exclude_query=True)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> loss(embeddings, torch.tensor([[0, 0], [1, 0], [0, 0], [2, 1]]))
        tensor(0.1716)
    """

    def __init__(self, comparator: Comparator | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.comparator = SUP_AP if comparator is None else comparator
        check_comparator(self.comparator)

    def values(self, scores: Tensor, relation: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the normalized discounted cumulative gain."""
        return discounted_gain(scores, relation, self.comparator, mask)

    def extra_repr(self) -> str:
        """Returns comparator and options."""
        return f"comparator={self.comparator}, {super().extra_repr()}"
