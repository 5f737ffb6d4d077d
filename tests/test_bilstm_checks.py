"""Bad input of the bidirectional LSTM, and what its operators promise to PyTorch."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import sodeep_fast
from sodeep_fast.testing import make_bilstm

OPS = torch.ops.sodeep_fast


def without(k: int) -> list[Tensor]:
    weights = list(make_bilstm(2, 1).parameters())
    return weights[:k] + weights[k + 1 :]


@pytest.mark.parametrize(
    ("scores", "weights", "options", "error", "match"),
    [
        ([1.0], without(8), {}, TypeError, r"scores must be a torch\.Tensor, got list"),
        (torch.ones(2, 3).int(), without(8), {}, TypeError, "scores must be float16"),
        (torch.ones(3), without(8), {}, ValueError, r"scores must have shape \(b, n\), got \(3,\)"),
        (torch.ones(2, 3), [1.0] * 8, {}, TypeError, r"weights must be torch\.Tensors, got float"),
        (
            torch.ones(2, 3),
            [*without(7), torch.zeros(8).double()],
            {},
            TypeError,
            r"one floating-point dtype, got torch\.float32 and torch\.float64",
        ),
        (torch.ones(2, 3), without(0), {}, ValueError, "weights must be 8 for each layer, got 7"),
        (torch.ones(2, 3), [torch.ones(())] * 8, {}, ValueError, r"weights\[0\] must have shape"),
        (torch.ones(2, 3), [], {}, ValueError, "weights must be 8 for each layer, got 0"),
        (
            torch.ones(2, 3),
            [*without(7), torch.zeros(4)],
            {},
            ValueError,
            r"weights\[7\] must have shape \(8,\), got \(4,\)",
        ),
        (
            torch.ones(2, 3),
            [weight.to("meta") for weight in without(8)],
            {},
            ValueError,
            "weights must be on the device of scores, cpu, got meta",
        ),
        pytest.param(
            torch.ones(2, 3),
            without(8),
            {"backend": "cuda"},
            ValueError,
            "it serves CUDA tensors, and this one is on cpu",
            marks=pytest.mark.kernels,
        ),
        (
            torch.ones(2, 3),
            without(8),
            {"precision": "tf32"},
            ValueError,
            "precision must be one of 'auto', 'full', 'bf16', 'fp16', got 'tf32'",
        ),
        (
            torch.ones(2, 3),
            [weight.double() for weight in without(8)],
            {"precision": "bf16"},
            ValueError,
            "precision must be 'auto' or 'full' for float64 weights, got 'bf16'",
        ),
        (torch.rand(3, 4), without(8), {"head": 1.0}, TypeError, "head must be"),
        (torch.rand(3, 4), without(8), {"head": torch.rand(4).double()}, TypeError, "head must be"),
        (
            torch.rand(3, 4),
            without(8),
            {"head": torch.rand(5)},
            ValueError,
            r"head must have shape \(4,\), got \(5,\)",
        ),
    ],
)
def test_bad_input(
    scores: Any, weights: Any, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        sodeep_fast.bilstm(scores, weights, **options)


def test_weights_may_come_from_a_generator() -> None:
    lstm = make_bilstm(2, 1)
    scores = torch.rand(2, 3)
    expected = sodeep_fast.bilstm(scores, list(lstm.parameters()))
    assert torch.equal(sodeep_fast.bilstm(scores, lstm.parameters()), expected)


@pytest.mark.kernels
def test_the_operators_check_sizes() -> None:
    weights = [weight.detach() for weight in make_bilstm(3, 1).parameters()]
    sequence = torch.randn(4, 2, 1)
    hidden, saved, _ = OPS.bilstm_layer(sequence, weights, None, 4, False, False, False)
    for call in (
        lambda: OPS.bilstm_layer(sequence, weights[:4], None, 0, False, False, False),
        lambda: OPS.bilstm_layer(
            sequence, [*weights[:7], torch.zeros(3)], None, 0, False, False, False
        ),
        lambda: OPS.bilstm_layer(torch.randn(4, 2, 2), weights, None, 0, False, False, False),
        lambda: OPS.bilstm_layer_backward(
            hidden[1:], sequence, weights, None, None, saved, True, False, False
        ),
        lambda: OPS.bilstm_layer_backward(
            hidden, sequence, weights, None, hidden[1:], saved, True, False, False
        ),
        lambda: OPS.bilstm_layer_backward(
            hidden, sequence, weights, None, None, saved[1:], True, False, False
        ),
        lambda: OPS.bilstm_layer_backward(
            hidden, sequence, weights, None, None, saved[:, :2], True, False, False
        ),
        lambda: OPS.bilstm_layer_backward(
            hidden, sequence, weights, None, None, saved[0], True, False, False
        ),
        lambda: OPS.bilstm_layer(sequence, weights, None, -1, False, False, False),
        lambda: OPS.bilstm_layer(sequence, weights, torch.zeros(5), 0, False, False, False),
        lambda: OPS.bilstm_layer_backward(
            hidden, sequence, weights, torch.zeros(6), hidden, saved, True, False, False
        ),
        lambda: OPS.bilstm_layer_backward(
            hidden, sequence, weights, None, hidden, saved, True, False, True
        ),
    ):
        with pytest.raises(RuntimeError):
            call()


@pytest.mark.kernels
def test_the_kernels_are_well_behaved_operators() -> None:
    weights = [weight.detach() for weight in make_bilstm(5, 1).parameters()]
    wanted = [weight.clone().requires_grad_() for weight in weights]
    sequence = torch.randn(4, 3, 1)
    for given, keeps in itertools.product((weights, wanted), (0, 1, 2, 4)):
        for leaf in (sequence, sequence.clone().requires_grad_()):
            torch.library.opcheck(OPS.bilstm_layer, (leaf, given, None, keeps, False, False, False))
    hidden, saved, _ = OPS.bilstm_layer(sequence, weights, None, 4, False, False, False)
    _, kept, _ = OPS.bilstm_layer(sequence, weights, None, 2, False, False, False)
    assert kept.shape == (2, 2, 3, 2, 5)
    for states, values, wants in itertools.product((None, hidden), (saved, kept), (False, True)):
        arguments = (hidden, sequence, weights, None, states, values, wants, False, False)
        torch.library.opcheck(OPS.bilstm_layer_backward, arguments)
    head = torch.randn(10)
    leaf = sequence.clone().requires_grad_()
    torch.library.opcheck(OPS.bilstm_layer, (leaf, weights, head, 4, False, False, False))
    learned = head.clone().requires_grad_()
    torch.library.opcheck(OPS.bilstm_layer, (leaf, wanted, learned, 4, False, False, True))
    for states, wants, wants_head in itertools.product((None, hidden), *[(False, True)] * 2):
        arguments = (torch.randn(2, 4, 3), sequence, weights, head, states, saved, wants, False)
        torch.library.opcheck(OPS.bilstm_layer_backward, (*arguments, wants_head))
