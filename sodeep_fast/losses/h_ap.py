"""H-AP: average precision for several levels of relevance."""

from typing import Any

from torch import Tensor

from sodeep_fast._checks import can_read, check_matrix, check_positive, check_scores
from sodeep_fast.comparators import (
    SUP_AP,
    ByLevel,
    Comparator,
    Ramp,
    Sigmoid,
    Step,
    check_comparator,
)
from sodeep_fast.ops.graded_precision import graded_precision
from sodeep_fast.retrieval.hierarchical import HierarchicalLoss


def h_ap(
    scores: Tensor,
    levels: Tensor,
    comparator: Comparator | None = None,
    *,
    relevances: Tensor | None = None,
    alpha: float = 1.0,
    h_rank: Ramp | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Returns the hierarchical average precision of every query, with a gradient.

    The sum over items j of (rel_j + sum over k that outrank j of min(rel_j, rel_k)) / rank_j, over
    the sum of the rel_j. The ranks use `comparator`. The numerator counts exactly, ties included,
    and has no gradient, unless `h_rank` gives it one or `comparator` is a `Sigmoid`, which then
    counts the numerator too: SupRank's smooth H-AP. Ramzi et al., HAPPIER, ECCV 2022, whose program
    keeps a query in its own gallery, at the highest level.

    Arguments:
        scores: (B, M) floating-point scores of B queries and M items, larger for more relevant.
        levels: (B, M) bool or integers from 0, irrelevant, to 254: in a hierarchy, the number of
            labels that query and item share.
        comparator: how ranks are counted. Default: `ByLevel()`, a bound by `Sup`. HAPPIER's program
            uses `ByLevel(Sup(offset=1.44))`.
        relevances: (L,) or (B, L) relevance of each level, finite and not negative, zero for level
            0. Default: level^alpha over the number of the query's items of that level, as in
            HAPPIER. So a lone coarse match may weigh more than one of many fine matches.
        alpha: exponent of the default relevances, positive.
        h_rank: a `Ramp` with which the numerator counts items more relevant than j; the value may
            then leave [0, 1]. Default: count exactly. HAPPIER's `with_hrank` is `Ramp()`.
        mask: (B, M) bool, True where the item is in the query's gallery. Default: all are.

    Returns:
        (B,) values; NaN if a score is not finite, or if no item is relevant; the latter NaN has no
        gradient, so `torch.nanmean` leaves it out.

    Raises:
        TypeError: scores or relevances that are not floating point, levels that are neither integer
            nor bool, a mask that is not bool, an invalid comparator, or h_rank that is not a
            `Ramp`.
        ValueError: scores that are not a matrix, other tensors of a different shape or device,
            levels out of range, alpha that is not positive, or relevances that are not as above.
            Their values are only checked on the CPU, and not under `torch.compile` or `torch.func`.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
        >>> sodeep_fast.h_ap(scores, torch.tensor([[1, 2, 0, 1]]), sodeep_fast.Step())
        tensor([0.7083])
    """
    check_matrix(scores, "(B, M)")
    check_positive(alpha, "alpha")
    _check_h_rank(h_rank)
    num_levels = None
    if relevances is not None:
        _check_relevances(relevances, scores)
        num_levels = relevances.shape[-1]
    comparator = SUP_AP if comparator is None else comparator
    # If the comparator counts exactly, the numerator reuses its counts.
    exact = isinstance(comparator, ByLevel) and comparator.same == comparator.higher == Step()
    is_smooth = isinstance(comparator, Sigmoid) and h_rank is None
    numerator = None if is_smooth else Step() if h_rank is None else ByLevel(Step(), Step(), h_rank)
    return graded_precision(
        scores,
        levels,
        comparator,
        mask=mask,
        num_levels=num_levels,
        numerator=numerator,
        least=2 if exact and h_rank is None else 1,
        relevances=relevances,
        alpha=alpha,
        soft=is_smooth,
    )


def _check_h_rank(h_rank: object) -> None:
    if h_rank is not None and not isinstance(h_rank, Ramp):
        raise TypeError(f"h_rank must be a Ramp or None, got {type(h_rank).__name__}")


def _check_relevances(relevances: Tensor, scores: Tensor) -> None:
    """Raises unless they are (L,) or (B, L), finite, not negative, and zero for level 0."""
    check_scores(relevances, "relevances")
    num_levels = relevances.shape[-1]
    if num_levels < 1 or relevances.shape not in ((num_levels,), (len(scores), num_levels)):
        raise ValueError(
            f"relevances must have shape (L,) or ({len(scores)}, L) of at least one level, "
            f"got {tuple(relevances.shape)}"
        )
    if relevances.device != scores.device:
        raise ValueError(
            f"relevances must be on the device of scores, {scores.device}, got {relevances.device}"
        )
    if not can_read(relevances):
        return
    values = relevances.detach()
    wrong = values[~((values >= 0) & values.isfinite())]
    if len(wrong) > 0:
        raise ValueError(f"relevances must be finite and not negative, got {wrong[0].item()}")
    irrelevant = values[..., 0].flatten()
    if irrelevant.any():
        worst = irrelevant.max().item()
        raise ValueError(f"relevances must be zero for level 0, got {worst}")


class HierarchicalAPLoss(HierarchicalLoss):
    """1 - the hierarchical average precision of embeddings, averaged over the queries.

    An item's level is the number of labels it shares with the query. Ramzi et al., HAPPIER, ECCV
    2022. By default a query is in its own gallery, at the highest level, as in the official
    program; `exclude_query=True` leaves it out.

    Arguments:
        comparator: how ranks are counted. Default: `ByLevel()`, a bound by the `Sup` of the paper.
            HAPPIER's program uses `ByLevel(Sup(offset=1.44))`, SupRank's smooth H-AP
            `Sigmoid(0.01)`.
        alpha: exponent of the relevances level^alpha / (number of items of that level), positive.
        h_rank: a `Ramp` for the numerator; see `h_ap`. Default: None, it counts exactly.
        options: those of `RetrievalLoss`.

    Raises:
        TypeError: an invalid comparator, alpha that is not a number, or h_rank that is not a
            `Ramp`.
        ValueError: alpha that is not positive.

    Example:
        >>> import torch, sodeep_fast
        >>> loss = sodeep_fast.HierarchicalAPLoss(exclude_query=True)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> loss(embeddings, torch.tensor([[0, 0], [1, 0], [0, 0], [2, 1]]))
        tensor(0.4187)
    """

    def __init__(
        self,
        comparator: Comparator | None = None,
        alpha: float = 1.0,
        *,
        h_rank: Ramp | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.comparator = SUP_AP if comparator is None else comparator
        check_comparator(self.comparator)
        check_positive(alpha, "alpha")
        _check_h_rank(h_rank)
        self.alpha = alpha
        self.h_rank = h_rank

    def values(self, scores: Tensor, relation: Tensor, mask: Tensor | None) -> Tensor:
        """Returns `h_ap`."""
        return h_ap(
            scores, relation, self.comparator, alpha=self.alpha, h_rank=self.h_rank, mask=mask
        )

    def extra_repr(self) -> str:
        """Returns comparator, alpha, h_rank if there is one, and options."""
        h_rank = "" if self.h_rank is None else f"h_rank={self.h_rank}, "
        return f"comparator={self.comparator}, alpha={self.alpha}, {h_rank}{super().extra_repr()}"
