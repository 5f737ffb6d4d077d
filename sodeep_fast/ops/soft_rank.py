"""The pairwise sigmoid rank as an operator: public function, fakes, autograd, vmap."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from sodeep_fast import _native
from sodeep_fast._checks import (
    check_choice,
    check_mask,
    check_positive,
    check_scores,
    rank_dtype,
)
from sodeep_fast.kernels._config import prefers_linear
from sodeep_fast.ops import _backend
from sodeep_fast.ops._autograd import call, register_autograd
from sodeep_fast.ops._vmap import batching_rule
from sodeep_fast.reference.soft_rank import soft_rank as reference_soft_rank


def soft_rank(
    scores: Tensor,
    lam: float = 10.0,
    *,
    mask: Tensor | None = None,
    normalize: bool = False,
    method: str = "auto",
    backend: str = "auto",
) -> Tensor:
    """Returns a differentiable rank of every score within its row, near 1 for the largest.

    rank_i = 1 + sum over j != i of sigmoid(lam (s_j - s_i)); tied scores share their average rank.
    SoDeep (Engilberge et al., CVPR 2019), eq. (11) and (12), plus one. Differentiable twice in
    `scores`. Never materialises (n, n).

    Arguments:
        scores: (..., n) float16, bfloat16, float32 or float64; each row is ranked independently.
        lam: positive steepness, per unit of score. Larger values are closer to the exact rank.
        mask: (..., n) bool, True where valid. Other entries are ignored, whatever their score, and
            get rank 0 and gradient 0. Default: all valid.
        normalize: divide the ranks by n, or by the number of valid entries in the row. Default:
            False.
        method: "direct" sums over all pairs; "linear" sums Chebyshev-type moments in linear time
            or, on a CPU where few scores are within 19 / lam of each other (38 in float64), over
            neighbours in the sorted row, to the same accuracy; "auto" picks the method expected to
            be fastest, row by row.
        backend: "cpp", "triton", "cuda" or "reference"; "auto" picks the best one built for the
            device of `scores`.

    Returns:
        (..., n) ranks, float64 for float64 scores and float32 otherwise. A row with a non-finite
        valid score is all NaN.

    Raises:
        TypeError: scores that are not floating point, a mask that is not bool, or lam that is not a
            number.
        ValueError: a scalar tensor, a mask of a different shape or device, lam that is not positive
            and finite, an unknown method or backend, or a backend that is not available here.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([0.3, 0.9, -1.0], requires_grad=True)
        >>> ranks = sodeep_fast.soft_rank(scores)
        >>> ranks.detach()
        tensor([1.9975, 1.0025, 3.0000])
        >>> ranks[0].backward()  # what would raise the first score's rank
        >>> scores.grad.round(decimals=4)
        tensor([-0.0247,  0.0247,  0.0000])
    """
    check_scores(scores)
    check_mask(mask, scores)
    check_positive(lam, "lam")
    check_choice(method, _backend.METHODS, "method")
    backend = _backend.resolve(
        backend, scores, "soft_rank", method, lambda: method == "auto" and _prefers_linear(scores)
    )
    if backend == "reference":
        return reference_soft_rank(scores, lam, mask=mask, normalize=normalize)
    if backend == "cuda" and method == "auto":
        method = "linear" if _prefers_linear(scores) else "direct"
    name = "triton_soft_rank" if backend == "triton" else "soft_rank"
    return call(name, scores, mask, float(lam), normalize, method)


def _prefers_linear(scores: Tensor) -> bool:
    """Returns whether a GPU is expected to rank these rows faster by the linear method."""
    n = scores.shape[-1]
    return prefers_linear(scores.numel() // max(n, 1), n)


def _register(prefix: str) -> None:
    """Registers fakes, derivatives and vmap rules for the three operators of one implementation."""
    forward, backward, double_backward = (
        f"{prefix}soft_rank{suffix}" for suffix in ("", "_backward", "_double_backward")
    )

    @torch.library.register_fake(f"sodeep_fast::{forward}")
    def _(scores: Tensor, mask: Tensor | None, *options: Any) -> Tensor:
        return torch.empty(scores.shape, dtype=rank_dtype(scores), device=scores.device)

    @torch.library.register_fake(f"sodeep_fast::{backward}")
    def _(grad: Tensor, scores: Tensor, mask: Tensor | None, *options: Any) -> Tensor:
        return torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)

    @torch.library.register_fake(f"sodeep_fast::{double_backward}")
    def _(
        grad_grad: Tensor, grad: Tensor, scores: Tensor, mask: Tensor | None, *options: Any
    ) -> Tensor:
        return torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)

    call_backward, call_double_backward = (
        partial(call, name) for name in (backward, double_backward)
    )

    def setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        scores, mask, *ctx.options = inputs
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(scores, mask)

    def differentiate_forward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scores, mask = ctx.saved_tensors
        return call_backward(grad, scores, mask, *ctx.options), None, None, None, None

    def setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, scores, mask, *ctx.options = inputs
        ctx.save_for_backward(grad, scores, mask)

    def differentiate_backward(ctx: Any, grad_grad: Tensor) -> tuple[Tensor | None, ...]:
        grad, scores, mask = ctx.saved_tensors
        # The map from the incoming gradient to the scores' gradient is symmetric: it is its own
        # transpose.
        for_grad = for_scores = None
        if ctx.needs_input_grad[0]:
            # The gradient of half-precision scores is in half precision, that of their float32
            # ranks is not.
            for_grad = call_backward(grad_grad, scores.to(grad.dtype), mask, *ctx.options)
        if ctx.needs_input_grad[1]:
            for_scores = call_double_backward(grad_grad, grad, scores, mask, *ctx.options)
        return for_grad, for_scores, None, None, None, None

    register_autograd(forward, differentiate_forward, setup_forward)
    register_autograd(backward, differentiate_backward, setup_backward)

    for name, tensors in ((forward, 2), (backward, 3), (double_backward, 4)):
        torch.library.register_vmap(f"sodeep_fast::{name}", batching_rule(name, tensors))


if _native.HAS_CPU:
    _register("")
    _register("triton_")
    if _backend.has_triton():
        for _function in ("soft_rank", "soft_rank_backward", "soft_rank_double_backward"):
            _backend.register_lazily(f"triton_{_function}", "soft_rank", _function)
