"""Calls that would wait for a GPU, detected on the CPU: a CUDA graph cannot contain them."""

import functools

import pytest
import torch

from bench.gpu_graphs import as_graph, host_waits
from sodeep_fast import (
    quantized_ap,
    smooth_ap,
    smooth_ndcg,
    smooth_recall,
    soft_histogram,
    soft_rank,
)
from sodeep_fast.benchmark import Unavailable, rank_counts
from sodeep_fast.testing import make_scores

pytestmark = pytest.mark.kernels  # without which everything waits
SHAPE = (4, 30)


def call_of(function):
    leaf = make_scores("normal", SHAPE).requires_grad_()
    return lambda: torch.autograd.grad(function(leaf).sum(), leaf)


@functools.cache
def counts_of_found():
    return rank_counts.route_of_found("cpp", "direct")


def labels():
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.2


@pytest.mark.parametrize(
    "function",
    [
        soft_rank,
        soft_histogram,
        lambda scores: quantized_ap(scores, labels()),
        lambda scores: counts_of_found()(scores),
    ],
    ids=["soft_rank", "soft_histogram", "quantized_ap", "rank_counts of found targets"],
)
def test_these_wait_for_nothing(function):
    call_of(function)()  # computes what is cached
    assert host_waits(call_of(function)) == []
    as_graph(call_of(function), "cpu")()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda scores: smooth_ap(scores, labels()), "graded_precision"),
        (lambda scores: smooth_recall(scores, labels()), "counted_recall"),
        (lambda scores: smooth_ndcg(scores, labels()), "counted_ndcg"),
        (rank_counts.route("cpp", "direct"), "find_marked"),
        (lambda scores: scores * float(scores.detach().sum()), "_local_scalar_dense"),
        (lambda scores: scores[scores.detach() > 0], "index by a mask"),
        (lambda scores: scores.sum() * len(scores.detach().nonzero()), "nonzero"),
    ],
)
def test_these_wait_and_say_for_what(function, name):
    assert any(name in found for found in host_waits(call_of(function)))
    with pytest.raises(Unavailable, match=f"no CUDA graph: the host waits for .*{name}"):
        as_graph(call_of(function), "cpu")


def test_a_wait_in_the_backward_is_seen():
    class Waits(torch.autograd.Function):
        @staticmethod
        def forward(ctx, scores):
            return scores * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * grad.sum().item()

    assert host_waits(call_of(Waits.apply)) == ["aten::_local_scalar_dense"]
