"""The call whose time and memory are measured for a case, checked before."""

import torch
from torch import Tensor

from sodeep_fast.benchmark.measure import Call
from sodeep_fast.benchmark.model import MODES, Case, Operator


def make_call(operator: Operator, case: Case, device: str, *, check: bool = True) -> Call:
    """Builds the call for a case, after checking its value and gradient at the same shape.

    Arguments:
        operator: whose provider the case names.
        case: provider, mode and shape.
        device: "cpu" or "cuda".
        check: False skips the check, so that the first measured call is the first one made.

    Returns:
        a function without arguments that does the work once.

    Raises:
        Unavailable: the provider cannot run here.
        WrongResult: it computes something else.
        ValueError: an unknown mode.
    """
    if case.mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {case.mode!r}")
    provider = operator.providers[case.provider]
    function = provider.build(device)
    scores = operator.make_scores(case.shape, device)
    if not provider.differentiable:
        if check:
            provider.check(scores, function(scores), None, None)
        return lambda: function(scores)

    leaf = scores.clone().requires_grad_()
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(operator.value_shape(case.shape), generator=generator).to(device)

    def both() -> Tensor:
        return torch.autograd.grad(function(leaf), leaf, grad)[0]

    if check:
        value = function(leaf)
        (slope,) = torch.autograd.grad(value, leaf, grad)
        provider.check(scores, value.detach(), grad, slope)
    if case.mode == "forward":
        return lambda: function(scores)
    if case.mode == "both":
        return both
    ranks = function(leaf)
    return lambda: torch.autograd.grad(ranks, leaf, grad, retain_graph=True)
