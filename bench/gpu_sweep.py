"""Measures block sizes of the Triton kernels, and where the linear method overtakes them.

Prints rows for the tables in kernels/_config.py, each below the name of its table. Candidates are
compiled first, in parallel processes that fill Triton's cache. Without a GPU it says so and
measures nothing; --dry runs its logic on the CPU, under TRITON_INTERPRET=1, at a tiny size.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import gpu_budget
from bench.gpu_budget import Budget
from sodeep_fast.benchmark.conv_stack import make_blocks
from sodeep_fast.benchmark.measure import Call, interleave, quantiles
from sodeep_fast.comparators import ByLevel, encode
from sodeep_fast.kernels import _config
from sodeep_fast.kernels._config import (
    Blocks,
    ConvBlocks,
    CountsBlocks,
    Entry,
    HistogramBlocks,
    LstmBlocks,
)

LAM = 10.0
CROSSOVER = [(rows, n) for rows in (1, 8, 64, 512) for n in (1024, 4096, 16384, 65536)]


@dataclass(frozen=True)
class Sweep:
    """Candidates for one row of a table: what serves rows of at most `n` elements.

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
    """Returns what to measure: every row of every table, with candidates; what matters first."""
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
    # By the positions that blocks leave: of 16 rows few, of 512 rows many.
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
        # Few train in float64: what comes now may be left out for lack of time.
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


def set_table(sweep: Sweep, table: tuple[Entry, ...]) -> None:
    """Puts a table in the place of the sweep's."""
    setattr(_config, sweep.table, table)
    getattr(_config, sweep.setting).cache_clear()


def timed_calls(sweep: Sweep, device: str) -> dict[Any, Call]:
    """Returns forward and backward with each of the tiles."""
    scores = torch.rand(sweep.shape, dtype=sweep.dtype).to(device) * 2 - 1
    run = sweep.make(scores)

    def with_blocks(blocks: Any) -> Call:
        table = (Entry(0, _config.UNLIMITED, blocks, ""),)

        def call() -> None:
            set_table(sweep, table)
            run()

        return call

    return {blocks: with_blocks(blocks) for blocks in sweep.candidates}


def compile_one(task: tuple[int, int]) -> None:
    """Compiles the kernels for one tile of one sweep; run in a process of its own."""
    sweep = sweeps(tiny=False)[task[0]]
    # At its own shape: sizes that 16 divides, or that are 1, have kernels of their own.
    calls = timed_calls(sweep, "cuda")
    fits(calls[sweep.candidates[task[1]]])


def fits(call: Call) -> bool:
    """Makes a call; returns whether its tile fits the GPU's registers and shared memory."""
    from triton.runtime.errors import OutOfResources

    try:
        call()
    except OutOfResources:
        return False
    return True


def measure(device: str, seconds: float, budget: Budget) -> list[dict[str, Any]]:
    """Times every candidate; returns one result per candidate, fastest first in each sweep."""
    found = sweeps(tiny=device == "cpu")
    if device == "cpu":
        return [result for sweep in found for result in measure_one(sweep, device, seconds)]
    results = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(8, mp_context=spawn) as pool:
        named = budget.each(
            enumerate(found), lambda item: f"{item[1].operator} {item[1].dtype} {item[1].shape}"
        )
        for index, sweep in named:
            # All at once would take longer than there may be time; and nothing compiles beside
            # what is timed, for it runs on the GPU too.
            list(pool.map(compile_one, [(index, j) for j in range(len(sweep.candidates))]))
            results += measure_one(sweep, device, seconds)
    return results


def measure_one(sweep: Sweep, device: str, seconds: float) -> list[dict[str, Any]]:
    """Times every candidate of a sweep that fits; returns results, fastest first."""
    kept = getattr(_config, sweep.table)
    try:
        calls = {blocks: call for blocks, call in timed_calls(sweep, device).items() if fits(call)}
        samples = interleave(calls, seconds=seconds, min_rounds=1, max_rounds=20, device=device)
    finally:
        set_table(sweep, kept)
    medians = {blocks: quantiles(times)[1] for blocks, times in samples.items()}
    return [
        {
            "operator": sweep.operator,
            "table": sweep.table,
            "dtype": str(sweep.dtype),
            "n": sweep.n,
            "shape": sweep.shape,
            "tile": type(blocks).__name__,
            "blocks": blocks,
            "seconds": time,
        }
        for blocks, time in sorted(medians.items(), key=lambda item: item[1])
    ]


