"""AP_Q: average precision of scores quantized by a histogram."""

from typing import Any

import torch
from torch import Tensor

from sodeep_fast._checks import check_bins, check_labels, check_matrix
from sodeep_fast.ops.soft_histogram import soft_histogram
from sodeep_fast.retrieval import RetrievalLoss

# An empty bin has precision 0. The square of this must be a float32 too.
TINY = 1e-16


def quantized_ap(
    scores: Tensor,
    labels: Tensor,
    *,
    bins: int = 20,
    low: float = -1.0,
    high: float = 1.0,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Returns the quantized average precision of every query, in linear time.

    The sum over the bins, from the highest score down, of the precision among all items so far
    times the share of the positives in the bin: Revaud et al., Learning with Average Precision,
    ICCV 2019, eq. (1) to (3) of its supplement. Exact, ties included, if all scores are bin
    centres. Otherwise an item is split between two bins, which causes a small error at any number
    of bins.

    Arguments:
        scores: (B, M) floating-point scores of B queries and M items, larger for more similar.
        labels: (B, M) 1 where query and item belong together and 0 elsewhere, of any real dtype. On
            a GPU, checking labels other than bool waits for their values.
        bins: number of bins. The paper's is 20, the official program's default 25.
        low: centre of the lowest bin, in units of score; no gradient below it. The official
            program's default is 0, with which negative scores get no gradient.
        high: centre of the highest bin; no gradient above it.
        mask: (B, M) bool, True where the item is in the query's gallery. Default: all are.
        backend: as in `soft_histogram`.

    Returns:
        (B,) values in (0, 1]; NaN if one of its scores is NaN, or if a query has no positive; the
        latter NaN has no gradient, so `torch.nanmean` leaves it out.

    Raises:
        TypeError: scores that are not floating point, a mask that is not bool, bins that is not an
            integer, or low or high that is not a number.
        ValueError: scores that are not a matrix, labels or a mask of a different shape or device,
            labels that are not binary, bins below 1, low not below high, or a backend that is not
            available.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.9, 0.8, 0.7, 0.1]])
        >>> labels = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]])
        >>> sodeep_fast.quantized_ap(scores, labels, bins=21)
        tensor([0.8333,    nan])
    """
    found, retrieved = _from_the_top(scores, labels, bins, low, high, mask, backend)
    precision = found.cumsum(-1) / (retrieved.cumsum(-1) + TINY)
    return _mean_over_positives(precision * found, found)


def tie_aware_quantized_ap(
    scores: Tensor,
    labels: Tensor,
    *,
    simplified: bool = True,
    bins: int = 20,
    low: float = -1.0,
    high: float = 1.0,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Returns the quantized average precision when the items of a bin come in any order.

    The precision at the middle of each bin, (2 P + p + 1) / (2 C + c + 1), with p positives among
    the bin's c items after P among C. Closer to average precision than `quantized_ap`. It is the
    simplified TAPLoss of the official program of Revaud et al., ICCV 2019; it is not in the paper.

    That program's full form is the integral over x from C + 1 to C + 1 + c of (P + 1 + r (x - C -
    1)) / x, over c, where r = (p - 1) / (c - 1) is the share of positives among the bin's other
    items. It jumps where a bin goes from less than one item to more, with gradients of 10^6. Here r
    is (p - 1) / max(c - 1, 1), or 0 if negative: the value is the same unless a bin has between one
    and two items, and the gradient is bounded. More bins do not remove the error.

    Arguments:
        scores: (B, M) floating-point scores of B queries and M items, larger for more similar.
        labels: (B, M) 1 where query and item belong together and 0 elsewhere, of any real dtype.
        simplified: False for the full form. Default: True.
        bins, low, high, mask, backend: as in `quantized_ap`.

    Returns:
        (B,) values, NaN as in `quantized_ap`.

    Raises:
        TypeError, ValueError: as `quantized_ap`.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.5, 0.5, 0.5, 0.5]])
        >>> labels = torch.tensor([[1, 0, 1, 0], [1, 0, 1, 0]])
        >>> sodeep_fast.tie_aware_quantized_ap(scores, labels, bins=21)
        tensor([0.8333, 0.6000])
    """
    found, retrieved = _from_the_top(scores, labels, bins, low, high, mask, backend)
    found_before = found.cumsum(-1) - found
    before = retrieved.cumsum(-1) - retrieved
    if simplified:
        precision = (2 * found_before + found + 1) / (2 * before + retrieved + 1)
    else:
        rate = (found - 1).clamp(min=0) / (retrieved - 1).clamp(min=1)
        start = found_before + 1 - rate * (before + 1)
        integral = retrieved * rate + start * torch.log1p(retrieved / (before + 1))
        precision = integral / (retrieved + TINY)
    return _mean_over_positives(precision * found, found)


def _from_the_top(
    scores: Tensor,
    labels: Tensor,
    bins: int,
    low: float,
    high: float,
    mask: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Returns the (B, bins) positives and items of every bin, from the highest score down."""
    check_matrix(scores, "(B, M)")
    check_labels(labels, scores)
    counts = soft_histogram(
        scores, labels.bool(), bins=bins, low=low, high=high, mask=mask, backend=backend
    ).flip(-1)
    return counts[:, 1], counts.sum(1)


def _mean_over_positives(terms: Tensor, found: Tensor) -> Tensor:
    """Returns (B,): the sums of terms over the number of positives, NaN where there are none."""
    number = found.detach().sum(-1)
    return (terms.sum(-1) / number.clamp(min=1)).masked_fill(number == 0, torch.nan)


class QuantizedAPLoss(RetrievalLoss):
    """1 - quantized average precision of embeddings, averaged over the queries: AP_Q.

    Revaud et al., Learning with Average Precision, ICCV 2019. By default a query is its own
    positive, as in the paper; `exclude_query=True` gives the metric's own convention.

    Arguments:
        bins: number of bins. Default: 20.
        low: centre of the lowest bin, in units of score. Default: -1, the lowest cosine.
        high: centre of the highest bin. Default: 1.
        tie_aware: use `tie_aware_quantized_ap`. Default: False.
        options: those of `RetrievalLoss`.

    Raises:
        TypeError: bins that is not an integer, or low or high that is not a number.
        ValueError: bins below 1, or low not below high.

    Example:
        >>> import torch, sodeep_fast
        >>> loss = sodeep_fast.QuantizedAPLoss()
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> loss(embeddings, torch.tensor([0, 1, 0, 1]))
        tensor(0.3163)
    """

    def __init__(
        self,
        bins: int = 20,
        low: float = -1.0,
        high: float = 1.0,
        tie_aware: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_bins(bins, low, high)
        self.bins, self.low, self.high, self.tie_aware = bins, low, high, tie_aware

    def values(self, scores: Tensor, relation: Tensor, mask: Tensor | None) -> Tensor:
        """Returns `quantized_ap` or `tie_aware_quantized_ap`."""
        function = tie_aware_quantized_ap if self.tie_aware else quantized_ap
        return function(scores, relation, bins=self.bins, low=self.low, high=self.high, mask=mask)

    def extra_repr(self) -> str:
        """Returns bins and options."""
        return (
            f"bins={self.bins}, low={self.low}, high={self.high}, tie_aware={self.tie_aware}, "
            f"{super().extra_repr()}"
        )
