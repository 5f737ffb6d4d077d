"""How GPU kernels lay out what they save and share, and the memory that they need.

This module does not need Triton, so that operators can use it before Triton is imported.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

# Rows that lie next to each other in what the forward saves: the fewest that a program takes.
LSTM_GRANULE = 8
# Numbers that it saves of a step and a unit, i, f, g, o and c: Saved::kNumbers of
# csrc/cuda/bilstm_tile.cuh.
LSTM_SAVED = 5
# Bytes of shared memory that the kernels need at most besides the recurrent weights, as compiled
# for sm_80, 90 and 100.
LSTM_SHARED = 12 << 10
# Of a block: weight, bias; mean, variance, gain and shift of its normalization; slope.
CONV_PARAMETERS = 7


def power_above(value: int) -> int:
    """Returns the least power of two that is not below `value`."""
    return 1 << (value - 1).bit_length()


def lstm_padded(hidden: int) -> int:
    """Returns the hidden units that the kernels compute, those beyond `hidden` being 0."""
    return max(16, power_above(hidden))


def lstm_shared_bytes(hidden: int, full: bool) -> int:
    """Returns the shared memory of a program that holds the recurrent weights of a direction.

    In a half type, or for products in float32 (`full`) as two float32 parts.
    """
    return 4 * lstm_padded(hidden) ** 2 * (8 if full else 2) + LSTM_SHARED


def lstm_saved_shape(steps: int, batch: int, hidden: int) -> tuple[int, ...]:
    """Returns the shape of what the forward saves of every step and row."""
    granules = (batch + LSTM_GRANULE - 1) // LSTM_GRANULE
    return (2, steps, granules, LSTM_SAVED, lstm_padded(hidden), LSTM_GRANULE)


def conv_entering(leaving: int, parameters: Sequence[Any], paddings: Sequence[int]) -> int:
    """Returns the positions of the inputs of blocks from those of what they return."""
    return leaving - sum(_steps(parameters, paddings))


def conv_layout(
    entering: int, parameters: Sequence[Any], paddings: Sequence[int], relus: Sequence[bool]
) -> tuple[list[int], list[int]]:
    """Returns how blocks lay out a row.

    Arguments:
        entering: positions of the inputs.
        parameters: CONV_PARAMETERS of each block.
        paddings: zeros on the left and on the right of each.
        relus: whether its activation is a ReLU.

    Returns:
        the positions before and after every block, and where each one's signs begin among the bytes
        of a row, followed by how many these are.
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
