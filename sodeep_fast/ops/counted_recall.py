"""Recall at k over rank counts: value and gradient in one pass on a CPU, else PyTorch."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sodeep_fast import _native
from sodeep_fast._checks import check_mask
from sodeep_fast.comparators import Comparator, check_comparator, encode
from sodeep_fast.ops._levels import IGNORED, compact_levels
from sodeep_fast.ops._row_values import has_kernel, row_values, rows_like
from sodeep_fast.ops.rank_counts import rank_counts
from sodeep_fast.reference.counted_recall import counted_recall as reference_counted_recall


def counted_recall(
    scores: Tensor,
    labels: Tensor,
    comparator: Comparator,
    ks: Sequence[int],
    *,
    temperature: float = 1.0,
    clip: bool = True,
    mask: Tensor | None = None,
) -> Tensor:
    """Returns the recall (B,) of every row, averaged over `ks`, NaN where no item is positive.

    The sum over the positives p of sigmoid((k - rank_p) / temperature), at most k if `clip`, over
    min(k, number of positives). Twice differentiable.

    Arguments:
        scores: (B, M) floating point.
        labels: (B, M) bool, True for a positive.
        comparator: how ranks are counted.
        ks: positive, at least one.
        temperature: in units of rank, positive.
        clip: whether to find at most k.
        mask: (B, M) bool, True where valid. Default: all valid.

    Example:
        >>> import torch, sodeep_fast
        >>> scores, labels = torch.tensor([[0.9, 0.8]]), torch.tensor([[True, False]])
        >>> counted_recall(scores, labels, sodeep_fast.Step(), [1])
        tensor([0.5000])
    """
    options = _Options(comparator, tuple(float(k) for k in ks), temperature, clip)
    if not has_kernel(scores, "counted_recall"):
        return _by_formula(options, mask, scores, labels)
    check_mask(mask, scores)
    check_comparator(comparator)
    return row_values(
        partial(_by_kernel, options),
        partial(_by_compact_levels, options),
        scores,
        compact_levels(labels, mask),
    )


class _Options(NamedTuple):
    comparator: Comparator
    ks: tuple[float, ...]
    temperature: float
    clip: bool


def _by_kernel(
    options: _Options, scores: Tensor, levels: Tensor, wants_gradient: bool
) -> tuple[Tensor, Tensor]:
    comparator, ks, temperature, clip = options
    found: tuple[Tensor, Tensor] = torch.ops.sodeep_fast.counted_recall(
        scores, levels, 2, *encode(comparator), "auto", ks, temperature, clip, wants_gradient
    )
    return found


def _by_formula(options: _Options, mask: Tensor | None, scores: Tensor, labels: Tensor) -> Tensor:
    comparator, ks, temperature, clip = options
    counts, rows, _ = rank_counts(scores, labels, comparator=comparator, mask=mask)
    return reference_counted_recall(counts, rows, len(scores), ks, temperature, clip)


def _by_compact_levels(options: _Options, scores: Tensor, levels: Tensor) -> Tensor:
    return _by_formula(options, levels != IGNORED, scores, levels == 1)


if _native.HAS_CPU:
    torch.library.register_fake("sodeep_fast::counted_recall", rows_like)
