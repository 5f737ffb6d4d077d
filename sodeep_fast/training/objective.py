"""The objective of a sorter's training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def objective(
    sorter: nn.Module, scores: Tensor, ranks: Tensor, targets: Tensor, gradient_weight: float
) -> tuple[Tensor, Tensor]:
    """Returns the loss of a batch, and its mean L1 difference from the exact ranks / n.

    SoDeep (Engilberge et al., CVPR 2019), eq. (1), divided by the number of scores; less
    `gradient_weight` times the mean cosine of `gradient_cosine`, where that is not 0.

    Arguments:
        sorter: takes scores (b, n), returns ranks / n.
        scores: (b, n).
        ranks: (b, n) exact ranks / n.
        targets: (b, n) other ranks / n, towards which the gradient should lead the scores.
        gradient_weight: not negative.

    Returns:
        two scalars, the second without a gradient.
    """
    if gradient_weight == 0:
        error = F.l1_loss(sorter(scores), ranks)
        return error, error.detach()
    scores = scores.detach().requires_grad_()
    output = sorter(scores)
    error = F.l1_loss(output, ranks)
    gradient = spearman_gradient(output, scores, targets, create_graph=True)
    return error - gradient_weight * gradient_cosine(gradient, ranks, targets), error.detach()


def spearman_gradient(
    output: Tensor, scores: Tensor, targets: Tensor, *, create_graph: bool = False
) -> Tensor:
    """Returns the gradient in the scores (b, n) of the sum over rows of 1 - Spearman's correlation.

    The correlation is that of SoDeep's eq. (2), of the ranks / n `output` and `targets`, (b, n).
    """
    n = scores.shape[-1]
    loss = 6 * n / max(n * n - 1, 1) * (output - targets).square().sum()
    return torch.autograd.grad(loss, scores, create_graph=create_graph)[0]


def gradient_cosine(gradient: Tensor, ranks: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean cosine of the descent direction with the direction that corrects the ranks.

    If a score's exact rank is too large by d, the score has to rise, and the direction's entry is
    d.

    Arguments:
        gradient: (b, n) of a loss in the scores.
        ranks: (b, n) exact ranks of the scores.
        targets: (b, n) ranks that they should have.

    Returns:
        a scalar in [-1, 1]; a row without a gradient counts as 0.
    """
    return F.cosine_similarity(-gradient, ranks - targets, dim=-1, eps=1e-20).mean()
