"""Rows of a benchmark on a GPU: times, rates, memory, launches, and CUDA graphs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from bench.gpu_budget import Budget
from bench.gpu_ceilings import COPY, FLOAT32
from bench.gpu_graphs import as_graph
from bench.gpu_work import Work
from sodeep_fast.benchmark import Case, Operator, Plan, Row, Unavailable, WrongResult, run
from sodeep_fast.benchmark.call import make_call
from sodeep_fast.benchmark.measure import Call, interleave, quantiles
from sodeep_fast.benchmark.model import Shape

# (provider, mode, shape) -> the work of each pass of a call; empty if it is not known.
Count = Callable[[str, str, Shape], list[Work]]
GRAPH_NOTE = "replay of a CUDA graph"


def no_count(provider: str, mode: str, shape: Shape) -> list[Work]:
    """Returns no work, for providers without a count."""
    return []


@dataclass(frozen=True)
class Recipe:
    """What to measure of an operator.

    Arguments:
        operator: its benchmark.
        plan: how long, and on which device.
        graphs: the providers that are also timed as CUDA graphs.
        graph_shapes: the shapes for graphs.
        counted: the work of the providers that have an expected time.
        equations: the work of the providers that compute the same operations; only FLOP counts.
        flop_ceiling: the machine's rate that their FLOP are compared with.
    """

    operator: Operator
    plan: Plan
    graphs: tuple[str, ...] = ()
    graph_shapes: tuple[Shape, ...] = ()
    counted: Count = no_count
    equations: Count = no_count
    flop_ceiling: str = FLOAT32


def measure(recipe: Recipe, limits: dict[str, int], budget: Budget) -> list[Row]:
    """Measures an operator, as far as time allows.

    Arguments:
        recipe: what to measure.
        limits: the machine's rates, from `bench.gpu_ceilings`.
        budget: when to stop; it records what was left out.

    Returns:
        its rows, those of CUDA graphs last.
    """
    name = recipe.operator.name
    last = recipe.plan.modes[-1]  # the most demanding: forward + backward, if there is one

    def within(groups: list[tuple[Shape, str]]) -> Iterator[tuple[Shape, str]]:
        # First those with aims.
        groups = sorted(groups, key=lambda group: group[1] != last)
        return budget.each(groups, lambda group: f"{name} {group[0]} {group[1]}")

    rows = run(recipe.operator, recipe.plan, within)
    if recipe.plan.device == "cuda":
        timed = [row for row in rows if row.median is not None and row.mode == last]
        timed.sort(key=lambda row: "compile" in row.provider)  # those compile again for it
        for row in budget.each(timed, lambda row: f"memory of {name} {row.provider} {row.shape}"):
            add_peak_and_launches(recipe.operator, row)
    rows += graph_rows(recipe, last, budget)
    for row in rows:
        add_rates(recipe, row, limits)
    return rows


def add_rates(recipe: Recipe, row: Row, limits: dict[str, int]) -> None:
    """Fills in the achieved rates, their shares of the machine's, and the expected time."""
    counted = recipe.counted(row.provider, row.mode, row.shape)
    if counted:
        row.expected = sum(work.seconds() for work in counted)
    if row.median is None:
        return
    row.bandwidth = recipe.operator.min_bytes(row.mode, row.shape) / row.median
    if limits.get(COPY):
        row.share = row.bandwidth / limits[COPY]
    flop = sum(work.flop for work in counted or _equations(recipe, row))
    if flop:
        row.flops = flop / row.median
        row.flop_share = row.flops / limits[recipe.flop_ceiling]


def _equations(recipe: Recipe, row: Row) -> list[Work]:
    return recipe.equations(row.provider, row.mode, row.shape)


def add_peak_and_launches(operator: Operator, row: Row) -> None:
    """Fills in the peak memory beyond the input, and the launches, of a call."""
    try:
        call = make_call(operator, Case(row.provider, row.mode, row.shape), "cuda", check=False)
        row.peak_bytes, row.launches = peak_and_launches(call)
    except RuntimeError as error:  # such as a full memory: its times stay
        row.note = f"{row.note} {(str(error).splitlines() or [''])[0]}".strip()


def peak_and_launches(call: Call) -> tuple[int, int]:
    """Returns the extra bytes that a call takes on a GPU, and its launches.

    They are measured after a first call, which may compile.
    """
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    peak = torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    launches = sum(
        event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events()
    )
    return peak, launches


def graph_rows(recipe: Recipe, mode: str, budget: Budget) -> list[Row]:
    """Times replays of CUDA graphs; for a provider that cannot be captured, the row says why."""
    operator, device = recipe.operator, recipe.plan.device
    rows: list[Row] = []
    for shape in budget.each(
        recipe.graph_shapes, lambda shape: f"CUDA graphs of {operator.name} {shape}"
    ):
        group = {name: Row(operator.name, name, mode, *shape) for name in recipe.graphs}
        graphs = {}
        for name, row in group.items():
            row.note = GRAPH_NOTE
            try:
                call = make_call(operator, Case(name, mode, shape), device)
                graphs[name] = as_graph(call, device, compiled="compile" in name)
            except Unavailable as reason:
                row.status, row.note = "missing", str(reason)
            except WrongResult as reason:
                row.status, row.note = "refused", str(reason)
            except RuntimeError as reason:
                row.status, row.note = "failed", (str(reason).splitlines() or [repr(reason)])[0]
        samples = interleave(
            graphs,
            seconds=recipe.plan.seconds,
            min_rounds=recipe.plan.min_rounds,
            max_rounds=recipe.plan.max_rounds,
            device=device,
        )
        for name, times in samples.items():
            row = group[name]
            row.q20, row.median, row.q80 = quantiles(times)
            row.samples, row.rounds = times, len(times)
        fastest = min((row.median for row in group.values() if row.median), default=None)
        for row in group.values():
            if row.median and fastest:
                row.slowdown = row.median / fastest
        rows += group.values()
    return rows
