"""Runs every operator by every route, to show where its time goes or to check its memory accesses.

Prints each kernel of a forward and backward with its time, from torch's profiler. --exercise only
runs them, at small sizes, for compute-sanitizer to watch. Without a GPU it says so and measures
nothing; --dry runs its logic on the CPU at tiny sizes.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench import gpu_budget
from bench.gpu_bench import TARGETS, on_gpu
from bench.gpu_budget import Budget
from sodeep_fast.benchmark import Case, Operator, Unavailable
from sodeep_fast.benchmark.call import make_call
from sodeep_fast.benchmark.measure import Call
from sodeep_fast.benchmark.model import Shape
from sodeep_fast.benchmark.registry import OPERATORS

CALLS = 10
# Odd sizes, for tails of tiles: one tile, several, and a row for the linear method's phases.
EXERCISE_SHAPES: tuple[Shape, ...] = ((3, 7), (5, 130), (2, 3001))


def routed_calls(shapes: tuple[Shape, ...] | None, device: str) -> Iterator[tuple[str, Call]]:
    """Yields a label and a forward and backward for every operator, route and shape.

    Arguments:
        shapes: the same for all. Default: each operator's own.
        device: "cuda" or "cpu".
    """
    for name, target in TARGETS.items():
        operator: Operator = on_gpu(OPERATORS[name], target)
        for backend, method in target.routes:
            route = f"{backend}-{method}"
            for shape in shapes or target.shapes:
                if shapes and shape[1] > target.exercise_n:
                    continue
                # All pairs of a long row would take longer than everything else.
                if method == "direct" and shape[0] * shape[1] ** 2 > 1e10:
                    continue
                try:
                    # A checker need not watch the float64 equation, too.
                    case = Case(route, "both", shape)
                    call = make_call(operator, case, device, check=shapes is None)
                except Unavailable as reason:
                    print(f"{name} {route}: {reason}")
                    break
                yield f"{name} {route} {shape}", call


def kernel_times(call: Call) -> dict[str, dict[str, Any]]:
    """Returns, for every kernel of a call, its launches and its mean time in seconds."""
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(CALLS):
            call()
        torch.cuda.synchronize()
    return {
        event.key: {
            "launches": event.count / CALLS,
            "seconds": event.device_time_total / 1e6 / event.count,
        }
        for event in profile.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exercise", action="store_true", help="run small sizes once, no profile")
    parser.add_argument("--json", type=Path, help="where to write every kernel's time")
    parser.add_argument("--dry", action="store_true", help="on the CPU, at a tiny size")
    gpu_budget.add_argument(parser)
    options = parser.parse_args()
    budget = Budget(options.until)

    def timely(shapes: tuple[Shape, ...] | None, device: str) -> Iterator[tuple[str, Call]]:
        return budget.each(routed_calls(shapes, device), lambda labelled: labelled[0])

    if not torch.cuda.is_available() and not options.dry:
        print("no GPU: measured nothing")
        return 0
    if options.dry or options.exercise:
        shapes = ((2, 20),) if options.dry else EXERCISE_SHAPES
        for label, call in timely(shapes, "cpu" if options.dry else "cuda"):
            call()
            print(f"ran {label}")
        print(budget.report())
        return 0
    results = {}
    for label, call in timely(None, "cuda"):
        results[label] = kernel_times(call)
        print(label)
        for kernel, row in results[label].items():
            print(f"  {1e6 * row['seconds']:10.1f} us x {row['launches']:g}  {kernel[:90]}")
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))
    print(budget.report())
    return 0


if __name__ == "__main__":
    sys.exit(main())
