"""`conv_stack` with frozen weights: only values and the gradient of the inputs.

Written in PyTorch, whose oneDNN convolutions run at the speed of the machine. The gains are around
them: layout, in-place activations, and a backward that only reads signs.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree


def convolve(image: Tensor, weight: Tensor, bias: Tensor | None, left: int, right: int) -> Tensor:
    """Returns (b, o, 1, t'), the convolution of (b, i, 1, t) and (o, i, 1, k), zeros around."""
    image = _pad(image, right - left)
    if _is_product(image, weight, left):
        return F.linear(_flatten(image), _flatten(weight), bias)[..., None, None]
    return F.conv2d(image, weight, bias, padding=(0, left))


def _pad(image: Tensor, more: int) -> Tensor:
    """Appends the zeros that the right side has and the left has not."""
    return F.pad(image, (0, more)) if more else image


def _flatten(image: Tensor) -> Tensor:
    """Returns images as rows, in the order of memory."""
    return image.permute(0, 2, 3, 1).flatten(1)


def _is_product(image: Tensor, weight: Tensor, padding: int) -> bool:
    """Returns whether a kernel is as long as the row, so that the convolution is one product.

    Such a sum is long, and a matrix product sums more accurately than oneDNN's convolutions. In
    half precision these also repack so wide a kernel at every call, which for one row takes most of
    the time.
    """
    return padding == 0 and image.shape[3] == weight.shape[3]


class FrozenConvStack(torch.autograd.Function):
    """Convolutions, each followed by max(x, 0) + slope min(x, 0), as a function of their inputs.

    Arguments of `apply`:
        inputs: (b, i, 1, t), images of one line, for the sake of channels-last convolutions.
        paddings: zeros on the left and on the right, a pair per block.
        slopes: a number per block: 0 for ReLU, 1 for one that ends without an activation.
        keep: whether there may be a backward.
        weights and biases: those of all blocks, (o, i, 1, k), then of all, (o,).

    Returns:
        the result (b, o, 1, t') and, if `keep` is set, one tensor per block with the shape of the
        block's output and the signs of its activation's inputs.
    """

    @staticmethod
    def forward(
        inputs: Tensor,
        paddings: Sequence[tuple[int, int]],
        slopes: Sequence[float],
        keep: bool,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        count = len(slopes)
        kept = []
        hidden = inputs.contiguous(memory_format=torch.channels_last)
        for i, slope in enumerate(slopes):
            hidden = convolve(hidden, parameters[i], parameters[count + i], *paddings[i])
            if keep:
                kept.append(hidden)
                # In place, a non-negative slope keeps the signs; outputs must not share memory.
                if slope < 0 or i == count - 1:
                    hidden = hidden.clone()
            if slope != 1:
                hidden = F.leaky_relu_(hidden, slope) if slope else F.relu_(hidden)
        return hidden, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        source, ctx.paddings, ctx.slopes, _, *parameters = inputs
        kept = output[1:]
        ctx.save_for_backward(source, *kept, *parameters[: len(ctx.slopes)])
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, count = grads[0], len(ctx.slopes)
        sources = ctx.saved_tensors[: count + 1]  # of block i at i, its signs at i + 1
        weights = ctx.saved_tensors[count + 1 :]
        if grad is not None:
            for i in reversed(range(count)):
                if ctx.slopes[i] != 1:
                    signs = sources[i + 1]
                    grad = torch.ops.aten.leaky_relu_backward(grad, signs, ctx.slopes[i], False)
                grad = _convolve_backward(grad, sources[i], weights[i], *ctx.paddings[i])
        return grad, *[None] * (3 + 2 * count)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], inputs: Tensor, *others: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        if any(dim is not None for dim in _pytree.tree_leaves(in_dims[1:])):
            # A convolution with other weights for each example is not one product.
            raise NotImplementedError(
                "a frozen conv_stack takes vmap over its inputs only, got batched parameters"
            )
        rows = inputs.movedim(in_dims[0], 0)
        outputs = FrozenConvStack.apply(rows.flatten(0, 1), *others)
        return tuple(output.unflatten(0, rows.shape[:2]) for output in outputs), (0,) * len(outputs)


def _convolve_backward(
    grad: Tensor, source: Tensor, weight: Tensor, left: int, right: int
) -> Tensor:
    """Returns the gradient of what `convolve` was given, of which only the shape is read."""
    if _is_product(source, weight, right):
        line = (grad.flatten(1) @ _flatten(weight)).unflatten(1, (source.shape[3], -1))
        return line.mT.unsqueeze(2)
    for_image, _, _ = torch.ops.aten.convolution_backward(
        grad, _pad(source, right - left), weight, None,
        [1, 1], [0, left], [1, 1], False, [0, 0], 1, [True, False, False],
    )  # fmt: skip
    return for_image[..., : source.shape[3]]
