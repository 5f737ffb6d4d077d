"""First and second derivatives of the rank counts, and what PyTorch composes of them."""

import dataclasses

import pytest
import torch
from torch import Tensor

from sodeep_fast import ByLevel, Sigmoid, Step, Sup, rank_counts
from sodeep_fast.comparators import encode
from sodeep_fast.ops.graded_precision import graded_precision
from sodeep_fast.testing import (
    COMPARATORS,
    COUNT_METHODS,
    COUNT_WAYS,
    derivatives,
    make_scores,
    random_levels,
)

OPS = torch.ops.sodeep_fast


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", [name for name in COMPARATORS if name != "step"])
@pytest.mark.parametrize("method", COUNT_METHODS)
def test_gradcheck(method: str, name: str, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(2, 9, dtype=torch.float64, generator=generator, requires_grad=True)
    levels = random_levels((2, 9), 3)
    mask = torch.rand(2, 9, generator=generator) > 0.3 if masked else None

    def counts(values: Tensor) -> Tensor:
        return rank_counts(
            values, levels, comparator=COMPARATORS[name], mask=mask, method=method
        ).counts

    assert torch.autograd.gradcheck(counts, scores)
    assert torch.autograd.gradgradcheck(counts, scores)


@pytest.mark.kernels
@pytest.mark.parametrize("name", [name for name in COMPARATORS if name not in ("step", "ramp")])
@pytest.mark.parametrize("method", COUNT_METHODS)
def test_second_derivatives_agree_with_the_reference(method: str, name: str) -> None:
    scores = make_scores("clustered", (2, 200), dtype=torch.float64) / 5
    levels = random_levels((2, 200), 3)
    generator = torch.Generator().manual_seed(2)
    grad = torch.randn(int((levels > 0).sum()), 3, generator=generator, dtype=torch.float64)
    tangent = torch.randn(2, 200, generator=generator, dtype=torch.float64)
    ours, expected = (
        derivatives(
            lambda values, how=how: (
                rank_counts(values, levels, comparator=COMPARATORS[name], **COUNT_WAYS[how]).counts
            ),
            scores,
            grad,
            tangent,
        )
        for how in (method, "reference")
    )
    for what, value in expected.items():
        torch.testing.assert_close(ours[what], value, rtol=1e-11, atol=1e-9, msg=what)


@pytest.mark.kernels
@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e5])
@pytest.mark.parametrize("comparator", [Sigmoid(), ByLevel()], ids=str)
def test_gradients_of_far_scores_are_no_subnormal_numbers(comparator, unit: float) -> None:
    """Products with which are slow; the others stay, whatever the unit of the scores."""
    lower = comparator.lower if isinstance(comparator, ByLevel) else comparator
    scaled = dataclasses.replace(lower, tau=unit * lower.tau)
    if isinstance(scaled, Sup):
        scaled = dataclasses.replace(scaled, delta=unit * 0.05, rho=scaled.rho / unit)
    comparator = scaled if lower is comparator else ByLevel(scaled)
    scores = torch.linspace(-1, 1, 500)[None] * unit
    labels = torch.zeros(1, 500, dtype=torch.uint8)
    labels[0, 499] = 1
    for how in ("counts", "precision"):
        grads = []
        for dtype in (torch.float32, torch.float64):
            leaf = scores.to(dtype).requires_grad_()
            if how == "counts":
                value = rank_counts(leaf, labels, comparator=comparator).counts.sum()
            else:
                value = graded_precision(leaf, labels, comparator, soft=True).sum()
            grads.append(torch.autograd.grad(value, leaf)[0].double())
        single, double = (grad.abs() * unit for grad in grads)
        assert (single[single > 0] > 1e-31).all()
        assert (single > 0).sum() >= 5
        torch.testing.assert_close(single, double, rtol=1e-4, atol=1e-28)


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", COUNT_METHODS)
def test_opcheck(method: str, dtype: torch.dtype) -> None:
    scores = torch.randn(3, 20).to(dtype).requires_grad_()
    levels = random_levels((3, 20), 3).to(torch.uint8)
    rows, columns = levels.nonzero(as_tuple=True)
    offsets = torch.searchsorted(rows, torch.arange(4))
    options = (levels, columns, offsets, 3, *encode(ByLevel(Sigmoid(0.2), Sup(), Step())), method)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    grad = torch.randn(len(rows), 3, dtype=wide, requires_grad=True)
    tangent = torch.randn(3, 20).to(dtype)
    torch.library.opcheck(OPS.find_marked, (options[0],))
    torch.library.opcheck(OPS.rank_counts, (scores, *options))
    torch.library.opcheck(OPS.rank_counts_backward, (grad, scores, *options))
    grad, scores = grad.detach(), scores.detach()
    torch.library.opcheck(OPS.rank_counts_tangent, (tangent, scores, *options))
    torch.library.opcheck(OPS.rank_counts_double_backward, (tangent, grad, scores, *options))


@pytest.mark.kernels
@pytest.mark.parametrize("method", COUNT_METHODS)
def test_vmap(method: str) -> None:
    scores = torch.randn(4, 3, 11, dtype=torch.float64, requires_grad=True)
    levels = random_levels((3, 11), 3)

    def counts(values: Tensor) -> Tensor:
        options = {"comparator": ByLevel(Sigmoid(0.3)), "num_levels": 3, "method": method}
        return rank_counts(values, levels, **options).counts

    expected = torch.stack([counts(values) for values in scores])
    batched = torch.func.vmap(counts)(scores)
    assert torch.equal(batched, expected)
    swapped = torch.func.vmap(counts, in_dims=1, out_dims=1)(scores.transpose(0, 1))
    assert torch.equal(swapped.transpose(0, 1), expected)
    # Through both derivatives, with a vmap of each.
    weight = torch.randn(scores.shape, dtype=torch.float64)
    firsts = [
        torch.autograd.grad(value.square().sum(), scores, create_graph=True)[0]
        for value in (batched, expected)
    ]
    seconds = [torch.autograd.grad((first * weight).sum(), scores)[0] for first in firsts]
    torch.testing.assert_close(*firsts)
    torch.testing.assert_close(*seconds)


@pytest.mark.kernels
def test_a_gradient_that_all_levels_share_need_not_be_written_out() -> None:
    scores = torch.rand(3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = random_levels((3, 20), 3).to(torch.uint8)
    found = rank_counts(scores, levels, num_levels=3)
    offsets = torch.searchsorted(found.rows, torch.arange(4))
    rest = (scores, levels, found.columns, offsets, 3, *encode(Sigmoid(0.1)), "auto")
    count = len(found.columns)

    def backward(grad: Tensor) -> Tensor:
        result: Tensor = OPS.rank_counts_backward(grad, *rest)
        return result

    shared = torch.rand(count, 1, dtype=torch.float64).expand(count, 3)
    torch.testing.assert_close(backward(shared), backward(shared.contiguous()), rtol=0, atol=0)
    # A gradient of another shape and strides, with the same numbers, gives the same result.
    wide = torch.rand(3, 1, dtype=torch.float64).expand(3, count)
    torch.testing.assert_close(backward(wide), backward(wide.contiguous()), rtol=0, atol=0)
