"""NDCG over rank counts: value and gradient in one pass on a CPU, else PyTorch."""

from functools import partial

import torch
from torch import Tensor

from sodeep_fast import _native
from sodeep_fast._checks import check_levels, check_mask
from sodeep_fast.comparators import Comparator, check_comparator, encode
from sodeep_fast.ops._levels import IGNORED, compact_levels
from sodeep_fast.ops._row_values import has_kernel, row_values, rows_like
from sodeep_fast.ops.rank_counts import rank_counts
from sodeep_fast.reference.counted_ndcg import counted_ndcg as reference_counted_ndcg


def counted_ndcg(
    scores: Tensor, levels: Tensor, comparator: Comparator, *, mask: Tensor | None = None
) -> Tensor:
    """Returns the normalized discounted cumulative gain (B,) of every row, NaN where no item is
    relevant.

    The sum over items of (2^level - 1) / log2(1 + rank), over that of the best order. Twice
    differentiable.

    Arguments:
        scores: (B, M) floating point.
        levels: (B, M) bool or integers from 0 to 254.
        comparator: how ranks are counted.
        mask: (B, M) bool, True where valid. Default: all valid.

    Example:
        >>> import torch, sodeep_fast
        >>> scores, levels = torch.tensor([[0.9, 0.8]]), torch.tensor([[0, 1]])
        >>> counted_ndcg(scores, levels, sodeep_fast.Step())
        tensor([0.6309])
    """
    if not has_kernel(scores, "counted_ndcg"):
        return _by_formula(comparator, None, mask, scores, levels)
    check_mask(mask, scores)
    check_comparator(comparator)
    num_levels = check_levels(levels, scores, None, mask)
    return row_values(
        partial(_by_kernel, comparator, num_levels),
        partial(_by_compact_levels, comparator, num_levels),
        scores,
        compact_levels(levels, mask),
    )


def _by_kernel(
    comparator: Comparator, num_levels: int, scores: Tensor, levels: Tensor, wants_gradient: bool
) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = torch.ops.sodeep_fast.counted_ndcg(
        scores, levels, num_levels, *encode(comparator), "auto", wants_gradient
    )
    return found


def _by_formula(
    comparator: Comparator,
    num_levels: int | None,
    mask: Tensor | None,
    scores: Tensor,
    levels: Tensor,
) -> Tensor:
    counts, rows, columns = rank_counts(
        scores, levels, comparator=comparator, mask=mask, num_levels=num_levels
    )
    return reference_counted_ndcg(counts, levels, rows, columns)


def _by_compact_levels(
    comparator: Comparator, num_levels: int, scores: Tensor, levels: Tensor
) -> Tensor:
    return _by_formula(comparator, num_levels, levels != IGNORED, scores, levels)


if _native.HAS_CPU:
    torch.library.register_fake("sodeep_fast::counted_ndcg", rows_like)
