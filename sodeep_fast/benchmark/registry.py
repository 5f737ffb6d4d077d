"""Every operator that has a benchmark, by name."""

from sodeep_fast.benchmark import (
    bilstm,
    conv_stack,
    hard_rank,
    rank_counts,
    soft_histogram,
    soft_rank,
)
from sodeep_fast.benchmark.model import Operator

OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        soft_rank.OPERATOR,
        soft_rank.STEEP,
        hard_rank.OPERATOR,
        rank_counts.OPERATOR,
        soft_histogram.OPERATOR,
        conv_stack.OPERATOR,
        bilstm.OPERATOR,
    )
}
