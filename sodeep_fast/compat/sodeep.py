"""The names of the original SoDeep program, argument for argument.

    from sodeep_fast.compat.sodeep import SpearmanLoss, MapRankingLoss, RankHardLoss

Same values and gradients as the program of Engilberge et al. (CVPR 2019), for the sorter type
"exa", faster and in linear memory. Where that program departs from the paper by mistake, this
follows the paper, and the docstring says so.
"""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sodeep_fast._checks import (
    check_count,
    check_matrix,
    check_nonnegative,
    check_real,
    check_same_shape,
    check_scores,
)
from sodeep_fast.losses.mean_average_precision import mean_average_precision_loss
from sodeep_fast.losses.rank_triplet import rank_triplet_loss
from sodeep_fast.ops.hard_rank import hard_rank
from sodeep_fast.ops.soft_rank import soft_rank

LEARNED = ("lstm", "grus", "gruc", "grup", "lstmla", "lstme", "mlp", "cnn")


def get_rank(batch_score: Tensor, dim: int = 0) -> Tensor:
    """Returns the exact rank along `dim`, divided by its size: 1 / n for the largest, 1 at the end.

    Of equal scores the last one ranks first (in the original, any).

    Arguments:
        batch_score: real scores with at least one dimension.
        dim: the dimension to rank along. Default: the first.

    Returns:
        float32 ranks of the same shape.

    Raises:
        TypeError: complex scores.
        ValueError: a scalar tensor.

    Example:
        >>> import torch
        >>> from sodeep_fast.compat.sodeep import get_rank
        >>> get_rank(torch.tensor([0.3, 0.9, -1.0, 0.5]))
        tensor([0.7500, 0.2500, 1.0000, 0.5000])
    """
    check_real(batch_score, "batch_score")
    rows = batch_score.movedim(dim, -1).flip(-1)
    ranks = hard_rank(rows, ties="ordinal").float() / rows.shape[-1]
    return ranks.flip(-1).movedim(-1, dim)


class ExactSorter(nn.Module):
    """The released program's handcrafted sorter, type "exa": a steepness for every row.

    rank_i = (1 + sum over j != i of sigmoid(lam (s_j - s_i))) / n, with lam = 6.8 / std of the
    (n, n) matrix that holds s_j - s_i above its diagonal and 0 elsewhere; no gradient goes through
    lam. The std depends on the order of the scores, so ranks are not quite equivariant under
    permutations; `sodeep_fast.HandcraftedSorter` is.

    A row whose scores are all equal has all its ranks at the middle, (n + 1) / (2 n), and no
    gradient; for the original it is an error. So is a row of one score here given rank 1.

    Example:
        >>> import torch
        >>> from sodeep_fast.compat.sodeep import ExactSorter
        >>> ExactSorter()(torch.tensor([[0.3, 0.9, -1.0, 0.5], [2.0, 2.0, 2.0, 2.0]]))
        tensor([[0.7154, 0.2568, 1.0000, 0.5277],
                [0.6250, 0.6250, 0.6250, 0.6250]])
    """

    normalize = True

    def forward(self, input_: Tensor) -> Tensor:
        """Returns the ranks (..., n) of the scores (..., n), divided by n."""
        check_scores(input_, "input_")
        # In float64, so that lam neither overflows nor underflows for any row of float32.
        scores = input_.double()
        n = scores.shape[-1]
        centred = scores - scores.detach().mean(-1, keepdim=True)
        # Sum and sum of squares of s_j - s_i over i < j, without the pairs.
        known = centred.detach()
        index = torch.arange(n, dtype=torch.float64, device=scores.device)
        total = (known * (2 * index - (n - 1))).sum(-1, keepdim=True)
        squares = n * known.square().sum(-1, keepdim=True)
        entries = max(n * n, 2)
        std = ((squares - total.square() / entries) / (entries - 1)).sqrt()
        lam = (6.8 / std).masked_fill(std == 0, 0)
        scaled = (centred * lam).to(torch.promote_types(input_.dtype, torch.float32))
        return soft_rank(scaled, 1.0, normalize=True)


