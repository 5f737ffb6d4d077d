"""SoDeep's convolutional sorter: the paper's, and the other one that its program released."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sodeep_fast._checks import check_count
from sodeep_fast.ops.conv_stack import conv_stack
from sodeep_fast.sorters.learned import LearnedSorter


class CNNSorter(LearnedSorter):
    """Ranks scores by blocks of convolution, batch normalization and ReLU, and an affine map.

    SoDeep (Engilberge et al., CVPR 2019), section 3.1.1: 8 blocks, the last of which has as many
    channels as there are scores. The paper does not give the other sizes. Here the kernels of all
    blocks, unpadded, together are just as long as the row: they leave one position, which has seen
    all scores and whose n channels the affine map turns into the ranks.

    Arguments:
        length: the length of the rows.
        depth: the number of blocks; 2 to 10 in the paper's Fig. 4. Default: 8.
        channels: the output channels of all blocks but the last, which has `length`. Default: 16,
            doubled from block to block up to 128.
        kernel_sizes: of every block; they may sum up to at most length - 1 + depth, and where it is
            less, the affine map reads all the positions that are left. Default: as equal as can be,
            and leaving one.
        normalize: divide the ranks by n. Default: True.
        trainable: whether the weights want gradients; see `LearnedSorter`. Default: False.

    Raises:
        TypeError: a size that is not an integer.
        ValueError: a size below 1, not one size per block, or kernels longer than the row.

    Example:
        >>> import torch, sodeep_fast
        >>> sodeep_fast.CNNSorter(length=10, depth=3)(torch.randn(2, 10)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        length: int,
        depth: int = 8,
        channels: Sequence[int] | None = None,
        kernel_sizes: Sequence[int] | None = None,
        normalize: bool = True,
        trainable: bool = False,
    ) -> None:
        super().__init__(length, normalize)
        check_count(length, "length")
        check_count(depth, "depth")
        if channels is None:
            channels = [min(16 * 2**i, 128) for i in range(depth - 1)]
        if kernel_sizes is None:
            short, longer = divmod(length - 1, depth)
            kernel_sizes = [1 + short + (i < longer) for i in range(depth)]
        for name, sizes, count in (
            ("channels", channels, depth - 1),
            ("kernel_sizes", kernel_sizes, depth),
        ):
            if len(sizes) != count:
                raise ValueError(f"{name} must have {count} entries for depth {depth}, got {sizes}")
            for size in sizes:
                check_count(size, f"every entry of {name}")
        left = length - sum(kernel_sizes) + depth
        if left < 1:
            raise ValueError(
                f"kernel_sizes must sum up to at most {length - 1 + depth} for rows of length "
                f"{length}, got {kernel_sizes}"
            )
        self.channels = list(channels)
        self.kernel_sizes = list(kernel_sizes)
        widths = [1, *channels, length]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv1d(width, next_width, kernel_size),
                    nn.BatchNorm1d(next_width),
                    nn.ReLU(),
                )
                for width, next_width, kernel_size in zip(
                    widths[:-1], widths[1:], kernel_sizes, strict=True
                )
            )
        )
        self.linear = nn.Linear(length * left, length)
        _store_channels_last(self)
        self.trainable = trainable

    def relative_ranks(self, rows: Tensor) -> Tensor:
        """Returns ranks / n (b, n) of scores (b, n)."""
        return self.linear(conv_stack(rows.unsqueeze(1), list(self.blocks)).flatten(1))

    def arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments that make this network."""
        return {
            "length": self.length,
            "depth": len(self.kernel_sizes),
            "channels": self.channels,
            "kernel_sizes": self.kernel_sizes,
            "normalize": self.normalize,
        }


# The layers of the released network: channels, kernel size, whether there is batch normalization.
_RELEASED_LAYERS = (
    (8, 2, False),
    (16, 3, True),
    (32, 5, False),
    (64, 7, True),
    (96, 10, False),
    (128, 7, True),
    (256, 5, False),
    (256, 3, True),
    (128, 3, False),
)


class ReleasedCNNSorter(LearnedSorter):
    """Ranks rows of 100 scores by the released program's ten convolutions.

    Of the program released with SoDeep (Engilberge et al., CVPR 2019), its "cnn", with its names in
    the state dict; it is not the network of the paper. Its last kernel leaves one position of 100
    scores only.

    Arguments:
        normalize: divide the ranks by n. Default: True.
        trainable: whether the weights want gradients; see `LearnedSorter`. Default: False.

    Example:
        >>> import torch
        >>> from sodeep_fast.sorters.cnn import ReleasedCNNSorter
        >>> ReleasedCNNSorter()(torch.randn(2, 100)).shape
        torch.Size([2, 100])
    """

    def __init__(self, normalize: bool = True, trainable: bool = False) -> None:
        super().__init__(100, normalize)
        width = 1
        for i, (next_width, kernel_size, has_norm) in enumerate(_RELEASED_LAYERS, 1):
            norm = [nn.BatchNorm1d(next_width)] if has_norm else []
            layer = nn.Sequential(nn.Conv1d(width, next_width, kernel_size), *norm, nn.PReLU())
            self.add_module(f"layer{i}", layer)
            width = next_width
        self.layer10 = nn.Conv1d(width, 100, 64)
        _store_channels_last(self)
        self.trainable = trainable

    def relative_ranks(self, rows: Tensor) -> Tensor:
        """Returns ranks / n (b, n) of scores (b, n)."""
        return conv_stack(rows.unsqueeze(1), list(self.children())).squeeze(-1).sigmoid()

    def arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments that make this network."""
        return {"normalize": self.normalize}


def _store_channels_last(network: nn.Module) -> None:
    """Lays kernels out in memory as `conv_stack` reads them, which saves a copy at every call."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv1d):
            stored = layer.weight.detach().transpose(1, 2).contiguous().transpose(1, 2)
            layer.weight = nn.Parameter(stored)
