"""A loss in parts: the same numbers as at once, in less memory, and refusals."""

import pytest
import torch
from torch import Tensor

import sodeep_fast
from sodeep_fast import loss_in_parts
from sodeep_fast.testing import make_scores

SORTER = sodeep_fast.LSTMSorter(6, 2).double()


def distance(scores: Tensor, ranks: Tensor) -> Tensor:
    return (SORTER(scores) - ranks).abs().mean(-1)


@pytest.mark.parametrize("b", [1, 7, 12])
@pytest.mark.parametrize("rows", [1, 6, 64])
def test_the_same_as_at_once(b: int, rows: int) -> None:
    scores = make_scores("normal", (b, 9), dtype=torch.float64)
    ranks = sodeep_fast.hard_rank(scores, normalize=True)
    weights = make_scores("normal", (b,), dtype=torch.float64, seed=1)
    results = []
    for function in (distance, lambda *given: loss_in_parts(distance, *given, rows=rows)):
        leaf = scores.clone().requires_grad_()
        values = function(leaf, ranks)
        (values * weights).sum().backward()
        results.append((values.detach(), leaf.grad))
    torch.testing.assert_close(*results)
    with torch.no_grad():
        torch.testing.assert_close(loss_in_parts(distance, scores, ranks, rows=rows), results[0][0])


def test_only_the_gradient_is_kept() -> None:
    scores = make_scores("normal", (12, 9), dtype=torch.float64).requires_grad_()
    value = loss_in_parts(distance, scores, scores.detach(), rows=5)
    (behind, _), *others = value.grad_fn.next_functions
    assert behind.variable is scores
    assert all(function is None for function, _ in others)
    assert [saved.shape for saved in value.grad_fn.saved_tensors] == [scores.shape]


def test_a_loss_that_does_not_read_the_scores_has_no_gradient() -> None:
    scores = torch.randn(4, 3, requires_grad=True)
    loss_in_parts(lambda part: torch.ones(len(part)), scores).sum().backward()
    assert not scores.grad.any()


def test_not_twice() -> None:
    scores = torch.randn(4, 3, requires_grad=True)
    value = loss_in_parts(lambda part: part.square().sum(-1), scores).sum()
    (grad,) = torch.autograd.grad(value, scores, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((torch.arange(3),), {}, TypeError, "scores must be float16"),
        ((torch.ones(3, 2),), {"rows": 0}, ValueError, "rows must be at least 1, got 0"),
        ((torch.ones(3, 2), torch.ones(2)), {}, ValueError, "others must have 3 rows, got 2"),
        ((torch.ones(3, 2), [1, 2, 3]), {}, TypeError, "others must be torch.Tensors, got list"),
        ((torch.ones(3, 2), torch.ones(())), {}, ValueError, "3 rows, got a scalar tensor"),
    ],
)
def test_bad_input(
    arguments: tuple[Tensor, ...], options: dict[str, int], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        loss_in_parts(lambda part, *rest: part.sum(-1), *arguments, **options)


def test_losses_of_another_shape_and_of_trainable_weights_are_refused() -> None:
    scores = torch.ones(5, 2, requires_grad=True)
    with pytest.raises(TypeError, match=r"loss must be a function of rows .* got int"):
        loss_in_parts(3, scores)
    with pytest.raises(TypeError, match=r"loss must return a torch\.Tensor, got int"):
        loss_in_parts(lambda part: 3, scores)
    with pytest.raises(ValueError, match=r"one value per row, \(4,\), got \(\)"):
        loss_in_parts(lambda part: part.sum(), scores, rows=4)
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="scores alone: freeze its weights"):
        loss_in_parts(lambda part: (part * weight).sum(-1), scores)
