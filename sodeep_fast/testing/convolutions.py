"""The accuracy of convolutional blocks."""

import copy
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sodeep_fast.ops.conv_stack import conv_stack
from sodeep_fast.testing.accuracy import assert_as_accurate, derivatives
from sodeep_fast.testing.scores import make_scores

# A block: channels in and out, kernel size, padding, whether it has a bias and batch normalization,
# and the slope below zero: a number, a tuple of them, 0 for ReLU, None for no activation.
ConvLayer = tuple[int, int, int, Any, bool, bool, Any]
# For tiled kernels: full and partial tiles; one channel; windows that reach beyond both ends.
TILED_STACKS: dict[str, list[ConvLayer]] = {
    "affine": [(1, 3, 2, 0, True, False, None)],
    "relu": [(1, 16, 3, 0, True, True, 0), (16, 33, 2, 0, False, True, 0)],
    "prelu": [(3, 65, 1, "valid", True, False, 0.25), (65, 3, 7, 0, True, False, None)],
    "same": [(1, 33, 2, "same", True, True, 0.25), (33, 16, 7, "same", True, False, 0)],
    "padded": [(3, 16, 7, 5, True, True, 0), (16, 1, 1, 1, True, False, None)],
}


def make_conv_blocks(layers: Sequence[ConvLayer]) -> nn.ModuleList:
    """Returns convolutional blocks with random statistics and affine maps.

    Arguments:
        layers: the blocks, as `ConvLayer` describes them.

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


def make_conv_inputs(blocks: nn.ModuleList, batch: int = 3, length: int = 10) -> Tensor:
    """Returns inputs for blocks, (batch, channels, length), of their dtype and on their device."""
    weight = next(layer.weight for layer in blocks.modules() if isinstance(layer, nn.Conv1d))
    shape = (batch, weight.shape[1], length)
    return make_scores("normal", shape, dtype=weight.dtype, device=str(weight.device))


def conv_arguments(blocks: nn.ModuleList) -> tuple[Any, ...]:
    """Returns the Triton operators' arguments for blocks: parameters, paddings, eps, ReLUs.

    The blocks must have no padding, and a normalization and an activation each.
    """
    parameters: list[Tensor | None] = []
    relus = []
    for block in blocks:
        layers: list[Any] = list(block.children())
        conv, norm, activation = layers
        parameters += [conv.weight, conv.bias, norm.running_mean, norm.running_var]
        parameters += [norm.weight, norm.bias]
        parameters.append(activation.weight if isinstance(activation, nn.PReLU) else None)
        relus.append(isinstance(activation, nn.ReLU))
    detached = [None if value is None else value.detach() for value in parameters]
    return detached, [0] * (2 * len(relus)), [1e-5] * len(relus), relus


def in_turn(inputs: Tensor, blocks: Iterable[nn.Module]) -> Tensor:
    """Returns PyTorch's output for inputs, block by block."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel")
        for block in blocks:
            inputs = block(inputs)
    return inputs


def conv_signs(inputs: Tensor, blocks: nn.ModuleList) -> list[Tensor]:
    """Returns where the inputs of activations are positive, as `conv_stack` in Triton saves it.

    One (b, o, t) bool tensor per block, all True if it ends without an activation.
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
    """Returns the same as `in_turn`, with the slopes of activations chosen by these signs.

    Near a kink, rounding would decide which slope is used.
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

    Checks values, gradient and the gradient's derivative, in the dtype of inputs and blocks.
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
