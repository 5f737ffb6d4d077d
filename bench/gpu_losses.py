"""Times every loss on a GPU: against all triples as the papers' programs take, compiled, and peers.

Losses of embeddings at shape (batch, batch), that of their scores, and SoDeep's losses of scores.
"products" are what any loss of embeddings has to do: the score matrix of a batch and the two
products of its backward. Small batches are captured as CUDA graphs too, or their rows say what the
host waits for. Without a GPU it says so and measures nothing; --dry runs its logic on the CPU,
under TRITON_INTERPRET=1.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

import sodeep_fast
from bench import retrieval
from bench.gpu_bench import DRY_PLAN, PLAN, measure_each
from bench.gpu_rows import Recipe
from bench.gpu_work import RATES, Work, count_pairs, soft_histogram, soft_rank
from bench.retrieval import DIMENSIONS, HIERARCHY, PER_CLASS, PLAIN
from bench.retrieval_peers import ALL_TRIPLES, Metric, calibration, h_ap, sup_ap
from sodeep_fast.benchmark import Operator, Provider, Unavailable, WrongResult
from sodeep_fast.benchmark.model import Function, Shape
from sodeep_fast.benchmark.soft_rank import make_scores

BATCHES: tuple[Shape, ...] = ((4096, 4096), (256, 256))
# Of Smooth-AP; what the aims speak of comes first.
MORE_BATCHES: tuple[Shape, ...] = tuple((b, b) for b in (4096, 65536, 256, 16384, 1024))
GRAPH_BATCHES: tuple[Shape, ...] = ((256, 256),)
ROWS: tuple[Shape, ...] = ((512, 100), (64, 1000))
CHECKED = 1024  # batches up to which results are compared with float64 on the CPU
CHUNK = 256
CLASSES = BATCHES[0][0] // PER_CLASS  # that have a proxy
# The modes of what is compiled, which gives up its buffers to its first backward.
FIRST_BACKWARD = ("forward", "both")


class Members(NamedTuple):
    """What a rival knows of the members of a batch besides their embeddings.

    Arguments:
        levels: (B, B), how many labels two of them share.
        classes: (B,), of the finest level.
        proxies: (C, D) of unit length, one for each class.
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
        columns: of labels; 0 for a loss of scores, whose labels `targets` makes of their shape.
        rivals: by name: "triples", all of a batch, as the paper's program has them; "positives",
            which compares positives with items only; "eager", pairs of a batch at most.
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


# What rivals cost, by name; pairs of a histogram's rival have numbers for each bin.
COSTS: dict[str, dict[str, Callable[[int, int], float]]] = {
    "triples": {
        "seconds": lambda rows, n: 2e-11 * rows * n * n,
        "memory": lambda rows, n: 40.0 * rows * n * n,
    },
    "positives": {"memory": lambda rows, n: 80.0 * PER_CLASS * rows * n},
    "eager": {"memory": lambda rows, n: 400.0 * rows * n},
}


def mean_of(metric: Metric) -> Rival:
    """1 - the mean of a metric of the cosines, in plain PyTorch."""
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
    """A sum of rivals with their weights, each computed by itself as the programs do."""

    def total(unit: Tensor, members: Members) -> Tensor:
        return torch.stack([weight * rival(unit, members) for weight, rival in parts]).sum()

    return total


