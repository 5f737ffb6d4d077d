"""SupRank's combinations: a bound on a metric, and a loss that makes batches agree."""

from typing import Any

from torch import nn

from sodeep_fast._checks import check_choice
from sodeep_fast.comparators import Simple, bounded_by
from sodeep_fast.losses.calibration import CalibrationLoss
from sodeep_fast.losses.h_ap import HierarchicalAPLoss
from sodeep_fast.losses.ndcg import NDCGLoss
from sodeep_fast.losses.recall import KS
from sodeep_fast.losses.recall_at_k import RecallAtKLoss
from sodeep_fast.losses.sup_ap import SupAPLoss
from sodeep_fast.retrieval import CombinedLoss, RetrievalLoss

METRICS = ("ap", "recall", "ndcg", "h_ap")


class SupRankLoss(CombinedLoss):
    """A weighted sum of SupRank's bound on a metric and a loss against the decomposability gap.

    Ramzi et al., SupRank, TPAMI 2025. By default a query is its own positive, as in the official
    program, also for the recall; `exclude_query=True` leaves it out.

    Arguments:
        metric: "ap", "recall" (at 1, 2, 4, 8 and 16), "ndcg" or "h_ap"; the last two take labels
            (B, L), finest first.
        gap: the other loss. Default: `CalibrationLoss()`, at the finest level. The program uses
            `ClusterLoss(embedding_size, num_classes)` for "ndcg" and "h_ap", and in some of its
            configuration files for the others.
        weights: of the two. Default: 0.9 and 0.1; for the recall 0.5 and 0.5, as in the program.
        comparator: how less relevant items are counted. Default: `Sup()`; the configuration files
            use `Sup(offset=1.44)`.
        exclude_query: leave the query out of its gallery. Default: False.
        options: the others of `RetrievalLoss`.

    Raises:
        TypeError: an invalid comparator or gap, or weights that are not numbers.
        ValueError: an unknown metric, or other than two weights.

    Example:
        >>> import torch, sodeep_fast
        >>> loss = sodeep_fast.SupRankLoss("recall")
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> loss(embeddings, torch.tensor([0, 1, 0, 1]))
        tensor(0.5410)
    """

    def __init__(
        self,
        metric: str,
        gap: nn.Module | None = None,
        weights: tuple[float, float] | None = None,
        comparator: Simple | None = None,
        *,
        exclude_query: bool = False,
        **options: Any,
    ) -> None:
        check_choice(metric, METRICS, "metric")
        bound = bounded_by(comparator)
        ranking: RetrievalLoss
        if metric == "ap":
            ranking = SupAPLoss(comparator, exclude_query=exclude_query)
        elif metric == "recall":
            ranking = RecallAtKLoss(
                KS, bound, clip=False, query_is_positive=True, exclude_query=exclude_query
            )
        elif metric == "ndcg":
            ranking = NDCGLoss(bound, exclude_query=exclude_query)
        else:
            ranking = HierarchicalAPLoss(bound, exclude_query=exclude_query)
        if weights is None:
            weights = (0.5, 0.5) if metric == "recall" else (0.9, 0.1)
        super().__init__([ranking, CalibrationLoss() if gap is None else gap], weights, **options)
