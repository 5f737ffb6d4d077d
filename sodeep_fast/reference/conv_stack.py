"""A stack of one-dimensional convolutions, as its equations read."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_stack(inputs: Tensor, blocks: Sequence[nn.Module]) -> Tensor:
    """Applies blocks of convolution, batch normalization and (P)ReLU, window by window.

    Materialises every window. Same arguments as `sodeep_fast.conv_stack`, except that running
    statistics are never updated.
    """
    hidden = inputs
    for block in blocks:
        for layer in block if isinstance(block, nn.Sequential) else [block]:
            hidden = _apply(layer, hidden)
    return hidden


def _apply(layer: nn.Module, hidden: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv1d):
        (size,) = layer.kernel_size
        if layer.padding == "same":  # the odd one out is on the right
            hidden = F.pad(hidden, ((size - 1) // 2, size // 2))
        elif layer.padding != "valid":
            hidden = F.pad(hidden, (int(layer.padding[0]),) * 2)
        hidden = torch.einsum("bitk,oik->bot", hidden.unfold(-1, size, 1), layer.weight)
        return hidden if layer.bias is None else hidden + layer.bias[:, None]
    if isinstance(layer, nn.BatchNorm1d):
        mean, variance = layer.running_mean, layer.running_var
        if layer.training or mean is None or variance is None:
            mean, variance = hidden.mean((0, 2)), hidden.var((0, 2), unbiased=False)
        hidden = (hidden - mean[:, None]) / (variance[:, None] + layer.eps).sqrt()
        return hidden * layer.weight[:, None] + layer.bias[:, None] if layer.affine else hidden
    slope: Tensor | float = layer.weight[:, None] if isinstance(layer, nn.PReLU) else 0.0
    return torch.where(hidden > 0, hidden, slope * hidden)
