"""The exact metrics that the losses approximate, a value for every row.

Queries (or groups) are rows: of a (d, C) multi-label problem, hand in the transposes. A metric
that a row does not define, such as the average precision of a query without a positive, is NaN
there; `torch.nanmean` of the result leaves those rows out. All sums are in float64, on the
device of the scores, with no gradient.
"""

import torch
from torch import Tensor

from sodeep_fast._checks import (
    check_count,
    check_labels,
    check_mask,
    check_real,
    check_same_shape,
)
from sodeep_fast.ops.hard_rank import hard_rank


def spearman(predictions: Tensor, targets: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns Spearman's rank correlation of predictions and targets, a value for every row.

    The Pearson correlation of the ranks, tied values sharing their average rank; without ties this
    is SoDeep's eq. (2). The same as `scipy.stats.spearmanr`.

    Arguments:
        predictions: (..., n) real values, floating point or integer.
        targets: (..., n) real values, floating point or integer.
        mask: (..., n) bool, True where valid. Default: all valid.

    Returns:
        (...) float64 in [-1, 1]. NaN where the row has fewer than two valid entries, where all its
        predictions or all its targets are equal, or where it has a NaN.

    Raises:
        TypeError: complex values, or a mask that is not bool.
        ValueError: scalar tensors, or targets or mask of another shape or device.

    Example:
        >>> import torch
        >>> from sodeep_fast import metrics
        >>> metrics.spearman(torch.tensor([0.1, 0.9, 0.5]), torch.tensor([1, 2, 3]))
        tensor(0.5000, dtype=torch.float64)
    """
    check_real(predictions, "predictions")
    check_real(targets, "targets")
    check_same_shape(targets, predictions, "targets", "predictions")
    check_mask(mask, predictions, scores_name="predictions")

    lengths = predictions.shape[-1] if mask is None else mask.sum(-1, keepdim=True)
    # Average ranks have the mean (n + 1) / 2 whatever the ties.
    ours, theirs = (
        hard_rank(values, mask=mask).double() - (lengths + 1) / 2
        for values in (predictions, targets)
    )
    if mask is not None:
        ours, theirs = ours.masked_fill(~mask, 0), theirs.masked_fill(~mask, 0)
    variance = ours.square().sum(-1) * theirs.square().sum(-1)
    return (ours * theirs).sum(-1) / variance.sqrt()


def average_precision(scores: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns the average precision of every row.

    The mean over positives of the precision among the items that score at least as high; so tied
    items come in together, and their order does not matter. The same as
    `sklearn.metrics.average_precision_score`. SoDeep (Engilberge et al., CVPR 2019), eq. (5).

    Arguments:
        scores: (..., n) real values, floating point or integer, larger for likelier.
        labels: (..., n) 1 for positives and 0 elsewhere, of any real dtype.
        mask: (..., n) bool, True where valid. Default: all valid.

    Returns:
        (...) float64 in (0, 1]. NaN where the row has no (valid) positive, or a NaN.

    Raises:
        TypeError: complex values, or a mask that is not bool.
        ValueError: scalar tensors, labels or mask of another shape or device, or labels that are
            not binary.

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

    The recall@k of retrieval benchmarks (the hit rate): its mean over rows is the share of queries
    that found one. SoDeep (Engilberge et al., CVPR 2019), eq. (8), for several positives too. Ties
    count against the row: an item of another label with the same score comes first, so constant
    scores find nothing.

    Arguments:
        scores: (..., n) real values, floating point or integer, larger for likelier.
        labels: (..., n) 1 for positives and 0 elsewhere, of any real dtype.
        k: how many items are retrieved, at least 1; more than n retrieves them all.
        mask: (..., n) bool, True where valid. Default: all valid.

    Returns:
        (...) float64, 0 or 1. NaN where the row has no (valid) positive, or a NaN.

    Raises:
        TypeError: complex values, a mask that is not bool, or k that is not an integer.
        ValueError: scalar tensors, labels or mask of another shape or device, labels that are not
            binary, or k below 1.

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
