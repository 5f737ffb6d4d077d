"""No kernel reads outside of its inputs, which lie here between inaccessible pages.

One that does crashes the process; pytest then prints in which test.
"""

import itertools
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sodeep_fast import (
    ByLevel,
    Ramp,
    Sigmoid,
    Step,
    Sup,
    bilstm,
    h_ap,
    hard_rank,
    rank_counts,
    smooth_ap,
    smooth_recall,
    soft_histogram,
    soft_rank,
    sup_ap,
    sup_ndcg,
)
from sodeep_fast.ops.margin_excess import margin_excess
from sodeep_fast.ops.shared_labels import shared_labels
from sodeep_fast.testing import make_bilstm, make_scores
from sodeep_fast.testing.bounds import GuardsInputs

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect"),
    pytest.mark.usefixtures("same_weights_and_one_thread"),
]

# From less than the shortest vector to more than the longest panel of weights, and long rows.
SIZES = [1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 129, 300, 2049]


def derivatives_of(function: Callable[..., Tensor], *inputs: Tensor, second: bool = True) -> None:
    """Computes a function's value, gradient and the gradient of the gradient."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    value = function(*leaves)
    grads = torch.autograd.grad(value.square().sum(), leaves, create_graph=second)
    if second:
        torch.autograd.grad(sum(grad.square().sum() for grad in grads), leaves)


def run_soft_rank(scores: Tensor, levels: Tensor) -> None:
    methods = ["direct", "linear", "auto"]
    if scores.shape[-1] > 10_000:  # their pairs take seconds
        del methods[0]
    for method, mask in itertools.product(methods, [None, levels < 2]):
        for lam in (0.1, 10.0, 1e4):
            derivatives_of(lambda s: soft_rank(s, lam, mask=mask, method=method), scores)  # noqa: B023


def run_hard_rank(scores: Tensor, levels: Tensor) -> None:
    for ties, mask in itertools.product(["average", "ordinal"], [None, levels < 2]):
        hard_rank(scores, mask=mask, ties=ties)


COMPARATORS = [Sigmoid(0.01), Sup(), Step(), Ramp(), ByLevel(Sup(), Step(), Ramp())]


def run_rank_counts(scores: Tensor, levels: Tensor) -> None:
    for comparator, method in itertools.product(COMPARATORS, ["direct", "linear"]):
        derivatives_of(
            lambda s: rank_counts(s, levels, comparator=comparator, method=method).counts,  # noqa: B023
            scores,
        )


def run_metrics(scores: Tensor, levels: Tensor) -> None:
    derivatives_of(lambda s: smooth_ap(s, levels > 0), scores, second=False)
    derivatives_of(lambda s: sup_ap(s, levels > 0), scores, second=False)
    derivatives_of(lambda s: h_ap(s, levels), scores, second=False)
    derivatives_of(lambda s: smooth_recall(s, levels > 0), scores, second=False)
    derivatives_of(lambda s: sup_ndcg(s, levels), scores, second=False)


def run_soft_histogram(scores: Tensor, levels: Tensor) -> None:
    for given in (None, levels):
        derivatives_of(lambda s: soft_histogram(s, given, bins=20), scores)  # noqa: B023


def run_margin_excess(scores: Tensor, levels: Tensor) -> None:
    for mask in (None, levels < 2):
        derivatives_of(lambda s: margin_excess(s, levels > 0, mask, 0.9, 0.2), scores, second=False)  # noqa: B023


def run_shared_labels(_: Tensor, levels: Tensor) -> None:
    items = levels.T.contiguous()
    shared_labels(items[:2], items)


RUNS = [
    run_soft_rank,
    run_hard_rank,
    run_rank_counts,
    run_metrics,
    run_soft_histogram,
    run_margin_excess,
    run_shared_labels,
]


@pytest.mark.parametrize("behind", [True, False], ids=["behind", "before"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__[4:])
def test_rows(run: Callable[[Tensor, Tensor], None], dtype: torch.dtype, behind: bool) -> None:
    for n, share in itertools.product(SIZES, (1.0, 0.1)):
        scores = make_scores("normal", (3, n), dtype=dtype)
        levels = torch.randint(0, 3, (3, n)) * (torch.rand(3, n) < share)
        with GuardsInputs(behind) as mode:
            run(scores, levels)
        assert mode.calls > 0


# Rows that threads share, in blocks, slices or parts, and more levels than a group has.
LONG = [(5001, 2), (2 * 16384 + 1, 18), (140_001, 3)]


@pytest.mark.parametrize("behind", [True, False], ids=["behind", "before"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__[4:])
def test_long_rows(
    run: Callable[[Tensor, Tensor], None],
    dtype: torch.dtype,
    behind: bool,
    set_threads: Callable[[int], None],
) -> None:
    set_threads(2)
    for n, most in LONG:
        scores = make_scores("normal", (1, n), dtype=dtype)
        levels = torch.randint(0, most, (1, n)) * (torch.rand(1, n) < 100 / n)
        with GuardsInputs(behind) as mode:
            run(scores, levels)
        assert mode.calls > 0


@pytest.mark.parametrize("behind", [True, False], ids=["behind", "before"])
@pytest.mark.parametrize("hidden", [1, 7, 16, 17, 33, 65, 129])
def test_bilstm(hidden: int, behind: bool) -> None:
    for precision, dtype in (
        ("full", torch.float32),
        ("bf16", torch.float32),
        ("full", torch.float64),
    ):
        weights = list(make_bilstm(hidden, 2).to(dtype).parameters())
        head = torch.randn(2 * hidden, dtype=dtype)
        for batch, steps in ((1, 3), (5, 4), (17, 1), (70, 3)):
            scores = make_scores("normal", (batch, steps), dtype=dtype)
            with GuardsInputs(behind) as mode:
                derivatives_of(
                    lambda s, *w: bilstm(s, list(w), precision=precision),  # noqa: B023
                    scores,
                    *weights,
                    second=False,
                )
                derivatives_of(
                    lambda s, h: bilstm(s, weights, h, precision=precision),  # noqa: B023
                    scores,
                    head,
                    second=False,
                )
            assert mode.calls > 0


@pytest.mark.parametrize("instruction_set", ["avx512_bf16", "avx512", "avx2", "baseline"])
def test_on_other_instruction_sets(rerun_on: Any, instruction_set: str) -> None:
    rerun_on(__file__, "behind and not long", 28, instruction_set)
