"""Memory in the layout that the kernels need."""

from torch import Tensor


def dense(tensor: Tensor | None) -> Tensor | None:
    """Returns a tensor, if there is one, as contiguous memory."""
    return None if tensor is None else tensor.contiguous()
