"""What losses require of a sorter, and the one scale in which losses see ranks: rank / n."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sodeep_fast._compiler import are_tracing
from sodeep_fast.ops.hard_rank import hard_rank
from sodeep_fast.ops.soft_rank import soft_rank

Sorter = Callable[..., Tensor]
"""Scores (b, n) -> ranks (b, n), 1 for the largest.

To be used with masks, it also takes `mask=` (b, n), and returns rank 0 where that is False. Its
attribute `normalize` says whether its ranks are divided by n (by the number of valid entries of the
row). Without the attribute they are assumed to be, as in SoDeep. Wrappers that hold the sorter as
`.module`, such as `DistributedDataParallel`, are looked through.
"""


def relative_ranks(sorter: Sorter, scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Returns rank / n of every score within its row, whatever the scale of `sorter`.

    Arguments:
        sorter: see `Sorter`. `soft_rank`, `hard_rank` and a `functools.partial` of them lack the
            attribute, but are known to return plain ranks. Any other function without it that
            returns plain ranks gets a warning, unless checking would make the host wait for a GPU.
        scores: (..., n) scores; the sorter sees one batch (b, n) of all rows.
        mask: (..., n) bool, True where valid; passed to the sorter only if given.

    Returns:
        (..., n) ranks divided by n, or by the number of valid entries of the row.

    Raises:
        TypeError: the sorter did not return a tensor.
        ValueError: the sorter returned a different shape than it was given.
    """
    rows = torch.atleast_2d(scores).flatten(0, -2)
    if mask is None:
        ranks = sorter(rows)
    else:
        ranks = sorter(rows, mask=torch.atleast_2d(mask).flatten(0, -2))
    if not isinstance(ranks, Tensor):
        raise TypeError(f"sorter must return a torch.Tensor, got {type(ranks).__name__}")
    if ranks.shape != rows.shape:
        raise ValueError(
            f"sorter must return ranks of the shape of its scores, {tuple(rows.shape)}, "
            f"got {tuple(ranks.shape)}"
        )
    if _divides(sorter):
        if not hasattr(_unwrapped(sorter), "normalize"):
            _warn_of_plain_ranks(ranks)
        return ranks.view(scores.shape)
    ranks = ranks.view(scores.shape)
    return ranks / (scores.shape[-1] if mask is None else mask.sum(-1, keepdim=True).clamp(min=1))


def _divides(sorter: Sorter) -> bool:
    """Returns whether a sorter says that its ranks are divided by n."""
    function: Any = sorter
    options: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        options = function.keywords | options
        function = function.func
    if function is soft_rank or function is hard_rank:
        return bool(options.get("normalize", False))
    return getattr(_unwrapped(sorter), "normalize", True)


def _unwrapped(sorter: Any) -> Any:
    """Returns the sorter inside wrappers such as `DistributedDataParallel`."""
    while not hasattr(sorter, "normalize") and isinstance(
        inner := getattr(sorter, "module", None), nn.Module
    ):
        sorter = inner
    return sorter


def _warn_of_plain_ranks(ranks: Tensor) -> None:
    """Warns of ranks that are far beyond 1, the largest one if they were divided by n."""
    n = ranks.shape[-1]
    # The worst rank of n scores is n: above 2 for n > 2, while a network's worst rank / n is near
    # 1.
    if n <= 2 or ranks.numel() == 0 or ranks.device.type != "cpu" or are_tracing():
        return
    worst = float(ranks.detach().max())
    if worst > 0.8 * n:
        warnings.warn(
            f"sorter returned ranks up to {worst:.3g} for rows of {n} scores, and has no attribute "
            "normalize, without which ranks are taken to be divided by n: give it one, False for "
            "plain ranks, or take HandcraftedSorter(lam) for soft_rank with another lam",
            stacklevel=4,
        )
