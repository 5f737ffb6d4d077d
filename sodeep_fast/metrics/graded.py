"""Metrics for graded relevance."""

import torch
from torch import Tensor

from sodeep_fast._checks import (
    check_count,
    check_levels,
    check_mask,
    check_matrix,
    check_positive,
    check_real,
)
from sodeep_fast.comparators import Step
from sodeep_fast.losses.h_ap import h_ap as smooth_h_ap
from sodeep_fast.ops.hard_rank import hard_rank
from sodeep_fast.reference.graded_precision import default_relevances


def ndcg(
    scores: Tensor, levels: Tensor, k: int | None = None, *, mask: Tensor | None = None
) -> Tensor:
    """Returns the normalized discounted cumulative gain of every row.

    The sum over items of (2^level - 1) / log2(1 + rank), over that of the best order. Tied items
    share the mean discount of their ranks, as in `sklearn.metrics.ndcg_score` of the gains 2^level
    - 1.

    Arguments:
        scores: (..., n) real values, floating point or integer, larger for more relevant.
        levels: (..., n) bool or integers from 0, irrelevant, to 254.
        k: number of top items to count, also in the best order: the metric at k. Default: all.
        mask: (..., n) bool, True where valid. Default: all valid.

    Returns:
        (...) float64 in [0, 1]. NaN if no (valid) item is relevant, or if there is a NaN.

    Raises:
        TypeError: complex scores, levels that are neither integer nor bool, k that is not an
            integer, or a mask that is not bool.
        ValueError: scalar tensors, levels or a mask of a different shape or device, levels out of
            range, or k below 1.

    Example:
        >>> import torch
        >>> from sodeep_fast import metrics
        >>> metrics.ndcg(torch.tensor([0.9, 0.8, 0.7, 0.1]), torch.tensor([1, 2, 0, 0]))
        tensor(0.7967, dtype=torch.float64)
    """
    check_real(scores)
    check_mask(mask, scores)
    check_levels(levels, scores, mask=mask)
    if k is not None:
        check_count(k, "k")

    gains = levels.double().exp2() - 1
    gains = gains if mask is None else gains.masked_fill(~mask, 0)
    position = torch.arange(scores.shape[-1] + 1, dtype=torch.float64, device=scores.device)
    most = scores.shape[-1] if k is None else k
    discounts = torch.where((position > 0) & (position <= most), 1 / (1 + position).log2(), 0)
    best = (gains.sort(-1, descending=True).values * discounts[1:]).sum(-1)

    first, last = (hard_rank(scores, mask=mask, ties=ties) for ties in ("min", "max"))
    undefined = (best == 0) | first.isnan().any(-1)
    # A masked item has rank 0, and no gain.
    start, end = (rank.nan_to_num().clamp(min=1).long() for rank in (first, last))
    summed = discounts.cumsum(0)
    shared = (summed[end] - summed[start - 1]) / (end - start + 1)
    return ((gains * shared).sum(-1) / best).masked_fill(undefined, torch.nan)


def h_ap(
    scores: Tensor,
    levels: Tensor,
    *,
    relevances: Tensor | None = None,
    alpha: float = 1.0,
    mask: Tensor | None = None,
    counted: Tensor | None = None,
) -> Tensor:
    """Returns the hierarchical average precision of every row.

    `sodeep_fast.h_ap` with exact ranks, where tied items come in together. With two levels it is
    the average precision. Ramzi et al., HAPPIER, ECCV 2022. Its program and SupRank's leave the
    query out of the ranking but count it among the items of its level; to do the same, include it
    in `counted` and not in `mask`.

    Arguments:
        scores: (B, n) floating-point values, larger for more relevant.
        levels: (B, n) bool or integers from 0, irrelevant, to 254: in a hierarchy, the number of
            labels that query and item share.
        relevances: (L,) or (B, L) relevance of each level, finite and not negative, zero for level
            0. Default: level^alpha over the number of the row's items of that level.
        alpha: exponent of the default relevances, positive.
        mask: (B, n) bool, True where valid. Default: all valid.
        counted: (B, n) bool, True for the items that the default relevances count. Default: those
            that are valid.

    Returns:
        (B,) float64 in (0, 1]. NaN if no (valid) item is relevant, or if a score is not finite.

    Raises:
        TypeError, ValueError: as `sodeep_fast.h_ap`; both relevances and counted.

    Example:
        >>> import torch
        >>> from sodeep_fast import metrics
        >>> metrics.h_ap(torch.tensor([[0.9, 0.8, 0.7, 0.1]]), torch.tensor([[1, 2, 0, 1]]))
        tensor([0.7083], dtype=torch.float64)
        >>> scores, levels = torch.tensor([[1.0, 0.5, 0.9, 0.1]]), torch.tensor([[2, 2, 1, 0]])
        >>> others = torch.tensor([[False, True, True, True]])  # all but the query itself
        >>> metrics.h_ap(scores, levels, alpha=2.0, mask=others, counted=torch.ones_like(others))
        tensor([0.8333], dtype=torch.float64)
    """
    if isinstance(scores, Tensor) and scores.is_floating_point():
        scores = scores.detach().double()
    if counted is not None:
        if relevances is not None:
            raise ValueError("counted must be None with relevances, which need no counts, got both")
        check_matrix(scores, "(B, n)")
        check_mask(mask, scores)
        check_mask(counted, scores, "counted")
        relevances = _relevances(levels, scores, alpha, mask, counted)
    return smooth_h_ap(scores, levels, Step(), relevances=relevances, alpha=alpha, mask=mask)


def _relevances(
    levels: Tensor, scores: Tensor, alpha: float, mask: Tensor | None, counted: Tensor
) -> Tensor:
    """Returns (B, L): level^alpha over the number of counted items of that level."""
    known = None if mask is None else mask | counted
    num_levels = check_levels(levels, scores, mask=known)
    check_positive(alpha, "alpha")
    numbers = scores.new_zeros(len(scores), num_levels)
    found = levels.long().masked_fill(~counted, 0)
    numbers.scatter_add_(-1, found, counted.to(numbers.dtype))
    return default_relevances(numbers, alpha)
