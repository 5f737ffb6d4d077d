"""The benchmark of `conv_stack`: SoDeep's convolutional sorters, frozen, against PyTorch's layers.

For rows of 100 scores it is the released network, for others the paper's. The input is a row; the
output is the channels of the one remaining position.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sodeep_fast._checks import check_choice
from sodeep_fast.benchmark.checks import some_rows
from sodeep_fast.benchmark.costs import per_element
from sodeep_fast.benchmark.model import Function, Operator, Provider, Shape, WrongResult
from sodeep_fast.benchmark.soft_rank import make_scores, min_bytes
from sodeep_fast.ops.conv_stack import conv_stack
from sodeep_fast.sorters.cnn import CNNSorter, ReleasedCNNSorter

SHAPES: tuple[Shape, ...] = ((1, 100), (16, 100), (512, 100))
# Multiply-adds of a row of 100 scores, all layers of the released network.
WORK = 43.8e6
Layers = list[nn.Module]


def make_blocks(n: int) -> Layers:
    """Returns the blocks of the network for rows of n scores, the same in every process."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        if n == 100:
            return list(ReleasedCNNSorter().children())
        return list(CNNSorter(n).blocks)


def make_images(blocks: Layers) -> Layers:
    """Returns the same layers for images of one line, channels last in memory."""
    images = nn.ModuleList()
    for layer in (m for block in blocks for m in block.modules() if not list(m.children())):
        image = layer
        if isinstance(layer, nn.Conv1d):
            image = nn.Conv2d(layer.in_channels, layer.out_channels, (1, layer.kernel_size[0]))
            state = {**layer.state_dict(), "weight": layer.weight.unsqueeze(2)}
            image.load_state_dict(state)
        elif isinstance(layer, nn.BatchNorm1d):
            image = nn.BatchNorm2d(layer.num_features)
            image.load_state_dict(layer.state_dict())
        images.append(image)
    images.eval().requires_grad_(False)
    return list(images.to(memory_format=torch.channels_last))  # type: ignore[call-overload]


def in_turn(inputs: Tensor, layers: Layers) -> Tensor:
    """Calls layers one after the other."""
    for layer in layers:
        inputs = layer(inputs)
    return inputs


def build(
    call: Callable[[Tensor, Layers], Tensor], dtype: torch.dtype, as_images: bool = False
) -> Callable[[str], Function]:
    """Returns what builds a provider that calls blocks, or layers of images, in some dtype."""

    def build_on(device: str) -> Function:
        @functools.cache
        def layers(n: int) -> Layers:
            made = make_blocks(n)
            made = make_images(made) if as_images else made
            return [layer.to(device, dtype) for layer in made]

        def function(scores: Tensor) -> Tensor:
            count, n = scores.shape
            inputs = scores.to(dtype).view((count, 1, 1, n) if as_images else (count, 1, n))
            return call(inputs, layers(n)).flatten(1).to(scores.dtype)

        return function

    return build_on


def check(bound: float) -> Callable[[Tensor, Tensor, Tensor | None, Tensor | None], None]:
    """Returns a check of a few rows against float64; `bound` is relative to the largest number."""

    def check_rows(
        scores: Tensor, value: Tensor, grad: Tensor | None, grad_scores: Tensor | None
    ) -> None:
        rows = some_rows(len(scores))
        blocks = [block.to(scores.device, torch.float64) for block in make_blocks(scores.shape[1])]
        leaf = scores[rows].double().requires_grad_()
        exact = in_turn(leaf.unsqueeze(1), blocks).flatten(1)
        _within_part(value[rows], exact.detach(), bound, "value")
        if grad is not None and grad_scores is not None:
            (slope,) = torch.autograd.grad(exact, leaf, grad[rows].double())
            # If an activation's input is zero up to rounding, either slope is right.
            _within_part(grad_scores[rows], slope, max(bound, 0.1), "gradient")

    return check_rows


def _within_part(actual: Tensor, exact: Tensor, bound: float, what: str) -> None:
    """Raises `WrongResult` unless all errors are within `bound` times the largest number."""
    error = (actual.double() - exact).abs().max() / exact.abs().max()
    if not bool(error <= bound):  # nor where it is NaN
        raise WrongResult(f"{what} is off by {error:.3g} of the largest, allowed {bound:.3g}")


def route(backend: str, method: str) -> Function:
    """Ours by default, which has one method."""
    check_choice(backend, ("auto",), "backend")
    check_choice(method, ("auto",), "method")
    return build(conv_stack, torch.float32)("cpu")


# Both passes at 5e10 operations a second; and three times the activations of a row of 100.
SECONDS, MEMORY = per_element(6 * WORK / 100 / 5e10), per_element(12 * 70_088 / 100)
# Far above the rounding of each dtype, far below the error of a wrong layer.
BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 0.3}
PROVIDERS = tuple(
    Provider(
        name if dtype == torch.float32 else f"{name}-bfloat16",
        build(call, dtype, as_images),
        check(BOUNDS[dtype]),
        SECONDS,
        MEMORY,
    )
    for dtype in BOUNDS
    for name, call, as_images in (
        ("ours", conv_stack, False),
        ("eager", in_turn, False),
        ("channels_last", in_turn, True),
    )
)

OPERATOR = Operator(
    name="conv_stack",
    providers={provider.name: provider for provider in PROVIDERS},
    ours="ours",
    shapes=SHAPES,
    quick_shapes=SHAPES[:2],
    quick_memory_shapes=(),
    make_scores=make_scores,
    min_bytes=min_bytes,
    route=route,
)
