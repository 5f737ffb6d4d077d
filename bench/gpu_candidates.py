"""Which tiles of the Triton kernels are measured, for each row of the tables in kernels/_config.py.

`bench.gpu_sweep` measures them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sodeep_fast.benchmark.conv_stack import make_blocks
from sodeep_fast.benchmark.measure import Call
from sodeep_fast.benchmark.soft_rank import LAM
from sodeep_fast.comparators import ByLevel, encode
from sodeep_fast.kernels import _config
from sodeep_fast.kernels._config import (
    Blocks,
    ConvBlocks,
    CountsBlocks,
    HistogramBlocks,
    LstmBlocks,
)


@dataclass(frozen=True)
class Sweep:
    """Candidates for one row of a table, which serves rows of at most `n` elements.

    `make` takes scores and returns what to time; `table` is the name of the table in
    `kernels/_config.py`, `setting` the function that looks a tile up in it.
    """

    operator: str
    table: str
    setting: str
    make: Callable[[Tensor], Call]
    dtype: torch.dtype
    n: int
    shape: tuple[int, int]
    candidates: list[Any]


def ranks_call(scores: Tensor) -> Call:
    """Returns forward and backward of the soft rank, all pairs."""
    from sodeep_fast.kernels import soft_rank as kernels

    options = (None, LAM, False, "direct")
    return lambda: (
        kernels.soft_rank(scores, *options),
        kernels.soft_rank_backward(scores, scores, *options),
    )


def counts_call(scores: Tensor) -> Call:
    """Returns forward and backward of the rank counts of SupAP, 4 positives in a row."""
    from sodeep_fast.kernels import rank_counts as kernels

    rows = len(scores)
    chosen = torch.rand(scores.shape, device=scores.device).argsort(-1)[:, :4]
    levels = torch.zeros(scores.shape, dtype=torch.uint8, device=scores.device)
    levels.scatter_(-1, chosen, 1)
    columns = levels.nonzero()[:, 1]
    offsets = torch.arange(rows + 1, device=scores.device) * (len(columns) // rows)
    rest = (levels, columns, offsets, 2, *encode(ByLevel()), "direct")
    grad = torch.rand(len(columns), 2, dtype=scores.dtype, device=scores.device)
    return lambda: (
        kernels.rank_counts(scores, *rest),
        kernels.rank_counts_backward(grad, scores, *rest),
    )


def histogram_call(scores: Tensor) -> Call:
    """Returns the histogram of AP_Q; the backward has no tile to choose."""
    from sodeep_fast.kernels import soft_histogram as kernels

    levels = (torch.rand(scores.shape, device=scores.device) < 0.01).to(torch.uint8)
    return lambda: kernels.soft_histogram(scores, levels, 2, 20, -1.0, 1.0)


def lstm_call(
    scores: Tensor, passes: tuple[str, ...], hidden: int, products: str = "fp16", features: int = 1
) -> Call:
    """Returns the forward, the backward or both of a layer of the LSTM."""
    from sodeep_fast.kernels import bilstm as kernels

    lstm = torch.nn.LSTM(features, hidden, bidirectional=True).to(scores.device)
    weights = list(lstm.requires_grad_(False).parameters())
    layer = (scores.t().unsqueeze(-1).repeat(1, 1, features), weights, None)
    output, saved = kernels.bilstm_layer(*layer, True, products)
    calls = {
        "forward": lambda: kernels.bilstm_layer(*layer, True, products),
        "backward": lambda: kernels.bilstm_layer_backward(
            output, *layer, None, saved, True, products
        ),
    }
    return lambda: [calls[name]() for name in passes]


def conv_call(scores: Tensor, tiny: bool) -> Call:
    """Returns the values and the gradient of the scores of the released network, or of a block."""
    from sodeep_fast.ops.conv_stack import conv_stack

    blocks = make_blocks(100)
    blocks = [block.to(scores.device, scores.dtype) for block in blocks[: 1 if tiny else None]]
    leaf = scores.unsqueeze(1).requires_grad_()

    def call() -> Tensor:
        value = conv_stack(leaf, blocks, backend="triton")
        return torch.autograd.grad(value, leaf, torch.ones_like(value))[0]

    return call


def sweeps(tiny: bool) -> list[Sweep]:
    """Returns every row of every table with its candidates, the most important first."""
    single, double, any_length = torch.float32, torch.float64, _config.UNLIMITED

    def of_scores(
        operator: str, table: str, setting: str, make: Callable[[Tensor], Call]
    ) -> Callable[..., Sweep]:
        def sweep(dtype: torch.dtype, *rest: Any) -> Sweep:
            name = f"{table}_{'FLOAT64' if dtype == double else 'FLOAT32'}"
            return Sweep(operator, name, setting, make, dtype, *rest)

        return sweep

    def lstm(
        title: str, table: str, passes: tuple[str, ...], hidden: int = 128, **options: Any
    ) -> Callable[..., Sweep]:
        make = partial(lstm_call, passes=passes, hidden=4 if tiny else hidden, **options)
        return partial(Sweep, f"bilstm {title}", f"LSTM_{table}", "lstm_blocks", make, single)

    def conv(table: str, dtype: torch.dtype, *rest: Any) -> Sweep:
        make = partial(conv_call, tiny=tiny)
        return Sweep("conv_stack", f"CONV_{table}", "conv_blocks", make, dtype, *rest)

    ranks = of_scores("soft_rank", "PAIRWISE", "pairwise_blocks", ranks_call)
    counts = of_scores("rank_counts", "COUNTS", "counts_blocks", counts_call)
    histogram = of_scores("soft_histogram", "HISTOGRAM", "histogram_blocks", histogram_call)
    forward = lstm("forward", "FORWARD_HALF", ("forward",))
    backward = lstm("backward", "BACKWARD_HALF", ("backward",))
    features = 8 if tiny else 256  # of a layer above another
    several = lstm("of several features", "PRODUCTS_HALF", ("forward",), features=features)
    full = lstm("in float32", "FULL", ("forward", "backward"), 64, products="full")
    if tiny:
        tiles = [CountsBlocks(t, 4, 32, 1) for t in (1, 2)]
        return [
            ranks(single, any_length, (2, 20), [Blocks(1, 16, 4, 4), Blocks(2, 16, 8, 4)]),
            counts(single, any_length, (2, 20), tiles),
            counts(double, any_length, (2, 20), tiles),
            histogram(single, any_length, (2, 20), [HistogramBlocks(32, b, 1) for b in (16, 32)]),
            *(
                make(any_length, (9, 3), [LstmBlocks(rows, 16) for rows in (8, 16)])
                for make in (forward, backward, several, full)
            ),
            conv("HALF", torch.float16, any_length, (2, 9), [ConvBlocks(16, 16, 16, 4, 2)]),
            conv("FULL", single, any_length, (2, 9), [ConvBlocks(16, 16, 16, 4, 2)]),
        ]
    tiles = [CountsBlocks(t, 4, i, w) for t in (1, 2, 4) for i in (64, 256) for w in (1, 2, 4, 8)]
    recurrent = [LstmBlocks(r, u) for r in (8, 16, 32) for u in (16, 32)]
    # By the positions of all rows after a block: few for 16 rows, many for 512.
    few = [ConvBlocks(16, c, d, w, 3) for c in (16, 32, 64) for d in (64, 128) for w in (2, 4)]
    many = [
        ConvBlocks(p, c, 64, w, s)
        for p, c in ((64, 64), (128, 64), (128, 128), (128, 256))
        for w in (4, 8)
        for s in (3, 4)
    ]
    bins = [HistogramBlocks(i, b, w) for i in (32, 64, 128) for b in (16, 32) for w in (2, 4, 8)]
    return [
        ranks(
            single,
            16,
            (16384, 16),
            [Blocks(r, 16, j, w) for r in (4, 8, 16) for j in (4, 8) for w in (4, 8)],
        ),
        ranks(
            single,
            2048,
            (512, 100),
            [Blocks(1, i, j, w) for i in (32, 64, 128) for j in (4, 8, 16) for w in (2, 4, 8)],
        ),
        ranks(
            single,
            any_length,
            (8, 10_000),
            [Blocks(1, i, j, w) for i in (64, 128, 256) for j in (4, 8, 16) for w in (4, 8)],
        ),
        counts(single, 128, (4096, 100), tiles),
        counts(single, any_length, (4096, 4096), tiles),
        histogram(single, any_length, (4096, 4096), bins),
        *(
            make(batch, (shape, 100), recurrent)
            for make in (forward, backward)
            for batch, shape in ((528, 512), (any_length, 4096))
        ),
        several(any_length, (512, 100), recurrent),
        conv("HALF", torch.float16, 4096, (16, 100), few),
        conv("HALF", torch.float16, any_length, (512, 100), many),
        histogram(single, 32, (65536, 32), [HistogramBlocks(32, 32, w) for w in (1, 2, 4)]),
        # Few train in float64: what follows may be left out for lack of time.
        ranks(
            double,
            16,
            (16384, 16),
            [Blocks(r, 16, 4, w) for r in (2, 4, 8) for w in (4, 8)],
        ),
        ranks(
            double,
            any_length,
            (8, 4000),
            [Blocks(1, i, j, w) for i in (32, 64, 128) for j in (4, 8) for w in (4, 8)],
        ),
        counts(double, 128, (4096, 100), tiles),
        counts(double, any_length, (512, 4096), tiles),
        histogram(double, any_length, (512, 4096), bins),
        full(any_length, (512, 100), [LstmBlocks(r, u) for r in (8, 16) for u in (8, 16)]),
        conv("FULL", single, 4096, (16, 100), few),
        conv(
            "FULL",
            single,
            any_length,
            (512, 100),
            [ConvBlocks(p, c, 32, w, 3) for p in (64, 128) for c in (64, 128) for w in (4, 8)],
        ),
    ]
