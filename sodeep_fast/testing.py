"""What tests and benchmarks share: devices, score distributions and the tolerance rule."""

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sodeep_fast.comparators import Comparator, Ramp, Sigmoid, Simple, Step, by_level
from sodeep_fast.ops.conv_stack import conv_stack
from sodeep_fast.ops.rank_counts import rank_counts

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])

Maker = Callable[[torch.Generator, tuple[int, ...]], Tensor]


def _outliers(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    scores = torch.randn(shape, generator=generator, dtype=torch.float64)
    if shape[-1] > 0:
        scores[..., 0] = 1e6
        scores[..., -1] = -1e9
    return scores


def _clustered(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    centres = torch.randint(-3, 4, shape, generator=generator).double()
    return centres + 1e-3 * torch.randn(shape, generator=generator, dtype=torch.float64)


def _cauchy(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.tan(torch.pi * (uniform - 0.5))


DISTRIBUTIONS: dict[str, Maker] = {
    "uniform": lambda g, shape: torch.rand(shape, generator=g, dtype=torch.float64) * 2 - 1,
    "normal": lambda g, shape: torch.randn(shape, generator=g, dtype=torch.float64),
    "cauchy": _cauchy,
    "clustered": _clustered,
    "tied": lambda g, shape: torch.randint(-2, 3, shape, generator=g).double() / 2,
    "constant": lambda g, shape: torch.full(shape, 0.7, dtype=torch.float64),
    "outliers": _outliers,
}


def make_scores(
    distribution: str,
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> Tensor:
    """Returns scores of a named distribution, the same for every dtype up to its rounding."""
    generator = torch.Generator().manual_seed(seed)
    return DISTRIBUTIONS[distribution](generator, shape).to(dtype).to(device)


def capture_graph(call: Callable[[], Any], warm_up: int = 1) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Returns a CUDA graph of what `call` does, and the results that its replays overwrite.

    It is called `warm_up` times first, which compiles kernels, on a stream of its own as PyTorch
    asks for before a capture.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    return graph, captured


def exact_soft_rank(
    scores: Tensor, grad: Tensor, lam: float, targets: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Returns soft ranks and the gradient of their product with `grad`, in extended precision.

    The truth that kernels and eager PyTorch are both measured against, for one row.

    Arguments:
        scores: (n,) scores of any floating-point dtype, taken as exact.
        grad: (n,) incoming gradient.
        lam: steepness.
        targets: (t,) indices of the items that are wanted.

    Returns:
        (t,) ranks and (t,) gradients, as NumPy long doubles.
    """
    row, incoming = (value.detach().numpy().astype(np.longdouble) for value in (scores, grad))
    own, own_incoming = row[targets.numpy(), None], incoming[targets.numpy(), None]
    x = np.longdouble(lam) * (row[None] - own)
    # exp of a negative number only; anything below its range is an exact zero.
    small = np.exp(np.maximum(-np.abs(x), np.longdouble(-11000)))
    beaten_by = np.where(x >= 0, 1, small) / (1 + small)
    slope = small / (1 + small) ** 2
    ranks = beaten_by.sum(-1) + np.longdouble(0.5)
    gradient = np.longdouble(lam) * (slope * (incoming[None] - own_incoming)).sum(-1)
    return ranks, gradient


def assert_as_accurate(
    actual: Tensor, eager: Tensor, exact: np.ndarray, *, floor: float, what: str = "value"
) -> None:
    """Asserts that `actual` is at most twice as far from `exact` as `eager` is, plus `floor`.

    The error is the largest of the row: rounding errors fall on elements at random, so an element
    of `eager` may be exact by luck.
    """
    ours, theirs = (
        float(np.abs(value.detach().numpy().astype(np.longdouble) - exact).max(initial=0))
        for value in (actual, eager)
    )
    assert ours <= 2 * theirs + floor, f"{what}: error {ours:.3e} > 2 * {theirs:.3e} + {floor:.3e}"


def derivatives(
    function: Callable[[Tensor], Tensor], scores: Tensor, grad: Tensor, grad_grad: Tensor
) -> dict[str, Tensor]:
    """Returns a function's value and its first and second derivatives along given directions.

    "grad" is the gradient of (value * grad), "for_grad" and "second" those of (gradient *
    grad_grad) with respect to `grad` and to `scores`.
    """
    scores = scores.detach().requires_grad_()
    grad = grad.detach().requires_grad_()
    value = function(scores)
    (first,) = torch.autograd.grad(value, scores, grad, create_graph=True)
    for_grad, second = torch.autograd.grad(
        first, (grad, scores), grad_grad.to(first.dtype), materialize_grads=True
    )
    return {
        "value": value.detach(),
        "grad": first.detach(),
        "for_grad": for_grad,
        "second": second,
    }


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Returns a copy of a module's parameters and buffers."""
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_equal_weights(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Asserts that two copies hold the same numbers under the same names."""
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def make_bilstm(hidden: int, layers: int, scale: float = 1.0) -> nn.LSTM:
    """Returns an LSTM with random weights, which may be far larger than those it begins with."""
    lstm = nn.LSTM(1, hidden, layers, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for weight in lstm.parameters():
            weight.mul_(scale)
    return lstm


def bilstm_derivatives(
    function: Callable[[Tensor], Tensor], lstm: nn.LSTM, scores: Tensor
) -> dict[str, Tensor]:
    """Returns hidden states, and the gradients of their sum with fixed random weights.

    Of the scores and of every parameter of `lstm`, from which `function` takes its weights.
    """
    leaf = scores.detach().clone().requires_grad_()
    hidden = function(leaf)
    incoming = make_scores("normal", hidden.shape, dtype=hidden.dtype, seed=5).to(hidden.device)
    names = [name for name, _ in lstm.named_parameters()]
    grads = torch.autograd.grad(hidden, [leaf, *lstm.parameters()], incoming)
    return {"hidden": hidden.detach(), **dict(zip(["scores", *names], grads, strict=True))}


def make_conv_blocks(layers: Sequence[tuple[int, int, int, Any, bool, bool, Any]]) -> nn.ModuleList:
    """Returns blocks of convolution, their statistics and affine maps not those of a fresh layer.

    Arguments:
        layers: for each block, channels in and out, kernel size, padding, whether there is a bias
            and batch normalization, and the slope below zero: a number, a tuple of them, 0 for
            ReLU, None for no activation.

    Returns:
        blocks in float64, frozen.
    """
    blocks = nn.ModuleList()
    for width, next_width, size, padding, bias, has_norm, slope in layers:
        conv = nn.Conv1d(width, next_width, size, padding=padding, bias=bias)
        block = nn.Sequential(conv)
        if has_norm:
            norm: Any = nn.BatchNorm1d(next_width)
            for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                nn.init.uniform_(value, 0.5, 2)
            block.append(norm)
        if slope == 0:
            block.append(nn.ReLU())
        elif slope is not None:
            slopes = torch.tensor(slope).view(-1)
            prelu = nn.PReLU(len(slopes))
            prelu.weight.data = slopes
            block.append(prelu)
        blocks.append(conv if len(block) == 1 else block)
    return blocks.double().eval().requires_grad_(False)


def in_turn(inputs: Tensor, blocks: Iterable[nn.Module]) -> Tensor:
    """Returns what PyTorch makes of inputs, block by block."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel")
        for block in blocks:
            inputs = block(inputs)
    return inputs


def conv_signs(inputs: Tensor, blocks: nn.ModuleList) -> list[Tensor]:
    """Returns where what went into activations was positive, as `conv_stack` in Triton saves it.

    For every block (b, o, t) bool, all True where it ends without an activation.
    """
    kept: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        conv_stack(inputs.detach().requires_grad_(), list(blocks), backend="triton")
    (rest,) = (value for value in kept if value.dtype == torch.uint8)
    signs = []
    for block in blocks:
        inputs = in_turn(inputs, [block])
        b, o, t = inputs.shape
        signs.append(torch.ones_like(inputs, dtype=torch.bool))
        if isinstance(list(block.modules())[-1], (nn.ReLU, nn.PReLU)):
            words, rest = rest.split([(o + 7) // 8 * t, rest.shape[1] - (o + 7) // 8 * t], 1)
            bits = words.view(b, t, -1, 1) >> torch.arange(8, device=words.device) & 1
            signs[-1] = bits.flatten(2)[..., :o].mT.bool()
    return signs


def in_turn_by_signs(inputs: Tensor, blocks: nn.ModuleList, signs: list[Tensor]) -> Tensor:
    """Returns the same as `in_turn` of blocks whose activations go by these signs.

    Of inputs next to a kink, rounding decides which slope they have.
    """
    for block, positive in zip(blocks, signs, strict=True):
        layers = [layer for layer in block.modules() if not list(layer.children())]
        for layer in layers:
            if isinstance(layer, (nn.ReLU, nn.PReLU)):
                slope = layer.weight if isinstance(layer, nn.PReLU) else 0.0
                inputs = torch.where(positive, inputs, slope * inputs)
            else:
                inputs = in_turn(inputs, [layer])
    return inputs


def check_conv_stack(blocks: nn.ModuleList, inputs: Tensor) -> None:
    """Asserts that `conv_stack` in Triton is as accurate as PyTorch's layers on the same device.

    Values and gradient, and the gradient's own derivative, in the dtype of inputs and blocks.
    """
    signs = conv_signs(inputs, blocks)
    doubles = copy.deepcopy(blocks).cpu().double()
    exact_inputs = inputs.cpu().double()
    shape = in_turn(inputs, blocks).shape
    directions = [make_scores("normal", tuple(s), seed=1, dtype=inputs.dtype).to(inputs.device)
                  for s in (shape, inputs.shape)]  # fmt: skip
    actual = derivatives(
        lambda x: conv_stack(x, list(blocks), backend="triton"), inputs, *directions
    )
    eager = derivatives(lambda x: in_turn_by_signs(x, blocks, signs), inputs, *directions)
    exact = derivatives(
        lambda x: in_turn_by_signs(x, doubles, [s.cpu() for s in signs]),
        exact_inputs, *(d.cpu().double() for d in directions),
    )  # fmt: skip
    for name in ("value", "grad", "for_grad"):
        assert actual[name].dtype == inputs.dtype
        assert_as_accurate(
            actual[name].cpu().double(),
            eager[name].cpu().double(),
            exact[name].numpy().astype(np.longdouble),
            floor=2 * torch.finfo(inputs.dtype).eps * float(exact[name].abs().max()),
            what=name,
        )


def check_against_reference(
    function: Callable[[Tensor], Tensor],
    reference: Callable[[Tensor], Tensor],
    scores: Tensor,
    lam: float,
) -> None:
    """Asserts that a rank function and its derivatives are as accurate as eager PyTorch.

    The truth is the reference in float64 on the CPU; eager PyTorch is the reference in the dtype
    and on the device of `scores`. Short rows only: the reference materialises all pairs.
    """
    _check_derivatives(function, reference, scores, (1.0, lam / 4, lam**2 / 10))


def check_counts_against_reference(
    function: Callable[[Tensor], Tensor],
    reference: Callable[[Tensor], Tensor],
    scores: Tensor,
    comparator: Comparator,
) -> None:
    """Asserts the same of rank counts by `comparator`, with the scores as their only argument."""
    span = float(scores.double().max() - scores.double().min()) if scores.numel() else 0.0
    terms = [_largest_terms(simple, span) for simple in by_level(comparator)]
    value, slope, curvature = (max(which) for which in zip(*terms, strict=True))
    _check_derivatives(function, reference, scores, (value, slope, curvature))


def counts_of(
    levels: Tensor, backend: str = "triton", **options: Any
) -> Callable[[Tensor], Tensor]:
    """Returns rank counts as a function of the scores."""
    return lambda scores: rank_counts(scores, levels, backend=backend, **options).counts


def check_triton_counts(
    scores: Tensor, levels: Tensor, comparator: Comparator, **options: Any
) -> None:
    """Asserts that the Triton kernels are as accurate as eager PyTorch."""

    def reference(s: Tensor) -> Tensor:
        on_device = {
            name: value.to(s.device) if isinstance(value, Tensor) else value
            for name, value in options.items()
        }
        return counts_of(levels.to(s.device), "reference", comparator=comparator, **on_device)(s)

    ours = counts_of(levels, comparator=comparator, **options)
    check_counts_against_reference(ours, reference, scores, comparator)


def _largest_terms(comparator: Simple, span: float) -> tuple[float, float, float]:
    """Bounds the value and two derivatives of a comparator for differences up to `span`."""
    if isinstance(comparator, Step):
        return max(1.0, abs(comparator.at_zero)), 0.0, 0.0
    if isinstance(comparator, Ramp):
        below = max(1.0, abs(comparator.gamma), comparator.leak * span)
        return below, max(comparator.leak, comparator.beta), 0.0
    slope, curvature = 0.25 / comparator.tau, 0.1 / comparator.tau**2
    if isinstance(comparator, Sigmoid):
        return 1.0, slope, curvature
    value = 1 + abs(comparator.start) + abs(comparator.resolved()[1]) + comparator.rho * span
    return value, max(slope, comparator.rho), curvature


def _check_derivatives(
    function: Callable[[Tensor], Tensor],
    reference: Callable[[Tensor], Tensor],
    scores: Tensor,
    terms: tuple[float, float, float],
) -> None:
    """Compares values and derivatives, sums over the row of terms up to so much each."""
    generator = torch.Generator().manual_seed(1)
    compute = torch.float64 if scores.dtype == torch.float64 else torch.float32
    shape = reference(scores).shape
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    grad_grad = torch.randn(scores.shape, generator=generator, dtype=torch.float64)
    grad, grad_grad = grad.to(scores.device, compute), grad_grad.to(scores.device, scores.dtype)
    actual = derivatives(function, scores, grad, grad_grad)
    eager = derivatives(reference, scores, grad, grad_grad)
    exact = derivatives(reference, *(x.cpu().double() for x in (scores, grad, grad_grad)))
    rounding = 4 * torch.finfo(compute).eps * scores.shape[-1]
    # A term of a derivative is weighted by a gradient or by a difference of two.
    largest = [float(g.abs().max()) if g.numel() else 0.0 for g in (grad, grad_grad)]
    scales = {
        "value": terms[0],
        "grad": terms[1] * largest[0],
        "for_grad": terms[1] * largest[1],
        "second": terms[2] * largest[0] * largest[1],
    }
    for name, scale in scales.items():
        assert actual[name].dtype == eager[name].dtype, name
        largest_value = float(exact[name].abs().max()) if exact[name].numel() else 0.0
        last_rounding = torch.finfo(actual[name].dtype).eps * largest_value
        assert_as_accurate(
            actual[name].cpu().double(),
            eager[name].cpu().double(),
            exact[name].numpy().astype(np.longdouble),
            floor=rounding * scale + last_rounding,
            what=name,
        )
