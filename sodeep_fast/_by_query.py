"""Reductions from values of all targets to values of their queries."""

import operator
from functools import reduce
from typing import Any

import torch
from torch import Tensor


def sum_by_query(values: Tensor, rows: Tensor, queries: int) -> Tensor:
    """Returns (queries, ...): the sums of the (T, ...) values of each query's targets."""
    return values.new_zeros((queries, *values.shape[1:])).index_add(0, rows, values)


def sum_levels(counts: Tensor) -> Tensor:
    """Returns (T,): the sums of the (T, L) counts over their levels.

    Sums column by column: `sum` over a last dimension of 2 or 3 takes three times as long on a CPU.
    The gradient, one number for all levels, is an expanded tensor, which autograd over columns
    would write out.
    """
    total: Tensor = _SumLevels.apply(counts)
    return total


class _SumLevels(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(counts: Tensor) -> Tensor:
        return reduce(operator.add, counts.unbind(-1))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.levels = inputs[0].shape[-1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.unsqueeze(-1).expand(*grad.shape, ctx.levels)


def count_by_query(rows: Tensor, queries: int) -> Tensor:
    """Returns (queries,) int64: the number of targets of each query."""
    return torch.bincount(rows, minlength=queries)


def mean_by_query(values: Tensor, rows: Tensor, queries: int) -> Tensor:
    """Returns (queries,): the means of the (T,) values; NaN, without gradient, where none is."""
    count = count_by_query(rows, queries)
    mean = sum_by_query(values, rows, queries) / count.clamp(min=1)
    return mean.masked_fill(count == 0, torch.nan)
