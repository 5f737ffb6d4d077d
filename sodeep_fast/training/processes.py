"""One training over several processes, as started by torchrun."""

import atexit
import time
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sodeep_fast._devices import why_unusable
from sodeep_fast.retrieval.distributed import processes
from sodeep_fast.sorters.cnn import CNNSorter


def join_processes(device: torch.device) -> None:
    """Joins the other processes of torchrun, if any, until this one ends."""
    if dist.is_available() and dist.is_torchelastic_launched() and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        # Leaves only at exit: processes that leave and join again may miss each other.
        atexit.register(_leave)


def _leave() -> None:
    # Gloo's threads free the tensors of the last message after it has arrived. They need the
    # interpreter for that, and asking for it while it shuts down aborts the process.
    time.sleep(0.5)
    dist.destroy_process_group()


def rank_and_world() -> tuple[int, int]:
    """Returns this process's number and how many there are."""
    world = processes()
    return (dist.get_rank() if world > 1 else 0), world


def own_device(device: str | torch.device) -> torch.device:
    """Returns the device of this process: for "cuda", the one that torchrun assigned.

    Raises:
        ValueError: a device that PyTorch cannot use here.
    """
    reason = why_unusable(device)
    if reason is not None:
        raise ValueError(
            f"device must be one that PyTorch can use here, got {str(device)!r}: {reason}"
        )
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", dist.get_node_local_rank(0) if dist.is_available() else 0)
        torch.cuda.set_device(device)
    return device


def average_over_processes(tensors: Iterable[Tensor]) -> None:
    """Replaces tensors by their means over all processes, in one message."""
    _, world = rank_and_world()
    if world == 1:
        return
    parts = list(tensors)
    flat = torch.cat([part.flatten() for part in parts]) / world
    dist.all_reduce(flat)
    for part, mean in zip(parts, flat.split([part.numel() for part in parts]), strict=True):
        part.copy_(mean.view_as(part))


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Replaces tensors by those of the first process."""
    if rank_and_world()[1] > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def check_same_step(step: int, device: torch.device) -> None:
    """Raises unless all processes resume at the same step, from the checkpoint that they see.

    Raises:
        ValueError: in all of them.
    """
    rank, world = rank_and_world()
    steps = torch.zeros(world, dtype=torch.int64, device=device)
    steps[rank] = step
    if world > 1:
        dist.all_reduce(steps)
    if (steps != step).any():
        raise ValueError(
            "checkpoint must be one file that all processes see; in what they see, they have done "
            f"{steps.tolist()} steps"
        )


def check_statistics(sorter: nn.Module, batch_size: int) -> None:
    """Raises unless batch normalization sees at least two values per channel in a batch.

    Among the sorters, only `CNNSorter` can be left with a single position per row.

    Raises:
        ValueError: a batch of one row for such a sorter.
    """
    if not isinstance(sorter, CNNSorter) or batch_size > 1:
        return
    kernels = sum(sorter.kernel_sizes) - len(sorter.kernel_sizes)
    if sorter.length == 1 + (kernels if sorter.padding == "valid" else 0):
        raise ValueError(
            f"batch_size must be at least 2 for {type(sorter).__name__}, whose batch normalization "
            f"compares rows, got {batch_size}"
        )


def share_statistics(sorter: nn.Module, device: torch.device) -> None:
    """Makes batch normalization use the vectors of all processes, in place.

    Raises:
        ValueError: several processes without GPUs, where PyTorch has no such layer.
    """
    normalized = any(isinstance(module, nn.BatchNorm1d) for module in sorter.modules())
    if rank_and_world()[1] == 1 or not normalized:
        return
    if device.type != "cuda":
        raise ValueError(
            f"{type(sorter).__name__} has batch normalization, whose statistics several processes "
            "share on GPUs only; train it in one process, or with device='cuda'"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(sorter)
