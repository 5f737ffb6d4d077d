"""Measures block sizes of the Triton kernels, and where the linear method overtakes them.

Prints rows for the tables in kernels/_config.py, each below the name of its table. Candidates are
compiled first, in parallel processes that fill Triton's cache. Without a GPU it says so and
measures nothing; --dry runs its logic on the CPU, under TRITON_INTERPRET=1, at a tiny size.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from bench import gpu_budget
from bench.gpu_budget import Budget
from bench.gpu_candidates import Sweep, sweeps
from bench.gpu_crossover import best_threshold, crossover
from sodeep_fast.benchmark.measure import Call, interleave, quantiles
from sodeep_fast.kernels import _config
from sodeep_fast.kernels._config import Entry


def set_table(sweep: Sweep, table: tuple[Entry, ...]) -> None:
    """Replaces the sweep's table."""
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
    # At its own shape: Triton compiles separate kernels for sizes that are 1 or divisible by 16.
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
            # Compiling for all sweeps first might exceed the time. Nothing compiles during timing,
            # as compilation also runs on the GPU.
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


def lines_of(results: list[dict[str, Any]], arch: int, provenance: str) -> Iterator[str]:
    """Yields a table row for the fastest candidate of each sweep, below its table's name."""
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
