"""pytest-benchmark over the registry: `pytest bench --benchmark-enable`, then its own compare.

One case is `-k "soft_rank and eager and both and 512x100"`.
"""

from typing import Any

import pytest

from sodeep_fast.benchmark import Case, Operator, Plan, Unavailable
from sodeep_fast.benchmark.call import make_call
from sodeep_fast.benchmark.registry import OPERATORS
from sodeep_fast.benchmark.run import too_much

CASES = [
    pytest.param(
        operator,
        Case(provider.name, mode, shape),
        id=f"{operator.name}-{provider.name}-{mode}-{shape[0]}x{shape[1]}",
    )
    for operator in OPERATORS.values()
    for shape in operator.shapes
    for provider in operator.providers.values()
    for mode in provider.modes
]


@pytest.mark.parametrize(("operator", "case"), CASES)
# The compiled rivals set off deprecations inside torch's compiler.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_operator(benchmark: Any, operator: Operator, case: Case) -> None:
    if reason := too_much(operator, case, Plan()):
        pytest.skip(reason)
    try:
        call = make_call(operator, case, "cpu")
    except Unavailable as error:
        pytest.skip(str(error))
    benchmark.group = f"{operator.name} {case.shape} {case.mode}"
    benchmark(call)
