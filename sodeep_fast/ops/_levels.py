"""How the operators hand levels and targets to the kernels."""

import torch
from torch import Tensor

from sodeep_fast import _native

IGNORED = 255  # the level of ignored items


def as_bytes(marks: Tensor) -> Tensor:
    """Returns bool `marks` as uint8, in the same memory where it can."""
    # The compiler of torch 2.11 cannot view bool as another dtype.
    return marks.to(torch.uint8) if torch.compiler.is_compiling() else marks.view(torch.uint8)


def compact_levels(levels: Tensor, mask: Tensor | None) -> Tensor:
    """Returns checked `levels` as uint8, those of masked items `IGNORED`; no copy where it can."""
    compact = as_bytes(levels) if levels.dtype == torch.bool else levels.to(torch.uint8)
    # 255 or'd to the levels of masked items: a CPU takes a tenth of the time of masked_fill.
    return compact if mask is None else compact | (as_bytes(mask) - 1)


def find_marked(marks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns where bool or uint8 `marks` (B, M) are not 0.

    Returns:
        rows (T,) and columns (T,) of the marks, row by row, and offsets (B + 1,): those of row b
        are from offsets[b] to offsets[b + 1]. All int64.
    """
    if _native.HAS_CPU and marks.device.type == "cpu" and not torch.compiler.is_compiling():
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.sodeep_fast.find_marked(marks)
        return found
    rows, columns = marks.nonzero(as_tuple=True)
    return rows, columns, torch.searchsorted(rows, torch.arange(len(marks) + 1, device=rows.device))


if _native.HAS_CPU:

    @torch.library.register_fake("sodeep_fast::find_marked")
    def _(marks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = torch.library.get_ctx().new_dynamic_size()
        sizes = (found, found, len(marks) + 1)
        rows, columns, offsets = (marks.new_empty(size, dtype=torch.int64) for size in sizes)
        return rows, columns, offsets
