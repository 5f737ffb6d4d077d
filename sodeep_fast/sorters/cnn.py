"""SoDeep's convolutional sorters: the paper's, and the different one in its released program."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sodeep_fast._checks import check_choice, check_count
from sodeep_fast.ops.conv_stack import conv_stack
from sodeep_fast.sorters.learned import LearnedSorter

PADDINGS = ("valid", "same")


class CNNSorter(LearnedSorter):
    """Ranks scores by blocks of convolution, batch normalization and ReLU, and an affine map.

    SoDeep (Engilberge et al., CVPR 2019), section 3.1.1: 8 blocks, the last of which has as many
    channels as there are scores. The paper does not give the other sizes, nor the padding.

    Without padding, the kernels of all blocks together span exactly the row. They leave one
    position, which has seen all scores, and the affine map turns its n channels into the ranks.
    That single position has to encode every score and every rank.

    With `padding="same"`, every position keeps its own score, and the affine map of its channels is
    its own rank. A rank compares a score with all others: rank_i = sum_j [x_j >= x_i]. So the first
    two blocks, with kernels of size 1, turn each score into features. The third block's kernel, of
    size 2n - 1, sums the features of all scores and adds the position's own. The other blocks, of
    size 1 again, compare the two. The initial weights are those of such a network: the thresholds
    of the first block's ReLUs are spread out, and long kernels are equal at all distances but 0.
    This variant trains faster, and is far more accurate.

    Kernels are laid out channels last in memory, as oneDNN reads them; what takes only contiguous
    parameters, such as `parameters_to_vector` and `safetensors.torch.save_file`, refuses them.

    Arguments:
        length: the length of the rows.
        depth: the number of blocks; 2 to 10 in the paper's Fig. 4. Default: 8.
        channels: the output channels of all blocks but the last, which has `length`. Default: 16,
            doubled from block to block up to 128.
        kernel_sizes: one per block. Without padding, their sum may be at most length - 1 + depth;
            if it is less, the affine map reads all the positions that are left. Default: as equal
            as possible, leaving one position; with padding, 1 except for the third block (or the
            last, if there are fewer), which has 2 * length - 1.
        normalize: divide the ranks by n. Default: True.
        trainable: whether the weights require gradients; see `LearnedSorter`. Default: False.
        padding: "valid" for none, "same" for zeros around the row, which keep all positions.
            Default: "valid".

    Raises:
        TypeError: a size that is not an integer.
        ValueError: a size below 1, not one size per block, unpadded kernels longer than the row, or
            an unknown padding.

    Example:
        >>> import torch, sodeep_fast
        >>> sodeep_fast.CNNSorter(length=10, depth=3)(torch.randn(2, 10)).shape
        torch.Size([2, 10])
        >>> sodeep_fast.CNNSorter(length=10, padding="same").kernel_sizes
        [1, 1, 19, 1, 1, 1, 1, 1]
    """

    def __init__(
        self,
        length: int,
        depth: int = 8,
        channels: Sequence[int] | None = None,
        kernel_sizes: Sequence[int] | None = None,
        normalize: bool = True,
        trainable: bool = False,
        padding: str = "valid",
    ) -> None:
        super().__init__(length, normalize)
        check_count(length, "length")
        check_count(depth, "depth")
        check_choice(padding, PADDINGS, "padding")
        if channels is None:
            channels = [min(16 * 2**i, 128) for i in range(depth - 1)]
        if kernel_sizes is None:
            kernel_sizes = _default_kernel_sizes(length, depth, padding)
        for name, sizes, count in (
            ("channels", channels, depth - 1),
            ("kernel_sizes", kernel_sizes, depth),
        ):
            if len(sizes) != count:
                raise ValueError(f"{name} must have {count} entries for depth {depth}, got {sizes}")
            for size in sizes:
                check_count(size, f"every entry of {name}")
        left = length - sum(kernel_sizes) + depth
        if padding == "valid" and left < 1:
            raise ValueError(
                f"kernel_sizes must sum up to at most {length - 1 + depth} for rows of length "
                f"{length}, got {kernel_sizes}"
            )
        self.channels = list(channels)
        self.kernel_sizes = list(kernel_sizes)
        self.padding = padding
        self.positions = length if padding == "same" else left  # that the last block leaves
        widths = [1, *channels, length]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv1d(width, next_width, kernel_size, padding=padding),
                    nn.BatchNorm1d(next_width),
                    nn.ReLU(),
                )
                for width, next_width, kernel_size in zip(
                    widths[:-1], widths[1:], kernel_sizes, strict=True
                )
            )
        )
        if padding == "same":
            self.linear = nn.Linear(length, 1)
            _begin_with_comparisons(self.blocks, length)
        else:
            self.linear = nn.Linear(length * left, length)
        _keep_channels_last(self)
        self.trainable = trainable

    def relative_ranks(self, rows: Tensor) -> Tensor:
        """Returns ranks / n (b, n) of scores (b, n)."""
        if self.training and len(rows) * self.positions == 1:
            raise ValueError(
                "scores must have two rows or more in training mode, where the last block's batch "
                "statistics are those of one position of every row; got 1"
            )
        hidden = conv_stack(rows.unsqueeze(1), list(self.blocks))
        if self.padding == "same":
            return self.linear(hidden.mT).squeeze(-1)
        return self.linear(hidden.flatten(1))

    def arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments that make this network."""
        return {
            "length": self.length,
            "depth": len(self.kernel_sizes),
            "channels": self.channels,
            "kernel_sizes": self.kernel_sizes,
            "normalize": self.normalize,
            "padding": self.padding,
        }


