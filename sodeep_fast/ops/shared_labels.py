"""How many labels queries and items share: one pass on a CPU, PyTorch elsewhere."""

import torch
from torch import Tensor

from sodeep_fast import _native
from sodeep_fast.ops import _backend
from sodeep_fast.reference.shared_labels import shared_labels as reference_shared_labels

# What int64 holds without loss.
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def shared_labels(labels: Tensor, item_labels: Tensor) -> Tensor:
    """Returns (B, M) how many labels a query and an item share: bool for one column, else uint8.

    Arguments:
        labels: (B, L) of the queries, of any real dtype; L at most 255.
        item_labels: (M, L) of the items.

    Example:
        >>> import torch
        >>> shared_labels(torch.tensor([[3, 0]]), torch.tensor([[3, 0], [4, 0], [5, 1]]))
        tensor([[2, 1, 0]], dtype=torch.uint8)
    """
    known = labels.dtype in _INTEGERS and item_labels.dtype in _INTEGERS
    if not known or not _backend.prefers_cpp(labels, "shared_labels"):
        return reference_shared_labels(labels, item_labels)
    shared: Tensor = torch.ops.sodeep_fast.shared_labels(labels.long(), item_labels.long())
    return shared.view(torch.bool) if labels.shape[1] == 1 else shared


if _native.HAS_CPU:

    @torch.library.register_fake("sodeep_fast::shared_labels")
    def _(labels: Tensor, item_labels: Tensor) -> Tensor:
        return labels.new_empty((len(labels), len(item_labels)), dtype=torch.uint8)
