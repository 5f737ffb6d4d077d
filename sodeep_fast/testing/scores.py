"""Devices, and scores of every distribution."""

import torch
from torch import Tensor

from sodeep_fast._distributions import DISTRIBUTIONS

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def make_scores(
    distribution: str,
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> Tensor:
    """Returns scores of a named distribution, the same for every dtype up to its rounding."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("cpu"):
        scores = DISTRIBUTIONS[distribution](generator, shape)
    return scores.to(dtype).to(device)
