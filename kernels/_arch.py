"""The architecture by which the tables of `_config` are selected."""

import torch
from torch import Tensor


def arch_of(tensor: Tensor) -> int:
    """Returns the compute capability, times ten, of a tensor's GPU; 0 for a CPU tensor."""
    if not tensor.is_cuda:
        return 0
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor
