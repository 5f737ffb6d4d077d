"""The bidirectional LSTM over scalar sequences: public function, fakes, autograd."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sodeep_fast import _native
from sodeep_fast._checks import check_choice, check_matrix
from sodeep_fast.ops import _backend
from sodeep_fast.reference.bilstm import bilstm as reference_bilstm

PRECISIONS = ("auto", "full", "bf16")
WEIGHTS_PER_LAYER = 8  # of both directions
# What a layer may keep of its gates for its backward. glibc gives larger blocks back to the system,
# which supplies them page by page at every call: that takes longer than computing the gates anew
# (1.2 times as long in all for 128 x 100 scores and 2 layers of 128 units, one core, 2026-11).
SAVED_BYTES = 32 << 20


def bilstm(
    scores: Tensor,
    weights: Sequence[Tensor],
    head: Tensor | None = None,
    *,
    precision: str = "auto",
    backend: str = "auto",
) -> Tensor:
    """Returns the hidden states of a bidirectional LSTM that reads every row score by score.

    What `torch.nn.LSTM(1, hidden, layers, batch_first=True, bidirectional=True)` computes from
    states of zero, once differentiable in `scores` and `weights`. The gradient of the scores alone,
    with weights that want none, costs no work for the weights. For the backward a layer keeps its
    input and, if the weights want gradients, its hidden states; its gates and cell states too, 5
    numbers per score, hidden unit and direction, if they take no more than 32 MiB, and otherwise
    it computes them anew, a few rows at a time. Under `torch.no_grad()` nothing is kept.

    With a head it returns the hidden states times it. They themselves are then neither written nor
    kept, unless the head or the weights want gradients.

    Arguments:
        scores: (b, n) float16, bfloat16, float32 or float64; each row is read by itself.
        weights: 8 for each layer in the order of `torch.nn.LSTM.parameters()`: weight_ih (4 hidden,
            1) or, from the second layer on, (4 hidden, 2 hidden), weight_hh (4 hidden, hidden),
            bias_ih and bias_hh (4 hidden,), and the same four of the reverse direction. Computed in
            their dtype, half types in float32.
        head: (2 hidden,) in the dtype of the weights. Default: none.
        precision: "full" multiplies in float32, or float64 for float64 weights; "bf16" in bfloat16,
            summed in float32, where the processor has AMX or AVX512_BF16, and in float32 elsewhere;
            activations then have five digits, and what is kept of gates and cells three. "auto"
            takes "bf16" for bfloat16 weights and under autocast to bfloat16. The scores are never
            rounded.
        backend: "cpp" or "reference", which is differentiable more than once; "auto" takes the best
            one built for the device of `scores`.

    Returns:
        (b, n, 2 hidden) of the last layer, or (b, n) with a head, in the dtype of the weights. A
        score that is not finite spoils its own row only.

    Raises:
        TypeError: scores that are not floating point, or weights and a head that are no tensors of
            one floating-point dtype.
        ValueError: scores that are not a matrix, weights or a head of other numbers or shapes or on
            another device, an unknown precision or backend, bf16 of float64 weights, or a backend
            that is not available here.

    Example:
        >>> import torch, sodeep_fast
        >>> lstm = torch.nn.LSTM(1, 16, num_layers=2, batch_first=True, bidirectional=True)
        >>> scores = torch.randn(4, 10)
        >>> hidden = sodeep_fast.bilstm(scores, list(lstm.parameters()))
        >>> torch.allclose(hidden, lstm(scores.unsqueeze(-1))[0], atol=1e-6)
        True
    """
    check_matrix(scores, "(b, n)")
    weights = list(weights)
    _check_weights(weights, scores)
    if head is not None:
        _check_like_weights("head", head, weights[0])
        if head.shape != (2 * weights[1].shape[1],):
            raise ValueError(
                f"head must have shape {(2 * weights[1].shape[1],)}, got {tuple(head.shape)}"
            )
    check_choice(precision, PRECISIONS, "precision")
    if precision == "bf16" and weights[0].dtype == torch.float64:
        raise ValueError("precision must be 'auto' or 'full' for float64 weights, got 'bf16'")
    backend = _backend.resolve(backend, scores, operator="bilstm")
    if backend == "reference":
        hidden = reference_bilstm(scores, weights)
        return hidden if head is None else hidden @ head

    dtype = weights[0].dtype
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    size = 10 * scores.numel() * weights[1].shape[1] * compute.itemsize
    bf16 = precision == "bf16" or (precision == "auto" and _wants_bf16(dtype, scores.device.type))
    may_save = torch.is_grad_enabled() and size <= SAVED_BYTES
    # The gradients of the head and of the last layer's weights need the hidden states.
    of_head = () if head is None else (head, *weights[-WEIGHTS_PER_LAYER:])
    wanted = torch.is_grad_enabled() and any(value.requires_grad for value in of_head)
    fused = head is not None and not wanted
    sequence = scores.to(compute).t().unsqueeze(-1)
    for begin in range(0, len(weights), WEIGHTS_PER_LAYER):
        layer = weights[begin : begin + WEIGHTS_PER_LAYER]
        saves = may_save and any(value.requires_grad for value in (sequence, *layer))
        is_last = begin + WEIGHTS_PER_LAYER == len(weights)
        sequence, _ = torch.ops.sodeep_fast.bilstm_layer(
            sequence, layer, head if fused and is_last else None, saves, bf16
        )
    if fused:
        return sequence.sum(0).t().to(dtype)
    hidden = sequence.transpose(0, 1).to(dtype)
    return hidden if head is None else hidden @ head


def _wants_bf16(dtype: torch.dtype, device: str) -> bool:
    """Whether weights of this dtype are to be multiplied in bfloat16, by themselves or autocast."""
    autocast = torch.is_autocast_enabled(device) and dtype != torch.float64
    return dtype == torch.bfloat16 or (
        autocast and torch.get_autocast_dtype(device) == torch.bfloat16
    )


def _check_like_weights(name: str, value: Tensor, weight: Tensor) -> None:
    """Raises unless `value` is a floating-point tensor of the dtype and device of `weight`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be torch.Tensors, got {type(value).__name__}")
    if not value.is_floating_point() or value.dtype != weight.dtype:
        raise TypeError(
            f"{name} must be of one floating-point dtype, got {weight.dtype} and {value.dtype}"
        )
    if value.device != weight.device:
        raise ValueError(f"{name} must be on {weight.device} as all weights, got {value.device}")


