"""The triangular-kernel histogram as an operator: public function, fakes, autograd, vmap."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from sodeep_fast import _native
from sodeep_fast._checks import (
    check_bins,
    check_levels,
    check_mask,
    check_num_levels,
    check_scores,
    rank_dtype,
)
from sodeep_fast.ops import _backend
from sodeep_fast.ops._autograd import call, register_autograd
from sodeep_fast.ops._levels import compact_levels
from sodeep_fast.ops._vmap import batching_rule
from sodeep_fast.reference.soft_histogram import soft_histogram as reference_soft_histogram


def soft_histogram(
    scores: Tensor,
    levels: Tensor | None = None,
    *,
    bins: int = 20,
    low: float = -1.0,
    high: float = 1.0,
    num_levels: int | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Returns a differentiable histogram of the scores of every row, one per item level.

    The bin centres divide [low, high] evenly, and a score is shared by the two centres around it:
    bin b receives max(0, 1 - |s - centre_b| / width). A score beyond low or high counts fully in
    the first or last bin. Revaud et al., Learning with Average Precision, ICCV 2019 (supplement,
    eq. 7), whose bins are in the reverse order. Takes linear time, and memory only for the bins
    (for one set of bins per 32,768 items where threads share a row).

    The histogram is piecewise linear in `scores`. At a centre, the gradient is that of the interval
    above it, at `high` that of the interval below; beyond low and high it is 0. Differentiable any
    number of times; the second derivative in `scores` is 0.

    Arguments:
        scores: (..., n) float16, bfloat16, float32 or float64; rows are independent.
        levels: (..., n) bool, or integers from 0 to 254; bool and uint8 are cheapest. Default: all
            0.
        bins: number of bins, at most 2^20. A single bin counts the items, without a gradient.
        low: centre of the first bin.
        high: centre of the last bin.
        num_levels: L, greater than the largest level. Default: inferred, 2 for bool; inferring it
            makes the host wait for a GPU.
        mask: (..., n) bool, True where valid. Other items are not counted, whatever their score and
            level, and get gradient 0. Default: all valid.
        backend: "cpp", "triton" or "reference"; "auto" picks the best one built for the device of
            `scores`.

    Returns:
        (..., L, bins) counts by level, from the lowest bin to the highest, float64 for float64
        scores and float32 otherwise. A row with a valid NaN is all NaN, and the gradient is NaN at
        that score. Infinities count as beyond low and high.

    Raises:
        TypeError: scores that are not floating point, levels that are neither integer nor bool, a
            mask that is not bool, bins that is not an integer, or low or high that is not a number.
        ValueError: a scalar tensor, levels or a mask of a different shape or device, levels below
            0, of num_levels or more, or above 254, bins out of range, low not below high, an
            unknown backend, or one that is not available here.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([0.9, 0.25, -2.0], requires_grad=True)
        >>> counts = sodeep_fast.soft_histogram(scores, bins=3)  # centres -1, 0 and 1
        >>> counts.detach()
        tensor([[1.0000, 0.8500, 1.1500]])
        >>> counts[0, 2].backward()  # what would fill the last bin
        >>> scores.grad
        tensor([1., 1., 0.])
    """
    check_scores(scores)
    check_bins(bins, low, high)
    check_mask(mask, scores)
    if levels is None:
        check_num_levels(num_levels)
        found = num_levels or 1
        compact = None if mask is None else compact_levels(torch.zeros_like(mask), mask)
    else:
        found = check_levels(levels, scores, num_levels, mask)
        compact = compact_levels(levels, mask)

    backend = _backend.resolve(backend, scores, "soft_histogram")
    options = (compact, found, bins, float(low), float(high))
    if backend == "reference":
        return reference_soft_histogram(scores, *options)
    name = "triton_soft_histogram" if backend == "triton" else "soft_histogram"
    return call(name, scores, *options)


def _register(prefix: str) -> None:
    """Registers fakes, derivatives and vmap rules for the three operators of one implementation."""
    forward, backward, tangent = (
        f"{prefix}soft_histogram{suffix}" for suffix in ("", "_backward", "_tangent")
    )

    def histogram_like(scores: Tensor, num_levels: int, bins: int) -> Tensor:
        shape = (*scores.shape[:-1], num_levels, bins)
        return torch.empty(shape, dtype=rank_dtype(scores), device=scores.device)

    @torch.library.register_fake(f"sodeep_fast::{forward}")
    def _(scores: Tensor, levels: Tensor | None, *options: Any) -> Tensor:
        return histogram_like(scores, *options[:2])

    @torch.library.register_fake(f"sodeep_fast::{backward}")
    def _(grad: Tensor, scores: Tensor, *options: Any) -> Tensor:
        return torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)

    @torch.library.register_fake(f"sodeep_fast::{tangent}")
    def _(tangent: Tensor, scores: Tensor, levels: Tensor | None, *options: Any) -> Tensor:
        return histogram_like(scores, *options[:2])

    call_backward, call_tangent = partial(call, backward), partial(call, tangent)

    def setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        scores, levels, *ctx.options = inputs
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(scores, levels)

    def differentiate_forward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return call_backward(grad, *ctx.saved_tensors, *ctx.options), *[None] * 5

    # Backward and tangent are linear in their first argument, each the other's transpose, and
    # piecewise constant in the scores.
    def setup_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        first, scores, levels, *ctx.options = inputs
        ctx.dtype = first.dtype
        ctx.save_for_backward(scores, levels)

    def differentiate_linear(transpose: Any) -> Any:
        def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            scores, levels = ctx.saved_tensors
            for_first = for_scores = None
            if ctx.needs_input_grad[0]:
                for_first = transpose(grad, scores, levels, *ctx.options).to(ctx.dtype)
            if ctx.needs_input_grad[1]:
                for_scores = torch.zeros_like(scores)
            return for_first, for_scores, *[None] * 5

        return differentiate

    for name, differentiate, setup, tensors in (
        (forward, differentiate_forward, setup_forward, 2),
        (backward, differentiate_linear(call_tangent), setup_linear, 3),
        (tangent, differentiate_linear(call_backward), setup_linear, 3),
    ):
        register_autograd(name, differentiate, setup)
        torch.library.register_vmap(f"sodeep_fast::{name}", batching_rule(name, tensors))


if _native.HAS_CPU:
    _register("")
    _register("triton_")
    if _backend.has_triton():
        for _function in ("soft_histogram", "soft_histogram_backward", "soft_histogram_tangent"):
            _backend.register_lazily(f"triton_{_function}", "soft_histogram", _function)
