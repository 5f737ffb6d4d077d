"""A learned sorter that does not depend on the order in which the scores arrive."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sodeep_fast._checks import check_count, check_positive
from sodeep_fast.ops.soft_rank import soft_rank
from sodeep_fast.sorters.learned import LearnedSorter


class EquivariantSorter(LearnedSorter):
    """Ranks scores by soft ranks of soft ranks, and a small network applied to every element.

    Permuting the scores permutes the ranks, which no LSTM or CNN guarantees, and the shift and
    scale of a row do not matter. Standardised scores times n / sqrt(12) have about the spacing of
    ranks. Each stage replaces them by their soft ranks, with steepness `sharpness` per rank:

        p_0 = -standardised scores * n / sqrt(12),    p_k = soft_rank(-sharpness_k p_(k-1))

    The first stage spreads out dense scores and pulls distant ones together, so the next stage
    compares every score with about as many neighbours, however uneven the row. For every element,
    the network sees how far the stages differ and how near the ends of the row are, where soft
    ranks are biased. Its output is added to the last stage.

    A sharper sorter is closer to the ranks, but fewer pairs have a gradient. Training on both
    (`gradient_weight` of `sodeep_fast.training.train_sorter`) balances the two.

    Arguments:
        sharpness: the initial sharpness of each stage, positive, per unit of rank; it is learned.
            Default: (1, 2).
        hidden_size: hidden units of the elementwise network. Default: 8.
        normalize: divide the ranks by n. Default: True.
        trainable: whether the weights require gradients; see `LearnedSorter`. Default: False.

    Raises:
        TypeError: a size that is not an integer, or a sharpness that is not a number.
        ValueError: no stage, a sharpness that is not positive, or a size below 1.

    Example:
        >>> import torch, sodeep_fast
        >>> sorter = sodeep_fast.EquivariantSorter()
        >>> scores = torch.randn(2, 3, 50)
        >>> torch.allclose(sorter(scores.flip(-1)), sorter(scores).flip(-1), atol=1e-5)
        True
    """

    takes_mask = True

    def __init__(
        self,
        sharpness: Sequence[float] = (1.0, 2.0),
        hidden_size: int = 8,
        normalize: bool = True,
        trainable: bool = False,
    ) -> None:
        super().__init__(None, normalize)
        if len(sharpness) < 1:
            raise ValueError(f"sharpness must have an entry for every stage, got {sharpness}")
        for value in sharpness:
            check_positive(value, "every entry of sharpness")
        check_count(hidden_size, "hidden_size")
        self._sharpness = [float(value) for value in sharpness]
        self.log_sharpness = nn.Parameter(torch.tensor(self._sharpness).log())
        self.hidden = nn.Linear(len(sharpness) + 1, hidden_size)
        self.output = nn.Linear(hidden_size, 1)
        # Untrained, the sorter returns the last stage.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.standardize = True
        self.trainable = trainable

    def relative_ranks(self, rows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns ranks / n (b, n) of standardised scores (b, n)."""
        # In the dtype of soft ranks, whatever that of the weights: half precision does not hold all
        # ranks.
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        n: Tensor | int = rows.shape[-1]
        if mask is not None:
            n = mask.sum(-1, keepdim=True).clamp(min=1).to(rows.dtype)
        positions = rows * (-n / math.sqrt(12))
        stages = []
        for sharpness in self.log_sharpness.exp():
            positions = soft_rank(positions * -sharpness, 1.0, mask=mask)
            stages.append(positions)
        # Features that decay by exp(-1/2) per rank from either end, as fast as the bias of a soft
        # rank.
        ends = [((1 - positions) / 2).exp(), ((positions - n) / 2).exp()]
        features = torch.stack([*(stage - positions for stage in stages[:-1]), *ends])
        # Elements are columns, so that each product reads and writes whole rows.
        hidden = F.silu(_affine(self.hidden, features.flatten(1)))
        correction = _affine(self.output, hidden)
        ranks = (positions + correction.view(rows.shape)) / n
        return ranks if mask is None else ranks.masked_fill(~mask, 0)

    def arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with the initial sharpness."""
        return {
            "sharpness": self._sharpness,
            "hidden_size": self.hidden.out_features,
            "normalize": self.normalize,
        }


def _affine(layer: nn.Linear, columns: Tensor) -> Tensor:
    """Returns what a layer makes of every column, in their dtype."""
    weight, bias = (value.to(columns.dtype) for value in (layer.weight, layer.bias))
    return torch.addmm(bias.unsqueeze(-1), weight, columns)
