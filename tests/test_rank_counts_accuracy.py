"""The error of the rank counts, compared with that of eager PyTorch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sodeep_fast import ByLevel, Ramp, Sigmoid, Step, Sup, rank_counts
from sodeep_fast.comparators import Comparator
from sodeep_fast.testing import (
    COUNT_METHODS,
    COUNT_WAYS,
    DISTRIBUTIONS,
    assert_as_accurate,
    make_scores,
    random_levels,
    value_and_gradient,
)


def exact(
    scores: Tensor, levels: Tensor, columns: Tensor, grad: Tensor, comparator: Comparator
) -> tuple[np.ndarray, np.ndarray]:
    """Counts and gradient of one row, Sigmoid, Ramp or ByLevel(Sup), in extended precision."""
    s = scores.numpy().astype(np.longdouble)
    g = grad.numpy().astype(np.longdouble)
    level = levels.numpy()
    x = s[None] - s[columns.numpy()][:, None]
    simple = comparator.lower if isinstance(comparator, ByLevel) else comparator
    if isinstance(simple, Ramp):
        leak, beta, gamma = (np.longdouble(v) for v in (simple.leak, simple.beta, simple.gamma))
        value = np.where(x > 0, np.minimum(1, beta * x + gamma), leak * x)
        slope = np.where(x > 0, np.where(beta * x + gamma < 1, beta, 0), leak)
    else:
        tau = np.longdouble(simple.tau)
        # exp of a negative number only; anything below its range is an exact zero.
        small = np.exp(np.maximum(-np.abs(x / tau), np.longdouble(-11000)))
        value = np.where(x >= 0, 1, small) / (1 + small)
        slope = small / (1 + small) ** 2 / tau
    if isinstance(comparator, ByLevel):
        assert isinstance(simple, Sup)
        delta, offset = (np.longdouble(v) for v in simple.resolved())
        soft = value + np.where(x > 0, np.longdouble(simple.start), 0)
        value = np.where(x > delta, simple.rho * (x - delta) + offset, soft)
        slope = np.where(x > delta, np.longdouble(simple.rho), slope)
        lower = level[None] < level[columns.numpy()][:, None]
        value = np.where(lower, value, (x >= 0).astype(np.longdouble))
        slope = np.where(lower, slope, 0)
    itself = np.arange(len(s))[None] == columns.numpy()[:, None]
    value, slope = np.where(itself, 0, value), np.where(itself, 0, slope)
    of_level = [(value * (level == which)).sum(-1) for which in range(g.shape[1])]
    terms = slope * g[:, level]
    gradient = terms.sum(0)
    np.subtract.at(gradient, columns.numpy(), terms.sum(1))
    return np.stack(of_level, -1), gradient


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "comparator",
    [
        *(Sigmoid(0.01), Sigmoid(0.3), Ramp(0.0, 256.0, -1.0), Ramp(0.25, 0.125, 0.5)),
        *(ByLevel(), ByLevel(Sup(0.3, rho=0.5, delta=None))),
    ],
    ids=str,
)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("items", [3, 100, 3000])
def test_accuracy(
    items: int, distribution: str, comparator: Comparator, dtype: torch.dtype
) -> None:
    scores = make_scores(distribution, (1, items), dtype=dtype)
    levels = random_levels((1, items), 3)
    levels[:, 20:] *= levels[:, 20:] < 2  # many irrelevant, some of each
    levels[:, 200:] = 0
    options = {"comparator": comparator, "num_levels": 3}
    eager_counts, eager_grad = value_and_gradient(scores, levels, **options, backend="reference")
    weight = torch.randn(
        eager_counts.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    ).to(dtype)
    columns = rank_counts(scores, levels, num_levels=3).columns
    exact_counts, exact_grad = exact(scores[0], levels[0], columns, weight, comparator)

    rounding = 4 * torch.finfo(dtype).eps * items
    span = float(scores.double().max() - scores.double().min())
    if isinstance(comparator, ByLevel):
        assert isinstance(comparator.lower, Sup)
        rho = comparator.lower.rho
        largest, steepest = 2 + rho * span, max(rho, 0.25 / comparator.lower.tau)  # terms
    elif isinstance(comparator, Ramp):
        largest, steepest = max(1.0, comparator.leak * span), comparator.beta
    else:
        largest, steepest = 1.0, 0.25 / comparator.tau
    scale = steepest * float(weight.abs().max())
    for method in COUNT_METHODS:
        counts, grad = value_and_gradient(scores, levels, **options, method=method)
        assert_as_accurate(
            counts, eager_counts, exact_counts, floor=rounding * largest, what=f"{method} value"
        )
        assert_as_accurate(
            grad[0], eager_grad[0], exact_grad, floor=rounding * scale, what=f"{method} gradient"
        )


@pytest.mark.kernels
@pytest.mark.parametrize("instruction_set", ["baseline", "avx2"])
@pytest.mark.parametrize("part", ["values", "errors", "derivatives"])
def test_on_other_instruction_sets(part: str, instruction_set: str, rerun_on) -> None:
    """Some of the checks in a process that is limited to an older instruction set."""
    # The selection must not match the name of this test, which would run itself.
    file, selected, least = {
        "values": ("test_rank_counts.py", "(test_kernels_agree and normal) or nearly_all", 77),
        "errors": ("test_rank_counts_accuracy.py", "test_accuracy and outliers", 36),
        "derivatives": ("test_rank_counts_derivatives.py", "gradcheck", 24),
    }[part]
    rerun_on(str(Path(__file__).with_name(file)), selected, least, instruction_set)


@pytest.mark.parametrize("how", COUNT_WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("delta", [0.25, None])
def test_boundaries_are_decided_exactly(delta: float | None, dtype: torch.dtype, how: str) -> None:
    # Differences of exactly 0 and of exactly delta everywhere; the jumps there are large.
    scores = torch.randint(-16, 17, (2, 300), generator=torch.Generator().manual_seed(0)) / 8
    levels = random_levels((2, 300), 3)
    comparator = ByLevel(Sup(0.1, rho=1.0, delta=delta, start=2.0, offset=9.0), Step(0.25), Step())
    options = {"comparator": comparator, "num_levels": 3}
    counts = rank_counts(scores.to(dtype), levels, **options, **COUNT_WAYS[how]).counts
    exact_counts = rank_counts(scores.double(), levels, **options, backend="reference").counts
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(counts.double(), exact_counts, rtol=tolerance, atol=tolerance)


@pytest.mark.kernels
@pytest.mark.parametrize("method", COUNT_METHODS)
def test_temperatures_whose_reciprocal_overflows(method: str) -> None:
    levels = torch.ones(1, 5, dtype=torch.bool)
    for dtype in (torch.float32, torch.float64):
        for scores, expected in (([1.0] * 5, [2.0] * 5), ([5.0, 4, 3, 2, 1], [0.0, 1, 2, 3, 4])):
            given = torch.tensor([scores], dtype=dtype)
            options = {"comparator": Sigmoid(5e-324), "method": method}
            counts = rank_counts(given, levels, **options).counts[:, 1]
            torch.testing.assert_close(counts, torch.tensor(expected, dtype=dtype))


@pytest.mark.parametrize("method", COUNT_METHODS)
def test_extreme_magnitudes(method: str) -> None:
    largest, tiny = torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny
    scores = torch.tensor([[largest / 2, -largest / 2, 0.0, 1.0], [0.0, tiny, -tiny, tiny / 4]])
    levels = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]])
    for tau in (1e-38, 1e-30, 1.0, 1e30, 1e300):
        counts = rank_counts(scores, levels, comparator=Sigmoid(tau), method=method).counts
        expected = rank_counts(
            scores.double(), levels, comparator=Sigmoid(tau), backend="reference"
        ).counts
        torch.testing.assert_close(counts.double(), expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("comparator", [Step(), Sup(), Ramp()], ids=str)
@pytest.mark.parametrize("method", COUNT_METHODS)
def test_scores_less_than_a_normal_number_apart(method: str, comparator: Comparator) -> None:
    tiny = torch.finfo(torch.float32).tiny
    scores = torch.tensor([[tiny, 1.5 * tiny, 1.25 * tiny, tiny]])
    levels = torch.tensor([[0, 1, 0, 1]])
    counts = rank_counts(scores, levels, comparator=comparator, method=method).counts
    expected = rank_counts(
        scores.double(), levels, comparator=comparator, backend="reference"
    ).counts
    torch.testing.assert_close(counts.double(), expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("method", COUNT_METHODS)
def test_numbers_below_the_normal_ones_outside(method: str) -> None:
    scores = torch.linspace(0, 1, 20).view(1, -1).requires_grad_()
    counts = rank_counts(scores, torch.ones(1, 20, dtype=torch.bool), method=method).counts
    counts.sum().backward()
    assert torch.tensor([torch.finfo(torch.float32).tiny]).div(2).item() > 0
