"""SupAP: an upper bound on the loss of average precision whose gradient does not vanish."""

from typing import Any

from torch import Tensor

from sodeep_fast.comparators import Simple, bounded_by
from sodeep_fast.losses._precision import counted_precision
from sodeep_fast.retrieval import RetrievalLoss


def sup_ap(
    scores: Tensor, labels: Tensor, comparator: Simple | None = None, *, mask: Tensor | None = None
) -> Tensor:
    """Returns SupAP's lower bound on the average precision of every query.

    Negatives are counted by `comparator`. Positives are counted exactly, so the gradient is through
    negatives only. Ramzi et al., ROADMAP, NeurIPS 2021. The official program keeps a query in its
    own gallery, as its own positive; exclude it by `mask` to follow the metric.

    Arguments:
        scores: (B, M) floating-point scores of B queries and M items, larger for more similar.
        labels: (B, M) 1 where query and item belong together and 0 elsewhere, of any real dtype.
        comparator: how negatives are counted; `Sup` lists the published variants. Default:
            `Sup()`, the paper's.
        mask: (B, M) bool, True where the item is in the query's gallery. Default: all are.

    Returns:
        (B,) values in (0, 1]; NaN if one of its scores is not finite, or if a query has no
        positive; the latter NaN has no gradient, so `torch.nanmean` leaves it out.

    Raises:
        TypeError: scores that are not floating point, a mask that is not bool, or an invalid
            comparator.
        ValueError: scores that are not a matrix, labels or a mask of a different shape or device,
            or labels that are not binary.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[0.9, 0.8, 0.79, 0.1]])
        >>> labels = torch.tensor([[1, 0, 1, 0]])
        >>> sodeep_fast.sup_ap(scores, labels)
        tensor([0.8095])
    """
    return counted_precision(scores, labels, bounded_by(comparator), mask)


class SupAPLoss(RetrievalLoss):
    """1 - SupAP of embeddings, averaged over the queries: ROADMAP's first term.

    Ramzi et al., ROADMAP, NeurIPS 2021. By default a query is its own positive, as in the official
    program; `exclude_query=True` gives the metric's own convention.

    Arguments:
        comparator: how negatives are counted; `Sup` lists the published variants. Default:
            `Sup()`, the paper's.
        options: those of `RetrievalLoss`.

    Raises:
        TypeError: an invalid comparator.

    Example:
        >>> import torch, sodeep_fast
        >>> loss = sodeep_fast.SupAPLoss(sodeep_fast.Sup(offset=1.44))
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> loss(embeddings, torch.tensor([0, 1, 0, 1]))
        tensor(0.4675)
    """

    def __init__(self, comparator: Simple | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.comparator = bounded_by(comparator).lower

    def values(self, scores: Tensor, relation: Tensor, mask: Tensor | None) -> Tensor:
        """Returns `sup_ap`."""
        return sup_ap(scores, relation, self.comparator, mask=mask)

    def extra_repr(self) -> str:
        """Returns comparator and options."""
        return f"comparator={self.comparator}, {super().extra_repr()}"
