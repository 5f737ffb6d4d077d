"""Block sizes, as data: one row per operator, architecture and size of row.

A table row gives the rows, targets and sources that one program holds at a time, the number of
warps, and where these numbers come from. `bench/gpu_sweep.py` measures candidates and prints rows
to add, anywhere in the table it names.
"""

import functools
from typing import Any, NamedTuple

from sodeep_fast.kernels._layouts import power_above


class Blocks(NamedTuple):
    """The tile of one program of a pairwise kernel."""

    rows: int
    targets: int
    sources: int
    warps: int


class CountsBlocks(NamedTuple):
    """The tile of one program of the rank counts: targets of one row, levels, items."""

    targets: int
    levels: int
    items: int
    warps: int


class HistogramBlocks(NamedTuple):
    """The tile of one program of the histogram's forward."""

    items: int
    bins: int
    warps: int


class LstmBlocks(NamedTuple):
    """The tile of one program of the LSTM: its rows, and the hidden units of a warp."""

    rows: int
    units: int

    def warps(self, padded: int) -> int:
        """Returns the number of warps for `padded` hidden units, at most 8."""
        return min(8, padded // self.units)


class ConvBlocks(NamedTuple):
    """The tile of one program of a convolution: its sums, and the terms of each per step."""

    positions: int
    channels: int
    depth: int
    warps: int
    stages: int

    @property
    def registers(self) -> int | None:
        """Returns MAX_REGISTERS, or None where the sums alone need as many registers."""
        return MAX_REGISTERS if self.positions * self.channels <= 1024 else None


class Entry(NamedTuple):
    """Blocks for rows of at most `n` elements, on GPUs of compute capability `arch` (0: any)."""

    arch: int
    n: int
    blocks: Blocks | CountsBlocks | HistogramBlocks | LstmBlocks | ConvBlocks
    provenance: str


def entries_of(table: tuple[Entry, ...], arch: int) -> list[Entry]:
    """Returns the rows for `arch`, shortest first; its own rows replace general ones of equal n."""
    found = {entry.n: entry for kind in (0, arch) for entry in table if entry.arch == kind}
    return [found[n] for n in sorted(found)]


def _blocks(table: tuple[Entry, ...], n: int, arch: int) -> Any:
    """Returns the tile for rows of `n` elements."""
    return next(entry.blocks for entry in entries_of(table, arch) if n <= entry.n)


UNLIMITED = 1 << 62

# With this limit the assembler spills none; by default it aims for an occupancy that these kernels
# do not need, and spills a few. 16 warps still fit on a multiprocessor.
MAX_REGISTERS = 128

# A program takes two tiles of sources at a time, 2 to 4 pairs of each per thread: their running
# values fit in about 64 registers, so that 32 warps or so live on a multiprocessor. Targets lie
# along the lanes of a warp, so a target's sum needs no shuffles; short rows pack several to a tile.
PAIRWISE_FLOAT32 = (
    Entry(0, 16, Blocks(8, 16, 4, 8), "untuned, chosen by count of registers"),
    # (512, 100): 2048 programs of 32 targets by 7 x 16 sources, in two waves of 132 x 9.
    Entry(0, 2048, Blocks(1, 32, 8, 4), "untuned, chosen by count of programs per wave"),
    # Each program scans its row once before it sums: 128 targets make that scan 1% of the work.
    Entry(0, UNLIMITED, Blocks(1, 128, 8, 8), "untuned, chosen by count of pairs per thread"),
)

# A value takes two registers.
PAIRWISE_FLOAT64 = (
    Entry(0, 16, Blocks(4, 16, 4, 8), "untuned, chosen by count of registers"),
    Entry(0, UNLIMITED, Blocks(1, 32, 8, 4), "untuned, chosen by count of registers"),
)

# The most targets and levels that a program of the rank counts takes at a time. A thread has two
# items, which share a division.
COUNTS_FLOAT32 = (
    Entry(0, 128, CountsBlocks(4, 4, 64, 1), "untuned, chosen by count of registers"),
    Entry(0, UNLIMITED, CountsBlocks(4, 4, 256, 4), "untuned, chosen by count of registers"),
)
COUNTS_FLOAT64 = (
    Entry(0, 128, CountsBlocks(1, 4, 64, 1), "untuned, chosen by count of registers"),
    Entry(0, UNLIMITED, CountsBlocks(1, 4, 256, 4), "untuned, chosen by count of registers"),
)
# The most targets times levels: a thread has three running values for each.
COUNTS_SUMS = 8
# Approximate number of programs of the backward's second kernel: about 15 for each place on 132
# multiprocessors that hold four of them.
COUNTS_PROGRAMS = 1 << 13

# On CUDA, method="auto" picks the linear method from this many pairs (rows x n^2) on. Its forward
# and backward are ten launches of about 2 us; direct takes some 3e-13 s a pair for both on an H200
# (half a special-function result each, of 16 a cycle on each of 132 multiprocessors). Untuned.
LINEAR_FROM_PAIRS = 1 << 26


def pairwise_entries(float64: bool, arch: int) -> list[Entry]:
    """Returns the rows for `arch`; see `entries_of`."""
    return entries_of(PAIRWISE_FLOAT64 if float64 else PAIRWISE_FLOAT32, arch)


@functools.cache
def pairwise_blocks(float64: bool, n: int, arch: int) -> Blocks:
    """Returns the tile for rows of `n` elements."""
    return _blocks(PAIRWISE_FLOAT64 if float64 else PAIRWISE_FLOAT32, n, arch)


@functools.cache
def counts_blocks(float64: bool, items: int, targets: int, levels: int, arch: int) -> CountsBlocks:
    """Returns the tile for rows of `items` items with, on average, `targets` targets.

    Arguments:
        float64: whether it is computed in float64.
        items: per row.
        targets: per row, rounded up.
        levels: the number of levels for which each target has separate sums.
        arch: compute capability, times ten.
    """
    most = _blocks(COUNTS_FLOAT64 if float64 else COUNTS_FLOAT32, items, arch)
    levels = min(power_above(levels), most.levels)
    targets = min(power_above(targets), most.targets, COUNTS_SUMS // levels)
    return most._replace(targets=targets, levels=levels)


def prefers_linear(rows: int, n: int) -> bool:
    """Returns whether the linear method is expected to beat the direct one on a GPU."""
    return n >= 1024 and rows * n * n >= LINEAR_FROM_PAIRS


# Items that one program sums, in a few hundred sequential steps, so that float32 sums stay short
# and rows of a batch are one slice each. Untuned.
HISTOGRAM_SLICE = 8192


# The most bins that a program takes at a time; at most 16 registers of sums a thread.
HISTOGRAM_FLOAT32 = (
    Entry(0, 32, HistogramBlocks(32, 32, 2), "untuned, chosen by count of registers"),
    Entry(0, UNLIMITED, HistogramBlocks(64, 32, 4), "untuned, chosen by count of registers"),
)
HISTOGRAM_FLOAT64 = (
    Entry(0, UNLIMITED, HistogramBlocks(32, 32, 4), "untuned, chosen by count of registers"),
)


@functools.cache
def histogram_blocks(float64: bool, n: int, bins: int, arch: int) -> HistogramBlocks:
    """Returns the tile for rows of `n` items."""
    most = _blocks(HISTOGRAM_FLOAT64 if float64 else HISTOGRAM_FLOAT32, n, arch)
    return most._replace(bins=min(most.bins, max(16, power_above(bins))))


def histogram_items(n: int) -> int:
    """Returns how many items one program of the histogram's backward takes. Untuned."""
    return max(32, min(1024, power_above(n)))


# A tensor core instruction takes at least 8 rows; 528 rows make 132 programs for both directions,
# one for each multiprocessor of an H200, where a second one does not fit.
LSTM_FORWARD_HALF = (
    Entry(0, 528, LstmBlocks(8, 16), "untuned, chosen by count of programs per wave"),
    Entry(0, UNLIMITED, LstmBlocks(16, 16), "untuned, chosen by count of registers"),
)
# For inputs of several features: their products, prefetched for the next step, fill registers.
LSTM_PRODUCTS_HALF = (Entry(0, UNLIMITED, LstmBlocks(8, 16), "untuned, chosen by registers"),)
LSTM_BACKWARD_HALF = (Entry(0, UNLIMITED, LstmBlocks(8, 16), "untuned, chosen by registers"),)
# For both passes.
LSTM_FULL = (Entry(0, UNLIMITED, LstmBlocks(8, 8), "untuned, chosen by registers"),)


def lstm_table(backward: bool, full: bool, scalar: bool) -> tuple[Entry, ...]:
    """Returns the table of a pass in float32 (`full`) or in a half type, by the number of rows.

    Arguments:
        backward: whether it is the backward.
        full: whether it multiplies in float32.
        scalar: whether the input has one feature, which matters in the forward.
    """
    if full:
        return LSTM_FULL
    forward = LSTM_FORWARD_HALF if scalar else LSTM_PRODUCTS_HALF
    return LSTM_BACKWARD_HALF if backward else forward


@functools.cache
def lstm_blocks(backward: bool, full: bool, scalar: bool, batch: int, arch: int) -> LstmBlocks:
    """Returns the tile for `batch` rows; see `lstm_table`."""
    return _blocks(lstm_table(backward, full, scalar), batch, arch)


# By the number of positions of all rows. Few positions are split among as many programs as
# possible, in long steps, as the GPU then waits for memory. Many use the tile that reads each
# number least often; three stages of it fit in the 99 KB of shared memory of the smaller GPUs.
CONV_HALF = (
    Entry(0, 4096, ConvBlocks(16, 32, 128, 4, 3), "untuned, chosen by count of programs per wave"),
    Entry(0, UNLIMITED, ConvBlocks(128, 128, 64, 8, 3), "untuned, chosen by shared memory"),
)
CONV_FULL = (
    Entry(0, 4096, ConvBlocks(16, 32, 64, 4, 3), "untuned, chosen by count of programs per wave"),
    Entry(0, UNLIMITED, ConvBlocks(128, 64, 32, 8, 3), "untuned, chosen by count of registers"),
)
# Below this, numbers are moved one or two at a time, and a large tile needs more addresses than
# registers.
CONV_ALIGN = 4


@functools.cache
def conv_blocks(
    full: bool, positions: int, width: int, depth: int, align: int, arch: int
) -> ConvBlocks:
    """Returns the tile for a number of positions of all rows.

    Arguments:
        full: whether it multiplies in float32.
        positions: of all rows.
        width: sums at each position.
        depth: terms of each sum.
        align: numbers that are moved at a time: a divisor of the channels of a position, at most 8.
        arch: compute capability, times ten.
    """
    most = _blocks(CONV_FULL if full else CONV_HALF, positions, arch)
    channels, depth = (max(16, power_above(value)) for value in (width, depth))
    if align < CONV_ALIGN:
        most, depth = most._replace(positions=min(most.positions, 64)), 16
        channels = min(channels, 32)
    return most._replace(channels=min(most.channels, channels), depth=min(most.depth, depth))
