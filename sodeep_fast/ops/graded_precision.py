"""Average precisions over rank counts: value and gradient in one pass on a CPU, else PyTorch."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sodeep_fast import _native
from sodeep_fast._checks import check_levels, check_mask
from sodeep_fast.comparators import Comparator, Step, check_comparator, encode
from sodeep_fast.ops._levels import IGNORED, compact_levels
from sodeep_fast.ops._row_values import has_kernel, row_values, rows_like
from sodeep_fast.ops.rank_counts import rank_counts
from sodeep_fast.reference.graded_precision import graded_precision as reference_graded_precision


def graded_precision(
    scores: Tensor,
    levels: Tensor,
    comparator: Comparator,
    *,
    mask: Tensor | None = None,
    num_levels: int | None = None,
    numerator: Comparator | None = None,
    least: int = 1,
    relevances: Tensor | None = None,
    alpha: float = 1.0,
    soft: bool = False,
) -> Tensor:
    """Returns the average precision (B,) of every row, NaN where no item is relevant.

    The sum over targets i, which are the items of level >= 1, of (rel_i + sum over levels l of
    M[i, l] min(rel_i, rel_l)) / (1 + sum over levels l of N[i, l]), over the sum of the rel_i; M
    and N are rank counts, and rel_l is the relevance of level l, 0 of level 0. Twice
    differentiable.

    Arguments:
        scores: (B, M) floating point.
        levels: (B, M) bool or integers below L, of all items.
        comparator: how N counts.
        mask: (B, M) bool, True where valid. Default: all valid.
        num_levels: L. Default: what is found.
        numerator: how M counts for the targets of level >= `least`; that of the others is N.
            Default: N.
        least: at least 1.
        relevances: (L,) or (B, L) floating point. Default: level^alpha over the number of targets
            of that level.
        alpha: positive.
        soft: whether N as M has a gradient too; for relevances by default.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
        >>> graded_precision(scores, torch.tensor([[1, 0, 1, 0]]), sodeep_fast.Step(), soft=True)
        tensor([0.8333])
    """
    options = _Options(comparator, num_levels, numerator, least, alpha, soft)
    wants_more = torch.is_grad_enabled() and relevances is not None and relevances.requires_grad
    is_known = numerator is None or isinstance(numerator, Step)  # to the kernel
    if wants_more or not is_known or not has_kernel(scores, "graded_precision"):
        return _by_formula(scores, levels, mask, relevances, options)
    check_mask(mask, scores)
    check_comparator(comparator)
    options = options._replace(num_levels=check_levels(levels, scores, num_levels, mask))
    return row_values(
        partial(_by_kernel, options),
        partial(_by_compact_levels, options),
        scores,
        compact_levels(levels, mask),
        relevances,
    )


class _Options(NamedTuple):
    comparator: Comparator
    num_levels: int | None
    numerator: Comparator | None
    least: int
    alpha: float
    soft: bool


def _by_formula(
    scores: Tensor,
    levels: Tensor,
    mask: Tensor | None,
    relevances: Tensor | None,
    options: _Options,
) -> Tensor:
    comparator, num_levels, numerator, least, alpha, soft = options
    found = rank_counts(scores, levels, comparator=comparator, mask=mask, num_levels=num_levels)
    missing, num_levels = None, found.counts.shape[-1]
    if numerator is not None and least < num_levels:
        shown = mask
        if least == 1:  # many targets: level 0, which is not asked for, costs more than hiding it
            relevant = levels > 0
            shown = relevant if mask is None else relevant & mask
        missing = rank_counts(
            scores.detach() if isinstance(numerator, Step) else scores,
            levels,
            comparator=numerator,
            targets=levels >= least if least > 1 else None,
            mask=shown,
            num_levels=num_levels,
        ).counts
    return reference_graded_precision(
        found.counts, levels, found.rows, found.columns, missing, least, relevances, alpha, soft
    )


def _by_compact_levels(
    options: _Options, scores: Tensor, levels: Tensor, relevances: Tensor | None
) -> Tensor:
    return _by_formula(scores, levels, levels != IGNORED, relevances, options)


def _by_kernel(
    options: _Options,
    scores: Tensor,
    levels: Tensor,
    relevances: Tensor | None,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Returns the values and their gradients (B, M), of every row by itself."""
    comparator, num_levels, numerator, least, alpha, soft = options
    exact_from, at_zero = num_levels, 0.0
    if isinstance(numerator, Step):
        exact_from, at_zero = least, numerator.at_zero
    found: tuple[Tensor, Tensor] = torch.ops.sodeep_fast.graded_precision(
        scores, levels, num_levels, *encode(comparator), "auto",
        exact_from, at_zero, relevances, alpha, soft, wants_gradient,
    )  # fmt: skip
    return found


if _native.HAS_CPU:
    torch.library.register_fake("sodeep_fast::graded_precision", rows_like)
