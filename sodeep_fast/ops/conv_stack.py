"""A stack of one-dimensional convolutions: the public function, its checks and its routes.

When frozen, as a loss uses it, the stack is one function that computes only the gradient of its
inputs; see `_frozen_conv_stack`, and `_triton_conv_stack` for Triton. Otherwise autograd records it
layer by layer, as does `torch.compile`, which fuses as it likes. The PyTorch routes work on images
with one line, (b, c, 1, t). Unlike sequences, these can be channels last in memory, for which
oneDNN has the faster kernels.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from sodeep_fast._checks import FLOATING
from sodeep_fast.ops import _backend
from sodeep_fast.ops._frozen_conv_stack import FrozenConvStack, convolve
from sodeep_fast.ops._triton_conv_stack import triton_conv_stack
from sodeep_fast.reference.conv_stack import conv_stack as reference_conv_stack

# Rows that go through all the blocks together: of 16 to 512 rows of SoDeep's network (float32 and
# bfloat16, one core of a Zen 5, 2026-11), 256 were fastest. What a block writes is then below the
# 32 MiB from which glibc's malloc always asks the system for new pages.
ROWS = 256
Norm = nn.BatchNorm1d | nn.SyncBatchNorm


class Block(NamedTuple):
    """The layers of one block; None for a layer it does not have."""

    conv: nn.Conv1d
    norm: Norm | None
    activation: nn.ReLU | nn.PReLU | None


def conv_stack(inputs: Tensor, blocks: Sequence[nn.Module], *, backend: str = "auto") -> Tensor:
    """Applies blocks of one-dimensional convolution, batch normalization and ReLU or PReLU.

    The network of SoDeep's convolutional sorter (Engilberge et al., CVPR 2019), section 3.1.1. The
    result, including running statistics, is that of calling the blocks one after the other. It is
    faster on a CPU if batch normalization is in evaluation mode and no parameter requires a
    gradient. Twice differentiable in `inputs`, and in the parameters that require gradients.

    Arguments:
        inputs: (b, c, t) floating point, of the dtype of the parameters unless autocast is on.
        blocks: modules, each an `nn.Conv1d` (stride, dilation and groups 1, zero padding or none),
            or an `nn.Sequential` of one, an optional `nn.BatchNorm1d` or `nn.SyncBatchNorm`, and an
            optional `nn.ReLU` or `nn.PReLU`.
        backend: "auto" uses PyTorch's convolutions (oneDNN and cuDNN). "triton" runs one kernel per
            block on a GPU; it requires batch normalization in evaluation mode, at most one slope
            per PReLU and parameters that require no gradient. It is not yet measured on a GPU, so
            "auto" does not pick it. "reference" updates no running statistics. Default: "auto".

    Returns:
        (b, c', t'), with the channels of the last block and the positions that the kernels leave.

    Raises:
        TypeError: inputs that are not floating point or not of the parameters' dtype, or a block
            of other layers.
        ValueError: inputs that are not (b, c, t), no blocks, channels that do not match from one
            block to the next, a stride, dilation or groups other than 1, a kernel longer than its
            row, an unknown backend, or one that is not available here or for these blocks.

    Example:
        >>> import torch, sodeep_fast
        >>> from torch import nn
        >>> blocks = [nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU()), nn.Conv1d(8, 5, 8)]
        >>> sodeep_fast.conv_stack(torch.randn(2, 1, 10), blocks).shape
        torch.Size([2, 5, 1])
    """
    parts = [_parse(block, i) for i, block in enumerate(blocks)]
    _check(inputs, parts)
    # "auto" takes cuDNN: our kernel has not been measured on a GPU yet.
    if backend != "auto":
        if _backend.resolve(backend, inputs, "conv_stack") == "reference":
            return reference_conv_stack(inputs, blocks)
        return _run_triton(inputs, parts)
    image = inputs.unsqueeze(2)
    compiling = torch.compiler.is_compiling()
    if inputs.device.type == "cpu" and not compiling and _why_not_frozen(parts) is None:
        return _run_frozen(image, parts).squeeze(2)
    for part in parts:
        image = _record(image, part)
    return image.squeeze(2)


def _parse(block: nn.Module, index: int) -> Block:
    """Returns the layers of a block, or raises TypeError saying what it should consist of."""
    layers = list(block) if isinstance(block, nn.Sequential) else [block]
    layers = [layer for layer in layers if not isinstance(layer, nn.Identity)]  # what fusion leaves
    conv, *rest = layers if layers else [None]
    norm: Norm | None = None
    activation: nn.ReLU | nn.PReLU | None = None
    if rest and isinstance(rest[0], (nn.BatchNorm1d, nn.SyncBatchNorm)):
        norm, rest = rest[0], rest[1:]
    if rest and isinstance(rest[0], (nn.ReLU, nn.PReLU)):
        activation, rest = rest[0], rest[1:]
    if not isinstance(conv, nn.Conv1d) or rest:
        names = ", ".join(type(layer).__name__ for layer in layers)
        raise TypeError(
            f"blocks[{index}] must be a Conv1d, then a BatchNorm1d or not, then a ReLU, a PReLU or "
            f"neither, got {names or 'nothing'}"
        )
    return Block(conv, norm, activation)


def _check(inputs: Tensor, parts: list[Block]) -> None:
    """Raises unless the blocks fit each other and the inputs."""
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs must be a torch.Tensor, got {type(inputs).__name__}")
    if inputs.dtype not in FLOATING:
        raise TypeError(f"inputs must be float16, bfloat16, float32 or float64, got {inputs.dtype}")
    if inputs.dim() != 3:
        raise ValueError(f"inputs must have shape (b, c, t), got {tuple(inputs.shape)}")
    if not parts:
        raise ValueError("blocks must hold at least one block, got none")
    convs = [part.conv for part in parts]
    if inputs.shape[1] != convs[0].in_channels:
        raise ValueError(
            f"inputs must have {convs[0].in_channels} channels for blocks[0], got shape "
            f"{tuple(inputs.shape)}"
        )
    dtype = convs[0].weight.dtype
    if inputs.dtype != dtype and not torch.is_autocast_enabled(inputs.device.type):
        raise TypeError(
            f"inputs must have the dtype of the parameters, {dtype}, got {inputs.dtype}"
        )
    for i, (conv, following) in enumerate(pairwise(convs), 1):
        if conv.out_channels != following.in_channels:
            raise ValueError(
                f"blocks[{i}] must take the {conv.out_channels} channels of the block before, got "
                f"{following}"
            )
    length = inputs.shape[2]
    for i, conv in enumerate(convs):
        plain = conv.stride == conv.dilation == (1,) and conv.groups == 1
        if not plain or conv.padding_mode != "zeros":
            raise ValueError(
                f"blocks[{i}] must have stride, dilation and groups 1 and be padded with zeros, "
                f"got {conv}"
            )
        length += sum(_padding(conv)) - conv.kernel_size[0] + 1
        if length < 1:
            raise ValueError(
                f"blocks must leave at least one of {inputs.shape[2]} positions, got {length} "
                f"after blocks[{i}]"
            )


def _padding(conv: nn.Conv1d) -> tuple[int, int]:
    """Returns how many zeros a convolution pads on the left and on the right."""
    size = conv.kernel_size[0]
    if conv.padding == "same":
        return (size - 1) // 2, size // 2
    width = 0 if conv.padding == "valid" else int(conv.padding[0])
    return width, width


def _why_not_frozen(parts: list[Block]) -> str | None:
    """Says why the blocks are not a fixed function of their inputs alone, or returns None."""
    for i, (conv, norm, activation) in enumerate(parts):
        if norm is not None and (norm.training or norm.running_mean is None):
            return f"blocks[{i}] normalizes by the statistics of the batch"
        if isinstance(activation, nn.PReLU) and not _has_one_slope(activation):
            return f"the PReLU of blocks[{i}] has a slope for each channel"
        parameters = [conv.weight, conv.bias]
        parameters += [] if norm is None else [norm.weight, norm.bias]
        parameters += [activation.weight] if isinstance(activation, nn.PReLU) else []
        if torch.is_grad_enabled() and any(p is not None and p.requires_grad for p in parameters):
            return f"parameters of blocks[{i}] want gradients"
    return None


def _frozen_dtype(inputs: Tensor) -> torch.dtype:
    """Returns the dtype that frozen blocks are computed in."""
    device = inputs.device.type
    if torch.is_autocast_enabled(device) and inputs.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return inputs.dtype


def _run_triton(inputs: Tensor, parts: list[Block]) -> Tensor:
    """Returns all blocks' output by the Triton kernels, or raises ValueError saying why not."""
    obstacle = "float64 is left to PyTorch" if inputs.dtype == torch.float64 else None
    obstacle = obstacle or _why_not_frozen(parts)
    if obstacle is not None:
        raise ValueError(f"backend='triton' is not available for these blocks: {obstacle}")
    dtype = _frozen_dtype(inputs)
    # Passed as tensors: the kernel reads slopes and statistics, so that the host need not wait for
    # them.
    parameters: list[Tensor | None] = []
    for conv, norm, activation in parts:
        parameters += [conv.weight.to(dtype), conv.bias]
        parameters += [None] * 4
        if norm is not None:
            parameters[-4:] = [norm.running_mean, norm.running_var, norm.weight, norm.bias]
        parameters.append(activation.weight if isinstance(activation, nn.PReLU) else None)
    return triton_conv_stack(
        inputs.to(dtype),
        parameters,
        [width for part in parts for width in _padding(part.conv)],
        [0.0 if part.norm is None else part.norm.eps for part in parts],
        [isinstance(part.activation, nn.ReLU) for part in parts],
    )


