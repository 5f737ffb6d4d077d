"""Gradients that operators hand out without autograd, which has to agree with them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sodeep_fast import (
    CalibrationLoss,
    CombinedLoss,
    RecallAtKLoss,
    SmoothAPLoss,
    SupAPLoss,
    smooth_ap,
)
from sodeep_fast.ops import _pullback
from sodeep_fast.ops._pullback import extend, follows, value_and_pullback
from sodeep_fast.retrieval import RetrievalLoss
from sodeep_fast.retrieval.gallery import Gallery
from sodeep_fast.testing import make_scores

LABELS = torch.arange(12) % 4


def doubled(x: Tensor) -> Tensor:
    """An operator with a gradient of its own."""
    return extend(2 * x.detach(), lambda grad: 2 * grad) if follows(x) else 2 * x


def tripled(x: Tensor) -> Tensor:
    return extend(3 * x.detach(), lambda grad: 3 * grad) if follows(x) else 3 * x


PATHS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "one": (doubled, 2),
    "two": (lambda x: tripled(doubled(x)), 6),
    "none": (lambda x: 5 * x, 5),
    "itself": (lambda x: x, 1),
    "something before": (lambda x: doubled(7 * x), 14),
    "something between": (lambda x: tripled(1 + doubled(x)), 6),
    "something after": (lambda x: doubled(x) * 7, 14),
    "two branches": (lambda x: doubled(x) + tripled(x), 5),
    "a branch that is not used": (lambda x: [doubled(x), 7 * x][1], 7),
    "one inside of another": (lambda x: doubled(x) + value_and_pullback(tripled, x)[0], 2),
}


@pytest.mark.parametrize("name", PATHS)
def test_is_the_gradient(name: str) -> None:
    function, slope = PATHS[name]
    x = torch.tensor([1.0, 2.0])
    value, pull = value_and_pullback(function, x)
    assert not value.requires_grad
    torch.testing.assert_close(value, function(x))
    grad = pull(torch.tensor([1.0, 10.0]))
    assert grad is not None
    assert grad.tolist() == [slope, 10 * slope]
    assert _pullback._current.path is None


def test_what_does_not_depend_on_it_has_no_gradient() -> None:
    value, pull = value_and_pullback(lambda x: torch.ones(2), torch.zeros(2))
    assert value.tolist() == [1, 1]
    assert pull(torch.ones(2)) is None


def test_an_error_on_the_way_leaves_nothing_behind() -> None:
    def fails(x: Tensor) -> Tensor:
        doubled(x)
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        value_and_pullback(fails, torch.zeros(2))
    assert _pullback._current.path is None
    assert not follows(torch.zeros(2))


class Squared(SmoothAPLoss):
    """Overrides the metric of a loss whose operator hands out its gradient."""

    def values(self, scores: Tensor, relation: Tensor, mask: Tensor | None) -> Tensor:
        return super().values(scores, relation, mask).square()


class Scaled(SmoothAPLoss):
    def values(self, scores: Tensor, relation: Tensor, mask: Tensor | None) -> Tensor:
        return super().values(3 * scores, relation, mask)


class Weighted(SupAPLoss):
    def block_sums(self, scores: Tensor, gallery: Gallery, rows: slice) -> Tensor:
        return super().block_sums(scores, gallery, rows) * 3


class TwoMetrics(RetrievalLoss):
    def values(self, scores: Tensor, relation: Tensor, mask: Tensor | None) -> Tensor:
        both = [smooth_ap(scores, relation, tau, mask=mask) for tau in (0.1, 0.01)]
        return (both[0] + both[1]) / 2


class HalfOfTheMargins(CalibrationLoss):
    def block_sums(self, scores: Tensor, gallery: Gallery, rows: slice) -> Tensor:
        return super().block_sums(scores, gallery, rows) * torch.tensor([1, 0.5])


class Constant(RetrievalLoss):
    def values(self, scores: Tensor, relation: Tensor, mask: Tensor | None) -> Tensor:
        return scores.new_full((len(scores),), 0.25)


LOSSES: dict[str, Callable[..., RetrievalLoss]] = {
    "squared": Squared,
    "scaled": Scaled,
    "weighted": Weighted,
    "two metrics": TwoMetrics,
    "margins": HalfOfTheMargins,
    "combined": lambda **options: CombinedLoss(
        [SmoothAPLoss(), Squared(0.1), CalibrationLoss(), Constant(), RecallAtKLoss()],
        [1, 2, 3, 4, 5],
        **options,
    ),
}


@pytest.mark.parametrize("chunk_size", ["auto", 5])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_change_what_they_inherit(name: str, chunk_size: int | str) -> None:
    embeddings = make_scores("normal", (12, 300), dtype=torch.float64).requires_grad_()
    results = []
    for size in (None, chunk_size):
        value = LOSSES[name](chunk_size=size)(embeddings, LABELS)
        results.append((value, *torch.autograd.grad(value, embeddings)))
    assert results[0][1].any()
    for plain, direct in zip(*results, strict=True):
        torch.testing.assert_close(direct, plain)


@pytest.mark.parametrize("chunk_size", ["auto", 5])
def test_a_loss_without_a_gradient_has_a_gradient_of_zero(chunk_size: int | str) -> None:
    embeddings = make_scores("normal", (12, 4)).requires_grad_()
    value = Constant(chunk_size=chunk_size)(embeddings, LABELS)
    assert value.item() == 0.75
    assert not torch.autograd.grad(value, embeddings)[0].any()
