"""The handcrafted sorter of SoDeep's released program, which is not quite the paper's."""

from typing import Any

import torch
from torch import Tensor, nn

from sodeep_fast._checks import check_scores
from sodeep_fast.ops.soft_rank import soft_rank


class ExactSorter(nn.Module):
    """The released program's handcrafted sorter, type "exa", with a steepness for every row.

    rank_i = (1 + sum over j != i of sigmoid(lam (s_j - s_i))) / n, with lam = 6.8 / std of the
    (n, n) matrix that holds s_j - s_i above its diagonal and 0 elsewhere; no gradient goes through
    lam. The std depends on the order of the scores, so ranks are not quite equivariant under
    permutations; `sodeep_fast.HandcraftedSorter` is.

    In a row of equal scores, all ranks are the middle one, (n + 1) / (2 n), without a gradient; so
    a row of one score has rank 1. The original raises an error for such rows.

    Example:
        >>> import torch
        >>> from sodeep_fast.compat.sodeep import ExactSorter
        >>> ExactSorter()(torch.tensor([[0.3, 0.9, -1.0, 0.5], [2.0, 2.0, 2.0, 2.0]]))
        tensor([[0.7154, 0.2568, 1.0000, 0.5277],
                [0.6250, 0.6250, 0.6250, 0.6250]])
    """

    normalize = True

    def arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments, of which there are none."""
        return {}

    def forward(self, input_: Tensor) -> Tensor:
        """Returns the ranks (..., n) of the scores (..., n), divided by n."""
        check_scores(input_, "input_")
        # In float64, so that lam neither overflows nor underflows for any row of float32.
        scores = input_.double()
        n = scores.shape[-1]
        centred = scores - scores.detach().mean(-1, keepdim=True)
        # Sum and sum of squares of s_j - s_i over i < j, without forming the pairs.
        known = centred.detach()
        index = torch.arange(n, dtype=torch.float64, device=scores.device)
        total = (known * (2 * index - (n - 1))).sum(-1, keepdim=True)
        squares = n * known.square().sum(-1, keepdim=True)
        entries = max(n * n, 2)
        std = ((squares - total.square() / entries) / (entries - 1)).sqrt()
        lam = (6.8 / std).masked_fill(std == 0, 0)
        scaled = (centred * lam).to(torch.promote_types(input_.dtype, torch.float32))
        return soft_rank(scaled, 1.0, normalize=True)
