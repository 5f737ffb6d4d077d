"""The derivatives of operators, for autograd and for the transforms of `torch.func` alike.

Which way something gets its derivative:

- an operator by `register_autograd`, below; one that takes a list of tensors by that of
  `torch.library`, for an `autograd.Function`, which the transforms need, sees none in a list;
- PyTorch's arithmetic whose backward needs but inputs and outputs by an `autograd.Function` with
  `setup_context` and a vmap rule, which the transforms take; what more is kept is an output too;
- what is found in forward and changed in place in backward, or differs between the two, by one
  whose forward takes `ctx`. The transforms refuse it: they, and the compiler where it is not kept
  out of the call, get the formula in PyTorch. See `are_transforming` and `are_tracing`
  of `sodeep_fast._compiler`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sodeep_fast._compiler import are_transforming

_FUNCTIONS: dict[str, type[torch.autograd.Function]] = {}


def take(ctx: Any, kept: Tensor) -> Tensor | None:
    """Returns what forward saved for backward, to be changed in place; None if that was done.

    A graph that is kept has more than one backward, of which the first one takes it.
    """
    if getattr(ctx, "is_taken", False):
        return None
    ctx.is_taken = True
    # `data` hides the change from autograd, which else refuses the next backward.
    return kept.data


def register_autograd(
    name: str, differentiate: Callable[..., Any], setup: Callable[..., None]
) -> None:
    """Gives an operator its derivative.

    `torch.library.register_autograd` alone does not do: what it makes of a derivative refuses
    `torch.func.grad` and all that is built on it. There an `autograd.Function` takes its place.

    Arguments:
        name: of the operator in `torch.ops.sodeep_fast`.
        differentiate: the gradients of the inputs, from `ctx` and those of the outputs.
        setup: keeps on `ctx` what that needs, from `ctx`, the inputs and the output.
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
    """Returns what the operator of that name in `torch.ops.sodeep_fast` makes of its inputs."""
    if name in _FUNCTIONS and are_transforming():
        return _FUNCTIONS[name].apply(*inputs)
    return getattr(torch.ops.sodeep_fast, name)(*inputs)
