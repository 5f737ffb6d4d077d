"""The released program's sorter that is a multi-layer perceptron."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sodeep_fast._checks import check_count
from sodeep_fast.sorters.learned import LearnedSorter


class MLPSorter(LearnedSorter):
    """Ranks scores by a perceptron with two hidden layers, for rows of one length.

    The "mlp" of the program released with SoDeep (Engilberge et al., CVPR 2019), with the same
    state dict names.

    Arguments:
        length: the length of the rows.
        hidden_size: the units of each hidden layer. Default: 2048.
        normalize: divide the ranks by n. Default: True.
        trainable: whether the weights require gradients; see `LearnedSorter`. Default: False.

    Raises:
        TypeError: a size that is not an integer.
        ValueError: a size below 1.

    Example:
        >>> import torch, sodeep_fast
        >>> sodeep_fast.MLPSorter(length=10)(torch.randn(2, 10)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        length: int,
        hidden_size: int = 2048,
        normalize: bool = True,
        trainable: bool = False,
    ) -> None:
        super().__init__(length, normalize)
        check_count(length, "length")
        check_count(hidden_size, "hidden_size")
        self.lin1 = nn.Linear(length, hidden_size)
        self.lin2 = nn.Linear(hidden_size, hidden_size)
        self.lin3 = nn.Linear(hidden_size, length)
        self.trainable = trainable

    def relative_ranks(self, rows: Tensor) -> Tensor:
        """Returns ranks / n (b, n) of scores (b, n)."""
        return self.lin3(F.relu(self.lin2(F.relu(self.lin1(rows)))))

    def arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments that make this network."""
        return {
            "length": self.length,
            "hidden_size": self.lin1.out_features,
            "normalize": self.normalize,
        }
