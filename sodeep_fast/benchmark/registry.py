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
    module.OPERATOR.name: module.OPERATOR
    for module in (soft_rank, hard_rank, rank_counts, soft_histogram, conv_stack, bilstm)
}
