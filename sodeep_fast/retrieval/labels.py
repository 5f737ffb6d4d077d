"""Labels as the losses of embeddings compare them."""

import torch
from torch import Tensor

_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def comparable(labels: Tensor) -> Tensor:
    """Returns labels of a dtype that PyTorch compares with any other.

    The upper half of uint64 becomes negative: its labels remain different from each other.

    Example:
        >>> import torch
        >>> comparable(torch.tensor([3, 5], dtype=torch.uint16))
        tensor([3, 5])
    """
    return labels.long() if labels.dtype in _UNSIGNED else labels


def by_level(labels: Tensor) -> Tensor:
    """Returns labels (n,) or (n, L) as (n, L), to be compared."""
    return comparable(labels.unsqueeze(-1) if labels.dim() == 1 else labels)
