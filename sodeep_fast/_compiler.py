"""Whether torch.compile or torch.func is active, and what torch.compile must not trace."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def are_transforming() -> bool:
    """Returns whether a transform of `torch.func` is active, and torch.compile is not."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def are_tracing() -> bool:
    """Returns whether a transform of `torch.func` or the compiler is active: both need formulas.

    The compiler fuses a formula into one pass, and fails on some autograd functions and on their
    options once these are symbols.
    """
    return torch.compiler.is_compiling() or are_transforming()


def outside_of_graphs(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Makes torch.compile call a function uncompiled, between the graphs before and after it.

    A decorator like `torch.compiler.disable`, which would import the compiler with the package.
    """
    disabled: Callable[Parameters, Result] | None = None

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        nonlocal disabled
        if not torch.compiler.is_compiling():
            return function(*args, **kwargs)
        # Made once: the compiler would recompile for a new one.
        if disabled is None:
            disabled = torch.compiler.disable(function)
        return disabled(*args, **kwargs)

    return call


def constant_in_graphs(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Makes torch.compile call a function while building a graph, and treat its result as constant.

    For what it cannot trace and a graph may rely on, such as the capabilities of the machine. It
    sets the mark of `torch.compiler.assume_constant_result`, which would import the compiler, and
    Triton, with the package.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
