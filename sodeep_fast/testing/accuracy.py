"""The tolerance rule: at most twice the error of plain PyTorch in the same precision."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sodeep_fast.testing.scores import make_scores

# Tolerance between two float64 computations that only differ in the order of their sums.
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}


def exact_soft_rank(
    scores: Tensor, grad: Tensor, lam: float, targets: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Returns soft ranks and the gradient of their product with `grad`, in extended precision.

    These are the exact values that kernels and eager PyTorch are both compared with, for one row.

    Arguments:
        scores: (n,) scores of any floating-point dtype, taken as exact.
        grad: (n,) incoming gradient.
        lam: steepness.
        targets: (t,) indices of the items to compute.

    Returns:
        (t,) ranks and (t,) gradients, as NumPy long doubles.
    """
    row, incoming = (value.detach().numpy().astype(np.longdouble) for value in (scores, grad))
    own, own_incoming = row[targets.numpy(), None], incoming[targets.numpy(), None]
    x = np.longdouble(lam) * (row[None] - own)
    # exp of a negative number only; anything below its range is an exact zero.
    small = np.exp(np.maximum(-np.abs(x), np.longdouble(-11000)))
    beaten_by = np.where(x >= 0, 1, small) / (1 + small)
    slope = small / (1 + small) ** 2
    ranks = beaten_by.sum(-1) + np.longdouble(0.5)
    gradient = np.longdouble(lam) * (slope * (incoming[None] - own_incoming)).sum(-1)
    return ranks, gradient


def assert_as_accurate(
    actual: Tensor, eager: Tensor, exact: np.ndarray, *, floor: float, what: str = "value"
) -> None:
    """Asserts that `actual` is at most twice as far from `exact` as `eager` is, plus `floor`.

    The error is the largest of the row: rounding errors fall on elements at random, so an element
    of `eager` may be exact by luck.
    """
    ours, theirs = (
        float(np.abs(value.detach().numpy().astype(np.longdouble) - exact).max(initial=0))
        for value in (actual, eager)
    )
    assert ours <= 2 * theirs + floor, f"{what}: error {ours:.3e} > 2 * {theirs:.3e} + {floor:.3e}"


def derivatives(
    function: Callable[[Tensor], Tensor], scores: Tensor, grad: Tensor, grad_grad: Tensor
) -> dict[str, Tensor]:
    """Returns a function's value and its first and second derivatives along given directions.

    "grad" is the gradient of (value * grad), "for_grad" and "second" those of (gradient *
    grad_grad) with respect to `grad` and to `scores`.
    """
    scores = scores.detach().requires_grad_()
    grad = grad.detach().requires_grad_()
    value = function(scores)
    (first,) = torch.autograd.grad(value, scores, grad, create_graph=True)
    for_grad, second = torch.autograd.grad(
        first, (grad, scores), grad_grad.to(first.dtype), materialize_grads=True
    )
    return {
        "value": value.detach(),
        "grad": first.detach(),
        "for_grad": for_grad,
        "second": second,
    }


def check_against_reference(
    function: Callable[[Tensor], Tensor],
    reference: Callable[[Tensor], Tensor],
    scores: Tensor,
    lam: float,
) -> None:
    """Asserts that a rank function and its derivatives are as accurate as eager PyTorch.

    Exact values are the reference in float64 on the CPU; eager PyTorch is the reference in the
    dtype and on the device of `scores`. Short rows only: the reference materialises all pairs.
    """
    check_derivatives(function, reference, scores, (1.0, lam / 4, lam**2 / 10))


def check_derivatives(
    function: Callable[[Tensor], Tensor],
    reference: Callable[[Tensor], Tensor],
    scores: Tensor,
    terms: tuple[float, float, float],
) -> None:
    """Compares values and derivatives, which are sums over the row of terms up to `terms`."""
    generator = torch.Generator().manual_seed(1)
    compute = torch.float64 if scores.dtype == torch.float64 else torch.float32
    shape = reference(scores).shape
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    grad_grad = torch.randn(scores.shape, generator=generator, dtype=torch.float64)
    grad, grad_grad = grad.to(scores.device, compute), grad_grad.to(scores.device, scores.dtype)
    actual = derivatives(function, scores, grad, grad_grad)
    eager = derivatives(reference, scores, grad, grad_grad)
    exact = derivatives(reference, *(x.cpu().double() for x in (scores, grad, grad_grad)))
    rounding = 4 * torch.finfo(compute).eps * scores.shape[-1]
    # Terms of derivatives are weighted by a gradient or by a difference of two.
    largest = [float(g.abs().max()) if g.numel() else 0.0 for g in (grad, grad_grad)]
    scales = {
        "value": terms[0],
        "grad": terms[1] * largest[0],
        "for_grad": terms[1] * largest[1],
        "second": terms[2] * largest[0] * largest[1],
    }
    for name, scale in scales.items():
        assert actual[name].dtype == eager[name].dtype, name
        largest_value = float(exact[name].abs().max()) if exact[name].numel() else 0.0
        last_rounding = torch.finfo(actual[name].dtype).eps * largest_value
        assert_as_accurate(
            actual[name].cpu().double(),
            eager[name].cpu().double(),
            exact[name].numpy().astype(np.longdouble),
            floor=rounding * scale + last_rounding,
            what=name,
        )


# The widest rows whose products of two exponentials fit, and weights far from 1.
EXTREMES = {
    torch.float32: (80, (1e-20, 1e-6, 1e5, 1e20)),
    torch.float64: (680, (1e-100, 1e-13, 1e16, 1e100)),
}


def check_gradients_of_any_size(
    rank: Callable[[Tensor], Tensor], n: int, dtype: torch.dtype, device: str = "cpu"
) -> None:
    """Asserts that soft ranks of lam = 1 have accurate gradients in wide rows.

    In these, products of exponentials fill the type's range and leave no room for a weight.
    """
    widest, sizes = EXTREMES[dtype]
    targets = torch.linspace(0, n - 1, min(n, 100)).long()
    for share in (0.3, 0.75, 0.9, 0.999):
        width = widest * share
        scores = make_scores("uniform", (n,), dtype=torch.float64) * width / 2
        # Items with a weight have a neighbour, as their slopes would otherwise be negligible.
        scores[:4] = torch.tensor([0.5, 0.499, -0.5, -0.499]) * width
        scores[-2:] = torch.tensor([0.001, 0.0]) * width
        leaf = scores.to(device, dtype).requires_grad_()
        ranks = rank(leaf)
        for at in (0, 2, n - 1):
            weight = torch.zeros(n, dtype=dtype)
            weight[at] = 1
            exact = exact_soft_rank(leaf.detach().cpu(), weight, 1.0, targets)[1]
            largest = exact_soft_rank(leaf.detach().cpu(), weight, 1.0, torch.tensor([at]))[1]
            for size in sizes:
                grad = (size * weight).to(device)
                (found,) = torch.autograd.grad(ranks, leaf, grad, retain_graph=True)
                error = np.abs(found.cpu().double().numpy()[targets] / size - exact).max()
                bound = 4 * n * torch.finfo(dtype).eps * abs(largest[0])
                assert error < bound, (share, at, size)