def _default_kernel_sizes(length: int, depth: int, padding: str) -> list[int]:
    """Returns the sizes of kernels that together see the whole row."""
    if padding == "same":
        whole = min(2, depth - 1)
        return [2 * length - 1 if i == whole else 1 for i in range(depth)]
    short, longer = divmod(length - 1, depth)
    return [1 + short + (i < longer) for i in range(depth)]


@torch.no_grad()
def _begin_with_comparisons(blocks: nn.Sequential, length: int) -> None:
    """Initializes blocks that keep all positions near a network that ranks.

    Random weights are far from it: a kernel would weight every distance differently, where a rank
    weights all the same.
    """
    convs = [layer for layer in blocks.modules() if isinstance(layer, nn.Conv1d)]
    norms = [layer for layer in blocks.modules() if isinstance(layer, nn.BatchNorm1d)]
    if convs[0].kernel_size == (1,):
        # Rising and falling, at thresholds over two standard deviations on either side.
        signs = 1 - 2 * (torch.arange(convs[0].out_channels) % 2)
        convs[0].weight.copy_(signs[:, None, None])
        norms[0].bias.copy_(torch.linspace(-2, 2, convs[0].out_channels))
    for conv in convs:
        size = conv.kernel_size[0]
        if size > 1:
            mixing, own = torch.randn(2, *conv.weight.shape[:2]) * conv.in_channels**-0.5
            conv.weight.copy_(mixing.unsqueeze(-1).expand_as(conv.weight))
            # The sum of n features varies sqrt(n) times as much as one; the position's own has to
            # stand out. (Of 1, 4 and 15 times as much, 4 trained best.)
            conv.weight[..., (size - 1) // 2] += 4 * length**0.5 * own


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

    The "cnn" of the program released with SoDeep (Engilberge et al., CVPR 2019), with the same
    state dict names; it is not the network of the paper. Its last kernel leaves one position only
    for rows of 100 scores.

    Arguments:
        normalize: divide the ranks by n. Default: True.
        trainable: whether the weights require gradients; see `LearnedSorter`. Default: False.

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
        _keep_channels_last(self)
        self.trainable = trainable

    def relative_ranks(self, rows: Tensor) -> Tensor:
        """Returns ranks / n (b, n) of scores (b, n)."""
        return conv_stack(rows.unsqueeze(1), list(self.children())).squeeze(-1).sigmoid()

    def arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments that make this network."""
        return {"normalize": self.normalize}


def _keep_channels_last(network: nn.Module) -> None:
    """Lays kernels out in memory as `conv_stack` reads them, which saves a copy at every call.

    Also after loading, which may replace the tensors that were laid out.
    """
    _lay_out(network)
    network.register_load_state_dict_post_hook(_lay_out)


def _lay_out(network: nn.Module, *_: Any) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv1d):
            layer.weight.data = layer.weight.data.transpose(1, 2).contiguous().transpose(1, 2)
