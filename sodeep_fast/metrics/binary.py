"""Metrics for binary relevance."""

import torch
from torch import Tensor

from sodeep_fast._checks import check_count, check_labels, check_mask, check_real
from sodeep_fast.ops.hard_rank import hard_rank


def average_precision(scores: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns the average precision of every row.

    The mean over positives of the precision among the items that score at least as high; so tied
    items come in together, and their order does not matter. Equal to
    `sklearn.metrics.average_precision_score`. SoDeep (Engilberge et al., CVPR 2019), eq. (5).

    Arguments:
        scores: (..., n) real values, floating point or integer, larger for more likely.
        labels: (..., n) 1 for positives and 0 elsewhere, of any real dtype.
        mask: (..., n) bool, True where valid. Default: all valid.

    Returns:
        (...) float64 in (0, 1]. NaN if the row has no (valid) positive, which SupRank's program
        counts as 0, or has a NaN.

    Raises:
        TypeError: complex values, or a mask that is not bool.
        ValueError: scalar tensors, labels or a mask of a different shape or device, or labels that
            are not binary.

    Example:
        >>> import torch
        >>> from sodeep_fast import metrics
        >>> scores = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
        >>> labels = torch.tensor([[1, 0, 1], [0, 0, 0]])
        >>> metrics.average_precision(scores, labels)
        tensor([0.8333,    nan], dtype=torch.float64)
    """
    check_real(scores)
    check_labels(labels, scores)
    check_mask(mask, scores)

    positives = labels.bool() if mask is None else labels.bool() & mask
    found = hard_rank(scores, mask=positives, ties="max").double()
    retrieved = hard_rank(scores, mask=mask, ties="max").double()
    precision = (found / retrieved).masked_fill(~positives, 0)
    return precision.sum(-1) / positives.sum(-1)


def recall_at_k(scores: Tensor, labels: Tensor, k: int, *, mask: Tensor | None = None) -> Tensor:
    """Returns, for every row, whether a positive is among its k best items.

    The recall@k of retrieval benchmarks (the hit rate): its `nanmean` over rows is the share of
    queries that found a positive, among those that have one. SoDeep (Engilberge et al., CVPR 2019),
    eq. (8), extended to several positives. Ties count against the row: a negative with the same
    score comes first, so constant scores find nothing.

    Arguments:
        scores: (..., n) real values, floating point or integer, larger for more likely.
        labels: (..., n) 1 for positives and 0 elsewhere, of any real dtype.
        k: number of items retrieved, at least 1; more than n retrieves all.
        mask: (..., n) bool, True where valid. Default: all valid.

    Returns:
        (...) float64, 0 or 1. NaN if the row has no (valid) positive, which the programs of
        Smooth-AP, ROADMAP, HAPPIER, SupRank and Recall@k count as 0, or has a NaN.

    Raises:
        TypeError: complex values, a mask that is not bool, or k that is not an integer.
        ValueError: scalar tensors, labels or a mask of a different shape or device, labels that are
            not binary, or k below 1.

    Example:
        >>> import torch
        >>> from sodeep_fast import metrics
        >>> scores = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
        >>> labels = torch.tensor([[1, 0, 1], [0, 1, 0]])
        >>> metrics.recall_at_k(scores, labels, k=1).mean()
        tensor(0.5000, dtype=torch.float64)
    """
    check_real(scores)
    check_labels(labels, scores)
    check_count(k, "k")
    check_mask(mask, scores)

    if scores.shape[-1] == 0:
        return torch.full(scores.shape[:-1], torch.nan, dtype=torch.float64, device=scores.device)
    valid = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    positives = labels.bool() & valid
    values = scores.detach() if scores.is_floating_point() else scores.double()
    best = values.masked_fill(~positives, -torch.inf).amax(-1, keepdim=True)
    ahead = ((values >= best) & valid & ~positives).sum(-1)
    undefined = ~positives.any(-1) | (values.isnan() & valid).any(-1)
    return (ahead < k).double().masked_fill(undefined, torch.nan)


def r_precision(scores: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns, for every row with R positives, the share of positives among its R best items.

    Ties count against the row: a negative with the same score comes first.

    Arguments:
        scores: (..., n) real values, floating point or integer, larger for more likely.
        labels: (..., n) 1 for positives and 0 elsewhere, of any real dtype.
        mask: (..., n) bool, True where valid. Default: all valid.

    Returns:
        (...) float64 in [0, 1]. NaN if the row has no (valid) positive, or has a NaN.

    Raises:
        TypeError: complex values, or a mask that is not bool.
        ValueError: scalar tensors, labels or a mask of a different shape or device, or labels that
            are not binary.

    Example:
        >>> import torch
        >>> from sodeep_fast import metrics
        >>> metrics.r_precision(torch.tensor([0.9, 0.5, 0.4, 0.1]), torch.tensor([1, 0, 1, 0]))
        tensor(0.5000, dtype=torch.float64)
    """
    _, found, number = _among_the_best(scores, labels, mask)
    return found.sum(-1) / number


def map_at_r(scores: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns, for every row with R positives, the average precision of its R best items.

    The sum, over the positives among them, of the precision up to each, divided by R: MAP@R of
    Musgrave et al., A Metric Learning Reality Check, ECCV 2020. Ties count against the row: a
    negative with the same score comes first.

    Arguments:
        scores: (..., n) real values, floating point or integer, larger for more likely.
        labels: (..., n) 1 for positives and 0 elsewhere, of any real dtype.
        mask: (..., n) bool, True where valid. Default: all valid.

    Returns:
        (...) float64 in [0, 1]. NaN if the row has no (valid) positive, or has a NaN.

    Raises:
        TypeError: complex values, or a mask that is not bool.
        ValueError: scalar tensors, labels or a mask of a different shape or device, or labels that
            are not binary.

    Example:
        >>> import torch
        >>> from sodeep_fast import metrics
        >>> metrics.map_at_r(torch.tensor([0.5, 0.9, 0.4, 0.1]), torch.tensor([1, 0, 1, 0]))
        tensor(0.2500, dtype=torch.float64)
    """
    precision, found, number = _among_the_best(scores, labels, mask)
    return precision.masked_fill(~found, 0).sum(-1) / number


def _among_the_best(
    scores: Tensor, labels: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the precision up to each item, the positives among the R best, and R or NaN."""
    check_real(scores)
    check_labels(labels, scores)
    check_mask(mask, scores)

    positives = labels.bool() if mask is None else labels.bool() & mask
    number = positives.sum(-1).double()
    hits = hard_rank(scores, mask=positives, ties="ordinal").double()
    retrieved = hard_rank(scores, mask=mask, ties="max").double()
    # Positives come after the negatives that score as high.
    negatives = retrieved - hard_rank(scores, mask=positives, ties="max").double()
    position = hits + negatives
    found = positives & (position <= number.unsqueeze(-1))
    undefined = (number == 0) | retrieved.isnan().any(-1)
    return hits / position, found, number.masked_fill(undefined, torch.nan)
