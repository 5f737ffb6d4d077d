"""The benchmark of `soft_rank`: its providers, its shapes and the check before timing."""

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sodeep_fast.benchmark.checks import some_elements, some_rows, within
from sodeep_fast.benchmark.costs import per_element, per_pair
from sodeep_fast.benchmark.model import (
    Function,
    Operator,
    Provider,
    Shape,
    Unavailable,
    WrongResult,
)
from sodeep_fast.benchmark.ours import build_ours
from sodeep_fast.ops.soft_rank import soft_rank
from sodeep_fast.reference.soft_rank import soft_rank as reference_soft_rank

LAM = 10.0
SHAPES: tuple[Shape, ...] = (
    (1, 8),
    (512, 100),
    (64, 1000),
    (8, 10_000),
    (1, 100_000),
    (1, 1_000_000),
)
QUICK_SHAPES: tuple[Shape, ...] = ((512, 100), (64, 1000), (1, 100_000))


def make_scores(shape: Shape, device: str) -> Tensor:
    """Returns uniform float32 scores in [-1, 1], the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(shape, generator=generator) * 2 - 1).to(device)


def make_steep_scores(shape: Shape, device: str) -> Tensor:
    """Returns scores in [-1000, 1000], whose ranks are those of `make_scores` at lam = 10,000."""
    return 1000 * make_scores(shape, device)


def min_bytes(mode: str, shape: Shape) -> float:
    """Returns the bytes that must move: forward reads scores and writes ranks (8 per element);
    backward reads scores and gradient and writes a gradient (12 per element)."""
    bytes_each = {"forward": 8, "backward": 12, "both": 20}[mode]
    return bytes_each * shape[0] * shape[1]


def spot_values(
    scores: Tensor, grad: Tensor, index: Tensor, lam: float = LAM
) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluates the equation of the rank, and of its derivative, at a few elements of one row.

    Arguments:
        scores: (n,) float64.
        grad: (n,) float64 incoming gradient.
        index: (k,) positions to evaluate.
        lam: steepness.

    Returns:
        ranks, gradients and the sums of the gradients' terms in absolute value, each (k,).
    """
    step = torch.sigmoid(lam * (scores - scores[index, None]))
    pull = lam * step * (1 - step) * (grad - grad[index, None])
    return step.sum(-1) + 0.5, pull.sum(-1), pull.abs().sum(-1)


def check_sigmoid_rank(
    scores: Tensor, ranks: Tensor, grad: Tensor | None, grad_scores: Tensor | None
) -> None:
    """Raises `WrongResult` unless ranks and gradients agree with the float64 equation on a sample.

    The bounds lie above the rounding of a plain float32 sum of n terms (that of a compiled one
    reaches 35 eps n at n = 100,000) and below the difference between two definitions of a rank; the
    accuracy of the kernels is tested elsewhere.
    """
    count, n = scores.shape
    rank_bound = 64 * torch.finfo(torch.float32).eps * n
    index = some_elements(scores)
    for row in some_rows(count):
        incoming = torch.zeros_like(scores[row]) if grad is None else grad[row]
        exact, slope, scale = spot_values(scores[row].double(), incoming.double(), index)
        within(ranks[row, index].double() - exact, torch.full_like(exact, rank_bound), "rank")
        if grad_scores is not None:
            # Where the sigmoid is near 1, plain PyTorch's 1 - step is off by eps.
            bound = 1e-4 * scale + 8 * LAM * torch.finfo(torch.float32).eps
            within(grad_scores[row, index].double() - slope, bound, "gradient")


def check_sort(
    scores: Tensor, value: Tensor, grad: Tensor | None, grad_scores: Tensor | None
) -> None:
    """Raises `WrongResult` unless each row came back in order."""
    if not bool((value.diff(dim=-1) >= 0).all()):
        raise WrongResult("rows are not sorted")


def check_permutahedron(
    scores: Tensor, ranks: Tensor, grad: Tensor | None, grad_scores: Tensor | None
) -> None:
    """Raises `WrongResult` unless ranks keep the order and the sum of 1..n.

    Both hold for every projection onto the permutahedron, whatever its regularization. The bound is
    wide: running float32 sums over 10^6 scores are off by 3e-4 of the mean.
    """
    n = scores.shape[-1]
    ordered = ranks.double().gather(-1, scores.argsort(-1))
    slack = 1e-3 * n
    if not bool((ordered.diff(dim=-1) >= -slack).all()):
        raise WrongResult("the ranks are not in the order of the scores")
    within(ordered.mean(-1) - (n + 1) / 2, torch.full_like(ordered[:, 0], slack), "mean rank")


