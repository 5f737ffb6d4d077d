"""SoDeep's recurrent sorter: a bidirectional LSTM over the scores."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sodeep_fast._checks import check_choice, check_count
from sodeep_fast.ops.bilstm import rounded_bilstm
from sodeep_fast.sorters.learned import LearnedSorter, apply_dense_head, check_head

HEADS = ("position", "dense")
# Hidden states held at a time when nothing is differentiated: on a CPU, what its caches hold; on a
# GPU, enough rows to fill it many times over.
HIDDEN_BYTES = 16 << 20
GPU_HIDDEN_BYTES = 1 << 30
LEAST_ROWS = 60  # that the weights are read for at a time


class ScalarLSTM(nn.Module):
    """The weights of a bidirectional `nn.LSTM` that reads one score a step, under its names.

    Not an `nn.LSTM` itself, as torch.compile refuses to trace those. Calling it returns the
    weights in the order of `nn.LSTM.parameters()`, as pruning and parametrizations make them.

    Arguments:
        hidden_size: the hidden units of each direction.
        num_layers: layers of both directions.

    Example:
        >>> import torch
        >>> from sodeep_fast.sorters.lstm import ScalarLSTM
        >>> lstm = ScalarLSTM(hidden_size=8, num_layers=1)
        >>> lstm.as_torch()(torch.randn(2, 5, 1))[0].shape
        torch.Size([2, 5, 16])
    """

    def __init__(self, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        made = dict(self._make().named_parameters())
        self._names = list(made)
        for name, weight in made.items():
            self.register_parameter(name, weight)

    def _make(self) -> nn.LSTM:
        return nn.LSTM(1, self.hidden_size, self.num_layers, batch_first=True, bidirectional=True)

    def forward(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._names]

    def as_torch(self) -> nn.LSTM:
        """Returns PyTorch's module sharing these weights, laid out as cuDNN wants them."""
        with torch.device("meta"):
            lstm = self._make()
        for name in self._names:
            setattr(lstm, name, self.get_parameter(name))
        lstm.flatten_parameters()
        return lstm

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ScalarLSTM":
        super()._apply(fn, recurse)
        if all(name in self._parameters for name in self._names):
            self.as_torch()
        return self


class LSTMSorter(LearnedSorter):
    """Ranks scores by a bidirectional LSTM that reads them one by one, and a projection.

    SoDeep (Engilberge et al., CVPR 2019), section 3.1.1. The weights are random, to be trained;
    `sodeep_fast.load_sorter` loads a trained one.

    Arguments:
        hidden_size: the hidden units of each direction. Default: 128.
        num_layers: layers of both directions. Default: 2.
        head: "position" projects the hidden state of every position to its rank, for rows of any
            length; "dense" projects all hidden states to all ranks, for rows of one length. With
            128 or 512 hidden units in 2 layers, "dense" is the released program's "lstm" or
            "lstmla", with the same state dict names. Default: "position".
        length: the length of the rows, for the dense head.
        normalize: divide the ranks by n. Default: True.
        trainable: whether the weights require gradients; see `LearnedSorter`. Default: False.

    Raises:
        TypeError: a size that is not an integer.
        ValueError: a size below 1, an unknown head, a dense head without a length, or a length
            without a dense head.

    Example:
        >>> import torch, sodeep_fast
        >>> sorter = sodeep_fast.LSTMSorter(hidden_size=8)
        >>> sorter(torch.randn(2, 3, 50)).shape
        torch.Size([2, 3, 50])
    """

    def __init__(
        self,
        hidden_size: int = 128,
        num_layers: int = 2,
        head: str = "position",
        length: int | None = None,
        normalize: bool = True,
        trainable: bool = False,
    ) -> None:
        super().__init__(length, normalize)
        check_count(hidden_size, "hidden_size")
        check_count(num_layers, "num_layers")
        check_choice(head, HEADS, "head")
        check_head(head, length)
        self.head = head
        self.lstm = ScalarLSTM(hidden_size, num_layers)
        if length is None:
            self.linear = nn.Linear(2 * hidden_size, 1)
        else:
            self.conv1 = nn.Conv1d(length, length, 2 * hidden_size)
        self.trainable = trainable

    def relative_ranks(self, rows: Tensor) -> Tensor:
        """Returns ranks / n (b, n) of scores (b, n)."""
        if torch.is_grad_enabled():
            return self._ranks(rows)
        row_bytes = rows.shape[1] * 2 * self.lstm.hidden_size * rows.dtype.itemsize
        most = HIDDEN_BYTES if rows.device.type == "cpu" else GPU_HIDDEN_BYTES
        # Parts of equal size, none with few rows.
        count = max(1, len(rows) // max(LEAST_ROWS, most // row_bytes))
        parts = rows.tensor_split(count)
        return torch.cat([self._ranks(part) for part in parts])

    def _ranks(self, rows: Tensor) -> Tensor:
        """The ranks / n (b, n)."""
        weights = self.lstm()
        if self.length is None:
            return rounded_bilstm(rows, weights, self.linear.weight[0]) + self.linear.bias
        return self.project(rounded_bilstm(rows, weights))

    def project(self, hidden: Tensor) -> Tensor:
        """The ranks / n (b, n) of hidden states (b, n, 2 hidden)."""
        if self.length is None:
            return self.linear(hidden).squeeze(-1)
        return apply_dense_head(self.conv1, hidden)

    def arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments that make this network."""
        return {
            "hidden_size": self.lstm.hidden_size,
            "num_layers": self.lstm.num_layers,
            "head": self.head,
            "length": self.length,
            "normalize": self.normalize,
        }
