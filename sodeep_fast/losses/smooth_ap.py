"""Smooth-AP: average precision with sigmoids for ranks."""

from typing import Any

from torch import Tensor

from sodeep_fast._checks import check_positive
from sodeep_fast.comparators import Sigmoid
from sodeep_fast.losses._precision import counted_precision
from sodeep_fast.retrieval import RetrievalLoss


def smooth_ap(
    scores: Tensor, labels: Tensor, tau: float = 0.01, *, mask: Tensor | None = None
) -> Tensor:
    """Returns the smooth average precision of every query.

    The mean over the query's positives of (1 + the positives that outrank it) / (1 + all items that
    do), counted by sigmoids. Brown et al., Smooth-AP, ECCV 2020. The official program keeps a query
    in its own gallery, as its own positive; exclude it by `mask` to follow the metric.

    Arguments:
        scores: (B, M) floating-point scores of B queries and M items, larger for more similar.
        labels: (B, M) 1 where query and item belong together and 0 elsewhere, of any real dtype. On
            a GPU, checking labels other than bool waits for their values.
        tau: temperature of the sigmoids, in units of score.
        mask: (B, M) bool, True where the item is in the query's gallery. Default: all are.

    Returns:
        (B,) values in (0, 1]; NaN if one of its scores is not finite, or if a query has no
        positive; the latter NaN has no gradient, so `torch.nanmean` leaves it out.

    Raises:
        TypeError: scores that are not floating point, a mask that is not bool, or tau that is not a
            number.
        ValueError: scores that are not a matrix, labels or a mask of a different shape or device,
            labels that are not binary, or tau that is not positive.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.9, 0.8, 0.7, 0.1]])
        >>> labels = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]])
        >>> sodeep_fast.smooth_ap(scores, labels)
        tensor([0.8333,    nan])
    """
    return counted_precision(scores, labels, Sigmoid(tau), mask)


class SmoothAPLoss(RetrievalLoss):
    """1 - Smooth-AP of embeddings, averaged over the queries.

    Brown et al., Smooth-AP, ECCV 2020. By default a query is its own positive, as in the official
    program, whose value this matches for any classes; `exclude_query=True` gives the metric's own
    convention.

    Arguments:
        temperature: of the sigmoids, in units of score, positive. Default: 0.01.
        options: those of `RetrievalLoss`.

    Raises:
        TypeError: a temperature that is not a number.
        ValueError: a temperature that is not positive.

    Example:
        >>> import torch, sodeep_fast
        >>> loss = sodeep_fast.SmoothAPLoss()
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> loss(embeddings, torch.tensor([0, 1, 0, 1]))
        tensor(0.2128)
    """

    def __init__(self, temperature: float = 0.01, **options: Any) -> None:
        super().__init__(**options)
        check_positive(temperature, "temperature")
        self.temperature = temperature

    def values(self, scores: Tensor, relation: Tensor, mask: Tensor | None) -> Tensor:
        """Returns `smooth_ap`."""
        return smooth_ap(scores, relation, self.temperature, mask=mask)

    def extra_repr(self) -> str:
        """Returns temperature and options."""
        return f"temperature={self.temperature}, {super().extra_repr()}"
