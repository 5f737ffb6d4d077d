"""Block sizes, as data: one row per operator, architecture and size of row.

A row says how many rows, targets and sources one program holds at a time, with how many warps, and
where those numbers come from. `bench/gpu_sweep.py` measures candidates and prints rows to put here.
"""

import functools
from typing import NamedTuple


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


class Entry(NamedTuple):
    """Blocks for rows of at most `n` elements, on GPUs of compute capability `arch` (0: any)."""

    arch: int
    n: int
    blocks: Blocks | CountsBlocks
    provenance: str


UNLIMITED = 1 << 62

# Told that it may use so many, the assembler spills none; left to itself it aims for an occupancy
# that these kernels do not need and spills a few. 16 warps still live on a multiprocessor.
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

# Two registers a value.
PAIRWISE_FLOAT64 = (
    Entry(0, 16, Blocks(4, 16, 4, 8), "untuned, chosen by count of registers"),
    Entry(0, UNLIMITED, Blocks(1, 32, 8, 4), "untuned, chosen by count of registers"),
)

# The most targets and levels that a program of the rank counts takes at a time; two items a thread,
# which share a division.
COUNTS_FLOAT32 = (
    Entry(0, 128, CountsBlocks(4, 4, 64, 1), "untuned, chosen by count of registers"),
    Entry(0, UNLIMITED, CountsBlocks(4, 4, 256, 4), "untuned, chosen by count of registers"),
)
COUNTS_FLOAT64 = (
    Entry(0, 128, CountsBlocks(1, 4, 64, 1), "untuned, chosen by count of registers"),
    Entry(0, UNLIMITED, CountsBlocks(1, 4, 256, 4), "untuned, chosen by count of registers"),
)
# The most targets times levels: a thread has three running values for each, and for two items.
COUNTS_SUMS = 8
# Programs of the backward's second kernel, about: some 15 for each place on 132 multiprocessors
# that hold four of them.
COUNTS_PROGRAMS = 1 << 13

# method="auto" on CUDA takes the linear method from so many pairs (rows x n^2) on. Its forward and
# backward are ten launches of about 2 us; direct takes some 3e-13 s a pair for both on an
# H200 (half a special-function result each, of 16 a cycle on each of 132 multiprocessors). Untuned.
LINEAR_FROM_PAIRS = 1 << 26


def pairwise_entries(float64: bool, arch: int) -> list[Entry]:
    """Returns the rows for `arch`, or for any architecture where it has none of its own."""
    table = PAIRWISE_FLOAT64 if float64 else PAIRWISE_FLOAT32
    known = any(entry.arch == arch for entry in table)
    return [entry for entry in table if entry.arch == (arch if known else 0)]


@functools.cache
def pairwise_blocks(float64: bool, n: int, arch: int) -> Blocks:
    """Returns the tile for rows of `n` elements."""
    return next(entry.blocks for entry in pairwise_entries(float64, arch) if n <= entry.n)


@functools.cache
def counts_blocks(float64: bool, items: int, targets: int, levels: int) -> CountsBlocks:
    """Returns the tile for rows of `items` items with, on average, so many targets.

    Arguments:
        float64: whether it is computed in float64.
        items: per row.
        targets: per row, rounded up.
        levels: how many levels each target's sums are kept apart by.
    """
    table = COUNTS_FLOAT64 if float64 else COUNTS_FLOAT32
    most = next(entry.blocks for entry in table if items <= entry.n)
    levels = min(_power_of_two(levels), most.levels)
    targets = min(_power_of_two(targets), most.targets, COUNTS_SUMS // levels)
    return most._replace(targets=targets, levels=levels)


def _power_of_two(value: int) -> int:
    """Returns the least power of two that is not below `value`."""
    return 1 << (value - 1).bit_length()


def prefers_linear(rows: int, n: int) -> bool:
    """Returns whether the linear method is expected to beat the direct one on a GPU."""
    return n >= 1024 and rows * n * n >= LINEAR_FROM_PAIRS


class HistogramBlocks(NamedTuple):
    """The tile of one program of the histogram's forward."""

    items: int
    bins: int
    warps: int


# Items that one program sums: one after the other 128 times, so that float32 sums stay short, and
# rows of a batch are one slice each. Untuned.
HISTOGRAM_SLICE = 8192


def histogram_blocks(float64: bool, n: int, bins: int) -> HistogramBlocks:
    """Returns the tile for rows of `n` items: at most 16 registers of sums a thread. Untuned."""
    items = 32 if float64 or n <= 32 else 64
    return HistogramBlocks(items, 16 if bins <= 16 else 32, 4 if items == 64 or float64 else 2)


def histogram_items(n: int) -> int:
    """Returns how many items one program of the histogram's backward takes. Untuned."""
    return max(32, min(1024, 1 << (n - 1).bit_length()))
