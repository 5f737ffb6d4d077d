"""Measures the operators against other implementations; `sodeep-fast bench` is its front end.

This package is the engine and ships with the library. It defines the operators, shapes and
providers (`registry`, one file per operator), checks a provider and measures its time and memory
(`check` in the operator's file, `call`, `measure`, `memory`), and shows the rows (`report`,
`plot`). The folder `bench/` of a clone holds what only developers run: the targets, the
pytest-benchmark entries, the sweeps and the results. `bench/` imports this package, never the other
way round.
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
