"""Distributions of scores for testing kernels and evaluating sorters; none is trained on."""

from collections.abc import Callable

import torch
from torch import Tensor

Maker = Callable[[torch.Generator, tuple[int, ...]], Tensor]


def _outliers(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    scores = torch.randn(shape, generator=generator, dtype=torch.float64)
    if shape[-1] > 0:
        scores[..., 0] = 1e6
        scores[..., -1] = -1e9
    return scores


def _clustered(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    centres = torch.randint(-3, 4, shape, generator=generator).double()
    return centres + 1e-3 * torch.randn(shape, generator=generator, dtype=torch.float64)


def _cauchy(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.tan(torch.pi * (uniform - 0.5))


DISTRIBUTIONS: dict[str, Maker] = {
    "uniform": lambda g, shape: torch.rand(shape, generator=g, dtype=torch.float64) * 2 - 1,
    "normal": lambda g, shape: torch.randn(shape, generator=g, dtype=torch.float64),
    "cauchy": _cauchy,
    "clustered": _clustered,
    "tied": lambda g, shape: torch.randint(-2, 3, shape, generator=g).double() / 2,
    "constant": lambda g, shape: torch.full(shape, 0.7, dtype=torch.float64),
    "outliers": _outliers,
}
