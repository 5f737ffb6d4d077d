"""Runs cases: skip what is too large, refuse what is wrong, then time the rest in shared rounds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product

import torch

from sodeep_fast.benchmark.call import make_call
from sodeep_fast.benchmark.measure import Call, copy_bandwidth, interleave, quantiles
from sodeep_fast.benchmark.memory import peak_bytes
from sodeep_fast.benchmark.model import (
    MODES,
    Case,
    Operator,
    Row,
    Shape,
    Unavailable,
    WrongResult,
)


@dataclass(frozen=True)
class Plan:
    """How much of a benchmark to run.

    Arguments:
        shapes: (rows, n) to run. Default: all of the operator.
        modes: of "forward", "backward", "both". Default: all.
        providers: names. Default: all of the operator. Ours is always measured: ratios need it.
        seconds: time to spend on each case. Default: 1.
        min_rounds: rounds that every case gets. Default: 3.
        max_rounds: rounds after which a case stops. Default: 100.
        memory_shapes: shapes at which peak memory is measured, a process each. Default: all.
        max_seconds: skip a case estimated to take longer than this. Default: 20.
        max_bytes: skip a case estimated to take more memory than this. Default: 4e9.
        device: "cpu" or "cuda". Default: "cpu".
    """

    shapes: tuple[Shape, ...] | None = None
    modes: tuple[str, ...] = MODES
    providers: tuple[str, ...] | None = None
    seconds: float = 1.0
    min_rounds: int = 3
    max_rounds: int = 100
    memory_shapes: tuple[Shape, ...] | None = None
    max_seconds: float = 20.0
    max_bytes: float = 4e9
    device: str = "cpu"


def quick_plan(operator: Operator) -> Plan:
    """Returns a plan of about a minute: few shapes, short rounds, memory at one shape."""
    return Plan(
        shapes=operator.quick_shapes,
        modes=("both",),
        seconds=0.2,
        max_seconds=2.0,
        memory_shapes=operator.quick_memory_shapes,
    )


def run(
    operator: Operator,
    plan: Plan,
    progress: Callable[[list[tuple[Shape, str]]], Iterable[tuple[Shape, str]]] = iter,
) -> list[Row]:
    """Measures an operator at every shape and mode of the plan.

    Arguments:
        operator: from `sodeep_fast.benchmark.registry.OPERATORS`.
        plan: how much to run.
        progress: wraps the list of (shape, mode) that is walked, as `tqdm` does. Default: nothing.

    Returns:
        one row per provider, mode and shape; providers vary fastest, shapes slowest.

    Raises:
        ValueError: an unknown provider or mode.
    """
    names = chosen_providers(operator, plan)
    shapes = operator.shapes if plan.shapes is None else plan.shapes
    memory_shapes = shapes if plan.memory_shapes is None else plan.memory_shapes
    bandwidth = copy_bandwidth(plan.device)

    rows: list[Row] = []
    for shape, mode in progress(list(product(shapes, plan.modes))):
        cases = [
            Case(name, mode, shape) for name in names if mode in operator.providers[name].modes
        ]
        if not cases:  # such as the backward of what has none
            continue
        group = measure_cases(operator, cases, plan)
        ours = next(row.median for row in group if row.provider == operator.ours)
        for row, case in zip(group, cases, strict=True):
            if row.median is None:
                continue
            row.slowdown = None if ours is None else row.median / ours
            row.share = operator.min_bytes(mode, shape) / row.median / bandwidth
            row.pairs = shape[0] * shape[1] ** 2 / row.median
            # Forward + backward needs the most memory.
            if shape in memory_shapes and mode == "both":
                threads = torch.get_num_threads()
                row.peak_bytes = peak_bytes(operator.name, case, plan.device, threads)
        rows += group
    return rows


def chosen_providers(operator: Operator, plan: Plan) -> list[str]:
    """Returns the names of the providers that the plan measures, ours first.

    Raises:
        ValueError: an unknown one.
    """
    providers = operator.providers if plan.providers is None else plan.providers
    names = list(dict.fromkeys([operator.ours, *providers]))
    for name in names:
        if name not in operator.providers:
            known = ", ".join(operator.providers)
            raise ValueError(f"providers must be among {known} for {operator.name}, got {name!r}")
    return names


def measure_cases(operator: Operator, cases: list[Case], plan: Plan) -> list[Row]:
    """Times cases against each other, interleaved, after checking what each of them computes.

    Arguments:
        operator: whose providers the cases name.
        cases: what to time; they may differ in provider, mode and shape.
        plan: rounds, limits and device; its shapes, modes and providers play no part here.

    Returns:
        a row per case, in their order.
    """
    rows = [Row(operator.name, case.provider, case.mode, *case.shape) for case in cases]
    calls: dict[int, Call] = {}
    for index, (case, row) in enumerate(zip(cases, rows, strict=True)):
        row.note = operator.providers[case.provider].note
        reason = too_much(operator, case, plan)
        if reason:
            row.status, row.note = "skipped", reason
            continue
        try:
            calls[index] = make_call(operator, case, plan.device)
        except Unavailable as error:
            row.status, row.note = "missing", str(error)
        except WrongResult as error:
            row.status, row.note = "refused", str(error)
        except torch.OutOfMemoryError:
            row.status, row.note = "skipped", "there is not enough memory"
        except RuntimeError as error:  # such as a compiler error; the others are still measured
            row.status, row.note = (
                "failed",
                str(error).splitlines()[0] if str(error) else repr(error),
            )
    samples = interleave(
        calls,
        seconds=plan.seconds,
        min_rounds=plan.min_rounds,
        max_rounds=plan.max_rounds,
        device=plan.device,
    )
    for index, times in samples.items():
        row = rows[index]
        row.samples, row.rounds = times, len(times)
        row.q20, row.median, row.q80 = quantiles(times)
    return rows


def too_much(operator: Operator, case: Case, plan: Plan) -> str:
    """Returns why a case exceeds the plan's limits, or an empty string."""
    provider = operator.providers[case.provider]
    memory = provider.memory(*case.shape)
    if memory > plan.max_bytes:
        return f"would take about {memory / 1e9:.3g} GB; the limit is {plan.max_bytes / 1e9:.3g}"
    seconds = provider.seconds(*case.shape)
    if seconds > plan.max_seconds:
        return f"would take about {seconds:.3g} s a call; the limit is {plan.max_seconds:.3g}"
    return ""
