"""Times every operator on a GPU: each backend and method against plain, compiled and sorting torch.

CUDA events, after warm-up and after each provider passed its check, in rounds that take turns. The
small shapes are timed as replays of a CUDA graph too, so that the launches' latency is seen apart.
Ceilings of the machine come from the same run. Without a GPU it says so and measures nothing; --dry
runs its logic on the CPU at tiny sizes.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from bench.gpu_ceilings import ceilings, ceilings_text
from sodeep_fast.benchmark import Case, Operator, Plan, Provider, Row, Unavailable, run
from sodeep_fast.benchmark.bilstm import check as check_bilstm
from sodeep_fast.benchmark.environment import environment
from sodeep_fast.benchmark.measure import interleave, quantiles
from sodeep_fast.benchmark.model import Function, Shape
from sodeep_fast.benchmark.registry import OPERATORS
from sodeep_fast.benchmark.report import table, write_json
from sodeep_fast.benchmark.run import make_call
from sodeep_fast.ops import _backend
from sodeep_fast.testing import capture_graph


@dataclass(frozen=True)
class Target:
    """What to measure of an operator: our routes, its shapes, and those also timed as graphs.

    `check` is for routes that the operator's own is too strict for; `exercise_n` bounds the rows
    that a memory checker watches, under which steps one after the other take far longer.
    """

    routes: tuple[tuple[str, str], ...]
    shapes: tuple[Shape, ...]
    graph_shapes: tuple[Shape, ...] = ()
    check: Callable[..., None] | None = None
    exercise_n: int = 1 << 62


TARGETS = {
    "soft_rank": Target(
        routes=(("triton", "direct"), ("cuda", "direct"), ("cuda", "linear")),
        shapes=((512, 100), (64, 1000), (8, 10_000), (8, 100_000), (1, 1_000_000)),
        graph_shapes=((512, 100), (64, 1000)),
    ),
    # Finding the targets waits for the GPU, so a graph cannot hold the public function.
    "rank_counts": Target(
        routes=(("triton", "direct"),),
        shapes=((512, 100), (64, 4096), (256, 2048), (4096, 4096)),
    ),
    "soft_histogram": Target(
        routes=(("triton", "auto"),),
        shapes=((512, 100), (1024, 1024), (4096, 4096), (128, 60_000)),
        graph_shapes=((512, 100),),
    ),
    # Of one layer; all networks of the sorters are in bench/gpu_networks.py.
    "bilstm": Target(
        routes=(("triton", "fp16"),),
        shapes=((1, 100), (16, 100), (512, 100), (4096, 100)),
        graph_shapes=((1, 100), (512, 100)),
        check=partial(check_bilstm, half=True),
        exercise_n=200,
    ),
}
# The registry estimates times on a core or two; a large GPU is so many times faster at least.
SPEEDUP = 100
PLAN = Plan(
    seconds=0.2,
    min_rounds=10,
    max_rounds=200,
    memory_shapes=(),
    max_seconds=0.5,
    max_bytes=60e9,
    device="cuda",
)
DRY_PLAN = replace(PLAN, shapes=((2, 20),), seconds=0, min_rounds=1, max_rounds=1, device="cpu")


def build_route(operator: Operator, backend: str, method: str) -> Callable[[str], Function]:
    """Ours by one backend and method."""

    def build(device: str) -> Function:
        reason = _backend._missing(backend, device, operator.name, method)
        if reason is not None:
            raise Unavailable(reason)
        return operator.route(backend, method)

    return build


def build_compiled(operator: Operator) -> Callable[[str], Function]:
    """torch.compile of the plain equation, with the backward that it derives."""

    def build(device: str) -> Function:
        torch.compiler.reset()
        eager = operator.providers["eager"].build(device)
        return torch.compile(eager, fullgraph=True, dynamic=False)

    return build


def on_gpu(operator: Operator, target: Target) -> Operator:
    """The registry's benchmark, with a provider for each of our routes, and a GPU's estimates."""
    ours, eager = operator.providers[operator.ours], operator.providers.get("eager")
    routes = [
        replace(
            ours,
            name=f"{backend}-{method}",
            build=build_route(operator, backend, method),
            check=target.check or ours.check,
        )
        for backend, method in target.routes
    ]
    # Where the plain equation does not compile as a whole, the registry has a compiled form of it.
    compiled = (
        []
        if eager is None or "compile" in operator.providers
        else [replace(eager, name="compile", build=build_compiled(operator))]
    )
    others = [
        provider
        for name, provider in operator.providers.items()
        if name != operator.ours and not name.startswith(f"{operator.ours}-")
    ]
    providers: dict[str, Provider] = {
        provider.name: replace(
            provider,
            seconds=scaled(provider.seconds),
            # What is compiled gives up its buffers to its first backward.
            modes=("forward", "both") if "compile" in provider.name else provider.modes,
        )
        for provider in (ours, *routes, *others, *compiled)
    }
    return replace(operator, providers=providers, shapes=target.shapes)


def scaled(seconds: Callable[[int, int], float]) -> Callable[[int, int], float]:
    """Returns a GPU's estimate for a processor's."""
    return lambda rows, n: seconds(rows, n) / SPEEDUP


def add_peaks_and_launches(operator: Operator, rows: list[Row]) -> None:
    """Fills in the peak memory beyond the input, and the launches, of forward + backward."""
    for row in rows:
        if row.median is None or row.mode != "both":
            continue
        call = make_call(operator, Case(row.provider, row.mode, row.shape), "cuda", check=False)
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        row.peak_bytes = torch.cuda.max_memory_allocated() - before
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            torch.cuda.synchronize()
        row.launches = sum(
            event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events()
        )


def graph_rows(operator: Operator, target: Target) -> list[Row]:
    """Times forward + backward as replays of a CUDA graph."""
    rows = []
    for shape in target.graph_shapes:
        graphs = {}
        routes = (f"{backend}-{method}" for backend, method in target.routes)
        rivals = {"compile", "nn.LSTM"} & operator.providers.keys()
        for name in (*sorted(rivals), *routes):
            call = make_call(operator, Case(name, "both", shape), "cuda")
            graphs[name] = capture_graph(call, warm_up=3)[0].replay
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
    if not torch.cuda.is_available() and not options.dry:
        print("no GPU: measured nothing")
        return 0
    rows, limits = [], ceilings("cpu" if options.dry else "cuda")
    print(ceilings_text(limits), flush=True)
    for name, target in TARGETS.items():
        operator = on_gpu(OPERATORS[name], target)
        measured = run(operator, DRY_PLAN if options.dry else PLAN)
        if not options.dry:
            add_peaks_and_launches(operator, measured)
            measured += graph_rows(operator, target)
        print(f"\n{table(measured)}", flush=True)
        rows += measured
        if options.json:  # after every operator: the time may run out
            write_json(options.json, {**environment(), **limits}, rows)
    return 1 if any(row.status == "refused" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
