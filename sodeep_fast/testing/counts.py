"""Rank counts: the ways to compute them, comparators and levels to test, and their accuracy."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sodeep_fast.comparators import (
    ByLevel,
    Comparator,
    Ramp,
    Sigmoid,
    Simple,
    Step,
    Sup,
    by_level,
)
from sodeep_fast.ops.rank_counts import rank_counts
from sodeep_fast.testing.accuracy import check_derivatives

COUNT_METHODS = ["direct", "linear"]
# Every implementation on a CPU, as the options that choose it.
COUNT_WAYS: dict[str, dict[str, str]] = {
    "direct": {"method": "direct"},
    "linear": {"method": "linear"},
    "reference": {"backend": "reference"},
}
COMPARATORS: dict[str, Comparator] = {
    "sigmoid": Sigmoid(0.1),
    "sup": Sup(0.1, rho=3.0, delta=0.4),
    "sup_linear": Sup(0.1, rho=3.0, delta=None, offset=1.0),
    "step": Step(0.5),
    "ramp": Ramp(leak=2.0, beta=3.0, gamma=0.25),
    "h_rank": ByLevel(Step(), Sigmoid(0.2), Ramp(beta=5.0)),
    "by_level": ByLevel(Sup(0.2, rho=5.0), Step(), Sigmoid(0.3)),
}


def make_graded_rows(
    items: int = 40, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns scores, levels from 0 to 3 and a mask of six rows, the fourth without a target."""
    generator = torch.Generator().manual_seed(items)
    scores = torch.rand(6, items, generator=generator, dtype=torch.float64).to(dtype)
    levels = torch.randint(4, (6, items), generator=generator, dtype=torch.uint8)
    levels[3] = 0
    return scores, levels, torch.rand(6, items, generator=generator) < 0.8


def random_levels(shape: tuple[int, ...], num_levels: int, seed: int = 1) -> Tensor:
    """Returns levels of items, the same on every machine."""
    return torch.randint(num_levels, shape, generator=torch.Generator().manual_seed(seed))


def value_and_gradient(scores: Tensor, levels: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Returns the rank counts, and the gradient of their sum with fixed random weights."""
    leaf = scores.detach().clone().requires_grad_()
    counts = rank_counts(leaf, levels, **options).counts
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(counts.shape, generator=generator, dtype=torch.float64)
    (grad,) = torch.autograd.grad((counts * weight.to(counts.dtype)).sum(), leaf)
    return counts.detach(), grad


def values_and_gradient(
    metric: Callable[[Tensor], Tensor], scores: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the metric (B,) of all rows, with its graph, and a gradient that tells them apart."""
    leaf = scores.clone().requires_grad_()
    values = metric(leaf)
    weights = torch.arange(1.0, len(values) + 1, dtype=values.dtype)
    (grad,) = torch.autograd.grad(values, leaf, weights, retain_graph=True)
    return values, grad


def check_counts_against_reference(
    function: Callable[[Tensor], Tensor],
    reference: Callable[[Tensor], Tensor],
    scores: Tensor,
    comparator: Comparator,
) -> None:
    """Asserts that rank counts are as accurate as eager PyTorch, as functions of their scores."""
    span = float(scores.double().max() - scores.double().min()) if scores.numel() else 0.0
    terms = [_largest_terms(simple, span) for simple in by_level(comparator)]
    value, slope, curvature = (max(which) for which in zip(*terms, strict=True))
    check_derivatives(function, reference, scores, (value, slope, curvature))


def counts_of(
    levels: Tensor, backend: str = "triton", **options: Any
) -> Callable[[Tensor], Tensor]:
    """Returns rank counts as a function of the scores."""
    return lambda scores: rank_counts(scores, levels, backend=backend, **options).counts


def check_triton_counts(
    scores: Tensor, levels: Tensor, comparator: Comparator, **options: Any
) -> None:
    """Asserts that the Triton kernels are as accurate as eager PyTorch."""

    def reference(s: Tensor) -> Tensor:
        on_device = {
            name: value.to(s.device) if isinstance(value, Tensor) else value
            for name, value in options.items()
        }
        return counts_of(levels.to(s.device), "reference", comparator=comparator, **on_device)(s)

    ours = counts_of(levels, comparator=comparator, **options)
    check_counts_against_reference(ours, reference, scores, comparator)


def _largest_terms(comparator: Simple, span: float) -> tuple[float, float, float]:
    """Bounds the value and two derivatives of a comparator for differences up to `span`."""
    if isinstance(comparator, Step):
        return max(1.0, abs(comparator.at_zero)), 0.0, 0.0
    if isinstance(comparator, Ramp):
        below = max(1.0, abs(comparator.gamma), comparator.leak * span)
        return below, max(comparator.leak, comparator.beta), 0.0
    slope, curvature = 0.25 / comparator.tau, 0.1 / comparator.tau**2
    if isinstance(comparator, Sigmoid):
        return 1.0, slope, curvature
    value = 1 + abs(comparator.start) + abs(comparator.resolved()[1]) + comparator.rho * span
    return value, max(slope, comparator.rho), curvature