def _check_weights(weights: list[Tensor], scores: Tensor) -> None:
    """Raises unless `weights` are those of a bidirectional `torch.nn.LSTM` with input size 1."""
    for value in weights:
        _check_like_weights("weights", value, weights[0])
        if value.device != scores.device:
            raise ValueError(
                f"weights must be on the device of scores, {scores.device}, got {value.device}"
            )
    if not weights or len(weights) % WEIGHTS_PER_LAYER != 0:
        raise ValueError(f"weights must be 8 for each layer, got {len(weights)}")
    hidden = weights[0].shape[0] // 4
    for k, value in enumerate(weights):
        features = 1 if k < WEIGHTS_PER_LAYER else 2 * hidden
        expected = {0: (4 * hidden, features), 1: (4 * hidden, hidden)}.get(k % 4, (4 * hidden,))
        if hidden < 1 or tuple(value.shape) != expected:
            raise ValueError(
                f"weights[{k}] must have shape {expected}, got {tuple(value.shape)}; hidden is "
                "a quarter of the rows of weights[0]"
            )


def _register() -> None:
    """Gives the two operators their fakes and derivatives."""

    @torch.library.register_fake("sodeep_fast::bilstm_layer")
    def _(
        sequence: Tensor, weights: list[Tensor], head: Tensor | None, saves: bool, bf16: bool
    ) -> tuple[Tensor, Tensor]:
        n, b, _ = sequence.shape
        hidden = weights[1].shape[1]
        output = sequence.new_empty((n, b, 2 * hidden) if head is None else (2, n, b))
        halves = bf16 and sequence.dtype != torch.float64 and _native.cpu_has_bf16()
        saved = sequence.new_empty(
            (2, n if saves else 0, b, 5, hidden), dtype=torch.float16 if halves else None
        )
        return output, saved

    @torch.library.register_fake("sodeep_fast::bilstm_layer_backward")
    def _(
        grad: Tensor,
        sequence: Tensor,
        weights: list[Tensor],
        head: Tensor | None,
        output: Tensor | None,
        saved: Tensor,
        wants_sequence: bool,
        bf16: bool,
    ) -> tuple[Tensor, ...]:
        n, b, features = sequence.shape
        hidden = weights[1].shape[1]
        gates = 0 if output is None else 4 * hidden
        return (
            sequence.new_empty((2, n if wants_sequence else 0, b, features)),
            sequence.new_empty((2, gates, features)),
            sequence.new_empty((2, gates, hidden)),
            sequence.new_empty((2, gates)),
        )

    def setup_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        sequence, weights, head, _, ctx.bf16 = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.wants_weights = any(weight.requires_grad for weight in weights)
        # The hidden states are for the weights' gradients alone.
        hidden, saved = output
        kept = hidden if ctx.wants_weights else None
        ctx.save_for_backward(sequence, *weights, head, kept, saved)

    def differentiate_forward(
        ctx: Any, grad: Tensor, _: Tensor
    ) -> tuple[Tensor | None, list[Tensor | None], None, None, None]:
        sequence, *weights, head, hidden, saved = ctx.saved_tensors
        wants_sequence = ctx.needs_input_grad[0]
        by_direction, *weight_grads = torch.ops.sodeep_fast.bilstm_layer_backward(
            grad, sequence, weights, head, hidden, saved, wants_sequence, ctx.bf16
        )
        for_weights: list[Tensor | None] = [None] * WEIGHTS_PER_LAYER
        if ctx.wants_weights:
            of_input, recurrent, bias = weight_grads
            for_weights = [w[d] for d in range(2) for w in (of_input, recurrent, bias, bias)]
        return by_direction.sum(0) if wants_sequence else None, for_weights, None, None, None

    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(
            "bilstm is differentiable once only; backend='reference' is differentiable twice"
        )

    torch.library.register_autograd(
        "sodeep_fast::bilstm_layer", differentiate_forward, setup_context=setup_forward
    )
    torch.library.register_autograd("sodeep_fast::bilstm_layer_backward", refuse)


if _native.HAS_CPU:
    _register()
