"""What a loss may expect of a sorter, and the one scale in which losses see ranks: rank / n."""

from collections.abc import Callable

import torch
from torch import Tensor

from sodeep_fast.ops.hard_rank import hard_rank
from sodeep_fast.ops.soft_rank import soft_rank

Sorter = Callable[..., Tensor]
"""Scores (b, n) -> ranks (b, n), 1 for the largest.

Where masks are used it also takes `mask=` (b, n), and gives rank 0 where that is False.
Its attribute `normalize` says whether its ranks are divided by n (by the number of valid entries of
the row). Without the attribute they are taken to be, as those of SoDeep's sorters are.
"""


def relative_ranks(sorter: Sorter, scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Returns rank / n of every score within its row, whichever scale `sorter` works in.

    Arguments:
        sorter: see `Sorter`; or `soft_rank` or `hard_rank` themselves, which have no attribute but
            are known to return plain ranks.
        scores: (..., n) scores; the sorter sees one batch (b, n) of all rows.
        mask: (..., n) bool, True where valid; handed to the sorter only if given.

    Returns:
        (..., n) ranks divided by n, or by the number of valid entries of the row.

    Raises:
        ValueError: the sorter returned another shape than it was given.
    """
    rows = torch.atleast_2d(scores).flatten(0, -2)
    if mask is None:
        ranks = sorter(rows)
    else:
        ranks = sorter(rows, mask=torch.atleast_2d(mask).flatten(0, -2))
    if ranks.shape != rows.shape:
        raise ValueError(
            f"sorter must return ranks of the shape of its scores, {tuple(rows.shape)}, "
            f"got {tuple(ranks.shape)}"
        )
    ranks = ranks.view(scores.shape)
    if getattr(sorter, "normalize", sorter is not soft_rank and sorter is not hard_rank):
        return ranks
    return ranks / (scores.shape[-1] if mask is None else mask.sum(-1, keepdim=True).clamp(min=1))
