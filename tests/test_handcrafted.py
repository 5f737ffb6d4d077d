"""The handcrafted sorter: the operator as a module, and its learnable steepness."""

import math

import pytest
import torch
from torch import Tensor

from sodeep_fast import HandcraftedSorter, soft_rank
from sodeep_fast.testing import make_scores


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_worked_literal() -> None:
    ranks = HandcraftedSorter(lam=2.0)(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ranks.tolist() == pytest.approx([(1 + sigmoid(2)) / 2, (1 + sigmoid(-2)) / 2], rel=1e-15)
    plain = HandcraftedSorter(lam=2.0, normalize=False)(torch.tensor([0.0, 1.0]).double())
    assert plain.tolist() == pytest.approx([1 + sigmoid(2), 1 + sigmoid(-2)], rel=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("normalize", [False, True])
def test_is_soft_rank(dtype: torch.dtype, normalize: bool) -> None:
    scores = make_scores("normal", (2, 3, 20), dtype=dtype)
    mask = make_scores("uniform", (2, 3, 20), seed=1) > -0.5
    sorter = HandcraftedSorter(3.0, normalize=normalize)
    assert torch.equal(sorter(scores), soft_rank(scores, 3.0, normalize=normalize))
    assert torch.equal(
        sorter(scores, mask=mask), soft_rank(scores, 3.0, mask=mask, normalize=normalize)
    )
    assert sorter(scores).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_defaults_are_the_papers() -> None:
    scores = make_scores("uniform", (4, 30))
    assert torch.equal(HandcraftedSorter()(scores), soft_rank(scores, 10.0, normalize=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_learnable_starts_where_the_fixed_one_is(dtype: torch.dtype) -> None:
    scores = make_scores("uniform", (4, 30), dtype=dtype)
    learnable, fixed = HandcraftedSorter(7.0, learnable=True), HandcraftedSorter(7.0)
    # The parameter is float32: lam is off by its rounding, and the rank by at most that of
    # lam * score, which is below 20, times the steepest slope, 1/4.
    floor = torch.finfo(torch.float32).eps * 20
    torch.testing.assert_close(learnable(scores), fixed(scores), rtol=0, atol=floor)
    assert learnable(scores).dtype == fixed(scores).dtype
    assert learnable.lam == pytest.approx(7.0, rel=1e-6)


def test_learnable_gradients() -> None:
    sorter = HandcraftedSorter(2.0, learnable=True).double()
    scores = make_scores("normal", (2, 6), dtype=torch.float64).requires_grad_()
    mask = torch.tensor([[True] * 6, [True, False, True, True, True, False]])

    def ranks(scores: Tensor, log_lam: Tensor) -> Tensor:
        return torch.func.functional_call(sorter, {"log_lam": log_lam}, (scores, mask))

    assert torch.autograd.gradcheck(ranks, (scores, sorter.log_lam))


def test_what_is_masked_does_not_reach_the_gradient_of_lam() -> None:
    sorter = HandcraftedSorter(learnable=True)
    mask = torch.tensor([True, True, True, False, False])
    grads = []
    for filler in (0.0, math.inf, math.nan):
        scores = torch.tensor([0.1, 0.2, 0.15, filler, filler], requires_grad=True)
        sorter.zero_grad()
        sorter(scores, mask=mask).square().sum().backward()
        assert scores.grad[3:].tolist() == [0, 0]
        grads.append(sorter.log_lam.grad.item())
    assert grads[0] == grads[1] == grads[2] != 0


def test_lam_stays_positive_under_a_large_step() -> None:
    sorter = HandcraftedSorter(learnable=True)
    with torch.no_grad():
        sorter.log_lam -= 50
    assert 0 < sorter.lam < 1e-20
    assert torch.isfinite(sorter(torch.randn(5))).all()


def test_parameters_and_state() -> None:
    assert list(HandcraftedSorter().parameters()) == []
    assert HandcraftedSorter().state_dict() == {}
    learnable = HandcraftedSorter(3.0, learnable=True)
    assert [name for name, _ in learnable.named_parameters()] == ["log_lam"]
    other = HandcraftedSorter(learnable=True)
    other.load_state_dict(learnable.state_dict())
    assert other.lam == learnable.lam


def test_repr() -> None:
    assert repr(HandcraftedSorter()) == "HandcraftedSorter(lam=10, normalize=True)"
    assert (
        repr(HandcraftedSorter(0.5, False, True, "direct", "reference"))
        == "HandcraftedSorter(lam=0.5, normalize=False, learnable=True, method='direct', "
        "backend='reference')"
    )


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"lam": 0.0}, ValueError, "lam must be positive and finite, got 0"),
        ({"lam": -1}, ValueError, "lam must be positive and finite, got -1"),
        ({"lam": math.inf}, ValueError, "lam must be positive and finite, got inf"),
        ({"lam": "10"}, TypeError, "lam must be a number, got str"),
        ({"method": "fast"}, ValueError, "method must be one of .*'linear'.*got 'fast'"),
        ({"backend": "tpu"}, ValueError, "backend must be one of .*'triton'.*got 'tpu'"),
    ],
)
def test_bad_options(options: dict[str, object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        HandcraftedSorter(**options)


@pytest.mark.parametrize("learnable", [False, True])
def test_bad_scores(learnable: bool) -> None:
    sorter = HandcraftedSorter(learnable=learnable)
    with pytest.raises(TypeError, match=r"scores must be float16.*got torch\.int64"):
        sorter(torch.arange(3))
    with pytest.raises(ValueError, match=r"mask must have the shape of scores, \(3,\), got \(2,\)"):
        sorter(torch.zeros(3), mask=torch.ones(2, dtype=torch.bool))