def _run_frozen(image: Tensor, parts: list[Block]) -> Tensor:
    """Returns all blocks' output, a few rows at a time, with batch normalization folded."""
    dtype = _frozen_dtype(image)
    folded = [_fold(part.conv, part.norm) for part in parts]
    # Channels last, to which oneDNN would otherwise convert them at every call.
    weights = [
        weight.unsqueeze(2).to(dtype).contiguous(memory_format=torch.channels_last)
        for weight, _ in folded
    ]
    biases = [bias.to(dtype) for _, bias in folded]
    paddings = [_padding(part.conv) for part in parts]
    slopes = [_slope(part.activation) for part in parts]
    keep = torch.is_grad_enabled()  # under vmap, `requires_grad` does not tell
    results = [
        FrozenConvStack.apply(piece.to(dtype), paddings, slopes, keep, *weights, *biases)[0]
        for piece in image.split(ROWS)
    ]
    return torch.cat(results) if len(results) > 1 else results[0]


def _fold(conv: nn.Conv1d, norm: Norm | None) -> tuple[Tensor, Tensor]:
    """Returns the weight and bias of a convolution and of the normalization that follows it.

    Normalization by fixed statistics is affine: it is the convolution with rows scaled.
    """
    weight = conv.weight
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias
    if norm is None or norm.running_mean is None or norm.running_var is None:
        return weight, bias
    # In float64, as mean and bias may cancel; it costs nothing for one number per channel.
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    bias = (bias - norm.running_mean.double()) * scale
    if norm.affine:
        bias = bias + norm.bias
    scale = scale.to(torch.promote_types(weight.dtype, torch.float32))
    return weight * scale[:, None, None], bias


