"""Frozen blocks of convolution by the Triton kernels: call, fakes, derivatives and vmap rules."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sodeep_fast import _native
from sodeep_fast._compiler import constant_in_graphs
from sodeep_fast.kernels._layouts import CONV_PARAMETERS, conv_entering, conv_layout
from sodeep_fast.ops import _backend
from sodeep_fast.ops._vmap import batching_rule


def triton_conv_stack(
    inputs: Tensor,
    parameters: Sequence[Tensor | None],
    paddings: Sequence[int],
    eps: Sequence[float],
    relus: Sequence[bool],
) -> Tensor:
    """Returns the blocks' output (b, c', t') for inputs (b, c, t); csrc/ops.cpp has the others."""
    output, _ = torch.ops.sodeep_fast.triton_conv_stack(
        inputs.mT,
        parameters,
        paddings,
        eps,
        relus,
        torch.is_grad_enabled(),  # under vmap, `requires_grad` does not tell
        inputs.device.type == "cuda" and _allows_tf32(),
    )
    result: Tensor = output.mT
    return result


@constant_in_graphs
def _allows_tf32() -> bool:
    """Returns whether convolutions of float32 may round their factors to TF32."""
    cudnn: Any = torch.backends.cudnn
    return bool(cudnn.conv.fp32_precision == "tf32")


def _register() -> None:
    """Gives the Triton operators their fakes, derivatives and vmap rules."""
    forward, backward, tangent = (
        f"triton_conv_stack{suffix}" for suffix in ("", "_backward", "_tangent")
    )
    call_backward, call_tangent = (
        getattr(torch.ops.sodeep_fast, name) for name in (backward, tangent)
    )

    def layout_of(
        entering: int, parameters: list[Tensor | None], paddings: list[int], relus: list[bool]
    ) -> tuple[int, int, int]:
        """The positions of what is returned, its channels, and the bytes of signs, of a row."""
        positions, offsets = conv_layout(entering, parameters, paddings, relus)
        return positions[-1], parameters[-CONV_PARAMETERS].shape[0], offsets[-1]

    @torch.library.register_fake(f"sodeep_fast::{forward}")
    def _(
        inputs: Tensor,
        parameters: Any,
        paddings: Any,
        eps: Any,
        relus: Any,
        saves: bool,
        tf32: bool,
    ) -> tuple[Tensor, Tensor]:
        *leading, entering, _ = inputs.shape
        leaving, width, size = layout_of(entering, parameters, paddings, relus)
        signs = inputs.new_empty((*leading, size if saves else 0), dtype=torch.uint8)
        return inputs.new_empty((*leading, leaving, width)), signs

    @torch.library.register_fake(f"sodeep_fast::{backward}")
    def _(grad: Tensor, signs: Tensor, parameters: Any, paddings: Any, *options: Any) -> Tensor:
        *leading, leaving, _ = grad.shape
        entering = conv_entering(leaving, parameters, paddings)
        return grad.new_empty((*leading, entering, parameters[0].shape[1]))

    @torch.library.register_fake(f"sodeep_fast::{tangent}")
    def _(
        tangent: Tensor,
        signs: Tensor,
        parameters: Any,
        paddings: Any,
        eps: Any,
        relus: Any,
        tf32: bool,
    ) -> Tensor:
        *leading, entering, _ = tangent.shape
        leaving, width, _ = layout_of(entering, parameters, paddings, relus)
        return tangent.new_empty((*leading, leaving, width))

    def no_gradients(parameters: list[Tensor | None]) -> list[None] | None:
        """The list without None, which autograd would not recognize as a list of tensors."""
        return None if any(value is None for value in parameters) else [None] * len(parameters)

    def setup_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, parameters, *ctx.options, saves, ctx.tf32 = inputs
        result, signs = output
        # Without signs there is no derivative.
        ctx.mark_non_differentiable(*((signs,) if saves else (result, signs)))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(signs, *parameters)

    def differentiate_forward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Any, ...]:
        signs, *parameters = ctx.saved_tensors
        if grad is not None:
            grad = call_backward(grad, signs, parameters, *ctx.options, ctx.tf32)
        return grad, no_gradients(parameters), *[None] * 5

    def setup_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, signs, parameters, *ctx.options = inputs
        ctx.save_for_backward(signs, *parameters)

    def differentiate_linear(transpose: Any) -> Any:
        def differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
            signs, *parameters = ctx.saved_tensors
            grad = transpose(grad, signs, parameters, *ctx.options)
            return grad, None, no_gradients(parameters), *[None] * 4

        return differentiate

    for name, differentiate, setup, tensors in (
        (forward, differentiate_forward, setup_forward, 1),
        (backward, differentiate_linear(call_tangent), setup_linear, 2),
        (tangent, differentiate_linear(call_backward), setup_linear, 2),
    ):
        torch.library.register_autograd(f"sodeep_fast::{name}", differentiate, setup_context=setup)
        torch.library.register_vmap(f"sodeep_fast::{name}", batching_rule(name, tensors))


if _native.HAS_CPU:
    _register()
    if _backend.has_triton():
        for _function in ("conv_stack", "conv_stack_backward", "conv_stack_tangent"):
            _backend.register_lazily(f"triton_{_function}", "conv_stack", _function)
