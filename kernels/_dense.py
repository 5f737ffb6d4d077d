"""Memory as the kernels take it."""

from torch import Tensor


def dense(tensor: Tensor | None) -> Tensor | None:
    """Returns a tensor, if there is one, with its numbers one after the other."""
    return None if tensor is None else tensor.contiguous()
