"""The triangular-kernel histogram of scores, as its equation reads."""

import torch
from torch import Tensor


def soft_histogram(
    scores: Tensor, levels: Tensor | None, num_levels: int, bins: int, low: float, high: float
) -> Tensor:
    """Each score is shared by the two bin centres around it: 1 - fraction and fraction of the way.

    Arguments:
        scores: (..., n) floating-point scores.
        levels: (..., n) integers, or None: all are 0. Items with a level of num_levels or more take
            no part.
        num_levels: L.
        bins: number of centres.
        low: the first centre.
        high: the last centre.

    Returns:
        (..., L, bins) sums of the shares. NaN in the rows in which an item that takes part is NaN.
    """
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    if levels is None:
        levels = torch.zeros_like(scores, dtype=torch.uint8)
    taking_part = levels < num_levels
    position = (scores - low) * ((bins - 1) / (high - low))
    # Not by `clamp`, whose derivative at the ends is 1, or 0 from PyTorch 2.14 on.
    beyond = ~((position >= 0) & (position <= bins - 1))
    limited = position.detach().clamp(0, bins - 1).nan_to_num(0)
    position = torch.where(beyond, limited, position)
    below = position.detach().floor().clamp(max=max(bins - 2, 0))
    fraction = position - below

    first_bin = (levels.long() * bins + below.long()).masked_fill(~taking_part, 0)
    histogram = scores.new_zeros((*scores.shape[:-1], num_levels * bins))
    for step, share in ((0, 1 - fraction), (min(1, bins - 1), fraction)):
        share = share.masked_fill(~taking_part, 0)
        histogram = histogram.scatter_add(-1, first_bin + step, share)

    is_nan = scores.isnan() & taking_part
    poison = torch.where(is_nan, scores, 0) * torch.where(is_nan, torch.nan, 0.0)
    return (histogram + poison.sum(-1, keepdim=True)).unflatten(-1, (num_levels, bins))
