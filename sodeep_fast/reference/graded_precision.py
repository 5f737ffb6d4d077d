"""Average precisions from rank counts, in plain PyTorch."""

import torch
from torch import Tensor

from sodeep_fast._by_query import sum_by_query, sum_levels


def graded_precision(
    counts: Tensor,
    levels: Tensor,
    rows: Tensor,
    columns: Tensor,
    missing: Tensor | None = None,
    least: int = 1,
    relevances: Tensor | None = None,
    alpha: float = 1.0,
    soft: bool = False,
) -> Tensor:
    """Returns (B,); arguments of `sodeep_fast.ops.graded_precision`. For any device."""
    queries, num_levels = len(levels), counts.shape[-1]
    own = levels[rows, columns].long()
    outranking = counts if soft else counts.detach()
    if missing is not None:
        everywhere = least <= 1
        outranking = missing if everywhere else outranking.index_put((own >= least,), missing)

    of_query = rows * num_levels + own  # index of a target's query and level
    if relevances is None:
        of_level = torch.bincount(of_query, minlength=queries * num_levels)
        relevances = default_relevances(of_level.view(queries, num_levels).to(counts.dtype), alpha)
    relevances = relevances.to(counts.dtype).expand(queries, num_levels)
    # By query and own level; a CPU selects rows several times faster than it indexes elements.
    smaller = relevances.unsqueeze(-1).minimum(relevances.unsqueeze(-2)).flatten(0, 1)
    relevance = relevances.flatten().index_select(0, of_query)
    gain = relevance + sum_levels(outranking * smaller.index_select(0, of_query))
    found = sum_by_query(gain / (1 + sum_levels(counts)), rows, queries)
    most = sum_by_query(relevance, rows, queries)
    return (found / most.masked_fill(most == 0, 1)).masked_fill(most == 0, torch.nan)


def default_relevances(numbers: Tensor, alpha: float) -> Tensor:
    """Returns level^alpha over the number of items of that level, from numbers (B, L)."""
    level = torch.arange(numbers.shape[-1], dtype=numbers.dtype, device=numbers.device)
    return level**alpha / numbers.clamp(min=1)
