"""Every loss that is measured: how to make ours, and what it is compared with in plain PyTorch."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sodeep_fast
from bench import retrieval
from bench.retrieval import DIMENSIONS, HIERARCHY, PER_CLASS, PLAIN
from bench.retrieval_peers import ALL_TRIPLES, Metric, calibration, h_ap, sup_ap
from sodeep_fast.benchmark.model import Shape
from sodeep_fast.benchmark.soft_rank import make_scores

BATCHES: tuple[Shape, ...] = ((4096, 4096), (256, 256))
CLASSES = BATCHES[0][0] // PER_CLASS  # that have a proxy


class Members(NamedTuple):
    """What a rival is given about a batch besides its embeddings.

    Arguments:
        levels: (B, B) numbers of labels that two members share.
        classes: (B,) classes of the finest level.
        proxies: (C, D) vectors of unit length, one for each class.
    """

    levels: Tensor
    classes: Tensor
    proxies: Tensor


Rival = Callable[[Tensor, Members], Tensor]  # embeddings (B, D) of unit length -> a scalar


@dataclass(frozen=True)
class Loss:
    """A loss: how to make ours, and the same in plain PyTorch.

    Arguments:
        build: takes keyword options, returns the module.
        columns: of labels; 0 for a loss of scores, whose labels `targets` makes from their shape.
        rivals: by name: "triples", over all triples of a batch, like the paper's program;
            "positives", which only compares positives with items; "eager", over pairs at most.
        targets: makes the second argument of a loss of scores.
        pairs: whether it compares every member of a batch with every other.
        proxies: whether it compares every member with a proxy of each class.
    """

    build: Callable[..., nn.Module]
    columns: int = PLAIN
    rivals: dict[str, Rival] = field(default_factory=dict)
    targets: Callable[[Shape], Tensor] | None = None
    pairs: bool = True
    proxies: bool = False


def mean_of(metric: Metric) -> Rival:
    """Returns the rival 1 - the mean of a metric of the cosines, in plain PyTorch."""
    return lambda unit, members: 1 - metric(unit @ unit.T, members.levels).mean()


def _positives_only(scores: Tensor, levels: Tensor) -> Tensor:
    return retrieval.positives_only(scores, levels > 0)


def _quantized_ap(scores: Tensor, levels: Tensor) -> Tensor:
    return sodeep_fast.quantized_ap(scores, levels > 0, backend="reference")


def _calibration(unit: Tensor, members: Members) -> Tensor:
    return calibration(unit @ unit.T, members.classes[:, None] == members.classes)


def _cluster(unit: Tensor, members: Members) -> Tensor:
    return cross_entropy(unit @ members.proxies.T / 0.05, members.classes)


def weighted(*parts: tuple[float, Rival]) -> Rival:
    """Returns a weighted sum of rivals, each computed separately, like the papers' programs."""

    def total(unit: Tensor, members: Members) -> Tensor:
        return torch.stack([weight * rival(unit, members) for weight, rival in parts]).sum()

    return total


def proxy_loss(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Builds a loss whose proxies are the same at every call and, like a rival's, frozen."""

    def made(**options: Any) -> nn.Module:
        loss = build(embedding_size=DIMENSIONS, num_classes=CLASSES, **options)
        generator = torch.Generator().manual_seed(0)
        for proxies in loss.parameters():
            proxies.data.normal_(generator=generator)
        return loss.requires_grad_(False)

    return made


def _sorter_loss(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return lambda **options: build(sodeep_fast.HandcraftedSorter(**options))


def _diagonals(shape: Shape) -> Tensor:
    """Marks a tenth of the items of every query, and of the queries of every item."""
    rows, columns = (torch.arange(size) for size in shape)
    return (rows[:, None] + columns) % 10 == 0


def _few_positives(shape: Shape) -> Tensor:
    return make_scores(shape, "cpu") > 0.9


TRIPLES = {
    "SmoothAPLoss": "smooth_ap",
    "SupAPLoss": "sup_ap",
    "RecallAtKLoss": "smooth_recall",
    "NDCGLoss": "smooth_ndcg",
    "HierarchicalAPLoss": "h_ap",
}
# Rivals of losses that are not a single metric over all triples, and additional ones.
RIVALS: dict[str, dict[str, Rival]] = {
    "SmoothAPLoss": {"positives": mean_of(_positives_only)},
    "QuantizedAPLoss": {"eager": mean_of(_quantized_ap)},
    "RoadmapLoss": {"triples": weighted((1.0, mean_of(sup_ap)), (1.0, _calibration))},
}
LOSSES = {
    name: Loss(
        measured.build,
        measured.columns,
        {
            **({"triples": mean_of(ALL_TRIPLES[TRIPLES[name]])} if name in TRIPLES else {}),
            **RIVALS.get(name, {}),
        },
    )
    for name, measured in retrieval.LOSSES.items()
}
# The variants of the papers' programs, which the rivals compute.
AS_PAPERS: dict[str, Callable[..., nn.Module]] = {
    "RecallAtKLoss": functools.partial(sodeep_fast.RecallAtKLoss, query_is_positive=True),
    "NDCGLoss": functools.partial(sodeep_fast.NDCGLoss, sodeep_fast.Sigmoid()),
}
LOSSES |= {name: replace(LOSSES[name], build=build) for name, build in AS_PAPERS.items()}
LOSSES |= {
    "CalibrationLoss": Loss(sodeep_fast.CalibrationLoss, rivals={"eager": _calibration}),
    "ClusterLoss": Loss(
        proxy_loss(sodeep_fast.ClusterLoss), rivals={"eager": _cluster}, pairs=False, proxies=True
    ),
    "HappierLoss": Loss(
        proxy_loss(sodeep_fast.HappierLoss),
        HIERARCHY,
        {"triples": weighted((0.9, mean_of(h_ap)), (0.1, _cluster))},
        proxies=True,
    ),
    "SupRankLoss": Loss(
        functools.partial(sodeep_fast.SupRankLoss, "h_ap"),
        HIERARCHY,
        {"triples": weighted((0.9, mean_of(h_ap)), (0.1, _calibration))},
    ),
    "SpearmanLoss": Loss(
        _sorter_loss(sodeep_fast.SpearmanLoss), 0, targets=lambda shape: -make_scores(shape, "cpu")
    ),
    "MeanAveragePrecisionLoss": Loss(
        _sorter_loss(sodeep_fast.MeanAveragePrecisionLoss), 0, targets=_few_positives
    ),
    "RankTripletLoss": Loss(
        _sorter_loss(functools.partial(sodeep_fast.RankTripletLoss, margin=0.2)),
        0,
        targets=_diagonals,
    ),
}
