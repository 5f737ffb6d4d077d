"""Times every operator on a GPU: each backend and method against plain, compiled and sorting torch.

Times are from CUDA events, in interleaved rounds, after warm-up and after each provider passed its
check. Small shapes are also timed as replays of a CUDA graph, to separate the launch latency. The
machine's ceilings are measured in the same run, and our routes are shown with the time that an H200
should take according to `bench/gpu_work.py`. Without a GPU it says so and measures nothing; --dry
runs its logic on the CPU at tiny sizes.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from bench import gpu_budget
from bench.gpu_budget import Budget
from bench.gpu_ceilings import BFLOAT16, FLOAT32, ceilings, ceilings_text
from bench.gpu_rows import Recipe, measure
from bench.gpu_work import Work, passes_of
from sodeep_fast._environment import environment
from sodeep_fast.benchmark import Operator, Plan, Provider, Row, Unavailable
from sodeep_fast.benchmark.bilstm import check as check_bilstm
from sodeep_fast.benchmark.model import MODES, Function, Shape
from sodeep_fast.benchmark.rank_counts import route_of_found
from sodeep_fast.benchmark.registry import OPERATORS
from sodeep_fast.benchmark.report import table, write_json
from sodeep_fast.kernels import _config
from sodeep_fast.ops import _backend


@dataclass(frozen=True)
class Target:
    """What to measure of an operator: our routes, its shapes, and those also timed as graphs.

    `rivals` are captured as well. `found` builds a route without its search for targets, which
    makes the host wait, so that it can be captured. `check` replaces the operator's own check for
    routes that it is too strict for. `exercise_n` limits the rows' length under a memory checker,
    which makes sequential steps far slower.
    """

    routes: tuple[tuple[str, str], ...]
    shapes: tuple[Shape, ...]
    graph_shapes: tuple[Shape, ...] = ()
    rivals: tuple[str, ...] = ()
    modes: tuple[str, ...] = MODES
    found: Callable[[str, str], Function] | None = None
    flop_ceiling: str = FLOAT32
    check: Callable[..., None] | None = None
    exercise_n: int = 1 << 62

    @property
    def names(self) -> list[str]:
        """The names of our routes' providers; the first is the one that "ours" takes."""
        names = [f"{backend}-{method}" for backend, method in self.routes]
        names += [f"{name}-found" for name in names if self.found]
        return names or ["ours"]


# Operators with aims come first, as time may run out.
TARGETS = {
    "soft_rank": Target(
        routes=(("triton", "direct"), ("cuda", "direct"), ("cuda", "linear")),
        shapes=((512, 100), (8, 100_000), (64, 1000), (8, 10_000), (1, 1_000_000)),
        graph_shapes=((512, 100), (64, 1000)),
        rivals=("compile", "compile_sym"),
    ),
    "rank_counts": Target(
        routes=(("triton", "direct"),),
        shapes=((4096, 4096), (512, 100), (64, 4096), (256, 2048)),
        graph_shapes=((512, 100), (256, 2048)),
        found=route_of_found,
    ),
    "soft_histogram": Target(
        routes=(("triton", "auto"),),
        shapes=((4096, 4096), (512, 100), (1024, 1024), (128, 60_000)),
        graph_shapes=((512, 100),),
        rivals=("compile",),
    ),
    # A single layer; the sorters' whole networks are in bench/gpu_networks.py.
    "bilstm": Target(
        routes=(("triton", "fp16"), ("cuda", "fp16")),
        shapes=((512, 100), (1, 100), (16, 100), (4096, 100)),
        graph_shapes=((1, 100), (512, 100)),
        rivals=("nn.LSTM",),
        flop_ceiling=BFLOAT16,
        check=partial(check_bilstm, half=True),
        exercise_n=200,
    ),
    "hard_rank": Target(
        routes=(),  # PyTorch's sort
        shapes=((512, 100), (64, 1000), (8, 100_000), (1, 1_000_000)),
        graph_shapes=((512, 100), (64, 1000)),
        rivals=("eager", "torch.sort"),
        modes=("forward",),
    ),
}
# The rivals that compute the equations of ours, operation by operation.
SAME_EQUATIONS = {"eager", "compile", "compile_sym", "nn.LSTM"}
# The registry estimates times on a core or two; a large GPU is at least this many times faster.
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


def build_route(
    operator: Operator,
    backend: str,
    method: str,
    route: Callable[[str, str], Function] | None = None,
) -> Callable[[str], Function]:
    """Returns what builds ours, by one backend and method."""

    def build(device: str) -> Function:
        reason = _backend.missing(backend, device, operator.name, method)
        if reason is not None:
            raise Unavailable(reason)
        return (route or operator.route)(backend, method)

    return build


def build_compiled(operator: Operator) -> Callable[[str], Function]:
    """Returns what compiles the plain equation, with the backward that torch.compile derives."""

    def build(device: str) -> Function:
        torch.compiler.reset()
        eager = operator.providers["eager"].build(device)
        return torch.compile(eager, fullgraph=True, dynamic=False)

    return build


