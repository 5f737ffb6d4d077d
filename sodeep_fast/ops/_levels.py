"""How the operators hand levels and targets to the kernels."""

import torch
from torch import Tensor

IGNORED = 255  # the level of items that take no part


def compact_levels(levels: Tensor, mask: Tensor | None) -> Tensor:
    """Returns checked `levels` as uint8, those of masked items `IGNORED`; no copy where it can."""
    compact = levels.view(torch.uint8) if levels.dtype == torch.bool else levels.to(torch.uint8)
    return compact if mask is None else compact.masked_fill(~mask, IGNORED)


def find_marked(marks: Tensor) -> tuple[Tensor, Tensor]:
    """Returns rows and columns of what is not 0 in bool or uint8 `marks` (B, M), row by row.

    Few are expected: on a CPU eight items are looked at together first.
    """
    together = 8  # bytes of an int64
    is_plain = marks.device.type == "cpu" and not torch.compiler.is_compiling()
    fits = marks.shape[1] % together == 0 and marks.storage_offset() % together == 0
    if not (is_plain and fits and marks.is_contiguous() and marks.numel() > 0):
        rows, columns = marks.nonzero(as_tuple=True)
        return rows, columns
    flat = marks.view(-1)
    words = flat.view(torch.int64).nonzero().squeeze(1)
    which, within = flat.view(-1, together)[words].nonzero(as_tuple=True)
    found = together * words[which] + within
    return found // marks.shape[1], found % marks.shape[1]
