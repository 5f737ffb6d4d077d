"""The sorter that learns during training: what it learns from and leaves alone, and bad input."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sodeep_fast
from sodeep_fast import CNNSorter, LSTMSorter, MLPSorter, OnlineSorter, SpearmanLoss
from sodeep_fast.testing import make_scores

pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")


def state_of(sorter: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(sorter.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("normalize", [True, False])
def test_one_step_by_hand(normalize: bool) -> None:
    sorter = MLPSorter(5, 7, normalize=normalize)
    by_hand = copy.deepcopy(sorter).requires_grad_(True)
    online = OnlineSorter(sorter, lr=0.01)
    scores = make_scores("normal", (6, 5))
    assert torch.equal(online(scores[:2]), by_hand(scores[:2]))
    online(scores[2:])

    optimizer = torch.optim.Adam(by_hand.parameters(), 0.01)
    ranks = by_hand(scores) / (1 if normalize else 5)
    error = (ranks - sodeep_fast.hard_rank(scores, normalize=True)).abs().mean()
    error.backward()
    optimizer.step()
    assert online.update() == pytest.approx(error.item(), rel=1e-6)
    for value, expected in zip(sorter.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(value, expected)


def test_it_adapts_to_the_scores_that_it_sees() -> None:
    online = OnlineSorter(LSTMSorter(8), lr=0.01)
    errors = []
    for seed in range(100):
        online(40 + 3 * make_scores("normal", (16, 6), seed=seed))
        errors.append(online.update())
    assert errors[-1] < 0.7 * errors[0]


def test_the_loss_does_not_train_the_sorter() -> None:
    online = OnlineSorter(LSTMSorter(4, trainable=True))
    loss = SpearmanLoss(online)
    scores = make_scores("normal", (3, 6)).requires_grad_()
    before = state_of(online.sorter)
    loss(scores, make_scores("normal", (3, 6), seed=1)).backward()
    assert scores.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())
    assert same(state_of(online.sorter), before)
    gradient = scores.grad.clone()
    online.update()
    assert not same(state_of(online.sorter), before)
    assert torch.equal(scores.grad, gradient)
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())


def test_rows_of_several_lengths() -> None:
    online = OnlineSorter(LSTMSorter(4))
    rows = [make_scores("normal", shape) for shape in ((3, 6), (2, 2, 4), (6,))]
    errors = []
    for scores in rows:
        errors.append((online(scores) - sodeep_fast.hard_rank(scores, normalize=True)).abs())
    expected = torch.cat([error.flatten() for error in errors]).mean().item()
    assert online.update() == pytest.approx(expected, rel=1e-5)


def test_nothing_is_kept_in_evaluation_mode() -> None:
    online = OnlineSorter(LSTMSorter(4)).eval()
    online(make_scores("normal", (3, 6)))
    assert online.update() is None
    online.train()
    online(torch.ones(0, 6))
    assert online.update() is None


def test_only_the_latest_rows_are_kept() -> None:
    online = OnlineSorter(LSTMSorter(4), keep=4)
    for seed in range(5):
        online(make_scores("normal", (2, 6), seed=seed))
    assert [len(rows) for rows, _ in online._seen] == [2, 2]
    online(make_scores("normal", (9, 6)))
    assert [len(rows) for rows, _ in online._seen] == [9]


def test_scores_changed_in_place_later_are_kept_as_they_were() -> None:
    online, twin = (OnlineSorter(LSTMSorter(4)) for _ in range(2))
    twin.load_state_dict(online.state_dict())
    scores = make_scores("normal", (2, 6))
    online(scores)
    twin(scores.clone())
    scores.zero_()
    assert online.update() == twin.update()


def test_an_update_before_the_backward_pass_is_an_error() -> None:
    online = OnlineSorter(MLPSorter(6, 4))
    scores = make_scores("normal", (2, 6)).requires_grad_()
    ranks = online(scores)
    online.update()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        ranks.sum().backward()


def test_update_without_gradients_enabled() -> None:
    online = OnlineSorter(MLPSorter(6, 4))
    before = state_of(online.sorter)
    with torch.no_grad():
        online(make_scores("normal", (2, 6)))
        online.update()
    assert not same(state_of(online.sorter), before)


def test_batch_statistics_stay() -> None:
    online = OnlineSorter(CNNSorter(6, 2))
    before = {key: value for key, value in state_of(online.sorter).items() if "running" in key}
    online(make_scores("normal", (4, 6)))
    online.update()
    assert same(before, state_of(online.sorter))


def test_masked_scores_are_neither_learned_nor_learned_from() -> None:
    scores = make_scores("normal", (3, 8))
    mask = torch.arange(8) < torch.tensor([[8], [5], [0]])
    states, errors = [], []
    for filler in (0.0, torch.nan, 1e9):
        torch.manual_seed(0)
        online = OnlineSorter(sodeep_fast.EquivariantSorter(), lr=1e-2)
        online(scores.masked_fill(~mask, filler), mask)
        errors.append(online.update())
        states.append(state_of(online.sorter))
    assert errors[0] == errors[1] == errors[2]
    assert same(states[0], states[1])
    assert same(states[0], states[2])
    loss = sodeep_fast.SpearmanLoss(online)
    leaf = scores.clone().requires_grad_()
    loss(leaf, scores.flip(-1), mask).backward()
    assert leaf.grad[1, :5].any()


def test_rows_that_are_not_finite_teach_nothing() -> None:
    scores = make_scores("normal", (4, 6))
    spoilt = torch.cat([scores, torch.full((1, 6), torch.nan)])
    states = []
    for given in (scores, spoilt):
        torch.manual_seed(0)
        online = OnlineSorter(LSTMSorter(2), lr=1e-2)
        online(given)
        assert online.update() > 0
        states.append(state_of(online.sorter))
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value)
    online(spoilt[4:])
    assert online.update() is None
    assert same(state_of(online.sorter), states[1])


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: OnlineSorter(abs), TypeError, r"sorter must be a torch\.nn\.Module, got builtin"),
        (
            lambda: OnlineSorter(sodeep_fast.HandcraftedSorter()),
            ValueError,
            "sorter must have parameters to train, HandcraftedSorter has none",
        ),
        (lambda: OnlineSorter(LSTMSorter(2), lr=0), ValueError, "lr must be positive"),
        (lambda: OnlineSorter(LSTMSorter(2), keep=0), ValueError, "keep must be at least 1"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_a_resumed_run_is_the_same_run() -> None:
    batches = [make_scores("normal", (4, 6), seed=seed) for seed in range(6)]

    def run(online: OnlineSorter, some: list[Tensor]) -> None:
        for scores in some:
            online(scores)
            online.update()

    whole, first = (
        OnlineSorter(copy.deepcopy(sorter), lr=0.01) for sorter in [MLPSorter(6, 7)] * 2
    )
    run(whole, batches)
    run(first, batches[:3])
    file = io.BytesIO()
    torch.save(SpearmanLoss(first).state_dict(), file)
    file.seek(0)
    resumed = OnlineSorter(MLPSorter(6, 7))
    SpearmanLoss(resumed).load_state_dict(torch.load(file, weights_only=True))
    run(resumed, batches[3:])
    assert same(whole.sorter.state_dict(), resumed.sorter.state_dict())


@pytest.mark.parametrize("how", ["assign", "meta"])
def test_it_goes_on_with_other_parameters(how: str) -> None:
    batches = [make_scores("normal", (4, 6), seed=seed) for seed in range(4)]
    whole = OnlineSorter(MLPSorter(6, 7), lr=0.01)
    for scores in batches[:2]:
        whole(scores)
        whole.update()
    with torch.device("meta" if how == "meta" else "cpu"):
        other = OnlineSorter(MLPSorter(6, 7))
    state = copy.deepcopy(whole.state_dict())
    other.load_state_dict(state, assign=True)
    for scores in batches[2:]:
        for online in (whole, other):
            online(scores)
            online.update()
    assert same(whole.sorter.state_dict(), other.sorter.state_dict())


def test_it_goes_on_in_another_dtype() -> None:
    online = OnlineSorter(MLPSorter(6, 7), lr=0.01)
    for dtype in (torch.float32, torch.float64, torch.float32):
        online.to(dtype)
        before = state_of(online.sorter)
        online(make_scores("normal", (4, 6), dtype=dtype))
        online.update()
        assert not same(before, online.sorter.state_dict())