def build_eager(device: str) -> Function:
    """The equation in plain PyTorch, under autograd."""
    return functools.partial(reference_soft_rank, lam=LAM)


def build_compile_sym(device: str) -> Function:
    """The strongest plain PyTorch: compiled forward, and a backward that is one row reduction."""
    torch.compiler.reset()  # a fixed-shape graph for every case, however many there were before
    compile_ = functools.partial(torch.compile, fullgraph=True, dynamic=False)

    @compile_
    def forward(scores: Tensor) -> Tensor:
        return torch.sigmoid(LAM * (scores.unsqueeze(-2) - scores.unsqueeze(-1))).sum(-1) + 0.5

    @compile_
    def backward(grad: Tensor, scores: Tensor) -> Tensor:
        step = torch.sigmoid(LAM * (scores.unsqueeze(-2) - scores.unsqueeze(-1)))
        pull = step * (1 - step) * (grad.unsqueeze(-2) - grad.unsqueeze(-1))
        return LAM * pull.sum(-1)

    class SymmetricRank(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, scores: Tensor) -> Tensor:
            ctx.save_for_backward(scores)
            return forward(scores)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            (scores,) = ctx.saved_tensors
            return backward(grads[0], scores)

    return SymmetricRank.apply


def route(backend: str, method: str) -> Function:
    """Ours by a backend and a method."""
    return functools.partial(soft_rank, lam=LAM, backend=backend, method=method)


def build_torchsort(device: str) -> Function:
    """torchsort's rank by projection onto the permutahedron: another relaxation, O(n log n)."""
    try:
        import torchsort
    except ImportError as error:
        raise Unavailable(f"torchsort is not installed ({error}); see CONTRIBUTING.md") from error
    return functools.partial(
        torchsort.soft_rank, regularization="l2", regularization_strength=1 / LAM
    )


def build_sort(device: str) -> Function:
    """PyTorch's sort of the same tensor: what an exact rank has to do at least."""
    return lambda scores: torch.sort(scores, dim=-1).values


PROVIDERS = (
    Provider(
        "ours",
        build_ours("soft_rank", route),
        check_sigmoid_rank,
        per_element(4e-7),
        per_element(64),
    ),
    Provider(
        "ours-direct",
        build_ours("soft_rank", route, "direct"),
        check_sigmoid_rank,
        per_pair(3e-10),
        per_element(64),
    ),
    Provider(
        "ours-linear",
        build_ours("soft_rank", route, "linear"),
        check_sigmoid_rank,
        per_element(4e-7),
        per_element(64),
    ),
    Provider("eager", build_eager, check_sigmoid_rank, per_pair(7e-9), per_pair(8)),
    Provider(
        "compile_sym",
        build_compile_sym,
        check_sigmoid_rank,
        per_pair(5e-10),
        per_element(64),
        note="memory includes the compiler",
    ),
    Provider(
        "torchsort",
        build_torchsort,
        check_permutahedron,
        per_element(4e-7),
        per_element(64),
        note="l2, strength 1/lam: another relaxation",
    ),
    Provider(
        "torch.sort",
        build_sort,
        check_sort,
        per_element(4e-7),
        per_element(64),
        modes=("forward", "both"),
        differentiable=False,
        note="the exact order: forward only, in every mode",
    ),
)

OPERATOR = Operator(
    name="soft_rank",
    providers={provider.name: provider for provider in PROVIDERS},
    ours="ours",
    shapes=SHAPES,
    quick_shapes=QUICK_SHAPES,
    quick_memory_shapes=((64, 1000),),
    make_scores=make_scores,
    min_bytes=min_bytes,
    route=route,
)

# Ranks that are close to the exact ones.
STEEP = replace(
    OPERATOR,
    name="soft_rank_steep",
    shapes=QUICK_SHAPES,
    quick_shapes=((64, 1000),),
    quick_memory_shapes=(),
    make_scores=make_steep_scores,
)
