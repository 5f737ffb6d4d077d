"""The bidirectional LSTM over scalar sequences: public function, checks, choice of kernels."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sodeep_fast import _native
from sodeep_fast._checks import check_choice, check_matrix, rank_dtype
from sodeep_fast._compiler import are_transforming, constant_in_graphs
from sodeep_fast.kernels._layouts import lstm_shared_bytes
from sodeep_fast.kernels._precisions import DTYPES
from sodeep_fast.ops import _backend
from sodeep_fast.ops._autograd import refuse_tangents
from sodeep_fast.ops._bilstm_layer import SAVED_BY_CPP, WEIGHTS_PER_LAYER, cpp_rounds
from sodeep_fast.reference.bilstm import bilstm as reference_bilstm

PRECISIONS = ("auto", *DTYPES)
HALVES = {name: dtype for name, dtype in DTYPES.items() if name != "full"}
CUDA_HIDDEN = 128  # hidden units whose recurrent weights, in a half type, fill half the registers
INTERPRETED_SHARED = 227 << 10  # what Triton's interpreter is taken to have: as much as an H200
# How much a layer may keep of its gates for backward. glibc returns larger blocks to the system,
# which supplies them page by page at every call. That takes longer than recomputing the gates with
# fast products of bfloat16 (1.2 times as long in all for 128 x 100 scores and 2 layers of 128
# units, one core with AMX, 2026-11), and for few units, as what is computed grows with their square
# (1.2 times for 512 x 100 scores and 1 layer of 32 units, but 0.9 for 128, 0.8 for 2 such layers,
# and 0.65 to 0.7 for 64 x 100 scores and 2 layers of 512; two cores without AMX, 2026-11).
SAVED_BYTES, WIDE_SAVED_BYTES = 32 << 20, 320 << 20
# From this many hidden units on, or, without such products, this many inputs and hidden units.
WIDE_HIDDEN, WIDE_INPUTS = 256, 96
# What is recomputed at a time, for the rows that run together, fits in a core's cache.
SEGMENT_BYTES, SEGMENT_ROWS = 1 << 20, 64


def bilstm(
    scores: Tensor,
    weights: Sequence[Tensor],
    head: Tensor | None = None,
    *,
    precision: str = "auto",
    backend: str = "auto",
) -> Tensor:
    """Returns the hidden states of a bidirectional LSTM that reads each row one score at a time.

    Computes what `torch.nn.LSTM(1, hidden, layers, batch_first=True, bidirectional=True)` computes
    from zero states. Once differentiable in `scores` and `weights`; if the weights require no
    gradient, backward does no work for them.

    With a head, it returns the product of the hidden states and the head. The hidden states
    themselves are then not kept (on a CPU and with "cuda", not even written), unless the last
    layer's weights or, on a GPU, the head require gradients.

    For backward, a layer keeps its input and, if the weights require gradients, its hidden states.
    It also keeps its gates and cell states, 5 numbers per score, hidden unit and direction, in
    float16 where products are rounded: always on a GPU, and on a CPU up to 32 MiB before rounding.
    That limit is 320 MiB from 256 hidden units on or, on a processor without fast bfloat16
    products, from 96 inputs and hidden units on. Otherwise the layer keeps the states before every
    few steps, and recomputes the rest a few rows and steps at a time. Under `torch.no_grad()`
    nothing is kept.

    Arguments:
        scores: (b, n) float16, bfloat16, float32 or float64; rows are independent.
        weights: 8 tensors per layer, in the order of `torch.nn.LSTM.parameters()`: weight_ih (4
            hidden, 1) or, from the second layer on, (4 hidden, 2 hidden), weight_hh (4 hidden,
            hidden), bias_ih and bias_hh (4 hidden,), and the same four for the reverse direction.
            Computation is in their dtype, or in float32 for half precision.
        head: (2 hidden,) in the dtype of the weights. Default: none.
        precision: "full" multiplies in float32 (with AMX, in pieces that keep all its digits), or
            in float64 for float64 weights. "bf16" multiplies in bfloat16 and sums in float32, on
            GPUs and on processors where that is faster than float32 (AMX; AVX512_BF16 but not
            Intel's), and in float32 elsewhere. "fp16" does the same in float16 on GPUs, and in
            float32 elsewhere. "auto" picks "bf16" or "fp16" for weights of that type and under
            autocast to it; on GPUs also "fp16" if `torch.backends.cudnn.rnn.fp32_precision` is
            "tf32", with which PyTorch's own LSTM rounds to as many digits. Where products are
            rounded, activations have five digits; on a CPU, layers also exchange hidden states and
            their gradients in bfloat16. The scores are never rounded.
        backend: "cpp"; "triton", which holds the recurrent weights of a direction in shared memory;
            "cuda", which holds them in registers, for up to 128 hidden units and half-precision
            products; or "reference", which is differentiable more than once. "auto" picks the best
            one built for the device of `scores`, and PyTorch's LSTM if there is none. On a GPU it
            also uses PyTorch's LSTM, through cuDNN, in its precision and with scores rounded as it
            rounds them, for float64 weights and for weights too large for a CUDA multiprocessor (on
            an H200, more than 128 hidden units, or 64 if "full"). Under the transforms of
            `torch.func` it uses "reference".

    Returns:
        (b, n, 2 hidden) of the last layer, or (b, n) with a head, in the dtype of the weights. A
        non-finite score affects its own row only.

    Raises:
        TypeError: scores that are not floating point, or weights and a head that are not tensors of
            one floating-point dtype.
        ValueError: scores that are not a matrix, weights or a head of the wrong number, shape or
            device, an unknown precision or backend, half precision for float64 weights, or a
            backend that is not available here or for these weights.

    Example:
        >>> import torch, sodeep_fast
        >>> lstm = torch.nn.LSTM(1, 16, num_layers=2, batch_first=True, bidirectional=True)
        >>> scores = torch.randn(4, 10)
        >>> hidden = sodeep_fast.bilstm(scores, list(lstm.parameters()))
        >>> torch.allclose(hidden, lstm(scores.unsqueeze(-1))[0], atol=1e-6)
        True
    """
    weights = list(weights)
    return _bilstm(scores, weights, head, precision, backend, False).to(weights[0].dtype)


def rounded_bilstm(scores: Tensor, weights: Sequence[Tensor], head: Tensor | None = None) -> Tensor:
    """As `bilstm`, for callers that round its result: on a CPU, bfloat16 where products are."""
    return _bilstm(scores, list(weights), head, "auto", "auto", True)


def _bilstm(
    scores: Tensor,
    weights: list[Tensor],
    head: Tensor | None,
    precision: str,
    backend: str,
    rounds: bool,
) -> Tensor:
    check_matrix(scores, "(b, n)")
    _check_weights(weights, scores)
    if head is not None:
        _check_like_weights("head", head, weights[0])
        if head.shape != (2 * weights[1].shape[1],):
            raise ValueError(
                f"head must have shape {(2 * weights[1].shape[1],)}, got {tuple(head.shape)}"
            )
    check_choice(precision, PRECISIONS, "precision")
    dtype = weights[0].dtype
    if precision in HALVES and dtype == torch.float64:
        raise ValueError(
            f"precision must be 'auto' or 'full' for float64 weights, got {precision!r}"
        )
    # The transforms of `torch.func` do not see derivatives of operators that take lists of weights.
    asked = "reference" if backend == "auto" and are_transforming() else backend
    backend = _backend.resolve(asked, scores, "bilstm")
    if backend == "reference" and asked == "auto":
        return _project(_by_torch(scores, weights, precision), head)
    if backend == "reference":
        return _project(reference_bilstm(scores, weights), head)
    products = _products(precision, dtype, scores.device.type)
    on_gpu = backend in ON_GPU
    if on_gpu:
        obstacle = ON_GPU[backend](weights, products)
        if obstacle and asked == backend:
            raise ValueError(f"backend={backend!r} is not available for these weights: {obstacle}")
        if obstacle:
            return _project(_by_torch(scores, weights, precision), head)

    refuse_tangents("bilstm", [scores, *weights, head])
    compute = rank_dtype(weights[0])
    layer_of: Callable[..., tuple[Tensor, ...]]
    if on_gpu:
        layer_of = getattr(torch.ops.sodeep_fast, f"{backend}_bilstm_layer")
    else:
        layer_of = torch.ops.sodeep_fast.bilstm_layer
        saved = torch.float16 if cpp_rounds(compute, products == "bf16") else compute
    # The gradient of the last layer's weights needs the hidden states; so does that of the head,
    # unless a kernel computes it.
    of_last = [] if head is None else weights[-WEIGHTS_PER_LAYER:]
    fused = head
    if on_gpu and _want_gradients([*of_last, head]):
        fused = None
    sequence = scores.to(compute).t().unsqueeze(-1)
    for begin in range(0, len(weights), WEIGHTS_PER_LAYER):
        layer = weights[begin : begin + WEIGHTS_PER_LAYER]
        is_last = begin + WEIGHTS_PER_LAYER == len(weights)
        saves = _want_gradients([sequence, *layer, fused if is_last else None])
        kept: bool | int = saves
        options: tuple[Any, ...] = (products,)
        if not on_gpu:
            kept = _keeps(sequence, weights[1].shape[1], saved.itemsize) if saves else 0
            keeps_hidden = is_last and _want_gradients(of_last)
            options = (products == "bf16", rounds or not is_last, keeps_hidden)
        sequence, *_ = layer_of(sequence, layer, fused if is_last else None, kept, *options)
    if fused is not None:
        return sequence.sum(0).t()
    return _project(sequence.transpose(0, 1), head)


def _want_gradients(values: Sequence[Tensor | None]) -> bool:
    wanted = any(value is not None and value.requires_grad for value in values)
    return wanted and torch.is_grad_enabled()


def _keeps(sequence: Tensor, hidden: int, saved_bytes: int) -> int:
    """Returns what a layer keeps: the number of steps with all gates, or of states in between.

    `saved_bytes`: of a number of those that the backward reads.
    """
    steps, batch, features = sequence.shape
    inputs = hidden + (features if features > 1 else 0)  # a single one is not multiplied
    is_wide = hidden >= WIDE_HIDDEN or (inputs >= WIDE_INPUTS and not _native.cpu_has_bf16())
    most = WIDE_SAVED_BYTES if is_wide else SAVED_BYTES
    state_bytes = torch.promote_types(sequence.dtype, torch.float32).itemsize
    if 2 * SAVED_BY_CPP * steps * batch * hidden * state_bytes <= most:
        return steps
    length = max(4, SEGMENT_BYTES // (SAVED_BY_CPP * SEGMENT_ROWS * hidden * saved_bytes))
    return (steps - 1) // length


def _project(hidden: Tensor, head: Tensor | None) -> Tensor:
    if head is None:
        return hidden
    # Autocast converts both by itself.
    autocast = torch.is_autocast_enabled(hidden.device.type)
    return (hidden if autocast else hidden.to(head.dtype)) @ head


def _products(precision: str, dtype: torch.dtype, device: str) -> str:
    """Returns what weights of this dtype are to be multiplied in: "full", "bf16" or "fp16"."""
    if precision != "auto":
        return precision
    if dtype == torch.float64:
        return "full"
    autocast = torch.is_autocast_enabled(device)
    wanted = {dtype, torch.get_autocast_dtype(device) if autocast else dtype}
    for name, half in HALVES.items():
        if half in wanted:
            return name
    rnn: Any = torch.backends.cudnn.rnn
    tf32 = device == "cuda" and rnn.fp32_precision == "tf32"
    return "fp16" if tf32 and not autocast else "full"


def _why_not_triton(weights: list[Tensor], products: str) -> str | None:
    """Says why the Triton kernels cannot serve these weights, or returns None if they can."""
    dtype, device, hidden = weights[0].dtype, weights[0].device, weights[1].shape[1]
    if dtype == torch.float64:
        return "they are float64"
    needed = lstm_shared_bytes(hidden, products == "full")
    most = _shared_memory(device.index) if device.type == "cuda" else INTERPRETED_SHARED
    if needed <= most:
        return None
    return (
        f"the recurrent weights of {hidden} hidden units, and what else a program needs, take "
        f"{needed} bytes in precision {products!r}, and a multiprocessor has {most}"
    )


def _why_not_cuda(weights: list[Tensor], products: str) -> str | None:
    """Says why the CUDA C++ kernels cannot serve these weights, or returns None if they can."""
    hidden = weights[1].shape[1]
    if weights[0].dtype == torch.float64:
        return "they are float64"
    if products == "full":
        return "it multiplies in half types, and the precision is 'full', which 'triton' has"
    if hidden > CUDA_HIDDEN:
        return f"the registers of a block have room for {CUDA_HIDDEN} hidden units, not {hidden}"
    return None


# What tells whether a GPU's kernels can serve weights.
ON_GPU = {"triton": _why_not_triton, "cuda": _why_not_cuda}


@constant_in_graphs
def _shared_memory(index: int) -> int:
    """Returns the bytes of shared memory that a program may have on this GPU."""
    properties: Any = torch.cuda.get_device_properties(index)
    return int(properties.shared_memory_per_block_optin)


def _by_torch(scores: Tensor, weights: list[Tensor], precision: str) -> Tensor:
    """PyTorch's own LSTM; with precision "auto" autocast tells it its own."""
    if scores.numel() == 0:
        return reference_bilstm(scores, weights)
    dtype, device = weights[0].dtype, scores.device.type
    layers = len(weights) // WEIGHTS_PER_LAYER
    sequence = scores.to(dtype).unsqueeze(-1)
    begin = sequence.new_zeros(2 * layers, len(scores), weights[1].shape[1])
    context: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if precision == "full" or (precision in HALVES and device == "cpu"):
        context = torch.autocast(device, enabled=False)
    elif precision in HALVES:
        context = torch.autocast(device, HALVES[precision])
    with context:
        # cuDNN keeps what a backward needs only if told that it trains.
        hidden: Tensor = torch._VF.lstm(
            sequence, (begin, begin), weights, True, layers, 0.0, torch.is_grad_enabled(),
            True, True,
        )[0]  # fmt: skip
    return hidden.to(dtype)


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
    hidden = weights[0].shape[0] // 4 if weights[0].dim() > 0 else 0
    for k, value in enumerate(weights):
        features = 1 if k < WEIGHTS_PER_LAYER else 2 * hidden
        expected = {0: (4 * hidden, features), 1: (4 * hidden, hidden)}.get(k % 4, (4 * hidden,))
        if hidden < 1 or tuple(value.shape) != expected:
            raise ValueError(
                f"weights[{k}] must have shape {expected}, got {tuple(value.shape)}; hidden is "
                "a quarter of the rows of weights[0]"
            )