def _slope(activation: nn.ReLU | nn.PReLU | None) -> float:
    """Returns the slope of an activation below zero."""
    if isinstance(activation, nn.PReLU):
        return float(activation.weight)
    return 1.0 if activation is None else 0.0


def _has_one_slope(activation: nn.Module | None) -> TypeGuard[nn.PReLU]:
    """Returns whether an activation is a PReLU whose channels share their slope."""
    return isinstance(activation, nn.PReLU) and activation.num_parameters == 1


def _record(image: Tensor, part: Block) -> Tensor:
    """Returns a block's output, under autograd."""
    conv, norm, activation = part
    image = convolve(image, conv.weight.unsqueeze(2), conv.bias, *_padding(conv))
    positions = image.permute(0, 2, 3, 1)
    shape = positions.shape
    positions = positions.flatten(0, 2)  # where rows end is nothing to the other layers
    if norm is not None:
        positions = norm(positions)
    if _has_one_slope(activation) and not torch.compiler.is_compiling():
        positions = SharedPReLU.apply(positions, activation.weight)
    elif activation is not None:
        positions = activation(positions)  # the compiler fuses PyTorch's own PReLU
    return positions.view(shape).permute(0, 3, 1, 2)


class SharedPReLU(torch.autograd.Function):
    """PReLU with one slope for all: on a CPU, faster backward than PyTorch's own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(hidden: Tensor, slope: Tensor) -> Tensor:
        return torch.nn.functional.prelu(hidden, slope.to(hidden.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        hidden, slope = ctx.saved_tensors
        (grad,) = grads
        for_slope = None
        if ctx.needs_input_grad[1]:
            for_slope = (grad * hidden.clamp(max=0)).sum().to(slope.dtype).view_as(slope)
        if torch.is_grad_enabled() or not hidden.is_cpu:
            # To be differentiated again, or where reading the slope would wait for a GPU.
            return torch.where(hidden > 0, grad, slope.to(grad.dtype) * grad), for_slope
        return torch.ops.aten.leaky_relu_backward(grad, hidden, slope.item(), False), for_slope
