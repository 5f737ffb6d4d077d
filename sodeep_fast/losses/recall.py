"""Recall at k with soft ranks under a soft threshold."""

from collections.abc import Sequence

from torch import Tensor

from sodeep_fast._checks import check_count, check_labels, check_matrix, check_positive
from sodeep_fast.comparators import Comparator, Sigmoid, Simple, bounded_by
from sodeep_fast.ops.counted_recall import counted_recall

KS = (1, 2, 4, 8, 16)


def smooth_recall(
    scores: Tensor,
    labels: Tensor,
    ks: Sequence[int] = KS,
    tau: float = 0.01,
    *,
    temperature: float = 1.0,
    clip: bool = True,
    mask: Tensor | None = None,
) -> Tensor:
    """Returns the smooth recall at k of every query, averaged over several k.

    The sum over the positives p of sigmoid((k - rank_p) / temperature), limited to k if `clip`,
    over min(k, number of positives). Patel et al., Recall@k Surrogate Loss, CVPR 2022. Its program
    keeps a query in its own gallery, as an item that is not positive: labels are 0 on the diagonal.
    In the paper's equation the query is not in the gallery: exclude it by `mask`.

    Arguments:
        scores: (B, M) floating-point scores of B queries and M items, larger for more similar.
        labels: (B, M) 1 where query and item belong together and 0 elsewhere, of any real dtype.
        ks: how many items are retrieved, each at least 1.
        tau: temperature of the sigmoids that count the ranks, in units of score; other losses call
            it their temperature.
        temperature: of the sigmoid that tests whether a rank is within k, in units of rank. clip:
            count at most k of the positives as found at k. Default: True.
        mask: (B, M) bool, True where the item is in the query's gallery. Default: all are.

    Returns:
        (B,) values in [0, 1) if `clip`; NaN if one of its scores is not finite, or if a query has
        no positive; the latter NaN has no gradient, so `torch.nanmean` leaves it out. A perfect
        order does not reach 1.

    Raises:
        TypeError: scores that are not floating point, a mask that is not bool, ks that are not
            integers, or a temperature that is not a number.
        ValueError: scores that are not a matrix, labels or a mask of a different shape or device,
            labels that are not binary, no ks or one below 1, or a temperature that is not positive.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
        >>> labels = torch.tensor([[1, 0, 1, 0]])
        >>> sodeep_fast.smooth_recall(scores, labels, ks=[2])
        tensor([0.5000])
    """
    return recall_at(scores, labels, ks, Sigmoid(tau), temperature, clip, mask)


def sup_recall(
    scores: Tensor,
    labels: Tensor,
    ks: Sequence[int] = KS,
    comparator: Simple | None = None,
    *,
    temperature: float = 1.0,
    clip: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Returns SupRank's bound on the recall at k of every query, averaged over several k.

    As `smooth_recall`, with the ranks of `sup_ap`. Ramzi et al., SupRank, TPAMI 2025; its program
    keeps a query in its own gallery, as its own positive, and does not clip.

    Arguments:
        scores: (B, M) floating-point scores of B queries and M items, larger for more similar.
        labels: (B, M) 1 where query and item belong together and 0 elsewhere, of any real dtype.
        ks: how many items are retrieved, each at least 1.
        comparator: how negatives are counted. Default: `Sup()`.
        temperature: of the sigmoid that tests whether a rank is within k, in units of rank; that of
            the scores is in the comparator.
        clip: count at most k of the positives as found at k. Default: False.
        mask: (B, M) bool, True where the item is in the query's gallery. Default: all are.

    Returns:
        (B,) values, NaN as in `smooth_recall`.

    Raises:
        TypeError, ValueError: as `smooth_recall`.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
        >>> labels = torch.tensor([[1, 1, 0, 0]])
        >>> sodeep_fast.sup_recall(scores, labels, ks=[2])
        tensor([0.6155])
    """
    return recall_at(scores, labels, ks, bounded_by(comparator), temperature, clip, mask)


def recall_at(
    scores: Tensor,
    labels: Tensor,
    ks: Sequence[int],
    comparator: Comparator,
    temperature: float,
    clip: bool,
    mask: Tensor | None,
) -> Tensor:
    """Returns the recall at k of every query, averaged over `ks`, with ranks by `comparator`."""
    check_matrix(scores, "(B, M)")
    check_labels(labels, scores)
    check_positive(temperature, "temperature")
    check_cutoffs(ks)

    return counted_recall(
        scores, labels.bool(), comparator, ks, temperature=temperature, clip=clip, mask=mask
    )


def check_cutoffs(ks: Sequence[int]) -> None:
    """Raises unless `ks` holds integers of at least one, and at least one of them."""
    if not isinstance(ks, Sequence):
        raise TypeError(f"ks must be a sequence of integers, got {type(ks).__name__}")
    for k in ks:
        check_count(k, "every k of ks")
    if len(ks) == 0:
        raise ValueError("ks must hold at least one k, got none")
