"""The derivatives of operators, for autograd and for the transforms of `torch.func` alike.

How each kind of function gets its derivative:

- an operator: by `register_autograd`, below. One that takes a list of tensors: by that of
  `torch.library`, as an `autograd.Function`, which the transforms need, does not see tensors in a
  list;
- PyTorch arithmetic whose backward needs only inputs and outputs: by an `autograd.Function` with
  `setup_context` and a vmap rule, which the transforms support. Anything else it keeps is an
  output;
- operators that find value and gradient in one pass: by `sodeep_fast.ops._row_values`. Losses of
  embeddings take such a gradient directly: see `sodeep_fast.ops._pullback`;
- results of forward that backward changes in place, or that differ between the two: by one whose
  forward takes `ctx`. The transforms refuse it, so they get the formula in PyTorch, as does the
  compiler unless it is kept out of the call. See `are_transforming` and `are_tracing` of
  `sodeep_fast._compiler`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sodeep_fast._compiler import are_transforming

_FUNCTIONS: dict[str, type[torch.autograd.Function]] = {}


def take(ctx: Any, kept: Tensor) -> Tensor | None:
    """Returns what forward saved for backward, to be changed in place; None if already taken.

    With `retain_graph` there may be several backward passes; the first one takes it.
    """
    if getattr(ctx, "is_taken", False):
        return None
    ctx.is_taken = True
    # `data` hides the change from autograd, which would otherwise refuse the next backward.
    return kept.data


def register_autograd(
    name: str, differentiate: Callable[..., Any], setup: Callable[..., None]
) -> None:
    """Gives an operator its derivative.

    `torch.library.register_autograd` alone does not support `torch.func.grad` and what is built on
    it. Under these, an `autograd.Function` takes its place.

    Arguments:
        name: of the operator in `torch.ops.sodeep_fast`.
        differentiate: computes the gradients of the inputs from `ctx` and those of the outputs.
        setup: saves on `ctx` what that needs, given `ctx`, the inputs and the output.
    """
    torch.library.register_autograd(f"sodeep_fast::{name}", differentiate, setup_context=setup)
    op = getattr(torch.ops.sodeep_fast, name)
    _FUNCTIONS[name] = type(
        name,
        (torch.autograd.Function,),
        {
            "forward": staticmethod(lambda *inputs: op(*inputs)),
            "setup_context": staticmethod(setup),
            "backward": staticmethod(differentiate),
            "generate_vmap_rule": True,
        },
    )


def call(name: str, *inputs: Any) -> Any:
    """Calls the operator of that name in `torch.ops.sodeep_fast`."""
    if name in _FUNCTIONS and are_transforming():
        return _FUNCTIONS[name].apply(*inputs)
    refuse_tangents(name, inputs)
    return getattr(torch.ops.sodeep_fast, name)(*inputs)


def refuse_tangents(name: str, inputs: Iterable[Any]) -> None:
    """Raises for inputs of forward-mode AD, whose tangents an operator would silently drop."""
    if forward_ad._current_level < 0:
        return
    for value in inputs:
        if isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None:
            # The kernels compute gradients, not directional derivatives.
            raise NotImplementedError(
                f"{name} has no forward-mode derivative; backend='reference' may have one"
            )
