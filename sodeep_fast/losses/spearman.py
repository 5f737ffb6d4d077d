"""One minus Spearman's rank correlation, with soft ranks of the predictions."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sodeep_fast._checks import (
    check_mask,
    check_real,
    check_same_shape,
    check_scores,
    check_sorter,
    warn_of_single_observations,
)
from sodeep_fast.ops.hard_rank import hard_rank
from sodeep_fast.sorters.protocol import Sorter, relative_ranks


def spearman_loss(
    predictions: Tensor, targets: Tensor, sorter: Sorter, *, mask: Tensor | None = None
) -> Tensor:
    """Returns 1 - r_s, Spearman's correlation of predictions and targets, averaged over rows.

    r_s = 1 - 6 sum_i (rank of prediction_i - rank of target_i)^2 / (n (n^2 - 1)), with the sorter's
    soft ranks of the predictions and the exact ranks of the targets, tied targets sharing their
    average rank. SoDeep (Engilberge et al., CVPR 2019), eq. (2); eq. (4) is its numerator. With
    tied targets this differs from `metrics.spearman`, Pearson's correlation of the ranks. For
    example, a row of equal targets has no correlation, but a loss of 1 / 2 if the predictions
    differ.

    Arguments:
        predictions: (..., n) floating-point scores; every row is one group of n observations.
        targets: (..., n) real values whose order to match, floating point or integer.
        sorter: scores (b, n) -> ranks (b, n). Its attribute `normalize` says whether its ranks are
            divided by n; a sorter without it is assumed to divide, as SoDeep's do.
        mask: (..., n) bool, True where valid, for groups of different sizes; the sorter then has to
            accept `mask=`. Default: all valid.

    Returns:
        The mean over the rows with two or more valid entries: 0 for equal orders and 2 for opposite
        ones without ties, up to the softness of the ranks. 0, still with a graph, if there is no
        such row; so (b, 1) predictions, which are b groups of one observation, give 0 and a
        warning.

    Raises:
        TypeError: predictions that are not floating point, complex targets, a mask that is not bool
            or a sorter that is not callable.
        ValueError: scalar tensors, targets or a mask of a different shape or device, or a sorter
            that returns a different shape.

    Example:
        >>> import torch, sodeep_fast
        >>> predictions = torch.tensor([0.1, 0.9, 0.5], requires_grad=True)
        >>> sodeep_fast.spearman_loss(
        ...     predictions, torch.tensor([1, 2, 3]), sodeep_fast.HandcraftedSorter()
        ... )
        tensor(0.4910, grad_fn=<...>)
    """
    check_scores(predictions, "predictions")
    check_real(targets, "targets")
    check_same_shape(targets, predictions, "targets", "predictions")
    check_mask(mask, predictions, scores_name="predictions")
    check_sorter(sorter)

    if mask is None:
        n = predictions.shape[-1]
        if n < 2:
            warn_of_single_observations(predictions, "predictions")
            # Nothing to sum, rather than a constant, so that backward() works.
            dtype = torch.promote_types(predictions.dtype, torch.float32)
            return predictions.narrow(-1, 0, 0).sum(dtype=dtype)
        ranks = relative_ranks(sorter, predictions)
        exact = hard_rank(targets).to(ranks.dtype) / n
        rows = max(1, predictions.numel() // n)
        return functional.mse_loss(ranks, exact, reduction="sum") * (6 * n / (n**2 - 1) / rows)

    lengths = mask.sum(-1)
    is_counted = lengths >= 2
    # A row that is left out is empty, so that its soft and exact ranks are zero.
    mask = mask & is_counted.unsqueeze(-1)
    ranks = relative_ranks(sorter, predictions, mask)
    lengths = lengths.clamp(min=2).to(ranks.dtype)
    exact = hard_rank(targets, mask=mask).to(ranks.dtype) / lengths.unsqueeze(-1)
    losses = 6 * lengths / (lengths.square() - 1) * (ranks - exact).square().sum(-1)
    return losses.sum() / is_counted.sum().clamp(min=1)


class SpearmanLoss(nn.Module):
    """One minus Spearman's rank correlation: the module form of `spearman_loss`.

    SoDeep (Engilberge et al., CVPR 2019), eq. (2). A sorter that is a module becomes a submodule,
    so its parameters are frozen or trained with the rest.

    Arguments:
        sorter: scores (b, n) -> ranks (b, n), as in `spearman_loss`.

    Raises:
        TypeError: a sorter that is not callable.

    Example:
        >>> import torch, sodeep_fast
        >>> loss = sodeep_fast.SpearmanLoss(sodeep_fast.HandcraftedSorter())
        >>> loss(torch.tensor([[4.0, 5.0, 6.0], [6.0, 5.0, 4.0]]), torch.tensor([[1, 2, 3]] * 2))
        tensor(1.0000)
    """

    def __init__(self, sorter: Sorter) -> None:
        super().__init__()
        check_sorter(sorter)
        self.sorter = sorter

    def forward(self, predictions: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns the loss, a scalar; arguments as in `spearman_loss`."""
        return spearman_loss(predictions, targets, self.sorter, mask=mask)
