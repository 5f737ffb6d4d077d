"""What tests and benchmarks share: devices, score distributions and the tolerance rule."""

from sodeep_fast.testing.accuracy import (
    ROUNDING,
    assert_as_accurate,
    check_against_reference,
    check_gradients_of_any_size,
    derivatives,
    exact_soft_rank,
)
from sodeep_fast.testing.convolutions import (
    TILED_STACKS,
    ConvLayer,
    check_conv_stack,
    conv_arguments,
    conv_signs,
    in_turn,
    in_turn_by_signs,
    make_conv_blocks,
    make_conv_inputs,
)
from sodeep_fast.testing.counts import (
    COMPARATORS,
    COUNT_METHODS,
    COUNT_WAYS,
    check_counts_against_reference,
    check_triton_counts,
    counts_of,
    make_graded_rows,
    random_levels,
    value_and_gradient,
    values_and_gradient,
)
from sodeep_fast.testing.graphs import capture_graph
from sodeep_fast.testing.networks import (
    NETWORK_ROUNDING,
    assert_equal_weights,
    bilstm_derivatives,
    make_bilstm,
    weights_of,
)
from sodeep_fast.testing.scores import DEVICES, DISTRIBUTIONS, make_scores

__all__ = [
    "COMPARATORS",
    "COUNT_METHODS",
    "COUNT_WAYS",
    "DEVICES",
    "DISTRIBUTIONS",
    "NETWORK_ROUNDING",
    "ROUNDING",
    "TILED_STACKS",
    "ConvLayer",
    "assert_as_accurate",
    "assert_equal_weights",
    "bilstm_derivatives",
    "capture_graph",
    "check_against_reference",
    "check_conv_stack",
    "check_counts_against_reference",
    "check_gradients_of_any_size",
    "check_triton_counts",
    "conv_arguments",
    "conv_signs",
    "counts_of",
    "derivatives",
    "exact_soft_rank",
    "in_turn",
    "in_turn_by_signs",
    "make_bilstm",
    "make_conv_blocks",
    "make_conv_inputs",
    "make_graded_rows",
    "make_scores",
    "random_levels",
    "value_and_gradient",
    "values_and_gradient",
    "weights_of",
]
