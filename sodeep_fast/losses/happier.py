"""HAPPIER: hierarchical average precision and the clustering of the finest classes."""

from typing import Any

from sodeep_fast._checks import check_number
from sodeep_fast.comparators import Comparator, Ramp
from sodeep_fast.losses.cluster import ClusterLoss
from sodeep_fast.losses.h_ap import HierarchicalAPLoss
from sodeep_fast.retrieval import CombinedLoss


class HappierLoss(CombinedLoss):
    """(1 - weight) `HierarchicalAPLoss` + weight `ClusterLoss`.

    Ramzi et al., HAPPIER, ECCV 2022. By default a query is in its own gallery, as in the official
    program; `exclude_query=True` leaves it out. Labels are (B, L), finest first; the finest are
    classes from 0 to num_classes - 1. References are ranked, not clustered.

    Arguments:
        embedding_size: D.
        num_classes: number of classes at the finest level.
        weight: of the clustering, the paper's lambda, in [0, 1]. Default: 0.1; some of the
            configuration files use 0.5.
        comparator, alpha, h_rank: as in `HierarchicalAPLoss`; HAPPIER's program uses
            `ByLevel(Sup(offset=1.44))` and, with its option `with_hrank`, h_rank=`Ramp()`.
        temperature: of the clustering. Default: 0.05.
        exclude_query: leave the query out of its gallery. Default: False.
        options: the others of `RetrievalLoss`.

    Raises:
        TypeError, ValueError: as the two losses, or a weight outside [0, 1].

    Example:
        >>> import torch, sodeep_fast
        >>> loss = sodeep_fast.HappierLoss(embedding_size=2, num_classes=3)
        >>> labels = torch.tensor([[0, 0], [1, 0], [0, 0], [2, 1]])
        >>> loss(torch.randn(4, 2), labels).shape
        torch.Size([])
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        weight: float = 0.1,
        comparator: Comparator | None = None,
        *,
        alpha: float = 1.0,
        h_rank: Ramp | None = None,
        temperature: float = 0.05,
        exclude_query: bool = False,
        **options: Any,
    ) -> None:
        check_number(weight, "weight", least=0)
        if weight > 1:
            raise ValueError(f"weight must be between 0 and 1, got {weight}")
        shared = ("normalize", "chunk_size", "gather")
        of_clusters = {name: options[name] for name in shared if name in options}
        losses = [
            HierarchicalAPLoss(comparator, alpha, h_rank=h_rank, exclude_query=exclude_query),
            ClusterLoss(embedding_size, num_classes, temperature, **of_clusters),
        ]
        super().__init__(losses, [1 - weight, weight], **options)
