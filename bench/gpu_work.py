"""Counts the work of the GPU kernels, and from it the time that an H200 should take.

The head of each kernel's file counts and explains the instructions per pair; here they give the
expected time of any row of a benchmark. None of this is measured.
"""

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass

from torch import nn

from sodeep_fast.benchmark.conv_stack import make_blocks
from sodeep_fast.benchmark.model import Shape
from sodeep_fast.benchmark.rank_counts import targets_of
from sodeep_fast.benchmark.soft_histogram import BINS
from sodeep_fast.kernels import _config, _layouts

ARCH = 90
MULTIPROCESSORS = 132
CLOCK = 1.98e9
RATES = {
    "bytes": 4.3e12,  # read and written
    "instructions": 3.3e13,  # of a thread: 128 a cycle on each multiprocessor
    "specials": 4.2e12,  # special-function results: 16 a cycle on each
    "float32": 5e13,  # FLOP of products that are not
    "tensor": 7.9e14,  # FLOP of products of half types
    "cached": 5.5e12,  # bytes from the second-level cache, as published of an H100
    "steps": 1.0,  # seconds of sequential steps, which overlap with memory traffic
}
MMA = 2540  # FLOP a cycle of a multiprocessor by mma.sync, 62 % of what its tensor cores have
OVERLAPPING = ("bytes", "instructions", "specials", "tensor", "cached", "steps")
LAUNCH = 2e-6


@dataclass(frozen=True)
class Work:
    """What a call does.

    Arguments:
        bytes: read and written, at least.
        flop: floating-point operations of the equations; a special function counts as one.
        instructions: of a thread, as compiled for sm_90.
        specials: results of the special-function units.
        tensor: FLOP on tensor cores.
        cached: bytes read from the second-level cache.
        steps: seconds of the steps of a recurrence.
        launches: of kernels, PyTorch's own among them.
        besides: seconds of what does not overlap with the rest.
    """

    bytes: float = 0.0
    flop: float = 0.0
    instructions: float = 0.0
    specials: float = 0.0
    tensor: float = 0.0
    cached: float = 0.0
    steps: float = 0.0
    launches: int = 1
    besides: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        both = zip(astuple(self), astuple(other), strict=True)
        return Work(*(mine + others for mine, others in both))

    def seconds(self) -> float:
        """Returns an H200's time: the slowest of what overlaps, the launches, and the rest."""
        slowest = max(getattr(self, name) / RATES[name] for name in OVERLAPPING)
        return slowest + self.launches * LAUNCH + self.besides