def model_loader(
    model_type: str, seq_len: int | None, pretrained_state_dict: Mapping[str, Any] | None = None
) -> nn.Module:
    """Returns the sorter of a type, with weights loaded if given.

    Weights are loaded strictly, whatever the type (the original silently drops those of "cnn").

    Arguments:
        model_type: "exa"; the learned types "lstm", "lstmla", "lstme", "grus", "gruc", "grup",
            "mlp" and "cnn" are not there yet.
        seq_len: the length of the rows to sort; "exa" sorts any and ignores it.
        pretrained_state_dict: the sorter's weights; "exa" has none.

    Raises:
        NotImplementedError: a learned type.
        RuntimeError: weights that do not fit the sorter.
        ValueError: an unknown type.

    Example:
        >>> from sodeep_fast.compat.sodeep import model_loader
        >>> model_loader("exa", 100)
        ExactSorter()
    """
    if model_type in LEARNED:
        raise NotImplementedError(
            f"the learned sorter {model_type!r} is not available yet; 'exa' is"
        )
    if model_type != "exa":
        raise ValueError(
            f"model_type must be one of {', '.join(map(repr, ('exa', *LEARNED)))}, "
            f"got {model_type!r}"
        )
    sorter = ExactSorter()
    if pretrained_state_dict is not None:
        sorter.load_state_dict(pretrained_state_dict)
    return sorter


def load_sorter(checkpoint_path: str | PathLike[str]) -> tuple[str, int, dict[str, Tensor]]:
    """Returns (model_type, seq_len, state_dict) of a trained sorter's checkpoint; not there yet.

    Raises:
        FileNotFoundError: no such file.
        NotImplementedError: always otherwise: only learned sorters have checkpoints, and they are
            not available yet.
    """
    if not Path(checkpoint_path).is_file():
        raise FileNotFoundError(f"no sorter checkpoint at {checkpoint_path}")
    raise NotImplementedError(
        f"cannot load {checkpoint_path}: only learned sorters have checkpoints, and they are not "
        "available yet; the sorter type 'exa' needs none"
    )


class SpearmanLoss(nn.Module):
    """The mean squared difference of soft and exact ranks / n, plus lbd times an L1 loss.

    For ranks without ties, 1 - r_s = 6 n^2 / (n^2 - 1) times the first term. In the original a
    target of another shape is silently broadcast; here it is an error. `sodeep_fast.SpearmanLoss`
    gives 1 - r_s itself, and tied targets their average rank.

    Arguments:
        sorter_type, seq_len, sorter_state_dict: as in `model_loader`; its sorter is `.sorter`.
        lbd: weight of the mean absolute difference of the values themselves. Default: 0.

    Example:
        >>> import torch
        >>> from sodeep_fast.compat.sodeep import SpearmanLoss
        >>> SpearmanLoss("exa")(torch.tensor([0.1, 0.9, 0.5]), torch.tensor([1.0, 2.0, 3.0]))
        tensor(0.0741)
    """

    def __init__(
        self,
        sorter_type: str,
        seq_len: int | None = None,
        sorter_state_dict: Mapping[str, Any] | None = None,
        lbd: float = 0,
    ) -> None:
        super().__init__()
        check_nonnegative(lbd, "lbd")
        self.sorter = model_loader(sorter_type, seq_len, sorter_state_dict)
        self.lbd = lbd

    def forward(self, mem_pred: Tensor, mem_gt: Tensor, pr: bool = False) -> Tensor:
        """Returns the loss, a scalar.

        Arguments:
            mem_pred: (n,) predictions, or (b, n): b groups, ranked one by one and averaged.
            mem_gt: targets of the same shape.
            pr: no effect, as in the original.
        """
        check_scores(mem_pred, "mem_pred")
        check_real(mem_gt, "mem_gt")
        check_same_shape(mem_gt, mem_pred, "mem_gt", "mem_pred")
        ranks = self.sorter(torch.atleast_2d(mem_pred)).view(mem_pred.shape)
        loss = (ranks - get_rank(mem_gt, dim=-1)).square().mean()
        if self.lbd:
            loss = loss + self.lbd * (mem_pred - mem_gt).abs().mean()
        return loss


