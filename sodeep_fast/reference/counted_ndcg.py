"""Normalized discounted cumulative gain from rank counts, in plain PyTorch."""

import torch
from torch import Tensor

from sodeep_fast._by_query import sum_by_query, sum_levels


def counted_ndcg(counts: Tensor, levels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Returns (B,); arguments of `sodeep_fast.ops.counted_ndcg`. For any device."""
    queries, num_levels = len(levels), counts.shape[-1]
    cell = rows * num_levels + levels[rows, columns].long()

    # The best order has the highest level first, so each level takes a contiguous range of
    # discounts.
    of_level = torch.bincount(cell, minlength=queries * num_levels)
    ends = of_level.view(queries, num_levels).flip(-1).cumsum(-1).flip(-1)
    position = torch.arange(levels.shape[1] + 1, dtype=torch.float64, device=counts.device)
    discounts = torch.where(position > 0, 1 / (1 + position).log2(), 0).cumsum(0)[ends]
    stretches = discounts - torch.cat([discounts[:, 1:], torch.zeros_like(discounts[:, :1])], -1)
    # In float64, as 2^254 is beyond float32; a gain divided by the best sum is not.
    gain = torch.arange(num_levels, dtype=torch.float64, device=counts.device).exp2() - 1
    best = (gain * stretches).sum(-1)
    share = (gain / best.masked_fill(best == 0, 1)[:, None]).to(counts.dtype).flatten()
    found = sum_by_query(share[cell] / (2 + sum_levels(counts)).log2(), rows, queries)
    return found.masked_fill(best == 0, torch.nan)
