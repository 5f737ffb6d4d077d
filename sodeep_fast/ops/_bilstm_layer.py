"""The operators of one layer of the bidirectional LSTM: fakes and derivatives."""

from typing import Any

import torch
from torch import Tensor

from sodeep_fast import _native
from sodeep_fast._checks import rank_dtype
from sodeep_fast.kernels._layouts import lstm_saved_shape
from sodeep_fast.ops import _backend

GPU_BACKENDS = ("triton", "cuda")
WEIGHTS_PER_LAYER = 8  # of both directions
# Numbers of a step and a unit that the backward reads, kLstmSaved of csrc/cpu/bilstm.h.
SAVED_BY_CPP = 5


def _register(prefix: str, value_dtype: Any, saved_like: Any) -> None:
    """Gives the two operators of one implementation their fakes and derivatives.

    Those without a prefix can also keep the hidden states beside a head's output, and compute the
    gradient of the head.

    Arguments:
        prefix: of their names.
        value_dtype: takes the input and the option, and returns the dtype of hidden states and of
            the gradient of several features.
        saved_like: takes the input, what of it is to be kept, the hidden units and the option, and
            returns what is saved, empty.
    """
    forward, backward = (
        f"sodeep_fast::{prefix}bilstm_layer{suffix}" for suffix in ("", "_backward")
    )
    call_backward = getattr(torch.ops.sodeep_fast, backward.removeprefix("sodeep_fast::"))

    @torch.library.register_fake(forward)
    def _(
        sequence: Tensor,
        weights: list[Tensor],
        head: Tensor | None,
        keeps: int,
        option: bool | str,
        rounds: bool = True,
        keeps_hidden: bool = False,
    ) -> tuple[Tensor, ...]:
        n, b, _ = sequence.shape
        hidden = weights[1].shape[1]
        rounded = rounds and head is None
        dtype = value_dtype(sequence, option) if rounded else rank_dtype(sequence)
        output = sequence.new_empty((n, b, 2 * hidden) if head is None else (2, n, b), dtype=dtype)
        saved = saved_like(sequence, keeps, hidden, option)
        if prefix:
            return output, saved
        steps = n if keeps_hidden and head is not None else 0
        states = (steps, b, 2 * hidden)
        return output, saved, sequence.new_empty(states, dtype=value_dtype(sequence, option))

    @torch.library.register_fake(backward)
    def _(
        grad: Tensor,
        sequence: Tensor,
        weights: list[Tensor],
        head: Tensor | None,
        states: Tensor | None,
        saved: Tensor,
        wants_sequence: bool,
        option: bool | str,
        wants_head: bool = False,
    ) -> tuple[Tensor, ...]:
        n, b, features = sequence.shape
        hidden = weights[1].shape[1]
        gates = 0 if states is None else 4 * hidden
        directions = 1 if features > 1 or states is not None else 2
        shape = (directions, n if wants_sequence else 0, b, features)
        dtype = rank_dtype(sequence)
        shapes: list[tuple[int, ...]] = [(2, gates, features), (2, gates, hidden), (2, gates)]
        if not prefix:
            shapes.append((2 * hidden if wants_head else 0,))
        return (
            sequence.new_empty(
                shape, dtype=value_dtype(sequence, option) if features > 1 else dtype
            ),
            *(sequence.new_empty(shape, dtype=dtype) for shape in shapes),
        )

    def setup_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        sequence, weights, head, _, ctx.option, *flags = inputs
        ctx.others = 2 + len(flags)  # that have no gradient
        result, saved, *kept = output
        ctx.mark_non_differentiable(saved, *kept)
        ctx.set_materialize_grads(False)  # of what is saved, they would be as large
        ctx.wants_weights = any(weight.requires_grad for weight in weights)
        # The hidden states are only needed for the weights' gradients.
        states = kept[0] if kept and head is not None else result
        needed = states if ctx.wants_weights else None
        ctx.save_for_backward(sequence, *weights, head, needed, saved)

    def differentiate_forward(
        ctx: Any, grad: Tensor | None, *_: None
    ) -> tuple[Tensor | list[Tensor | None] | None, ...]:
        for_weights: list[Tensor | None] = [None] * WEIGHTS_PER_LAYER
        if grad is None:
            return None, for_weights, None, *(None,) * ctx.others
        sequence, *weights, head, states, saved = ctx.saved_tensors
        wants_sequence, _, wants_head, *_ = ctx.needs_input_grad
        more = () if prefix else (wants_head,)
        by_direction, of_input, recurrent, bias, *of_head = call_backward(
            grad, sequence, weights, head, states, saved, wants_sequence, ctx.option, *more
        )
        if ctx.wants_weights:
            for_weights = [w[d] for d in range(2) for w in (of_input, recurrent, bias, bias)]
        for_sequence = None
        if wants_sequence:
            summed = by_direction.shape[0] == 1
            for_sequence = by_direction[0] if summed else by_direction.sum(0)
        for_head = of_head[0] if wants_head else None
        return for_sequence, for_weights, for_head, *(None,) * ctx.others

    def refuse(ctx: Any, *grads: Tensor) -> None:
        # Second derivatives of an LSTM are rare, and its kernels do not keep what they need.
        raise NotImplementedError(
            "bilstm is differentiable once only; backend='reference' is differentiable twice"
        )

    torch.library.register_autograd(forward, differentiate_forward, setup_context=setup_forward)
    torch.library.register_autograd(backward, refuse)


def cpp_rounds(dtype: torch.dtype, bf16: bool) -> bool:
    """Returns whether the C++ kernels round a layer of this dtype where bf16 products are asked."""
    return bf16 and dtype != torch.float64 and _native.cpu_has_bf16()


def _values_of_cpp(sequence: Tensor, bf16: bool) -> torch.dtype:
    return torch.bfloat16 if cpp_rounds(sequence.dtype, bf16) else rank_dtype(sequence)


def _saved_by_cpp(sequence: Tensor, keeps: int, hidden: int, bf16: bool) -> Tensor:
    steps, batch, _ = sequence.shape
    dtype = rank_dtype(sequence)
    if keeps < steps:
        return sequence.new_empty((2, keeps, batch, 2, hidden), dtype=dtype)
    saved_dtype = torch.float16 if cpp_rounds(sequence.dtype, bf16) else dtype
    return sequence.new_empty((2, steps, batch, SAVED_BY_CPP, hidden), dtype=saved_dtype)


def _values_on_gpu(sequence: Tensor, products: str) -> torch.dtype:
    return sequence.dtype


def _saved_on_gpu(sequence: Tensor, saves: bool, hidden: int, products: str) -> Tensor:
    steps, batch, _ = sequence.shape
    dtype = torch.float32 if products == "full" else torch.float16
    shape = lstm_saved_shape(steps if saves else 0, batch, hidden)
    return sequence.new_empty(shape, dtype=dtype)


if _native.HAS_CPU:
    _register("", _values_of_cpp, _saved_by_cpp)
    for _name in GPU_BACKENDS:
        _register(f"{_name}_", _values_on_gpu, _saved_on_gpu)
    for _function in ("bilstm_layer", "bilstm_layer_backward"):
        _backend.register_lazily(f"cuda_{_function}", "bilstm_cuda", _function)
        if _backend.has_triton():
            _backend.register_lazily(f"triton_{_function}", "bilstm", _function)
