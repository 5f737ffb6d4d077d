"""The accuracy of rank counts."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sodeep_fast.comparators import Comparator, Ramp, Sigmoid, Simple, Step, by_level
from sodeep_fast.ops.rank_counts import rank_counts
from sodeep_fast.testing.accuracy import check_derivatives


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
