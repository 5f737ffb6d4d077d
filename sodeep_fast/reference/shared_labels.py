"""How many labels queries and items share, in plain PyTorch."""

import torch
from torch import Tensor


def shared_labels(labels: Tensor, item_labels: Tensor) -> Tensor:
    """Returns (B, M); arguments of `sodeep_fast.ops.shared_labels`. For any device and dtype."""
    if labels.shape[1] == 1:
        return labels == item_labels[:, 0]
    shared = torch.zeros((len(labels), len(item_labels)), dtype=torch.uint8, device=labels.device)
    for own, theirs in zip(labels.T, item_labels.T, strict=True):
        shared += own.unsqueeze(-1) == theirs
    return shared
