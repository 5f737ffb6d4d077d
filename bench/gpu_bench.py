"""Times soft_rank on a GPU: every backend and method against eager, compiled and sorting PyTorch.

CUDA events, after warm-up and after each provider passed its check, in rounds that take turns. The
small shapes are timed as replays of a CUDA graph too, so that the launches' latency is seen apart.
Without a GPU it says so and measures nothing; --dry runs its logic on the CPU at tiny sizes.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from sodeep_fast.benchmark import Case, Operator, Plan, Provider, Row, Unavailable, run
from sodeep_fast.benchmark.environment import environment
from sodeep_fast.benchmark.measure import interleave, quantiles
from sodeep_fast.benchmark.model import Function
from sodeep_fast.benchmark.report import table, write_json
from sodeep_fast.benchmark.run import make_call
from sodeep_fast.benchmark.soft_rank import LAM, OPERATOR
from sodeep_fast.ops import _backend
from sodeep_fast.ops.soft_rank import soft_rank
from sodeep_fast.reference.soft_rank import soft_rank as reference

SHAPES = ((512, 100), (64, 1000), (8, 10_000), (8, 100_000), (1, 1_000_000))
GRAPH_SHAPES = ((512, 100), (64, 1000))
PLAN = Plan(
    shapes=SHAPES,
    modes=("forward", "both"),
    seconds=0.3,
    min_rounds=10,
    max_rounds=200,
    memory_shapes=(),
    max_seconds=0.5,
    max_bytes=60e9,
    device="cuda",
)
DRY_PLAN = replace(PLAN, shapes=((2, 20),), seconds=0, min_rounds=1, max_rounds=1, device="cpu")


def build_route(backend: str, method: str) -> Callable[[str], Function]:
    """Ours by one backend and method."""

    def build(device: str) -> Function:
        reason = _backend._missing(backend, device, "soft_rank", method)
        if reason is not None:
            raise Unavailable(reason)
        return functools.partial(soft_rank, lam=LAM, backend=backend, method=method)

    return build


def build_compiled(device: str) -> Function:
    """torch.compile of the plain equation, with the backward that it derives."""
    torch.compiler.reset()
    return torch.compile(functools.partial(reference, lam=LAM), fullgraph=True, dynamic=False)


def gpu_operator() -> Operator:
    """The registry's benchmark, with one provider per route of ours, and a GPU's estimates."""
    known = OPERATOR.providers
    eager, ours = known["eager"], known["ours"]
    providers = [
        replace(ours, seconds=lambda rows, n: 0),
        *(
            replace(
                ours, name=f"{backend}-{method}", build=build_route(backend, method), seconds=cost
            )
            for backend, method, cost in (
                ("triton", "direct", pairs(5e-13)),
                ("cuda", "direct", pairs(5e-13)),
                ("cuda", "linear", lambda rows, n: 0),
            )
        ),
        replace(eager, seconds=pairs(1e-11), memory=pairs(24)),
        replace(eager, name="compile", build=build_compiled, seconds=pairs(1e-11)),
        replace(known["compile_sym"], seconds=pairs(4e-12)),
        replace(known["torch.sort"], seconds=lambda rows, n: 0),
    ]
    by_name: dict[str, Provider] = {provider.name: provider for provider in providers}
    return replace(OPERATOR, providers=by_name)


def pairs(seconds: float) -> Callable[[int, int], float]:
    """Returns an estimate of so many seconds (or bytes) a pair."""
    return lambda rows, n: seconds * rows * n * n


def add_peaks(operator: Operator, rows: list[Row]) -> None:
    """Fills in the peak memory of forward + backward, beyond its input."""
    for row in rows:
        if row.median is not None and row.mode == "both":
            call = make_call(operator, Case(row.provider, row.mode, row.shape), "cuda", check=False)
            call()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            row.peak_bytes = torch.cuda.max_memory_allocated() - before


def graph_rows(operator: Operator) -> list[Row]:
    """Times forward + backward as replays of a CUDA graph."""
    rows = []
    for shape in GRAPH_SHAPES:
        graphs = {}
        for name in ("triton-direct", "cuda-direct", "compile_sym"):
            case = Case(name, "both", shape)
            call = make_call(operator, case, "cuda")
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    call()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                call()
            graphs[name] = graph.replay
        samples = interleave(graphs, seconds=0.2, min_rounds=10, max_rounds=100, device="cuda")
        medians = {name: quantiles(times)[1] for name, times in samples.items()}
        for name, times in samples.items():
            row = Row(operator.name, name, "both", *shape, note="replay of a CUDA graph")
            row.q20, row.median, row.q80 = quantiles(times)
            row.samples, row.rounds = times, len(times)
            row.slowdown = medians[name] / min(medians.values())
            rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write every row")
    parser.add_argument("--dry", action="store_true", help="on the CPU, at a tiny size")
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available() and not options.dry
    if not on_gpu and not options.dry:
        print("no GPU: measured nothing")
        return 0
    operator = gpu_operator()
    rows = run(operator, PLAN if on_gpu else DRY_PLAN)
    if on_gpu:
        add_peaks(operator, rows)
        rows += graph_rows(operator)
    if options.json:
        write_json(options.json, environment(), rows)
    print(table(rows))
    return 1 if any(row.status == "refused" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
