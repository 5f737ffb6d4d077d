"""Shared by the learned sorters: shapes, dtypes, the scale of the ranks, and freezing."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sodeep_fast._checks import check_count, check_mask, check_scores
from sodeep_fast.sorters.standardize import standardize


class LearnedSorter(nn.Module):
    """Base class of sorters that are networks; a subclass defines `relative_ranks` and `arguments`.

    A network works in rank / n, the scale that SoDeep trains in. By default it is frozen: its
    parameters require no gradient and it stays in evaluation mode, even if `train()` is called on a
    loss or model around it. With `trainable=True` it behaves as any module: its parameters require
    gradients, and it is in training mode until `eval()` is called. A subclass's constructor ends by
    setting `trainable`, which may be set again later.

    A network only knows the scale of the scores it was trained on. If its attribute `standardize`
    is set, which must be done before training, it reads rows scaled to mean 0 and standard
    deviation 1, and its ranks do not depend on the shift and scale of a row. Checkpoints keep the
    attribute.

    Arguments:
        length: the only n that the network accepts; None if it accepts any.
        normalize: return ranks divided by n.
    """

    takes_mask: ClassVar[bool] = False
    """Whether `relative_ranks` has a second argument, the mask (b, n)."""

    def __init__(self, length: int | None, normalize: bool) -> None:
        super().__init__()
        if length is not None:
            check_count(length, "length")
        self.length = length
        self.normalize = normalize
        self.standardize = False

    @property
    def trainable(self) -> bool:
        """Whether the sorter can be trained as any module; frozen otherwise."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = value
        self.requires_grad_(value)
        self.train(value)

    def relative_ranks(self, rows: Tensor) -> Tensor:
        """Returns ranks / n (b, n) of scores (b, n), neither of them empty."""
        raise NotImplementedError  # abstract: every subclass has its own

    def arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments for this network, for a checkpoint."""
        raise NotImplementedError  # abstract: every subclass has its own

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns the ranks of `scores`.

        Arguments:
            scores: (..., n) float16, bfloat16, float32 or float64, computed in the dtype of the
                weights; each row is ranked independently.
            mask: (..., n) bool, True where valid, for `EquivariantSorter`; the other networks read
                whole rows and refuse it.

        Returns:
            (..., n) ranks, about 1 (or 1 / n) for the largest, 0 where the mask is False; float64
            for float64 weights and float32 otherwise.

        Raises:
            TypeError: scores that are not floating point, or a mask that is not bool.
            ValueError: a scalar tensor, a mask of a different shape or for a network that takes
                none, or rows of a different length than the network was made for.
        """
        check_scores(scores)
        check_mask(mask, scores)
        if mask is not None and not self.takes_mask:
            raise ValueError(
                f"mask must be None for {type(self).__name__}, which reads whole rows; "
                "HandcraftedSorter and EquivariantSorter take masks"
            )
        n = scores.shape[-1]
        if self.length is not None and n != self.length:
            raise ValueError(
                f"scores must have rows of length {self.length}, which this "
                f"{type(self).__name__} was made for, got shape {tuple(scores.shape)}"
            )
        weights = next(self.parameters()).dtype
        result = torch.promote_types(weights, torch.float32)
        if scores.numel() == 0:
            return scores.to(result).clone()
        rows = torch.atleast_2d(scores).flatten(0, -2).to(weights)
        if mask is not None:
            mask = torch.atleast_2d(mask).flatten(0, -2)
        if self.standardize:
            rows = standardize(rows, mask)
        ranks = self.relative_ranks(*((rows,) if mask is None else (rows, mask))).to(result)
        if not self.normalize:
            ranks = ranks * (n if mask is None else mask.sum(-1, keepdim=True))
        return ranks.view(scores.shape)

    def train(self, mode: bool = True) -> "LearnedSorter":
        """Sets training or evaluation mode; a frozen sorter stays in evaluation mode."""
        super().train(mode and self.trainable)
        for module in self.modules():
            if isinstance(module, nn.RNNBase):
                # cuDNN has no backward in evaluation mode; without dropout the modes are the same.
                module.training = True
        return self

    def extra_repr(self) -> str:
        """Returns the constructor's arguments."""
        text = ", ".join(f"{name}={value!r}" for name, value in self.arguments().items())
        return f"{text}, standardize=True" if self.standardize else text


def check_head(head: str, length: int | None) -> None:
    """Raises unless `length` is given where `head` is "dense", and only there."""
    if head == "dense" and length is None:
        raise ValueError("length must be given for the dense head, which takes no other")
    if head != "dense" and length is not None:
        raise ValueError(f"length is for the dense head only, got {length}: {head!r} takes any")


def apply_dense_head(head: nn.Conv1d, hidden: Tensor) -> Tensor:
    """Returns `head(hidden)` (b, n) for hidden states (b, n, d) and a kernel as long as d.

    Positions are its channels, so it is one affine map of all states, hence one product.
    """
    device = hidden.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else head.weight.dtype
    # Converts and makes contiguous in one copy instead of two.
    hidden = hidden.to(dtype, memory_format=torch.contiguous_format)
    return F.linear(hidden.flatten(1), head.weight.flatten(1), head.bias)