def crossover(seconds: float, budget: Budget) -> list[dict[str, Any]]:
    """Times all pairs (Triton) against the linear method (CUDA C++), forward and backward."""
    from sodeep_fast.ops.soft_rank import soft_rank

    results = []
    for shape in budget.each(CROSSOVER, lambda shape: f"crossover {shape}"):
        if shape[0] * shape[1] ** 2 > 1e12:
            continue
        scores = (torch.rand(shape) * 2 - 1).cuda().requires_grad_()

        def both(backend: str, method: str, scores: torch.Tensor = scores) -> object:
            ranks = soft_rank(scores, LAM, backend=backend, method=method)
            return torch.autograd.grad(ranks, scores, scores.detach())

        calls = {
            "direct": lambda both=both: both("triton", "direct"),
            "linear": lambda both=both: both("cuda", "linear"),
        }
        for call in calls.values():
            call()
        samples = interleave(calls, seconds=seconds, min_rounds=3, max_rounds=20, device="cuda")
        times = {name: quantiles(values)[1] for name, values in samples.items()}
        chosen = "linear" if _config.prefers_linear(*shape) else "direct"
        results.append({"shape": shape, **times, "chosen": chosen})
    return results


def best_threshold(results: list[dict[str, Any]]) -> int:
    """Returns the power of two of pairs from which "auto" should take the linear method.

    The one with which the shapes together take the least, each time over its faster method; rows
    of fewer than 1024 scores play no part, as in `_config.prefers_linear`.
    """

    def cost(threshold: int) -> float:
        total = 0.0
        for row in results:
            rows, n = row["shape"]
            taken = row["linear" if rows * n * n >= threshold else "direct"]
            total += taken / min(row["direct"], row["linear"])
        return total

    return min((1 << power for power in range(16, 42)), key=cost)


def lines_of(results: list[dict[str, Any]], arch: int, provenance: str) -> Iterator[str]:
    """Yields a row of a table for the fastest candidate of each sweep, its table's name before."""
    printed = set()
    for row in results:
        key = row["table"], row["n"]
        if key in printed:
            continue
        printed.add(key)
        bound = "UNLIMITED" if row["n"] == _config.UNLIMITED else row["n"]
        title = f"{row['operator']} {row['dtype']} {row['shape']}"
        yield f"# {row['table']}: {title}, {1e6 * row['seconds']:.1f} us"
        yield f'Entry({arch}, {bound}, {row["tile"]}{tuple(row["blocks"])}, "{provenance}"),'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write every measurement")
    parser.add_argument("--dry", action="store_true", help="on the CPU, at a tiny size")
    gpu_budget.add_argument(parser)
    options = parser.parse_args()
    budget = Budget(options.until)
    if not torch.cuda.is_available() and not options.dry:
        print("no GPU: measured nothing")
        return 0
    on_gpu = torch.cuda.is_available() and not options.dry
    arch, gpu = 0, "the CPU, in the interpreter"
    if on_gpu:
        major, minor = torch.cuda.get_device_capability()
        arch, gpu = 10 * major + minor, torch.cuda.get_device_name()
    provenance = f"{gpu}, {datetime.now(timezone.utc):%Y-%m-%d}, bench/gpu_sweep.py"
    results: dict[str, list[dict[str, Any]]] = {"crossover": []}
    if on_gpu:
        from sodeep_fast import _native

        if _native.HAS_CUDA:
            results["crossover"] = crossover(0.05, budget.share(0.25))
    results["blocks"] = measure("cuda" if on_gpu else "cpu", 0.05 if on_gpu else 0.0, budget)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    for row in results["crossover"]:
        faster = "direct" if row["direct"] < row["linear"] else "linear"
        print(
            f"{row['shape']!s:14} direct {1e6 * row['direct']:9.1f} us  linear "
            f"{1e6 * row['linear']:9.1f} us  faster {faster}, auto takes {row['chosen']}"
        )
    if results["crossover"]:
        power = best_threshold(results["crossover"]).bit_length() - 1
        print(f"LINEAR_FROM_PAIRS = 1 << {power}  # {provenance}")
    for line in lines_of(results["blocks"], arch, provenance):
        print(line)
    print(budget.report())
    return 0


if __name__ == "__main__":
    sys.exit(main())
