"""Every operator that has a benchmark, by name."""

from sodeep_fast.benchmark import soft_rank
from sodeep_fast.benchmark.model import Operator

OPERATORS: dict[str, Operator] = {operator.name: operator for operator in (soft_rank.OPERATOR,)}
