"""The names of the original SoDeep program, argument for argument.

    from sodeep_fast.compat.sodeep import SpearmanLoss, MapRankingLoss, RankHardLoss

Values and gradients equal those of the program of Engilberge et al. (CVPR 2019), for all nine types
of sorter. Type "exa" is faster and uses linear memory. Where that program departs from the paper by
mistake, this module follows the paper, and the docstring says so. Its `UpdatingWrapper`, which
trains a sorter along with the model, is `sodeep_fast.OnlineSorter`.
"""

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from sodeep_fast._checks import (
    check_count,
    check_matrix,
    check_number,
    check_real,
    check_same_shape,
    check_scores,
    warn_of_single_observations,
)
from sodeep_fast.losses.mean_average_precision import mean_average_precision_loss
from sodeep_fast.losses.rank_triplet import rank_triplet_loss
from sodeep_fast.ops.hard_rank import hard_rank
from sodeep_fast.sorters.checkpoint import read_released
from sodeep_fast.sorters.exact import ExactSorter as ExactSorter
from sodeep_fast.sorters.released import released_sorter


def get_rank(batch_score: Tensor, dim: int = 0) -> Tensor:
    """Returns the exact rank along `dim`, divided by n: 1 / n for the largest, 1 for the smallest.

    Among equal scores the last one ranks first (in the original, the order is arbitrary).

    Arguments:
        batch_score: real scores with at least one dimension.
        dim: the dimension to rank along. Default: the first.

    Returns:
        float32 ranks of the same shape.

    Raises:
        TypeError: complex scores.
        ValueError: a scalar tensor, or a dimension out of range.

    Example:
        >>> import torch
        >>> from sodeep_fast.compat.sodeep import get_rank
        >>> get_rank(torch.tensor([0.3, 0.9, -1.0, 0.5]))
        tensor([0.7500, 0.2500, 1.0000, 0.5000])
    """
    check_real(batch_score, "batch_score")
    if not -batch_score.dim() <= dim < batch_score.dim():
        raise ValueError(
            f"dim must be one of the {batch_score.dim()} dimensions of batch_score, got {dim}"
        )
    rows = batch_score.movedim(dim, -1).flip(-1)
    ranks = hard_rank(rows, ties="ordinal").float() / rows.shape[-1]
    return ranks.flip(-1).movedim(-1, dim)


def model_loader(
    model_type: str, seq_len: int | None, pretrained_state_dict: Mapping[str, Any] | None = None
) -> nn.Module:
    """Returns a sorter of the given type, with weights loaded if given.

    As in the original, a learned sorter is in training mode and its weights require gradients; call
    `requires_grad_(False)` and `eval()` to freeze it. Weights are loaded strictly for every type
    (the original silently drops those of "cnn").

    Arguments:
        model_type: "exa", the handcrafted one, "lstmla", the paper's LSTM, or "lstm", "lstme",
            "grus", "gruc", "grup", "mlp" or "cnn".
        seq_len: the length of the rows to sort. "exa", "grus" and "gruc" sort any length and ignore
            it; "cnn" only sorts 100 (for longer rows, the original returns a wrong number of
            ranks).
        pretrained_state_dict: the sorter's weights; "exa" has none.

    Raises:
        RuntimeError: weights that do not fit the sorter.
        TypeError: a length that is not an integer.
        ValueError: an unknown type, or a length that is missing or that the type does not accept.

    Example:
        >>> from sodeep_fast.compat.sodeep import model_loader
        >>> model_loader("exa", 100)
        ExactSorter()
        >>> model_loader("mlp", 100).state_dict()["lin1.weight"].shape
        torch.Size([2048, 100])
    """
    sorter = released_sorter(model_type, seq_len, trainable=True)
    if pretrained_state_dict is not None:
        sorter.load_state_dict(pretrained_state_dict)
    return sorter


def load_sorter(checkpoint_path: str | PathLike[str]) -> tuple[str, int, dict[str, Tensor]]:
    """Returns (model_type, seq_len, state_dict) of a trained sorter's checkpoint, for the losses.

    No code from the file is run. Weights saved on a GPU are loaded to the CPU (the original fails
    without a GPU).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is damaged, that holds something else, or that would run code if
            unpickled.
    """
    return read_released(checkpoint_path)


def _rank_rows(sorter: nn.Module, rows: Tensor, wanted: Tensor | None = None) -> Tensor:
    """Returns the ranks (b, n) of rows that the original passes to the sorter one by one.

    Uses one call, unless batch statistics would change the result. In that case, rows that are not
    `wanted` (b,) are skipped and get rank 0.
    """
    if sorter.training and any(isinstance(module, nn.BatchNorm1d) for module in sorter.modules()):
        used = [True] * len(rows) if wanted is None else wanted.tolist()
        return torch.cat(
            [
                sorter(row) if is_used else 0 * row
                for row, is_used in zip(rows.split(1), used, strict=True)
            ]
        )
    ranks: Tensor = sorter(rows)
    return ranks