def on_gpu(operator: Operator, target: Target) -> Operator:
    """Returns the registry's benchmark with a provider for each of our routes and GPU estimates."""
    ours, eager = operator.providers[operator.ours], operator.providers.get("eager")
    routes = [
        replace(
            ours,
            name=f"{backend}-{method}",
            build=build_route(operator, backend, method),
            check=target.check or ours.check,
            seconds=expected_of(operator.name, f"{backend}-{method}"),
        )
        for backend, method in target.routes
    ]
    if target.found:
        build = target.found
        routes += [
            replace(
                ours,
                name=f"{backend}-{method}-found",
                build=build_route(operator, backend, method, build),
                note="its targets found before",
            )
            for backend, method in target.routes
        ]
    # If the plain equation does not compile as a whole, the registry has a compiled form of it.
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
            seconds=provider.seconds if provider in routes else scaled(provider.seconds),
            # The first backward of a compiled function frees its buffers.
            modes=("forward", "both") if "compile" in provider.name else provider.modes,
        )
        for provider in (ours, *routes, *others, *compiled)
    }
    make_scores = functools.cache(operator.make_scores)  # on the host, for every row of a table
    return replace(operator, providers=providers, shapes=target.shapes, make_scores=make_scores)


def expected_of(operator: str, route: str) -> Callable[[int, int], float]:
    """Returns the seconds that both passes of a route should take, by rows and n."""
    return lambda rows, n: sum(
        work.seconds() for work in passes_of(operator, route, "both", (rows, n))
    )


def scaled(seconds: Callable[[int, int], float]) -> Callable[[int, int], float]:
    """Turns an estimate for a processor into one for a GPU."""
    return lambda rows, n: seconds(rows, n) / SPEEDUP


def recipe_of(name: str, dry: bool) -> Recipe:
    """Returns what to measure of an operator; on the CPU and tiny if `dry`."""
    target = TARGETS[name]

    def counted(provider: str, mode: str, shape: Shape) -> list[Work]:
        if provider not in ("ours", *target.names):
            return []
        route = provider if provider != "ours" else target.names[0]
        if (name, provider) == ("soft_rank", "ours") and _config.prefers_linear(*shape):
            route = "cuda-linear"
        return passes_of(name, route, mode, shape)

    def equations(provider: str, mode: str, shape: Shape) -> list[Work]:
        same = provider in SAME_EQUATIONS and name != "hard_rank"
        return passes_of(name, target.names[0], mode, shape) if same else []

    plan = replace(DRY_PLAN if dry else PLAN, modes=target.modes)
    return Recipe(
        on_gpu(OPERATORS[name], target),
        plan,
        graphs=(*target.rivals, *target.names),
        graph_shapes=(plan.shapes or ()) if dry else target.graph_shapes,
        counted=counted,
        equations=equations,
        flop_ceiling=target.flop_ceiling,
    )


def is_ours_failed(recipe: Recipe, row: Row) -> bool:
    """Returns whether a row of ours failed; others may fail."""
    return row.status == "failed" and bool(recipe.counted(row.provider, row.mode, row.shape))


def measure_all(recipes: list[Recipe], options: argparse.Namespace) -> int:
    """Measures the recipes in turn, each within its share of the time; prints and writes rows.

    Returns:
        the exit status, 1 if a result was wrong or ours failed.
    """
    rows: list[Row] = []
    wrong: list[Row] = []
    limits = ceilings("cpu" if options.dry else "cuda")
    print(ceilings_text(limits), flush=True)
    budget = Budget(options.until)
    for index, recipe in enumerate(recipes):
        sizes = [len(each.operator.shapes) for each in recipes[index:]]
        measured = measure(recipe, limits, budget.share(sizes[0] / sum(sizes)))
        print(f"\n{table(measured)}" if measured else "", flush=True)
        rows += measured
        wrong += [row for row in measured if row.status == "refused" or is_ours_failed(recipe, row)]
        if options.json:  # after every operator: the time may run out
            write_json(options.json, {**environment(), **limits}, rows)
    print(budget.report())
    return 1 if wrong else 0


def parse(description: str | None) -> argparse.Namespace | None:
    """Reads the command line; without a GPU and --dry, says so and returns None."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="where to write every row")
    parser.add_argument("--dry", action="store_true", help="on the CPU, at a tiny size")
    gpu_budget.add_argument(parser)
    options = parser.parse_args()
    if torch.cuda.is_available() or options.dry:
        return options
    print("no GPU: measured nothing")
    return None


def measure_each(
    names: Iterable[str], recipe: Callable[[str, bool], Recipe], about: str | None
) -> int:
    """Measures what a module's command line asks for, and returns the exit status.

    Arguments:
        names: what can be measured.
        recipe: takes a name and whether it is a dry run; returns what to measure.
        about: the module's docstring.
    """
    options = parse(about)
    if options is None:
        return 0
    return measure_all([recipe(name, options.dry) for name in names], options)


def main() -> int:
    return measure_each(TARGETS, recipe_of, __doc__)


if __name__ == "__main__":
    sys.exit(main())
