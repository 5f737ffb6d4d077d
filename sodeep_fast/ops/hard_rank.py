"""The exact rank that `soft_rank` approximates: a kernel on the CPU, `torch.sort` elsewhere."""

import torch
from torch import Tensor

from sodeep_fast import _native
from sodeep_fast._checks import can_read, check_choice, check_mask, check_real, rank_dtype
from sodeep_fast.ops import _backend
from sodeep_fast.ops._vmap import batching_rule

TIES = ("average", "min", "max", "ordinal")
# Integers that float64 holds; of int64, those up to 2^53.
SIGNED, UNSIGNED = (torch.int8, torch.int16, torch.int32), (torch.uint8, torch.uint16, torch.uint32)
EXACT = (torch.bool, *SIGNED, *UNSIGNED)
LARGEST_EXACT = 1 << 53


def hard_rank(
    scores: Tensor,
    *,
    mask: Tensor | None = None,
    normalize: bool = False,
    ties: str = "average",
) -> Tensor:
    """Returns the exact rank of every score within its row, 1 for the largest, without a gradient.

    Arguments:
        scores: (..., n) real scores, floating point or integer; each row is ranked independently.
        mask: (..., n) bool, True where valid; other entries are ignored and get rank 0.
        normalize: divide by n, or by the number of valid entries in the row.
        ties: the rank of equal scores: the "average", smallest ("min") or largest ("max") of the
            ranks they share, or "ordinal", in order of position.

    Returns:
        (..., n) ranks, float64 for float64 and float32 otherwise. A row with a NaN is all NaN.

    Raises:
        TypeError: complex scores, or a mask that is not bool.
        ValueError: a scalar tensor, a mask of a different shape, or unknown `ties`.

    Example:
        >>> import torch, sodeep_fast
        >>> sodeep_fast.hard_rank(torch.tensor([0.3, 0.9, 0.3, -1.0]))
        tensor([2.5000, 1.0000, 2.5000, 4.0000])
    """
    check_real(scores)
    check_mask(mask, scores)
    check_choice(ties, TIES, "ties")

    scores = scores.detach()
    if _backend.prefers_cpp(scores, "hard_rank"):
        if scores.is_floating_point():
            return torch.ops.sodeep_fast.hard_rank(scores, mask, normalize, ties)
        if _fits_float64(scores):
            ranks = torch.ops.sodeep_fast.hard_rank(scores.double(), mask, normalize, ties)
            return ranks.to(rank_dtype(scores))
    return _by_sorting(scores, mask, normalize, ties)


def _fits_float64(scores: Tensor) -> bool:
    """Returns whether float64 holds integer scores exactly."""
    if scores.dtype != torch.int64:
        return scores.dtype in EXACT
    if scores.numel() == 0 or not can_read(scores):
        return False
    low, high = scores.aminmax()
    return int(low) >= -LARGEST_EXACT and int(high) <= LARGEST_EXACT


def _by_sorting(scores: Tensor, mask: Tensor | None, normalize: bool, ties: str) -> Tensor:
    """The exact rank from `torch.sort`, for every device and dtype."""
    n = scores.shape[-1]
    dtype = rank_dtype(scores)
    if n == 0:
        return torch.empty(scores.shape, dtype=dtype, device=scores.device)

    keys = scores.to(torch.uint8) if scores.dtype == torch.bool else scores
    if mask is None:
        ordered, order = torch.sort(keys, dim=-1, descending=True, stable=True)
    else:
        # Two stable sorts: by score, then valid entries first. So no score value has to stand for
        # "masked".
        _, order = torch.sort(keys, dim=-1, descending=True, stable=True)
        _, regroup = torch.sort(mask.gather(-1, order).byte(), dim=-1, descending=True, stable=True)
        order = order.gather(-1, regroup)
        ordered = keys.gather(-1, order)

    position = torch.arange(1, n + 1, device=scores.device)
    if ties == "ordinal":
        ranked = position.to(dtype).expand(scores.shape)
    else:
        starts = torch.ones_like(ordered, dtype=torch.bool)
        starts[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
        if mask is not None:
            valid = mask.gather(-1, order)
            starts[..., 1:] |= valid[..., 1:] != valid[..., :-1]
        first = torch.where(starts, position, 0).cummax(-1).values
        ends = torch.ones_like(starts)
        ends[..., :-1] = starts[..., 1:]
        last = torch.where(ends, position, n + 1).flip(-1).cummin(-1).values.flip(-1)
        ranked = {"min": first, "max": last, "average": (first + last) / 2}[ties].to(dtype)

    ranks = ranked.scatter(-1, order, ranked)  # not in place, for vmap
    if scores.is_floating_point():
        nan = scores.isnan() if mask is None else scores.isnan() & mask
        ranks.masked_fill_(nan.any(-1, keepdim=True), float("nan"))
    if normalize:
        ranks = ranks / (n if mask is None else mask.sum(-1, keepdim=True))
    return ranks if mask is None else ranks.masked_fill(~mask, 0)


if _native.HAS_CPU:

    @torch.library.register_fake("sodeep_fast::hard_rank")
    def _(scores: Tensor, mask: Tensor | None, normalize: bool, ties: str) -> Tensor:
        return torch.empty(scores.shape, dtype=rank_dtype(scores), device=scores.device)

    torch.library.register_vmap("sodeep_fast::hard_rank", batching_rule("hard_rank", 2))