def _proxy_loss(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """With the same proxies at every call, and for them, as for a rival's, no gradient."""

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
# Of those without a metric over all triples alone, and beside it.
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
# As their papers' programs have them, which the rivals compute.
AS_PAPERS: dict[str, Callable[..., nn.Module]] = {
    "RecallAtKLoss": functools.partial(sodeep_fast.RecallAtKLoss, query_is_positive=True),
    "NDCGLoss": functools.partial(sodeep_fast.NDCGLoss, sodeep_fast.Sigmoid()),
}
LOSSES |= {name: replace(LOSSES[name], build=build) for name, build in AS_PAPERS.items()}
LOSSES |= {
    "CalibrationLoss": Loss(sodeep_fast.CalibrationLoss, rivals={"eager": _calibration}),
    "ClusterLoss": Loss(
        _proxy_loss(sodeep_fast.ClusterLoss), rivals={"eager": _cluster}, pairs=False, proxies=True
    ),
    "HappierLoss": Loss(
        _proxy_loss(sodeep_fast.HappierLoss),
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


@functools.cache
def batch_of(batch: int, device: str) -> tuple[Tensor, dict[int, Tensor]]:
    """Returns embeddings and labels, the same on every machine."""
    return retrieval.make_batch(batch, PER_CLASS, device)


@functools.cache
def targets_of(name: str, shape: Shape, device: str) -> Tensor:
    """Returns the second argument of a loss."""
    loss = LOSSES[name]
    if loss.targets is not None:
        return loss.targets(shape).to(device)
    return batch_of(shape[0], device)[1][loss.columns]


@functools.cache
def members_of(name: str, batch: int, device: str) -> Members:
    """Returns what rivals know of a batch."""
    labels = batch_of(batch, device)[1]
    (proxies,) = _proxy_loss(sodeep_fast.ClusterLoss)().parameters()
    return Members(
        retrieval.shared_labels(labels[LOSSES[name].columns]),
        labels[PLAIN],
        normalize(proxies.detach(), dim=-1).to(device),
    )


def inputs_of(name: str) -> Callable[[Shape, str], Tensor]:
    """Returns what makes the first argument of a loss."""
    embeddings = LOSSES[name].columns
    return lambda shape, device: (
        batch_of(shape[0], device)[0] if embeddings else make_scores(shape, device)
    )


def shape_of(name: str, inputs: Tensor) -> Shape:
    """Returns the shape of the scores that a loss sees."""
    count = inputs.shape[0]
    return (count, count if LOSSES[name].columns else inputs.shape[1])


def build_ours(name: str, compiled: bool = False, **options: Any) -> Callable[[str], Function]:
    """Ours, with options."""

    def build(device: str) -> Function:
        loss: Callable[..., Tensor] = LOSSES[name].build(**options).to(device)
        if compiled:
            torch.compiler.reset()
            loss = torch.compile(loss, dynamic=False)
        return lambda inputs: loss(
            inputs, targets_of(name, shape_of(name, inputs), inputs.device.type)
        )

    return build


def build_rival(name: str, rival: Rival, compiled: bool = False) -> Callable[[str], Function]:
    """A rival on embeddings of any length."""

    def of_any_length(embeddings: Tensor, members: Members) -> Tensor:
        return rival(normalize(embeddings, dim=-1), members)

    def build(device: str) -> Function:
        call = of_any_length
        if compiled:
            torch.compiler.reset()
            call = torch.compile(of_any_length, fullgraph=True, dynamic=False)
        return lambda embeddings: call(
            embeddings, members_of(name, len(embeddings), embeddings.device.type)
        )

    return build


def build_products(device: str) -> Function:
    """The score matrix, and the two products of its backward."""
    made: dict[int, Callable[[], Any]] = {}

    def products(embeddings: Tensor) -> Tensor:
        key = len(embeddings)
        if key not in made:
            made[key] = retrieval.products_call(embeddings)
        result: Tensor = made[key]()[0]
        return result

    return products


def build_peer(device: str) -> Function:
    """Smooth-AP of pytorch-metric-learning, whose values are those of sorted classes only."""
    try:
        from pytorch_metric_learning.losses import SmoothAPLoss as Peer
    except ImportError as error:
        raise Unavailable(f"pytorch-metric-learning is not installed ({error})") from error
    peer = Peer()

    def loss(embeddings: Tensor) -> Tensor:
        labels = batch_of(len(embeddings), embeddings.device.type)[1][PLAIN]
        order = labels.argsort()
        result: Tensor = peer(embeddings[order], labels[order])
        return result

    return loss


def check_finite(
    inputs: Tensor, value: Tensor, grad: Tensor | None, grad_inputs: Tensor | None
) -> None:
    """Raises `WrongResult` unless all numbers are finite."""
    if not bool(value.isfinite().all()):
        raise WrongResult("the value is not finite")
    if grad_inputs is not None and not bool(grad_inputs.isfinite().all()):
        raise WrongResult("a gradient is not finite")


def check_against_float64(name: str) -> Callable[..., None]:
    """Returns a check of a loss in float64 on the CPU, where that takes a moment.

    Within 1e-3, and a gradient within 1e-2 of its norm: above what float32 scores move between the
    two sides of a step, below what another loss would.
    """

    def check(
        inputs: Tensor, value: Tensor, grad: Tensor | None, grad_inputs: Tensor | None
    ) -> None:
        check_finite(inputs, value, grad, grad_inputs)
        if shape_of(name, inputs)[0] > CHECKED or grad is None or grad_inputs is None:
            return
        leaf = inputs.detach().cpu().double().requires_grad_()
        exact = build_ours(name)("cpu")(leaf)
        (slope,) = torch.autograd.grad(exact, leaf, grad.cpu().double())
        exact = exact.detach()
        off = float((value.cpu().double() - exact).abs() / exact.abs().clamp(min=1))
        # Where all classes are apart already, the gradient is rounding and nothing else.
        far = float((grad_inputs.cpu().double() - slope).norm() / (slope.norm() + 1e-6))
        if not (off <= 1e-3 and far <= 1e-2):
            raise WrongResult(f"off by {off:.3g}, its gradient by {far:.3g}")

    return check


def _provider(name: str, build: Callable[[str], Function], **options: Any) -> Provider:
    defaults = {
        "check": check_finite,
        "seconds": lambda rows, n: 1e-10 * rows * n,
        "memory": lambda rows, n: 64.0 * rows * n,
    }
    return Provider(name, build, **{**defaults, **options})


def providers_of(name: str) -> list[Provider]:
    """Returns the ways to compute a loss."""
    loss, check = LOSSES[name], check_against_float64(name)
    whole = {"memory": lambda rows, n: 24.0 * rows * n}
    found = [_provider("ours", build_ours(name), check=check, memory=lambda rows, n: 512 * rows)]
    if not loss.columns:
        eager = _provider("eager", build_ours(name, backend="reference"), check=check)
        compiled = build_ours(name, compiled=True, backend="reference")
        found += [eager, replace(eager, name="compile", build=compiled, modes=FIRST_BACKWARD)]
        return found
    found.append(
        _provider(
            f"ours-chunk-{CHUNK}",
            build_ours(name, chunk_size=CHUNK),
            check=check,
            memory=lambda rows, n: 64.0 * CHUNK * n,
        )
    )
    found.append(_provider("ours-whole", build_ours(name, chunk_size=None), check=check, **whole))
    if loss.pairs:
        found.append(
            _provider("products", build_products, modes=("both",), differentiable=False, **whole)
        )
    for rival_name, rival in loss.rivals.items():
        plain = _provider(rival_name, build_rival(name, rival), check=check, **COSTS[rival_name])
        found.append(plain)
        if rival_name != "positives":
            compiled = build_rival(name, rival, compiled=True)
            found.append(replace(plain, name="compile", build=compiled, modes=FIRST_BACKWARD))
    if name == "SmoothAPLoss":
        found.append(_provider("metric-learning", build_peer, **COSTS["triples"]))
    return found


def operator_of(name: str, providers: list[Provider]) -> Operator:
    """Returns the benchmark of a loss."""
    columns = LOSSES[name].columns
    passes = {"forward": 1, "backward": 2, "both": 3}
    shapes = (MORE_BATCHES if name == "SmoothAPLoss" else BATCHES) if columns else ROWS

    def min_bytes(mode: str, shape: Shape) -> float:
        """Inputs are read, and read again for a gradient, which is written."""
        return 4.0 * shape[0] * (DIMENSIONS if columns else shape[1]) * passes[mode]

    return Operator(
        name,
        {provider.name: provider for provider in providers},
        ours="ours",
        shapes=shapes,
        quick_shapes=(),
        quick_memory_shapes=(),
        make_scores=inputs_of(name),
        min_bytes=min_bytes,
        route=lambda backend, method: build_ours(name)("cuda"),
        value_shape=lambda shape: (),
    )


def expected(name: str, mode: str, shape: Shape) -> list[Work]:
    """Returns the work of ours: its products, its operator, and PyTorch's launches around them."""
    each = ("forward", "backward") if mode == "both" else (mode,)
    loss = LOSSES[name]
    works = []
    for pass_ in each:
        if not loss.columns:
            # The columns are queries of the triplets too.
            ways = (shape, shape[::-1]) if name == "RankTripletLoss" else (shape,)
            for way in ways:
                works += [soft_rank("triton-direct", pass_, way), Work(launches=25)]
            continue
        compared = shape[0] * loss.pairs + CLASSES * loss.proxies
        products = (2 if pass_ == "forward" else 4) * float(shape[0]) * compared * DIMENSIONS
        # Not on tensor cores: PyTorch multiplies float32 in full unless told otherwise.
        works.append(Work(flop=products, besides=products / RATES["float32"], launches=60))
        if loss.proxies:  # PyTorch's cross entropy goes over the logits a few times
            works.append(Work(bytes=24.0 * shape[0] * CLASSES, launches=15))
        if name == "QuantizedAPLoss":
            works.append(soft_histogram("", pass_, shape))
        elif name not in ("CalibrationLoss", "ClusterLoss"):
            targets = PER_CLASS * (2 if loss.columns == HIERARCHY else 1)
            works.append(count_pairs(pass_, shape, targets))
    return works


def recipe_of(name: str, dry: bool) -> Recipe:
    """Returns what to measure of a loss; on the CPU and tiny if `dry`."""
    plan = (
        replace(DRY_PLAN, shapes=((16, 16),)) if dry else replace(PLAN, seconds=0.1, min_rounds=5)
    )
    return Recipe(
        operator_of(name, providers_of(name)),
        plan,
        graphs=("ours",),
        graph_shapes=plan.shapes or (GRAPH_BATCHES if LOSSES[name].columns else ROWS[:1]),
        counted=lambda provider, mode, shape: (
            expected(name, mode, shape) if provider == "ours" else []
        ),
    )


def main() -> int:
    return measure_each(LOSSES, recipe_of, __doc__)


if __name__ == "__main__":
    sys.exit(main())
