"""The released program's sorters that are GRUs."""

from typing import Any

import torch
from torch import Tensor, nn

from sodeep_fast._checks import check_choice, check_count
from sodeep_fast.sorters.learned import LearnedSorter, apply_dense_head, check_head

HEADS = ("sum", "dense")


class GRUSorter(LearnedSorter):
    """Ranks scores by a bidirectional GRU that reads them one by one.

    From the program released with SoDeep (Engilberge et al., CVPR 2019), with the same state dict
    names: "gruc" by default; "grus" with 4 hidden units in 1 layer and `squash=False`; "grup" with
    128 hidden units in 6 layers and the dense head.

    Arguments:
        hidden_size: the hidden units of each direction. Default: 32.
        num_layers: layers of both directions. Default: 6.
        squash: read sigmoid(score / 2 + 1) instead of the score, and pass the ranks / n through a
            sigmoid. Scores that are not of order one saturate it. Default: True.
        head: "sum" adds up the hidden state at every position, for rows of any length; "dense"
            projects all hidden states to all ranks, for rows of one length. Default: "sum".
        length: the length of the rows, for the dense head.
        normalize: divide the ranks by n. Default: True.
        trainable: whether the weights require gradients; see `LearnedSorter`. Default: False.

    Raises:
        TypeError: a size that is not an integer.
        ValueError: a size below 1, an unknown head, a dense head without a length, or a length
            without a dense head.

    Example:
        >>> import torch, sodeep_fast
        >>> sodeep_fast.GRUSorter()(torch.randn(2, 50)).shape
        torch.Size([2, 50])
    """

    def __init__(
        self,
        hidden_size: int = 32,
        num_layers: int = 6,
        squash: bool = True,
        head: str = "sum",
        length: int | None = None,
        normalize: bool = True,
        trainable: bool = False,
    ) -> None:
        super().__init__(length, normalize)
        check_count(hidden_size, "hidden_size")
        check_count(num_layers, "num_layers")
        check_choice(head, HEADS, "head")
        check_head(head, length)
        self.squash = squash
        self.head = head
        gru = nn.GRU(1, hidden_size, num_layers, batch_first=True, bidirectional=True)
        # The released "grus" calls its GRU `lstm`.
        self._gru_name = "rnn" if squash else "lstm"
        self.add_module(self._gru_name, gru)
        if length is not None:
            self.conv1 = nn.Conv1d(length, length, 2 * hidden_size)
        self.trainable = trainable

    @property
    def gru(self) -> nn.GRU:
        """The GRU, under either of its names."""
        module = self.get_submodule(self._gru_name)
        assert isinstance(module, nn.GRU)
        return module

    def relative_ranks(self, rows: Tensor) -> Tensor:
        """Returns ranks / n (b, n) of scores (b, n)."""
        if self.squash:
            rows = torch.sigmoid(rows / 2 + 1)
        hidden, _ = self.gru(rows.unsqueeze(-1))
        ranks = hidden.sum(-1) if self.length is None else apply_dense_head(self.conv1, hidden)
        return ranks.sigmoid() if self.squash else ranks

    def arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments that make this network."""
        return {
            "hidden_size": self.gru.hidden_size,
            "num_layers": self.gru.num_layers,
            "squash": self.squash,
            "head": self.head,
            "length": self.length,
            "normalize": self.normalize,
        }


class RepeatedGRUSorter(LearnedSorter):
    """Ranks scores by a GRU that reads the whole row n times.

    The "lstme" of the program released with SoDeep (Engilberge et al., CVPR 2019), with the same
    state dict names. A score's rank / n is the sum of `width` units of the last state.

    Arguments:
        length: the length of the rows.
        width: hidden units per score. Default: 5.
        normalize: divide the ranks by n. Default: True.
        trainable: whether the weights require gradients; see `LearnedSorter`. Default: False.

    Raises:
        TypeError: a size that is not an integer.
        ValueError: a size below 1.

    Example:
        >>> import torch, sodeep_fast
        >>> sodeep_fast.RepeatedGRUSorter(length=10)(torch.randn(2, 10)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, length: int, width: int = 5, normalize: bool = True, trainable: bool = False
    ) -> None:
        super().__init__(length, normalize)
        check_count(length, "length")
        check_count(width, "width")
        self.lstm = nn.GRU(length, width * length, batch_first=True)
        self.trainable = trainable

    def relative_ranks(self, rows: Tensor) -> Tensor:
        """Returns ranks / n (b, n) of scores (b, n)."""
        b, n = rows.shape
        _, last = self.lstm(rows.unsqueeze(1).expand(b, n, n))
        return last.view(b, n, -1).sum(-1)

    def arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments that make this network."""
        n = self.lstm.input_size
        return {
            "length": n,
            "width": self.lstm.hidden_size // n,
            "normalize": self.normalize,
        }
