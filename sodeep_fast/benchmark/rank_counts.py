"""The benchmark of `rank_counts`: SupAP's comparators, rows with few and with many targets."""

import functools

import torch
from torch import Tensor

from sodeep_fast.benchmark.checks import some_rows, within
from sodeep_fast.benchmark.costs import Cost, per_element
from sodeep_fast.benchmark.model import (
    Function,
    Operator,
    Provider,
    Shape,
)
from sodeep_fast.benchmark.ours import build_ours
from sodeep_fast.comparators import ByLevel, encode
from sodeep_fast.ops._levels import compact_levels, find_marked
from sodeep_fast.ops.rank_counts import rank_counts
from sodeep_fast.reference.rank_counts import rank_counts as reference_rank_counts

COMPARATOR = ByLevel()
# As many relevant items as a batch of four images per class has; in all other shapes, a tenth.
FEW = 4
FEW_SHAPES: tuple[Shape, ...] = ((256, 256), (256, 2048), (4096, 4096))
SHAPES: tuple[Shape, ...] = (*FEW_SHAPES, (512, 100), (128, 1024), (64, 4096))
QUICK_SHAPES: tuple[Shape, ...] = ((256, 256), (512, 100))


def targets_of(shape: Shape) -> int:
    """Returns how many items of each row are relevant."""
    return min(shape[1], FEW if shape in FEW_SHAPES else max(1, shape[1] // 10))


def make_scores(shape: Shape, device: str) -> Tensor:
    """Returns float32 scores spread like the cosines of 128 dimensions, the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(shape, generator=generator) * 0.09).to(device)


@functools.cache
def make_levels(shape: Shape, device: str) -> Tensor:
    """Returns bool levels with `targets_of` relevant items in every row, the same everywhere."""
    generator = torch.Generator().manual_seed(1)
    chosen = torch.rand(shape, generator=generator).argsort(-1)[:, : targets_of(shape)]
    return torch.zeros(shape, dtype=torch.bool).scatter_(-1, chosen, True).to(device)


def min_bytes(mode: str, shape: Shape) -> float:
    """Returns the bytes that must move: forward reads scores and levels and writes two counts for
    each target; backward reads all of that and writes a gradient."""
    rows, n = shape
    counts = 8 * rows * targets_of(shape)
    forward, backward = 5 * rows * n + counts, 9 * rows * n + counts
    return {"forward": forward, "backward": backward, "both": forward + backward}[mode]


def check(scores: Tensor, counts: Tensor, grad: Tensor | None, grad_scores: Tensor | None) -> None:
    """Raises `WrongResult` unless counts and gradients of some rows agree with float64.

    The bounds lie above the rounding of a plain float32 sum and below the difference between two
    comparators; the accuracy of the kernels is tested elsewhere.
    """
    rows, n = scores.shape
    levels = make_levels((rows, n), scores.device.type)
    targets = targets_of((rows, n))
    for row in some_rows(rows):
        own = slice(row * targets, (row + 1) * targets)
        leaf = scores[row : row + 1].detach().double().requires_grad_()
        columns = levels[row].nonzero().squeeze(-1)
        expected = reference_rank_counts(
            leaf, levels[row : row + 1].byte(), torch.zeros_like(columns), columns, 2, COMPARATOR
        )
        within(counts[own].double() - expected, 1e-5 * expected.detach() + 1e-4, "count")
        if grad is not None and grad_scores is not None:
            (slope,) = torch.autograd.grad(expected, leaf, grad[own].double())
            bound = torch.full_like(slope, 1e-4 * float(slope.abs().max()) + 1e-6)
            within(grad_scores[row : row + 1].double() - slope, bound, "gradient")


def _counts(scores: Tensor, backend: str = "auto", method: str = "auto") -> Tensor:
    levels = make_levels((scores.shape[0], scores.shape[1]), scores.device.type)
    return rank_counts(scores, levels, comparator=COMPARATOR, method=method, backend=backend).counts


def build_eager(device: str) -> Function:
    """The equation in plain PyTorch, under autograd."""
    return functools.partial(_counts, backend="reference")


def build_compile(device: str) -> Function:
    """The equation, compiled."""
    torch.compiler.reset()  # a fixed-shape graph for every case, however many there were before
    compiled = torch.compile(reference_rank_counts, fullgraph=True, dynamic=False)

    def counts(scores: Tensor) -> Tensor:
        levels = make_levels((scores.shape[0], scores.shape[1]), scores.device.type)
        rows, columns = levels.nonzero(as_tuple=True)
        result: Tensor = compiled(scores, levels.byte(), rows, columns, 2, COMPARATOR)
        return result

    return counts


def route(backend: str, method: str) -> Function:
    """Returns `rank_counts` by a backend and a method."""
    return functools.partial(_counts, backend=backend, method=method)


def route_of_found(backend: str, method: str) -> Function:
    """Returns the operator below `rank_counts`, for targets that were found before the call."""
    operators = torch.ops.sodeep_fast
    call = operators.triton_rank_counts if backend == "triton" else operators.rank_counts

    def counts(scores: Tensor) -> Tensor:
        levels, columns, offsets = _found((len(scores), scores.shape[1]), scores.device.type)
        options = (2, *encode(COMPARATOR), method)
        result: Tensor = call(scores, levels, columns, offsets, *options)
        return result

    return counts


@functools.cache
def _found(shape: Shape, device: str) -> tuple[Tensor, Tensor, Tensor]:
    levels = compact_levels(make_levels(shape, device), None)
    return levels, *find_marked(levels)[1:]


def _per_compared(amount: float) -> Cost:
    """Returns a cost of `amount` per item that a target is compared with."""
    return lambda rows, n: amount * rows * n * targets_of((rows, n))


PROVIDERS = (
    Provider("ours", build_ours("rank_counts", route), check, per_element(1e-7), per_element(64)),
    Provider(
        "ours-direct",
        build_ours("rank_counts", route, "direct"),
        check,
        _per_compared(2e-10),
        per_element(64),
    ),
    Provider(
        "ours-linear",
        build_ours("rank_counts", route, "linear"),
        check,
        per_element(1e-7),
        per_element(64),
    ),
    Provider("eager", build_eager, check, _per_compared(3e-8), _per_compared(80)),
    Provider(
        "compile",
        build_compile,
        check,
        _per_compared(5e-9),
        _per_compared(16),
        note="memory includes the compiler",
    ),
)

OPERATOR = Operator(
    name="rank_counts",
    providers={provider.name: provider for provider in PROVIDERS},
    ours="ours",
    shapes=SHAPES,
    quick_shapes=QUICK_SHAPES,
    quick_memory_shapes=((256, 256),),
    make_scores=make_scores,
    min_bytes=min_bytes,
    route=route,
    value_shape=lambda shape: (shape[0] * targets_of(shape), 2),
)
