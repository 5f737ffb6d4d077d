"""Measures the operators against what people use today; `sodeep-fast bench` is its front.

This package is the engine and ships with the library: which operators, shapes and providers there
are (`registry`, one file per operator), how a provider is checked, timed and weighed (`check` in
the operator's file, `call`, `measure`, `memory`), and how rows are shown (`report`, `plot`). The
folder `bench/` of a clone holds what only developers run: the targets, the pytest-benchmark
entries, the sweeps and the results. `bench/` imports this package, never the other way round.
"""

from sodeep_fast.benchmark.model import Case, Operator, Provider, Row, Unavailable, WrongResult
from sodeep_fast.benchmark.run import Plan, measure_cases, quick_plan, run

__all__ = [
    "Case",
    "Operator",
    "Plan",
    "Provider",
    "Row",
    "Unavailable",
    "WrongResult",
    "measure_cases",
    "quick_plan",
    "run",
]