class _SorterLoss(nn.Module):
    """A loss that owns a sorter, `.sorter`."""

    def __init__(
        self,
        sorter_type: str,
        seq_len: int | None = None,
        sorter_state_dict: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.sorter = model_loader(sorter_type, seq_len, sorter_state_dict)


class SpearmanLoss(_SorterLoss):
    """The mean squared difference of soft and exact ranks / n, plus lbd times an L1 loss.

    For ranks without ties, 1 - r_s = 6 n^2 / (n^2 - 1) times the first term. A target of a
    different shape is an error (the original silently broadcasts it). `sodeep_fast.SpearmanLoss`
    computes 1 - r_s itself, with average ranks for tied targets.

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
        check_number(lbd, "lbd", least=0)
        super().__init__(sorter_type, seq_len, sorter_state_dict)
        self.lbd = lbd

    def forward(self, mem_pred: Tensor, mem_gt: Tensor, pr: bool = False) -> Tensor:
        """Returns the loss, a scalar.

        Arguments:
            mem_pred: (n,) predictions, or (b, n) for b groups, ranked separately and averaged. So
                (b, 1) gives 0 and a warning.
            mem_gt: targets of the same shape.
            pr: no effect, as in the original.
        """
        check_scores(mem_pred, "mem_pred")
        check_real(mem_gt, "mem_gt")
        check_same_shape(mem_gt, mem_pred, "mem_gt", "mem_pred")
        warn_of_single_observations(mem_pred, "mem_pred")
        rows = torch.atleast_2d(mem_pred).flatten(0, -2)
        ranks = _rank_rows(self.sorter, rows).view(mem_pred.shape)
        loss = (ranks - get_rank(mem_gt, dim=-1)).square().mean()
        if self.lbd:
            loss = loss + self.lbd * (mem_pred - mem_gt).abs().mean()
        return loss


class MapRankingLoss(_SorterLoss):
    """The sum over classes of the soft ranks / n of the positives, eq. (7).

    Makes one sorter call for all classes, where the original makes one per class (as does this for
    a "cnn" in training mode, whose statistics depend on the call). If no class has a positive, the
    loss is 0, still with a graph (in the original, the integer 0). The same as
    `sodeep_fast.MeanAveragePrecisionLoss`.

    Arguments:
        sorter_type, seq_len, sorter_state_dict: as in `model_loader`; its sorter is `.sorter`.

    Example:
        >>> import torch
        >>> from sodeep_fast.compat.sodeep import MapRankingLoss
        >>> MapRankingLoss("exa")(torch.tensor([[9.0], [0.0]]), torch.tensor([[1], [0]]))
        tensor(0.5000)
    """

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Returns the loss, a scalar, of scores (n, C) and labels (n, C).

        The labels must be binary (the original multiplies ranks by any labels).
        """
        check_scores(output, "output")
        if output.dim() != 2:
            raise ValueError(f"output must have shape (n, C), got {tuple(output.shape)}")
        check_real(target, "target")
        check_same_shape(target, output, "target", "output")

        def sorter(rows: Tensor) -> Tensor:
            return _rank_rows(self.sorter, rows, wanted=target.T.bool().any(-1))

        return mean_average_precision_loss(output, target, sorter)


class RankLoss(_SorterLoss):
    """The sum of the soft ranks / B of the diagonal of (B, B) scores, along rows and columns.

    Arguments:
        sorter_type, seq_len, sorter_state_dict: as in `model_loader`; its sorter is `.sorter`.

    Example:
        >>> import torch
        >>> from sodeep_fast.compat.sodeep import RankLoss
        >>> RankLoss("exa")(torch.tensor([[9.0, 0.0], [0.0, 9.0]]))
        tensor(2.0000)
    """

    def forward(self, scores: Tensor) -> Tensor:
        """Returns the loss, a scalar, of scores (B, B) with the matching pairs on the diagonal."""
        check_matrix(scores, "(B, B)", square=True)
        return self.sorter(scores).trace() + self.sorter(scores.T).trace()


class RankHardLoss(_SorterLoss):
    """The triplet loss on ranks / B with the hardest negatives, eq. (9), summed over all queries.

    B times `sodeep_fast.RankTripletLoss`: a sum, as in the original, while eq. (10) has a mean. The
    original ignores `margin` and uses 1 / B, which is one rank; here `margin` is used.

    Arguments:
        sorter_type, seq_len, sorter_state_dict: as in `model_loader`; its sorter is `.sorter`.
        margin: in units of rank / B. Default: 0.2.
        nmax: number of negatives to sum over per query. Default: 1.
        released_margin: use 1 / B as the margin, as the original does. Default: False.

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
        check_number(margin, "margin", least=0)
        check_count(nmax, "nmax")
        super().__init__(sorter_type, seq_len, sorter_state_dict)
        self.margin = margin
        self.nmax = nmax
        self.released_margin = released_margin

    def forward(self, scores: Tensor) -> Tensor:
        """Returns the loss, a scalar, of scores (B, B) with the matching pairs on the diagonal."""
        check_matrix(scores, "(B, B)", square=True)
        size = len(scores)
        margin = 1 / max(size, 1) if self.released_margin else self.margin
        return size * rank_triplet_loss(scores, self.sorter, margin, hardest=self.nmax)
