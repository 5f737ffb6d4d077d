"""How GPU kernels lay out what they save and share, and the memory that they need.

This module does not need Triton, so that operators can use it before Triton is imported.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

# Rows that lie next to each other in what the forward saves: the smallest tile of a program.
LSTM_GRANULE = 8
# Numbers that the forward saves per step and unit, i, f, g, o and c: Saved::kNumbers of
# csrc/cuda/bilstm_tile.cuh.
LSTM_SAVED = 5
# The most bytes of shared memory that the kernels need besides the recurrent weights, as compiled
# for sm_80, 90 and 100.
LSTM_SHARED = 12 << 10
# A block has: weight, bias; mean, variance, gain and shift of its normalization; slope.
CONV_PARAMETERS = 7


def power_above(value: int) -> int:
    """Returns the smallest power of two that is not below `value`."""
    return 1 << (value - 1).bit_length()


def lstm_padded(hidden: int) -> int:
    """Returns the number of hidden units that the kernels compute; those beyond `hidden` are 0."""
    return max(16, power_above(hidden))


def lstm_shared_bytes(hidden: int, full: bool) -> int:
    """Returns the shared memory of a program that holds the recurrent weights of a direction.

    They are in a half type or, for products in float32 (`full`), in two float32 parts.
    """
    return 4 * lstm_padded(hidden) ** 2 * (8 if full else 2) + LSTM_SHARED


def lstm_saved_shape(steps: int, batch: int, hidden: int) -> tuple[int, ...]:
    """Returns the shape of what the forward saves for every step and row."""
    granules = (batch + LSTM_GRANULE - 1) // LSTM_GRANULE
    return (2, steps, granules, LSTM_SAVED, lstm_padded(hidden), LSTM_GRANULE)


def conv_entering(leaving: int, parameters: Sequence[Any], paddings: Sequence[int]) -> int:
    """Returns the number of input positions of blocks, from the number of output positions."""
    return leaving - sum(_steps(parameters, paddings))


def conv_layout(
    entering: int, parameters: Sequence[Any], paddings: Sequence[int], relus: Sequence[bool]
) -> tuple[list[int], list[int]]:
    """Returns how blocks lay out a row.

    Arguments:
        entering: positions of the inputs.
        parameters: CONV_PARAMETERS of each block.
        paddings: zeros on the left and on the right of each block.
        relus: for each block, whether its activation is a ReLU.

    Returns:
        the number of positions before and after every block; and the offset of each block's signs
        among the bytes of a row, followed by the number of these bytes.
    """
    positions = list(accumulate(_steps(parameters, paddings), initial=entering))
    of_blocks = range(0, len(parameters), CONV_PARAMETERS)
    sizes = []
    for first, relu, leaving in zip(of_blocks, relus, positions[1:], strict=True):
        bends = relu or parameters[first + CONV_PARAMETERS - 1] is not None
        sizes.append(leaving * ((parameters[first].shape[0] + 7) // 8) if bends else 0)
    return positions, list(accumulate(sizes, initial=0))


def _steps(parameters: Sequence[Any], paddings: Sequence[int]) -> list[int]:
    """Returns how many positions each block adds."""
    sizes = [weight.shape[2] for weight in parameters[::CONV_PARAMETERS]]
    return [
        left + right - size + 1
        for size, left, right in zip(sizes, paddings[::2], paddings[1::2], strict=True)
    ]
