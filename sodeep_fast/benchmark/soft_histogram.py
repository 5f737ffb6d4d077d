"""The benchmark of `soft_histogram`, as AP_Q uses it: two levels of items and 20 bins."""

import functools

import torch
from torch import Tensor

from sodeep_fast.benchmark.checks import some_rows
from sodeep_fast.benchmark.costs import per_element
from sodeep_fast.benchmark.model import (
    Function,
    Operator,
    Provider,
    Shape,
    WrongResult,
)
from sodeep_fast.benchmark.ours import build_ours
from sodeep_fast.losses.quantized_ap import quantized_ap

BINS = 20
SHAPES: tuple[Shape, ...] = ((512, 100), (64, 1000), (1024, 1024), (4096, 4096), (128, 60_000))
QUICK_SHAPES: tuple[Shape, ...] = ((512, 100), (1024, 1024))


# Which items are positives, by shape and device: made with the scores, outside of timed calls.
LABELS: dict[tuple[Shape, str], Tensor] = {}


def labels_of(scores: Tensor) -> Tensor:
    """Returns which items of `make_scores` are positives."""
    return LABELS[(scores.shape[0], scores.shape[1]), scores.device.type]


def make_scores(shape: Shape, device: str) -> Tensor:
    """Returns float32 scores in [-1, 1] like cosines, the same on every machine.

    One item in fifty, and the first of every row, is a positive: see `labels_of`.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(shape, generator=generator) < 0.02
    labels[:, :1] = True
    LABELS[shape, device] = labels.to(device)
    return (0.3 * torch.randn(shape, generator=generator)).clamp(-1, 1).to(device)


def min_bytes(mode: str, shape: Shape) -> float:
    """Returns the bytes that must move: both passes read scores and labels (5 per element), and
    backward writes a gradient (4 per element)."""
    bytes_each = {"forward": 5, "backward": 9, "both": 14}[mode]
    return bytes_each * shape[0] * shape[1]


def ap_by_triangles(scores: Tensor, labels: Tensor) -> Tensor:
    """AP_Q as its equations read: (B, bins, M) shares, in plain PyTorch."""
    width = 2 / (BINS - 1)
    centres = 1 - width * torch.arange(BINS, dtype=scores.dtype, device=scores.device)
    distance = (scores.unsqueeze(1) - centres.unsqueeze(-1)) / width
    shares = torch.minimum(1 + distance, 1 - distance).clamp(min=0)  # scores are within [-1, 1]
    found, retrieved = (shares * labels.unsqueeze(1)).sum(-1), shares.sum(-1)
    precision = found.cumsum(-1) / (1e-16 + retrieved.cumsum(-1))
    return (precision * found).sum(-1) / found.sum(-1)


def check_quantized_ap(
    scores: Tensor, value: Tensor, grad: Tensor | None, grad_scores: Tensor | None
) -> None:
    """Raises `WrongResult` unless values and gradients of some rows agree with the equations."""
    rows = some_rows(len(scores))
    labels = labels_of(scores)[rows]
    leaf = scores[rows].double().requires_grad_()
    exact = ap_by_triangles(leaf, labels)
    if not bool(((value[rows] - exact).abs() <= 1e-5).all()):
        raise WrongResult("AP_Q is off by more than 1e-5")
    if grad is None or grad_scores is None:
        return
    (slope,) = torch.autograd.grad(exact, leaf, grad[rows].double())
    # At a centre the gradient jumps, and rounding decides on which side a score is.
    position = (leaf.detach() + 1) * (BINS - 1) / 2
    away = (position - position.round()).abs() > 1e-3
    bound = 1e-4 * slope.abs().amax(-1, keepdim=True)
    if not bool((((grad_scores[rows] - slope).abs() <= bound) | ~away).all()):
        raise WrongResult("the gradient of AP_Q is off by more than 1e-4 of its largest")


def _with_labels(scores: Tensor, backend: str) -> Tensor:
    return quantized_ap(scores, labels_of(scores), bins=BINS, backend=backend)


def route(backend: str, method: str) -> Function:
    """Ours by a backend; there is one method."""
    return functools.partial(_with_labels, backend=backend)


def build_scatter(device: str) -> Function:
    """The reference: plain PyTorch that adds each item to its two bins."""
    return route("reference", "auto")


def build_eager(device: str) -> Function:
    """Every item against every bin in plain PyTorch, as the official program computes it."""
    return lambda scores: ap_by_triangles(scores, labels_of(scores))


PROVIDERS = (
    Provider(
        "ours",
        build_ours("soft_histogram", route),
        check_quantized_ap,
        seconds=per_element(4e-9),
        memory=per_element(8),
    ),
    Provider(
        "eager",
        build_eager,
        check_quantized_ap,
        seconds=per_element(2e-7),
        memory=per_element(640),
    ),
    Provider(
        "scatter",
        build_scatter,
        check_quantized_ap,
        seconds=per_element(2e-7),
        memory=per_element(150),
    ),
)

OPERATOR = Operator(
    name="soft_histogram",
    providers={provider.name: provider for provider in PROVIDERS},
    ours="ours",
    shapes=SHAPES,
    quick_shapes=QUICK_SHAPES,
    quick_memory_shapes=((1024, 1024),),
    make_scores=make_scores,
    min_bytes=min_bytes,
    route=route,
    value_shape=lambda shape: shape[:1],
)
