"""H-AP: average precision for relevances of several levels."""

import torch
from torch import Tensor

from sodeep_fast._checks import check_matrix, check_positive
from sodeep_fast.comparators import ByLevel, Comparator, Step
from sodeep_fast.losses._by_query import sum_by_query
from sodeep_fast.ops.rank_counts import rank_counts


def h_ap(
    scores: Tensor,
    levels: Tensor,
    comparator: Comparator | None = None,
    *,
    relevances: Tensor | None = None,
    alpha: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Returns the hierarchical average precision of every query, with a gradient.

    The sum over items j of (rel_j + sum over k that outrank j of min(rel_j, rel_k)) / rank_j, over
    the sum of the rel_j. The numerator counts exactly, ties too, and has no gradient; ranks are by
    `comparator`. Ramzi et al., HAPPIER, ECCV 2022, whose program ranks a query among its own
    gallery, at the highest level.

    Arguments:
        scores: (B, M) floating-point scores of B queries and M items, larger for more relevant.
        levels: (B, M) bool or integers from 0, irrelevant, to 254: in a hierarchy, how many labels
            query and item share.
        comparator: how ranks count. Default: `ByLevel()`, a bound by `Sup`. HAPPIER's program has
            `ByLevel(Sup(offset=1.44))`.
        relevances: (L,) or (B, L) relevance of each level, not negative, that of level 0 zero.
            Default: level^alpha over the number of the query's items of that level, as in HAPPIER;
            so a lone coarse match may weigh more than one of many fine ones.
        alpha: exponent of the default relevances, positive.
        mask: (B, M) bool, True where the item is in the query's gallery. Default: all are.

    Returns:
        (B,) values; NaN where no item is relevant, without a gradient, so that `torch.nanmean`
        leaves it out, and where a score is not finite.

    Raises:
        TypeError: scores that are not floating point, levels that are neither integer nor bool, a
            mask that is not bool, or no comparator.
        ValueError: scores that are not a matrix, another tensor of another shape or device, levels
            out of range, or alpha that is not positive.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
        >>> sodeep_fast.h_ap(scores, torch.tensor([[1, 2, 0, 1]]), sodeep_fast.Step())
        tensor([0.7083])
    """
    check_matrix(scores, "(B, M)")
    check_positive(alpha, "alpha")
    num_levels = None
    if relevances is not None:
        num_levels = relevances.shape[-1] if relevances.dim() > 0 else 0
        if relevances.shape not in ((num_levels,), (len(scores), num_levels)):
            raise ValueError(
                f"relevances must have shape (L,) or ({len(scores)}, L), "
                f"got {tuple(relevances.shape)}"
            )
    comparator = ByLevel() if comparator is None else comparator
    counts, rows, columns = rank_counts(
        scores, levels, comparator=comparator, mask=mask, num_levels=num_levels
    )
    queries, num_levels = len(scores), counts.shape[-1]
    exact = rank_counts(
        scores.detach(), levels, comparator=Step(), mask=mask, num_levels=num_levels
    ).counts

    own = levels[rows, columns].long()
    if relevances is None:
        of_level = torch.bincount(rows * num_levels + own, minlength=queries * num_levels)
        level = torch.arange(num_levels, dtype=counts.dtype, device=counts.device)
        relevances = level**alpha / of_level.view(queries, num_levels).clamp(min=1)
    of_query = relevances.to(counts.dtype).expand(queries, num_levels)[rows]
    relevance = of_query.gather(-1, own.unsqueeze(-1))
    shared = relevance.squeeze(-1) + (exact * of_query.minimum(relevance)).sum(-1)
    found = sum_by_query(shared / (1 + counts.sum(-1)), rows, queries)
    most = sum_by_query(relevance.squeeze(-1), rows, queries)
    return (found / most.masked_fill(most == 0, 1)).masked_fill(most == 0, torch.nan)
