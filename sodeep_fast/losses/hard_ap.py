"""Average precision itself, by counting: what `smooth_ap` and `sup_ap` approximate."""

from torch import Tensor

from sodeep_fast._checks import check_matrix
from sodeep_fast.comparators import Step
from sodeep_fast.losses._precision import counted_precision


def hard_ap(scores: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns the average precision of every query, without a gradient.

    The limit of `smooth_ap` for tau towards 0, and the value of `metrics.average_precision`: tied
    items come in together. It only counts at the positives, so it is much faster if they are few,
    and works in the precision of the scores.

    Arguments:
        scores: (B, M) floating-point scores of B queries and M items, larger for more similar.
        labels: (B, M) 1 where query and item belong together and 0 elsewhere, of any real dtype.
        mask: (B, M) bool, True where the item is in the query's gallery. Default: all are.

    Returns:
        (B,) values in (0, 1]; NaN if a query has no positive, or if one of its scores is not
        finite.

    Raises:
        TypeError: scores that are not floating point, or a mask that is not bool.
        ValueError: scores that are not a matrix, labels or a mask of a different shape or device,
            or labels that are not binary.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.9, 0.8, 0.7, 0.1]])
        >>> labels = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]])
        >>> sodeep_fast.hard_ap(scores, labels)
        tensor([0.8333,    nan])
    """
    check_matrix(scores, "(B, M)")
    return counted_precision(scores.detach(), labels, Step(), mask)
