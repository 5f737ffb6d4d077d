"""The vmap rules of operators that work row by row."""

from typing import Any

import torch
from torch import Tensor


def batching_rule(name: str, tensors: int) -> Any:
    """Returns a vmap rule: rows are independent, so a batch dimension is one more leading one.

    Arguments:
        name: of the operator in `torch.ops.sodeep_fast`.
        tensors: how many of its first arguments are tensors (or None).

    Returns:
        what `torch.library.register_vmap` takes.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        moved = _batch_first(info.batch_size, args[:tensors], in_dims[:tensors])
        return getattr(torch.ops.sodeep_fast, name)(*moved, *args[tensors:]), 0

    return rule


def targets_batching_rule(name: str, matrices: int, to_items: bool) -> Any:
    """Returns a vmap rule for operators on target items of each row: a batch adds rows.

    Their first tensors are matrices, with one row per row or per target; the last two are scores
    and levels (B, M). Then come columns (T,) and offsets (B + 1,).

    Arguments:
        name: of the operator in `torch.ops.sodeep_fast`.
        matrices: how many matrices there are.
        to_items: whether the result is (B, M) rather than (T, L).

    Returns:
        what `torch.library.register_vmap` takes.
    """
    tensors = matrices + 2

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        *moved, columns, offsets = _batch_first(info.batch_size, args[:tensors], in_dims[:tensors])
        size, targets = columns.shape
        starts = torch.arange(size, device=columns.device).unsqueeze(-1) * targets
        end = offsets.new_full((1,), size * targets)
        result = getattr(torch.ops.sodeep_fast, name)(
            *(matrix.flatten(0, 1) for matrix in moved),
            columns.flatten(),
            torch.cat([(offsets + starts)[:, :-1].flatten(), end]),
            *args[tensors:],
        )
        rows = offsets.shape[1] - 1 if to_items else targets
        return result.view(size, rows, result.shape[-1]), 0

    return rule


def _batch_first(size: int, values: Any, dims: Any) -> list[Any]:
    """The tensors of a call, each with the batch as its first dimension; None stays None."""
    return [
        value
        if value is None
        else value.movedim(dim, 0)
        if dim is not None
        else value.expand(size, *value.shape)
        for value, dim in zip(values, dims, strict=True)
    ]
