"""pytest-benchmark over the registry: `pytest bench --benchmark-enable`, then its own compare."""

from typing import Any

import pytest

from sodeep_fast.benchmark import Case, Unavailable
from sodeep_fast.benchmark.model import MODES
from sodeep_fast.benchmark.run import Plan, make_call, too_much
from sodeep_fast.benchmark.soft_rank import OPERATOR


@pytest.mark.parametrize("shape", OPERATOR.shapes, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("provider", OPERATOR.providers)
# The compiled rival sets off deprecations inside torch's compiler.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_soft_rank(benchmark: Any, provider: str, mode: str, shape: tuple[int, int]) -> None:
    case = Case(provider, mode, shape)
    if mode not in OPERATOR.providers[provider].modes:
        pytest.skip(f"{provider} has no {mode}")
    if reason := too_much(OPERATOR, case, Plan()):
        pytest.skip(reason)
    try:
        call = make_call(OPERATOR, case, "cpu")
    except Unavailable as error:
        pytest.skip(str(error))
    benchmark.group = f"soft_rank {shape} {mode}"
    benchmark(call)
