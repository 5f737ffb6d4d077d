"""The bidirectional LSTM with products of bfloat16, on a CPU."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from sodeep_fast import _native, bilstm
from sodeep_fast.ops.bilstm import rounded_bilstm
from sodeep_fast.testing import bilstm_derivatives, make_bilstm, make_scores
from sodeep_fast.testing.lstm import bilstm_under_autocast, by_kernels, exact_bilstm

OPS = torch.ops.sodeep_fast
pytestmark = [
    pytest.mark.kernels,
    pytest.mark.usefixtures("same_weights_and_one_thread"),
]
# No size is a multiple of a vector, of the rows of a product or of those of a tile.
SHAPES = [(513, 2, 7, 1), (65, 9, 33, 2), (13, 101, 100, 2), (7, 5, 129, 3), (1, 101, 129, 2)]
SHAPES += [(3, 1, 100, 2), (35, 50, 100, 2), (5, 50, 33, 1)]


@pytest.mark.parametrize(("b", "n", "hidden", "layers"), SHAPES)
def test_as_accurate_as_torch_under_autocast(b: int, n: int, hidden: int, layers: int) -> None:
    lstm = make_bilstm(hidden, layers)
    scores = make_scores("normal", (b, n))
    exact = exact_bilstm(lstm, scores)
    eager = bilstm_under_autocast(lstm, scores, "bf16")
    actual = bilstm_derivatives(by_kernels(lstm, precision="bf16"), lstm, scores)
    for name, value in actual.items():
        assert value.dtype == torch.float32
        ours_error, eager_error = (
            float((tensor.double() - exact[name]).abs().max()) for tensor in (value, eager[name])
        )
        assert ours_error <= eager_error, name


@pytest.mark.parametrize("instruction_set", ["avx512_bf16", "avx512"])
def test_on_other_instruction_sets(rerun_on: Any, instruction_set: str) -> None:
    rerun_on(__file__, "accurate", 8, instruction_set)


def test_rounded_states_are_those_of_full_precision_rounded_once() -> None:
    weights = list(make_bilstm(40, 2).parameters())
    scores = make_scores("normal", (9, 8))
    assert torch.equal(rounded_bilstm(scores, weights), bilstm(scores, weights))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = rounded_bilstm(scores, weights)
        expected = bilstm(scores, weights)
    assert rounded.dtype == (torch.bfloat16 if _native.cpu_has_bf16() else torch.float32)
    assert torch.equal(rounded, expected.to(rounded.dtype))


def test_precision_follows_weights_and_autocast() -> None:
    lstm = make_bilstm(40, 2)
    weights = list(lstm.parameters())
    scores = make_scores("normal", (9, 8))
    full, half = (bilstm(scores, weights, precision=p) for p in ("full", "bf16"))
    assert torch.equal(half, full) == (not _native.cpu_has_bf16())
    assert torch.equal(bilstm(scores, weights), full)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bilstm(scores, weights), half)
        assert torch.equal(bilstm(scores, weights, precision="full"), full)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(bilstm(scores, weights), full)
    rounded = [weight.bfloat16() for weight in weights]
    exactly = [weight.float() for weight in rounded]
    expected = bilstm(scores, exactly, precision="bf16").bfloat16()
    assert torch.equal(bilstm(scores, rounded), expected)


@pytest.mark.parametrize("b", [1, 16, 128, 130])
def test_threads_do_not_change_the_numbers(b: int) -> None:
    lstm = make_bilstm(40, 2)
    function = by_kernels(lstm, precision="bf16")
    scores = make_scores("normal", (b, 30))
    one = bilstm_derivatives(function, lstm, scores)
    torch.set_num_threads(2)
    for name, value in bilstm_derivatives(function, lstm, scores).items():
        assert torch.equal(value, one[name]), name
    # Only the sums over rows may be grouped differently.
    torch.set_num_threads(5)
    several = bilstm_derivatives(function, lstm, scores)
    assert all(torch.equal(several[name], one[name]) for name in ("hidden", "scores"))


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("features", [1, 10])
def test_the_kernels_are_well_behaved_operators(features: int, rounds: bool) -> None:
    lstm = nn.LSTM(features, 5, bidirectional=True)
    weights = [weight.detach().requires_grad_() for weight in lstm.parameters()]
    sequence = torch.randn(4, 3, features)
    if features > 1:
        sequence = sequence.bfloat16()
    sequence.requires_grad_()
    for keeps in (2, 4):
        torch.library.opcheck(
            OPS.bilstm_layer, (sequence, weights, None, keeps, True, rounds, False)
        )
        detached = sequence.detach(), [weight.detach() for weight in weights], None
        hidden, saved, _ = OPS.bilstm_layer(*detached, keeps, True, rounds, False)
        for states, wants in itertools.product((None, hidden), (False, True)):
            arguments = (hidden, *detached, states, saved, wants, True, False)
            torch.library.opcheck(OPS.bilstm_layer_backward, arguments)
