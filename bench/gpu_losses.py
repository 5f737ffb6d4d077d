"""Times every loss on a GPU: against all triples as the papers' programs take, compiled, and peers.

Losses of embeddings at shape (batch, batch), that of their scores, and SoDeep's losses of scores.
"products" are what any loss of embeddings has to do: the score matrix of a batch and the two
products of its backward. Small batches are captured as CUDA graphs too, or their rows say what the
host waits for. Without a GPU it says so and measures nothing; --dry runs its logic on the CPU.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

import sodeep_fast
from bench import retrieval
from bench.gpu_bench import DRY_PLAN, PLAN, measure_all, parse
from bench.gpu_rows import Recipe
from bench.gpu_work import RATES, Work, count_pairs, soft_histogram, soft_rank
from bench.retrieval import DIMENSIONS, HIERARCHY, PER_CLASS, PLAIN
from bench.retrieval_peers import ALL_TRIPLES, Metric
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
# The modes of what is compiled, which gives up its buffers to its first backward.
FIRST_BACKWARD = ("forward", "both")


@dataclass(frozen=True)
class Loss:
    """A loss: how to make ours, and the same in plain PyTorch.

    Arguments:
        build: takes keyword options, returns the module.
        columns: of labels; 0 for a loss of scores, whose labels `targets` makes of their shape.
        triples: the metric as its paper's program computes it, if there is one.
        positives: likewise, but comparing positives with items only.
        targets: makes the second argument of a loss of scores.
    """

    build: Callable[..., nn.Module]
    columns: int = PLAIN
    triples: Metric | None = None
    positives: Metric | None = None
    targets: Callable[[Shape], Tensor] | None = None


def _sorter_loss(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return lambda **options: build(sodeep_fast.HandcraftedSorter(**options))


def _few_positives(shape: Shape) -> Tensor:
    return (make_scores(shape, "cpu") > 0.9).long()


TRIPLES = {
    "SmoothAPLoss": "smooth_ap",
    "SupAPLoss": "sup_ap",
    "RecallAtKLoss": "smooth_recall",
    "NDCGLoss": "smooth_ndcg",
    "HierarchicalAPLoss": "h_ap",
}
LOSSES = {
    name: Loss(
        measured.build,
        measured.columns,
        ALL_TRIPLES.get(TRIPLES.get(name, "")),
        retrieval.positives_only if name == "SmoothAPLoss" else None,
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
    "CalibrationLoss": Loss(sodeep_fast.CalibrationLoss),
    "SpearmanLoss": Loss(
        _sorter_loss(sodeep_fast.SpearmanLoss), 0, targets=lambda shape: -make_scores(shape, "cpu")
    ),
    "MeanAveragePrecisionLoss": Loss(
        _sorter_loss(sodeep_fast.MeanAveragePrecisionLoss), 0, targets=_few_positives
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
def levels_of(name: str, batch: int, device: str) -> Tensor:
    """Returns (B, B): the relevance of every member of a batch to every other."""
    return retrieval.shared_labels(batch_of(batch, device)[1][LOSSES[name].columns])


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


def build_metric(name: str, metric: Metric, compiled: bool = False) -> Callable[[str], Function]:
    """1 - the mean of a metric of the cosines, in plain PyTorch."""

    def mean(embeddings: Tensor, levels: Tensor) -> Tensor:
        unit = normalize(embeddings, dim=-1)
        return 1 - metric(unit @ unit.T, levels).mean()

    def build(device: str) -> Function:
        call = mean
        if compiled:
            torch.compiler.reset()
            call = torch.compile(mean, fullgraph=True, dynamic=False)

        def loss(embeddings: Tensor) -> Tensor:
            levels = levels_of(name, len(embeddings), embeddings.device.type)
            return call(embeddings, levels.bool() if metric is retrieval.positives_only else levels)

        return loss

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
    found.append(
        _provider("products", build_products, modes=("both",), differentiable=False, **whole)
    )
    cubic = {
        "seconds": lambda rows, n: 2e-11 * rows * n * n,
        "memory": lambda rows, n: 40.0 * rows * n * n,
        "check": check,
    }
    if loss.triples is not None:
        eager = _provider("triples", build_metric(name, loss.triples), **cubic)
        compiled = build_metric(name, loss.triples, compiled=True)
        found += [eager, replace(eager, name="compile", build=compiled, modes=FIRST_BACKWARD)]
    if loss.positives is not None:
        few = {"memory": lambda rows, n: 80.0 * PER_CLASS * rows * n, "check": check}
        found.append(_provider("positives", build_metric(name, loss.positives), **few))
        found.append(_provider("metric-learning", build_peer, **{**cubic, "check": check_finite}))
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
            works += [soft_rank("triton-direct", pass_, shape), Work(launches=25)]
            continue
        products = (2 if pass_ == "forward" else 4) * float(shape[0]) ** 2 * DIMENSIONS
        # Not on tensor cores: PyTorch multiplies float32 in full unless told otherwise.
        works.append(Work(flop=products, besides=products / RATES["float32"], launches=60))
        if name == "QuantizedAPLoss":
            works.append(soft_histogram("", pass_, shape))
        elif name != "CalibrationLoss":
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
    options = parse(__doc__)
    if options is None:
        return 0
    return measure_all([recipe_of(name, options.dry) for name in LOSSES], options)


if __name__ == "__main__":
    sys.exit(main())
