"""Rank correlations."""

from torch import Tensor

from sodeep_fast._checks import check_mask, check_real, check_same_shape
from sodeep_fast.ops.hard_rank import hard_rank


def spearman(predictions: Tensor, targets: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns Spearman's rank correlation of predictions and targets, one value per row.

    The Pearson correlation of the ranks, where tied values share their average rank; without ties
    this is SoDeep's eq. (2). Equal to `scipy.stats.spearmanr`.

    Arguments:
        predictions: (..., n) real values, floating point or integer.
        targets: (..., n) real values, floating point or integer.
        mask: (..., n) bool, True where valid. Default: all valid.

    Returns:
        (...) float64 in [-1, 1]. NaN if the row has fewer than two valid entries, if all its
        predictions or all its targets are equal, or if it has a NaN.

    Raises:
        TypeError: complex values, or a mask that is not bool.
        ValueError: scalar tensors, or targets or a mask of a different shape or device.

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
