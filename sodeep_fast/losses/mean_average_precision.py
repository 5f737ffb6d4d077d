"""SoDeep's surrogate of mean average precision: the soft ranks of the positives."""

from torch import Tensor, nn

from sodeep_fast._checks import check_choice, check_labels, check_matrix, check_sorter
from sodeep_fast.sorters.protocol import Sorter, relative_ranks

REDUCTIONS = ("sum", "mean")


def mean_average_precision_loss(
    scores: Tensor, labels: Tensor, sorter: Sorter, *, reduction: str = "sum"
) -> Tensor:
    """Returns the sum of the positives' soft ranks, divided by d, over all classes.

    A class's average precision grows as its positives' ranks fall. SoDeep (Engilberge et al., CVPR
    2019), eq. (7), with ranks divided by d whatever the scale of the sorter. The sorter is called
    once, with a row per class.

    Arguments:
        scores: (d, C) floating-point scores of d items for C classes, larger for more likely.
        labels: (d, C) 1 where the item has the class and 0 elsewhere, of any real dtype. On a GPU,
            checking labels other than bool waits for their values.
        sorter: scores (C, d) -> ranks (C, d). Its attribute `normalize` says whether its ranks are
            divided by d; a sorter without it is assumed to divide, as SoDeep's do.
        reduction: "sum" over all positives, as in the paper, or their "mean", which is in (0, 1]
            whatever C and the number of positives. Default: "sum".

    Returns:
        A scalar. Classes without a positive are left out; if that leaves none, 0, still with a
        graph.

    Raises:
        TypeError: scores that are not floating point, complex labels, or a sorter that is not
            callable.
        ValueError: scores that are not a matrix, labels that are not binary or have a different
            shape or device, an unknown reduction, or a sorter that returns a different shape.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[2.0, -1.0], [0.0, 1.0], [-2.0, 3.0], [-4.0, -3.0]])
        >>> labels = torch.tensor([[1, 0], [0, 0], [0, 1], [0, 1]])
        >>> sodeep_fast.mean_average_precision_loss(
        ...     scores, labels, sodeep_fast.HandcraftedSorter()
        ... )  # 1/4 for the first class, 1/4 + 4/4 for the second
        tensor(1.5000)
    """
    check_matrix(scores, "(d, C)")
    check_labels(labels, scores)
    check_sorter(sorter)
    check_choice(reduction, REDUCTIONS, "reduction")

    positives = labels.T.bool()
    total = relative_ranks(sorter, scores.T).masked_fill(~positives, 0).sum()
    return total if reduction == "sum" else total / positives.sum().clamp(min=1)


class MeanAveragePrecisionLoss(nn.Module):
    """The sum of the positives' soft ranks: the module form of `mean_average_precision_loss`.

    SoDeep (Engilberge et al., CVPR 2019), eq. (7). A sorter that is a module becomes a submodule,
    so its parameters are frozen or trained with the rest.

    Arguments:
        sorter: scores (C, d) -> ranks (C, d), as in `mean_average_precision_loss`.
        reduction: "sum" over all positives, as in the paper, or their "mean". Default: "sum".

    Raises:
        TypeError: a sorter that is not callable.
        ValueError: an unknown reduction.

    Example:
        >>> import torch, sodeep_fast
        >>> loss = sodeep_fast.MeanAveragePrecisionLoss(
        ...     sodeep_fast.HandcraftedSorter(), reduction="mean"
        ... )
        >>> loss(torch.tensor([[2.0], [0.0], [-2.0], [4.0]]), torch.tensor([[1], [1], [0], [0]]))
        tensor(0.6250)
    """

    def __init__(self, sorter: Sorter, reduction: str = "sum") -> None:
        super().__init__()
        check_sorter(sorter)
        check_choice(reduction, REDUCTIONS, "reduction")
        self.sorter = sorter
        self.reduction = reduction

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Returns the loss, a scalar; arguments as in `mean_average_precision_loss`."""
        return mean_average_precision_loss(scores, labels, self.sorter, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Returns the reduction."""
        return f"reduction={self.reduction!r}"
