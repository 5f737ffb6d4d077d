"""Embeddings and sums of all processes, with the gradients that data-parallel training needs."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """Returns how many processes there are: 1 unless torch.distributed was initialized."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(tensor: Tensor) -> tuple[Tensor, int]:
    """Returns the rows of all processes, and the offset of this process's own rows.

    Differentiable: the gradient of a row is summed over all processes. Processes may have different
    numbers of rows. Without torch.distributed it returns the tensor itself.

    Arguments:
        tensor: (n, ...) of any dtype; only the first size may differ among processes.

    Returns:
        (N, ...) the rows in the order of the processes, and the offset of this process.

    Example:
        >>> import torch
        >>> from sodeep_fast.retrieval import gather
        >>> gather(torch.ones(2, 1))
        (tensor([[1.],
                [1.]]), 0)
    """
    if processes() == 1:
        return tensor, 0
    own = torch.tensor([len(tensor)], device=tensor.device)
    sizes = [torch.empty_like(own) for _ in range(processes())]
    dist.all_gather(sizes, own)
    lengths = [int(size) for size in sizes]
    offset = sum(lengths[: dist.get_rank()])
    return _Gather.apply(tensor, lengths, offset), offset


def sum_over_processes(value: Tensor) -> Tensor:
    """Returns the sum of the value of all processes.

    All processes have the same loss, so backward's sum over their gradients is the gradient of the
    loss times the number of processes. DistributedDataParallel's mean over the processes undoes the
    factor.
    """
    return value if processes() == 1 else _Sum.apply(value)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, lengths: list[int], offset: int) -> Tensor:
        ctx.rows = slice(offset, offset + len(tensor))
        # all_gather needs the same size in all processes.
        padded = tensor.new_zeros((max(lengths), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return sum_over_processes(grad)[ctx.rows], None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return sum_over_processes(grad)
