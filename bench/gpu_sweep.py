"""Measures block sizes of the Triton kernels, and where the linear method overtakes them.

Prints rows for the tables in kernels/_config.py. Candidates are compiled first, in parallel
processes that fill Triton's cache. Without a GPU it says so and measures nothing; --dry runs its
logic on the CPU, under TRITON_INTERPRET=1, at a tiny size.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from sodeep_fast.benchmark.measure import interleave, quantiles
from sodeep_fast.kernels import _config
from sodeep_fast.kernels._config import Blocks

LAM = 10.0
# Per upper end of a size bucket: the shape that stands for it, and candidate tiles.
FLOAT32 = {
    16: ((16384, 16), [Blocks(r, 16, j, w) for r in (4, 8, 16) for j in (4, 8) for w in (4, 8)]),
    2048: (
        (512, 100),
        [Blocks(1, i, j, w) for i in (32, 64, 128) for j in (4, 8, 16) for w in (2, 4, 8)],
    ),
    _config.UNLIMITED: (
        (8, 10_000),
        [Blocks(1, i, j, w) for i in (64, 128, 256) for j in (4, 8, 16) for w in (4, 8)],
    ),
}
FLOAT64 = {
    16: ((16384, 16), [Blocks(r, 16, 4, w) for r in (2, 4, 8) for w in (4, 8)]),
    _config.UNLIMITED: (
        (8, 4000),
        [Blocks(1, i, j, w) for i in (32, 64, 128) for j in (4, 8) for w in (4, 8)],
    ),
}
TINY = {_config.UNLIMITED: ((2, 20), [Blocks(1, 16, 4, 4), Blocks(2, 16, 8, 4)])}
CROSSOVER = [(rows, n) for rows in (1, 8, 64, 512) for n in (1024, 4096, 16384, 65536)]


def make_call(blocks: Blocks, scores: torch.Tensor) -> Callable[[], object]:
    """Returns forward and backward with a given tile."""
    from sodeep_fast.kernels import soft_rank as kernels

    options = (None, LAM, False, "direct")

    def call() -> None:
        _config.pairwise_blocks = lambda *key: blocks
        kernels.soft_rank(scores, *options)
        kernels.soft_rank_backward(scores, scores, *options)

    return call


def compile_blocks(task: tuple[Blocks, torch.dtype]) -> None:
    """Compiles both kernels for a tile; run in a process of its own."""
    blocks, dtype = task
    make_call(blocks, torch.zeros(2, 20, dtype=dtype, device="cuda"))()


def sweep(device: str, seconds: float) -> list[dict[str, Any]]:
    """Times every candidate; returns one result per candidate, fastest first in each bucket."""
    results = []
    plan = {torch.float32: FLOAT32, torch.float64: FLOAT64}
    if device == "cpu":
        plan = {torch.float32: TINY}
    else:
        tasks = [(b, t) for t, table in plan.items() for _, bs in table.values() for b in bs]
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(8, mp_context=spawn) as pool:
            list(pool.map(compile_blocks, tasks, chunksize=2))
    for dtype, buckets in plan.items():
        for bound, (shape, candidates) in buckets.items():
            scores = torch.rand(shape, dtype=dtype).to(device) * 2 - 1
            calls = {blocks: make_call(blocks, scores) for blocks in candidates}
            for call in calls.values():
                call()
            samples = interleave(calls, seconds=seconds, min_rounds=1, max_rounds=20, device=device)
            medians = {blocks: quantiles(times)[1] for blocks, times in samples.items()}
            results += [
                {"dtype": str(dtype), "n": bound, "shape": shape, "blocks": blocks, "seconds": time}
                for blocks, time in sorted(medians.items(), key=lambda item: item[1])
            ]
    return results


def crossover(seconds: float) -> list[dict[str, Any]]:
    """Times all pairs (Triton) against the linear method (CUDA C++), forward and backward."""
    from sodeep_fast.ops.soft_rank import soft_rank

    results = []
    for shape in CROSSOVER:
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write every measurement")
    parser.add_argument("--dry", action="store_true", help="on the CPU, at a tiny size")
    options = parser.parse_args()
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
            results["crossover"] = crossover(0.05)
    results["blocks"] = sweep("cuda" if on_gpu else "cpu", 0.05 if on_gpu else 0.0)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    for row in results["crossover"]:
        faster = "direct" if row["direct"] < row["linear"] else "linear"
        print(
            f"{row['shape']!s:14} direct {1e6 * row['direct']:9.1f} us  linear "
            f"{1e6 * row['linear']:9.1f} us  faster {faster}, auto takes {row['chosen']}"
        )
    printed = set()
    for row in results["blocks"]:
        key = row["dtype"], row["n"]
        if key not in printed:
            printed.add(key)
            bound = "UNLIMITED" if row["n"] == _config.UNLIMITED else row["n"]
            print(f"# {row['dtype']} {row['shape']}: {1e6 * row['seconds']:.1f} us")
            print(f'Entry({arch}, {bound}, {Blocks(*row["blocks"])}, "{provenance}"),')
    return 0


if __name__ == "__main__":
    sys.exit(main())
