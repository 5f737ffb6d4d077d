"""What the bidirectional LSTM keeps for its backward on a CPU, and what it recomputes."""

import pytest
import torch
from torch import Tensor

from sodeep_fast import _native, bilstm
from sodeep_fast.ops import bilstm as module
from sodeep_fast.ops._bilstm_layer import SAVED_BY_CPP
from sodeep_fast.testing import bilstm_derivatives, make_bilstm, make_scores
from sodeep_fast.testing.lstm import by_kernels

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.usefixtures("same_weights_and_one_thread"),
]


@pytest.mark.parametrize("segment_bytes", [0, 1 << 20])
@pytest.mark.parametrize("shape", [(70, 3, 9, 2), (5, 101, 17, 1), (9, 14, 5, 2)])
def test_what_was_not_saved_is_computed_anew(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int, int], segment_bytes: int
) -> None:
    b, n, hidden, layers = shape
    lstm = make_bilstm(hidden, layers)
    scores = make_scores("normal", (b, n))
    saved = bilstm_derivatives(by_kernels(lstm), lstm, scores)
    monkeypatch.setattr(module, "SAVED_BYTES", 0)
    monkeypatch.setattr(module, "SEGMENT_BYTES", segment_bytes)
    anew = bilstm_derivatives(by_kernels(lstm), lstm, scores)
    for name, value in anew.items():
        # Tiles may have other rows, so that sums over rows are grouped differently.
        torch.testing.assert_close(value, saved[name], rtol=1e-5, atol=1e-5, msg=name)
    assert torch.equal(anew["scores"], saved["scores"])


def test_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    lstm = make_bilstm(7, 1)
    weights = list(lstm.parameters())
    scores = torch.randn(3, 5, requires_grad=True)
    sizes: list[int] = []

    def kept(value: Tensor) -> Tensor:
        sizes.append(value.numel())
        return value

    monkeypatch.setattr(module, "SEGMENT_BYTES", 0)
    parameters = sum(weight.numel() for weight in weights)
    for wants_weights, most in ((False, 0), (True, 2 * 7 * 15)):
        # The state before the last step, or all gates and what else the backward reads.
        for limit, gates in ((0, 2 * 2 * 7 * 3), (1 << 20, 10 * 7 * 15)):
            monkeypatch.setattr(module, "SAVED_BYTES", limit)
            lstm.requires_grad_(wants_weights)
            sizes.clear()
            with torch.autograd.graph.saved_tensors_hooks(kept, lambda value: value):
                bilstm(scores, weights)
            assert sum(sizes) == parameters + 15 + most + gates
    sizes.clear()
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda value: value), torch.no_grad():
        bilstm(scores, weights)
    assert sizes == []


@pytest.mark.parametrize(
    ("fast", "hidden", "rows", "all_kept"),
    [
        (True, 128, 128, [False, False]),
        (True, 256, 64, [True, True]),
        (False, 128, 128, [True, True]),
        (False, 40, 512, [False, True]),
        (False, 20, 1100, [False, False]),
    ],
)
def test_layers_of_many_units_keep_more(
    monkeypatch: pytest.MonkeyPatch, fast: bool, hidden: int, rows: int, all_kept: list[bool]
) -> None:
    """They keep more if recomputing would take longer."""
    monkeypatch.setattr(_native, "cpu_has_bf16", lambda: fast)
    weights = [weight.detach() for weight in make_bilstm(hidden, 2).parameters()]
    saved: list[bool] = []

    def keep(value: Tensor) -> Tensor:
        if value.dim() == 5:  # gates and states
            saved.append(value.shape[3] == SAVED_BY_CPP)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        bilstm(torch.randn(rows, 64, requires_grad=True), weights)
    assert saved == all_kept


@pytest.mark.parametrize("precision", ["full", "bf16"])
def test_hidden_states_are_not_kept_with_a_head(precision: str) -> None:
    weights = [weight.detach() for weight in make_bilstm(40, 1).parameters()]
    head = torch.randn(80)
    scores = make_scores("normal", (7, 30)).requires_grad_()
    with torch.no_grad():
        expected = bilstm(scores, weights, precision=precision) @ head
    kept = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        actual = bilstm(scores, weights, head, precision=precision)
    torch.testing.assert_close(actual, expected)
    assert not any(value.shape == (30, 7, 80) for value in kept)
