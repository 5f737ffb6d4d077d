"""ROADMAP: SupAP and the calibration of scores."""

from collections.abc import Sequence
from typing import Any

from sodeep_fast._checks import check_choice
from sodeep_fast.comparators import Simple
from sodeep_fast.losses.calibration import CalibrationLoss
from sodeep_fast.losses.sup_ap import SupAPLoss
from sodeep_fast.retrieval import CombinedLoss

WEIGHTINGS = {"program": (1.0, 1.0), "paper": (0.5, 0.5), "suprank": (0.9, 0.1)}


class RoadmapLoss(CombinedLoss):
    """The weighted sum of `SupAPLoss` and `CalibrationLoss`, in one pass over the similarities.

    Ramzi et al., ROADMAP, NeurIPS 2021. By default a query is its own positive in SupAP, as in the
    official program; `exclude_query=True` gives the metric's own convention.

    Arguments:
        weighting: "program" for 1 and 1, as in ROADMAP's configuration files; "paper" for 1 -
            lambda and lambda, with the paper's lambda of 0.5; "suprank" for 0.9 and 0.1, as in its
            successor; or the two weights. Default: "program".
        comparator: how SupAP counts negatives. Default: `Sup()`, the paper's; the configuration
            files use `Sup(offset=1.44)`.
        pos_margin, neg_margin, average: as in `CalibrationLoss`.
        exclude_query: leave the query out of SupAP's gallery. Default: False.
        options: the others of `RetrievalLoss`.

    Raises:
        TypeError, ValueError: as the two losses, or an unknown weighting.

    Example:
        >>> import torch, sodeep_fast
        >>> loss = sodeep_fast.RoadmapLoss("paper")
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> loss(embeddings, torch.tensor([0, 1, 0, 1]))
        tensor(0.5105)
    """

    def __init__(
        self,
        weighting: str | tuple[float, float] = "program",
        comparator: Simple | None = None,
        *,
        pos_margin: float = 0.9,
        neg_margin: float = 0.6,
        average: str = "active",
        exclude_query: bool = False,
        **options: Any,
    ) -> None:
        if not isinstance(weighting, Sequence):
            names = ", ".join(map(repr, WEIGHTINGS))
            raise TypeError(
                f"weighting must be one of {names} or two numbers, got {type(weighting).__name__}"
            )
        if isinstance(weighting, str):
            check_choice(weighting, tuple(WEIGHTINGS), "weighting")
            weighting = WEIGHTINGS[weighting]
        losses = [
            SupAPLoss(comparator, exclude_query=exclude_query),
            CalibrationLoss(pos_margin, neg_margin, average),
        ]
        super().__init__(losses, weighting, **options)
