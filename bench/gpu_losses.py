"""Times every loss on a GPU: against the papers' all-triples programs, compiled code, and peers.

Losses of embeddings have shape (batch, batch), that of their scores; SoDeep's are losses of scores.
"products" is the minimum for any loss of embeddings: the score matrix of a batch and the two
products of its backward. Small batches are also captured as CUDA graphs; if that is impossible,
their rows name what the host waits for. Without a GPU it says so and measures nothing; --dry runs
its logic on the CPU, under TRITON_INTERPRET=1.
"""

import sys
from dataclasses import replace

from bench.gpu_bench import DRY_PLAN, PLAN, measure_each
from bench.gpu_rows import Recipe
from bench.gpu_work import RATES, Work, count_pairs, soft_histogram, soft_rank
from bench.loss_providers import build_ours, inputs_of, providers_of
from bench.losses import BATCHES, CLASSES, LOSSES
from bench.retrieval import DIMENSIONS, HIERARCHY, PER_CLASS
from sodeep_fast.benchmark import Operator, Provider
from sodeep_fast.benchmark.model import Shape

# For Smooth-AP; those with aims come first.
MORE_BATCHES: tuple[Shape, ...] = tuple((b, b) for b in (4096, 65536, 256, 16384, 1024))
GRAPH_BATCHES: tuple[Shape, ...] = ((256, 256),)
ROWS: tuple[Shape, ...] = ((512, 100), (64, 1000))


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
    """Returns our loss's work: its products, its operator, and PyTorch's launches around them."""
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