class MapRankingLoss(nn.Module):
    """The sum over classes of the soft ranks / n of the positives, eq. (7).

    One sorter call for all classes (the original makes one each). If no class has a positive the
    loss is 0, still with a graph (in the original, the integer 0). As
    `sodeep_fast.MeanAveragePrecisionLoss`.

    Arguments:
        sorter_type, seq_len, sorter_state_dict: as in `model_loader`; its sorter is `.sorter`.

    Example:
        >>> import torch
        >>> from sodeep_fast.compat.sodeep import MapRankingLoss
        >>> MapRankingLoss("exa")(torch.tensor([[9.0], [0.0]]), torch.tensor([[1], [0]]))
        tensor(0.5000)
    """

    def __init__(
        self,
        sorter_type: str,
        seq_len: int | None = None,
        sorter_state_dict: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.sorter = model_loader(sorter_type, seq_len, sorter_state_dict)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Returns the loss, a scalar, of scores (n, C) and binary labels (n, C)."""
        return mean_average_precision_loss(output, target, self.sorter)


class RankLoss(nn.Module):
    """The sum of the soft ranks / B of the diagonal of (B, B) scores, along rows and columns.

    Arguments:
        sorter_type, seq_len, sorter_state_dict: as in `model_loader`; its sorter is `.sorter`.

    Example:
        >>> import torch
        >>> from sodeep_fast.compat.sodeep import RankLoss
        >>> RankLoss("exa")(torch.tensor([[9.0, 0.0], [0.0, 9.0]]))
        tensor(2.0000)
    """

    def __init__(
        self,
        sorter_type: str,
        seq_len: int | None = None,
        sorter_state_dict: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.sorter = model_loader(sorter_type, seq_len, sorter_state_dict)

    def forward(self, scores: Tensor) -> Tensor:
        """Returns the loss, a scalar, of scores (B, B) with the matching pairs on the diagonal."""
        check_matrix(scores, "(B, B)", square=True)
        return self.sorter(scores).trace() + self.sorter(scores.T).trace()


class RankHardLoss(nn.Module):
    """The triplet loss on ranks / B with the hardest negatives, eq. (9), summed over all queries.

    B times `sodeep_fast.RankTripletLoss`: a sum, as in the original, where eq. (10) has a mean. The
    original ignores `margin` and uses 1 / B, one rank; here `margin` is the margin.

    Arguments:
        sorter_type, seq_len, sorter_state_dict: as in `model_loader`; its sorter is `.sorter`.
        margin: in units of rank / B. Default: 0.2.
        nmax: how many negatives of a query are summed over. Default: 1.
        released_margin: use 1 / B for the margin, as the original does. Default: False.

    Example:
        >>> import torch
        >>> from sodeep_fast.compat.sodeep import RankHardLoss
        >>> scores = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
        >>> RankHardLoss("exa")(scores), RankHardLoss("exa", margin=0.6)(scores)
        (tensor(0.), tensor(0.4000))
    """

    def __init__(
        self,
        sorter_type: str,
        seq_len: int | None = None,
        sorter_state_dict: Mapping[str, Any] | None = None,
        margin: float = 0.2,
        nmax: int = 1,
        released_margin: bool = False,
    ) -> None:
        super().__init__()
        check_nonnegative(margin, "margin")
        check_count(nmax, "nmax")
        self.sorter = model_loader(sorter_type, seq_len, sorter_state_dict)
        self.margin = margin
        self.nmax = nmax
        self.released_margin = released_margin

    def forward(self, scores: Tensor) -> Tensor:
        """Returns the loss, a scalar, of scores (B, B) with the matching pairs on the diagonal."""
        check_matrix(scores, "(B, B)", square=True)
        size = len(scores)
        margin = 1 / max(size, 1) if self.released_margin else self.margin
        return size * rank_triplet_loss(scores, self.sorter, margin, hardest=self.nmax)