def _up(value: int, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple


def soft_rank(route: str, mode: str, shape: Shape) -> Work:
    """Counts kernels/soft_rank.py and csrc/cuda/soft_rank_*.cuh; forward or backward."""
    rows, n = shape
    backward = mode == "backward"
    items, pairs = rows * n, float(rows) * n * n
    moved, flop = (12 if backward else 8) * items, (10 if backward else 6) * pairs
    if route == "cuda-linear":
        # Twice the instructions: of 200 blocks, some multiprocessors have two and others one.
        # Planning and combining take another 12 us.
        moved, flop = (28 if backward else 16) * items, (72 if backward else 36) * items
        instructions = 2.0 * (560 if backward else 340) * items
        return Work(moved, flop, instructions, launches=5, besides=12e-6)
    if route == "cuda-direct":
        padded = float(rows) * _up(n, 32 if n <= 64 else 128) * n
        return Work(moved, flop, (12 if backward else 8) * padded, 0.5 * padded)
    blocks = _config.pairwise_blocks(False, n, ARCH)
    padded = float(_up(rows, blocks.rows)) * _up(n, blocks.targets) * _up(n, 2 * blocks.sources)
    per_pair = SOFT_RANK_INSTRUCTIONS[mode][n > 2048]
    return Work(moved, flop, per_pair * padded, 1.5 * padded)


# By whether the row is long.
SOFT_RANK_INSTRUCTIONS = {"forward": (22, 19), "backward": (28, 25)}


def count_pairs(mode: str, shape: Shape, targets: int) -> Work:
    """Counts kernels/rank_counts.py with SupAP's comparators; forward or backward."""
    rows, n = shape
    backward = mode == "backward"
    items = rows * n
    pairs = float(items) * targets
    most = _config.counts_blocks(False, n, targets, 1, ARCH).targets
    moved = (9 if backward else 5) * items + 8 * rows * targets
    per_pair = RANK_COUNTS_INSTRUCTIONS[mode]
    if backward and targets > most:  # a walk for the targets' own sums, and one for the items'
        per_pair = 28 + 36
    # The backward's second kernel has no work for rows whose targets fit in the first.
    launches = 2 if backward else 1
    flop = (10 if backward else 6) * pairs
    return Work(moved, flop, per_pair * pairs, 1.5 * pairs, launches=launches)


def rank_counts(route: str, mode: str, shape: Shape) -> Work:
    """Counts the public function, which finds the targets, unless they were found before."""
    work = count_pairs(mode, shape, targets_of(shape))
    if "found" in route or mode == "backward":
        return work
    # PyTorch's nonzero, arange and searchsorted; the host waits for the first.
    return work + Work(launches=8, besides=20e-6)


RANK_COUNTS_INSTRUCTIONS = {"forward": 33, "backward": 34}


def soft_histogram(route: str, mode: str, shape: Shape) -> Work:
    """Counts kernels/soft_histogram.py and AP_Q above it, which only adds launches."""
    rows, n = shape
    items, levels = rows * n, 2
    slices = math.ceil(n / _config.HISTOGRAM_SLICE)
    if mode == "backward":
        return Work(9 * items, 3 * items, launches=1) + Work(launches=14)
    blocks = _config.histogram_blocks(False, n, BINS, ARCH)
    tile = min(n, _config.HISTOGRAM_SLICE)
    padded = float(rows) * slices * _up(tile, blocks.items) * levels * _up(BINS, blocks.bins)
    work = Work(5 * levels * items, 5.0 * items * levels * BINS, 28 * padded)
    return work + Work(launches=10 + (slices > 1))


def hard_rank(route: str, mode: str, shape: Shape) -> Work:
    """Counts PyTorch's operators in `ops/hard_rank.py`, which has no kernel of its own on a GPU.

    Long rows take four radix passes, of a byte each, over (key, index) pairs of 12 bytes; short
    ones take one. Twenty operators on masks, positions and ranks move 190 bytes per item.
    """
    items = shape[0] * shape[1]
    sort = 30 if shape[1] <= 4096 else 100
    return Work((sort + 190) * items, launches=25 if shape[1] <= 4096 else 40)


def lstm_products(hidden: int, layers: int, batch: int, n: int) -> float:
    """Returns the FLOP of the products of one pass of an LSTM over scores."""
    numbers = float(batch * n * 2 * hidden)
    return layers * 8 * numbers * hidden + (layers - 1) * 16 * numbers * hidden


def lstm(
    hidden: int, layers: int, shape: Shape, backward: bool, saves: bool, route: str = "triton"
) -> Work:
    """Counts the layers of kernels/bilstm.py or, for "cuda", csrc/cuda/bilstm.cu, in a half type.

    A step takes between the time with full overlap of products, special functions and instructions
    and the time without any; here it is halfway. A larger tile or wave multiplies it.
    """
    rows, n = shape
    padded = _layouts.lstm_padded(hidden)
    by_cuda = route.startswith("cuda")
    tile = 8 if by_cuda else _config.lstm_blocks(backward, False, True, rows, ARCH).rows
    programs = 2 * math.ceil(rows / tile)
    cells = tile * padded
    # Cycles of the special functions, of the issued instructions, and of the products.
    special = (2 if backward else 7) * cells / 16
    if by_cuda:
        issued = (710 if backward else 600) * cells / 1024
        # One factor is in registers, the other in shared memory, which every warp reads.
        products = [8 * padded**2 * tile / MMA, (4 if backward else 1) * padded**2 / 128]
    else:
        issued = (1020 if backward else 800) * cells / 1024
        products = [8 * padded**2 / 128]  # bytes of shared memory, 128 a cycle
    parts = [*products, special, issued]
    step = (max(parts) + sum(parts)) / 2 / CLOCK
    steps = n * math.ceil(programs / MULTIPROCESSORS) * step
    numbers = float(rows * n * 2 * hidden)
    states = 4 * numbers
    moved = states + (10 * numbers if saves or backward else 0) + (states if backward else 0)
    inputs = 2 * 8 * numbers * hidden  # the next layer's, a product of PyTorch's
    again = states if backward else 0.0  # the row maxima, which scale what is rounded to float16
    flop = 8 * numbers * hidden
    launches, besides = 3 if backward else 1, again / RATES["bytes"]
    total = Work(moved, flop, tensor=flop, steps=steps, launches=launches, besides=besides)
    for _ in range(layers - 1):
        # The products of the inputs come before the steps.
        product = Work(24 * numbers, tensor=inputs, launches=2)
        total += Work(moved, flop, tensor=flop, steps=steps, launches=launches, besides=besides)
        total += Work(flop=inputs, launches=0, besides=product.seconds())
    return total


def bilstm(route: str, mode: str, shape: Shape) -> Work:
    """Counts a layer of 128 units and its projection: a product, a bias, and copies."""
    backward = mode == "backward"
    projection = 4.0 * 256 * shape[0] * shape[1] / RATES["bytes"]
    layer = lstm(128, 1, shape, backward, saves=True, route=route)
    return layer + Work(launches=4, besides=projection)


# Cycles of a single step of a convolution's loop: products, barriers and loads.
CONV_STEP = 300


def conv_stack(rows: int, backward: bool) -> Work:
    """Counts kernels/conv_stack.py, of the released network for rows of 100 scores, in float16.

    Blocks follow one another, each as slow as the slowest of its parts.
    """
    total = Work(launches=0)
    positions = 100
    for block in make_blocks(100):
        conv = next(layer for layer in block.modules() if isinstance(layer, nn.Conv1d))
        entering, positions = positions, positions - conv.kernel_size[0] + 1
        flop = 2.0 * rows * positions * conv.weight.numel()
        numbers = rows * (entering * conv.in_channels + positions * conv.out_channels)
        left, width, depth = positions, conv.out_channels, conv.in_channels * conv.kernel_size[0]
        if backward:
            left, width, depth = entering, conv.in_channels, conv.weight.numel() // conv.in_channels
            if positions == 1:  # a product
                left, width, depth = 1, entering * conv.in_channels, conv.out_channels
        align = math.gcd(width, conv.out_channels if backward else conv.in_channels, 8)
        tile = _config.conv_blocks(False, rows * left, width, depth, align, ARCH)
        programs = math.ceil(rows * left / tile.positions) * math.ceil(width / tile.channels)
        read = 2.0 * (tile.positions + tile.channels) * _up(depth, tile.depth)
        product = 2.0 * tile.positions * tile.channels * _up(depth, tile.depth)
        work = Work(
            # Half types, and an eighth of a byte for each sign.
            2.125 * numbers + 2 * conv.weight.numel(),
            tensor=programs * product,
            cached=programs * read,
            steps=math.ceil(depth / tile.depth) * CONV_STEP / CLOCK,
            launches=0,
        )
        total += Work(work.bytes, flop, launches=1, besides=work.seconds())
    return total


COUNTS: dict[str, Callable[[str, str, Shape], Work]] = {
    function.__name__: function
    for function in (soft_rank, rank_counts, soft_histogram, hard_rank, bilstm)
}


def passes_of(operator: str, route: str, mode: str, shape: Shape) -> list[Work]:
    """Returns the work of each pass of a mode, by a route such as "triton-direct"."""
    passes = ("forward", "backward") if mode == "both" else (mode,)
    return [COUNTS[operator](route, each, shape) for each in passes]
