"""SoDeep's mAP loss against literals and the class-by-class reference."""

import math

import pytest
import torch
from torch import Tensor

from sodeep_fast import (
    HandcraftedSorter,
    MeanAveragePrecisionLoss,
    hard_rank,
    mean_average_precision_loss,
)
from sodeep_fast.reference.mean_average_precision import (
    mean_average_precision_loss as reference_mean_average_precision_loss,
)
from sodeep_fast.testing import DEVICES, ROUNDING, make_scores

SORTER = HandcraftedSorter(lam=3.0)
# Sums of fewer than a thousand terms of order one, in float64.


def random_case(d: int, classes: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Scores and labels; the first class has no positive and the last nothing else."""
    scores = make_scores("normal", (d, classes), dtype=torch.float64, device=device)
    labels = make_scores("uniform", (d, classes), seed=1, device=device) > 0.3
    labels[:, 0] = False
    labels[:, -1] = True
    return scores, labels


def test_worked_literal() -> None:
    # Ranks of 4 items: 1, 2, 3, 4 in the first class and 4, 3, 2, 1 in the second.
    scores = torch.tensor([[4.0, 1], [3, 2], [2, 3], [1, 4]], dtype=torch.float64)
    labels = torch.tensor([[1, 1], [0, 0], [1, 0], [0, 0]])
    total = (1 + 3 + 4) / 4
    assert mean_average_precision_loss(scores, labels, hard_rank).item() == total
    mean = mean_average_precision_loss(scores, labels, hard_rank, reduction="mean")
    assert mean.item() == pytest.approx(total / 3, rel=1e-15)


def test_worked_literal_soft() -> None:
    # Two items one apart, lam = 1: ranks 1 + s(1) and 1 + s(-1), over 2.
    scores = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    sorter = HandcraftedSorter(lam=1.0)
    for labels, expected in (([[1], [0]], 1 + 1 / (1 + math.exp(-1))), ([[1], [1]], 3.0)):
        loss = mean_average_precision_loss(scores, torch.tensor(labels), sorter)
        assert loss.item() == pytest.approx(expected / 2, rel=1e-15)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (30, 7), (5, 40)])
def test_agrees_with_the_reference(shape: tuple[int, int], reduction: str, device: str) -> None:
    scores, labels = random_case(*shape, device=device)
    results = []
    for loss in (mean_average_precision_loss, reference_mean_average_precision_loss):
        leaf = scores.clone().requires_grad_()
        value = loss(leaf, labels, SORTER, reduction=reduction)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(*results, **ROUNDING)


def test_one_sorter_call_for_all_classes() -> None:
    shapes = []

    def sorter(scores: Tensor) -> Tensor:
        shapes.append(tuple(scores.shape))
        return hard_rank(scores, normalize=True)

    mean_average_precision_loss(*random_case(9, 5), sorter)
    assert shapes == [(5, 9)]


def test_scale_of_the_sorter_does_not_matter() -> None:
    scores, labels = random_case(30, 7)
    torch.testing.assert_close(
        mean_average_precision_loss(scores, labels, HandcraftedSorter(normalize=False)),
        mean_average_precision_loss(scores, labels, HandcraftedSorter(normalize=True)),
        **ROUNDING,
    )


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_classes_without_a_positive_are_left_out(reduction: str) -> None:
    scores, labels = random_case(30, 7)
    scores.requires_grad_()
    loss = mean_average_precision_loss(scores, labels, SORTER, reduction=reduction)
    rest = mean_average_precision_loss(scores[:, 1:], labels[:, 1:], SORTER, reduction=reduction)
    torch.testing.assert_close(loss, rest, **ROUNDING)
    loss.backward()
    assert (scores.grad[:, 0] == 0).all()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("shape", [(4, 3), (0, 3), (4, 0)])
def test_no_positive_at_all_is_zero_with_a_graph(shape: tuple[int, int], reduction: str) -> None:
    scores = torch.randn(shape, requires_grad=True)
    labels = torch.zeros(shape)
    loss = mean_average_precision_loss(scores, labels, SORTER, reduction=reduction)
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(scores.grad, torch.zeros(shape))


def test_gradcheck() -> None:
    scores, labels = random_case(6, 4)
    for reduction in ("sum", "mean"):
        loss = MeanAveragePrecisionLoss(SORTER, reduction)
        assert torch.autograd.gradcheck(loss, (scores.requires_grad_(), labels))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_labels_of_any_dtype(dtype: torch.dtype) -> None:
    scores, labels = random_case(30, 7)
    assert torch.equal(
        mean_average_precision_loss(scores, labels.to(dtype), SORTER),
        mean_average_precision_loss(scores, labels, SORTER),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_scores_are_computed_in_float32(dtype: torch.dtype) -> None:
    scores, labels = random_case(30, 7)
    scores = scores.to(dtype).requires_grad_()
    loss = mean_average_precision_loss(scores, labels, SORTER)
    assert torch.equal(loss, mean_average_precision_loss(scores.float(), labels, SORTER))
    loss.backward()
    assert scores.grad.dtype == dtype


def test_gradient_descent_raises_the_positives() -> None:
    scores, labels = random_case(30, 7)
    scores.requires_grad_()
    loss = MeanAveragePrecisionLoss(SORTER, reduction="mean")
    optimizer = torch.optim.Adam([scores], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss(scores, labels).backward()
        optimizer.step()
    lowest = scores.masked_fill(~labels, math.inf).amin(0)
    highest = scores.masked_fill(labels, -math.inf).amax(0)
    assert (lowest > highest).all()


def test_module() -> None:
    scores, labels = random_case(30, 7)
    sorter = HandcraftedSorter(learnable=True)
    loss = MeanAveragePrecisionLoss(sorter, reduction="mean")
    assert torch.equal(
        loss(scores, labels),
        mean_average_precision_loss(scores, labels, sorter, reduction="mean"),
    )
    assert list(loss.parameters()) == [sorter.log_lam]
    assert "reduction='mean'" in repr(loss)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_traces_into_one_graph(dtype: torch.dtype) -> None:
    scores, labels = random_case(30, 7)
    compiled = torch.compile(mean_average_precision_loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        compiled(scores, labels.to(dtype), SORTER),
        mean_average_precision_loss(scores, labels, SORTER),
        **ROUNDING,
    )


@pytest.mark.parametrize(
    ("scores", "labels", "options", "error", "match"),
    [
        (torch.ones(2, 2).int(), torch.ones(2, 2), {}, TypeError, "scores must be float16"),
        (torch.ones(2), torch.ones(2), {}, ValueError, r"shape \(d, C\), got \(2,\)"),
        (torch.ones(2, 2), [[1, 0]], {}, TypeError, "labels must be a torch.Tensor, got list"),
        (
            torch.ones(2, 3),
            torch.ones(3, 2),
            {},
            ValueError,
            r"labels must have the shape of scores, \(2, 3\), got \(3, 2\)",
        ),
        (torch.ones(1, 2), torch.tensor([[1, 2]]), {}, ValueError, "binary, 0 or 1, got 2"),
        (torch.ones(1, 2), torch.tensor([[1, -1]]), {}, ValueError, "binary, 0 or 1, got -1"),
        (torch.ones(1, 2), torch.tensor([[1, 0.5]]), {}, ValueError, r"binary, 0 or 1, got 0\.5"),
        (torch.ones(1, 1), torch.tensor([[math.nan]]), {}, ValueError, "binary, 0 or 1, got nan"),
        (torch.ones(1, 2), torch.ones(1, 2), {"sorter": None}, TypeError, "sorter must be"),
        (
            torch.ones(1, 2),
            torch.ones(1, 2),
            {"reduction": "none"},
            ValueError,
            "reduction must be one of 'sum', 'mean', got 'none'",
        ),
    ],
)
def test_bad_input(
    scores: Tensor,
    labels: Tensor,
    options: dict[str, object],
    error: type[Exception],
    match: str,
) -> None:
    with pytest.raises(error, match=match):
        mean_average_precision_loss(scores, labels, **{"sorter": SORTER, **options})


def test_bad_options_at_construction() -> None:
    with pytest.raises(TypeError, match="sorter must be a module or function"):
        MeanAveragePrecisionLoss("exa")
    with pytest.raises(ValueError, match="reduction must be one of"):
        MeanAveragePrecisionLoss(SORTER, reduction="none")
