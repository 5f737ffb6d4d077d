"""The vmap rule of operators that work row by row."""

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
        size = info.batch_size
        moved = [
            value
            if value is None
            else value.movedim(dim, 0)
            if dim is not None
            else value.expand(size, *value.shape)
            for value, dim in zip(args[:tensors], in_dims[:tensors], strict=True)
        ]
        return getattr(torch.ops.sodeep_fast, name)(*moved, *args[tensors:]), 0

    return rule
