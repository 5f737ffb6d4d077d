"""The triplet loss on ranks against literals and the query-by-query reference."""

import math

import pytest
import torch
from torch import Tensor

from sodeep_fast import HandcraftedSorter, RankTripletLoss, hard_rank, rank_triplet_loss
from sodeep_fast.reference.rank_triplet import rank_triplet_loss as reference_rank_triplet_loss
from sodeep_fast.testing import DEVICES, ROUNDING, make_scores

SORTER = HandcraftedSorter(lam=2.0)
# Sums of fewer than a thousand terms of order one, in float64.


def random_case(queries: int, items: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Scores and pairings; the first query has no positive and the second no negative."""
    scores = make_scores("normal", (queries, items), dtype=torch.float64, device=device)
    positives = make_scores("uniform", (queries, items), seed=1, device=device) > 0.2
    positives[0] = False
    positives[1] = True
    return scores, positives


# Rows rank the diagonal 2nd, 1st, 1st of 3; columns 1st, 1st, 2nd.
LITERAL = torch.tensor([[2.0, 4, 0], [0, 6, 4], [-2, 0, 2]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("margin", "hardest", "expected"),
    [
        # One query of 3 each way is one rank behind its hardest negative.
        (0.0, 1, 2 * (1 / 3) / 3),
        (0.2, 1, 2 * (0.2 + 1 / 3) / 3),
        # A margin above one rank: the others, one rank ahead, lack 0.4 - 1/3.
        (0.4, 1, 2 * (0.4 + 1 / 3 + 2 * (0.4 - 1 / 3)) / 3),
        # The second hardest of the late query is one rank behind it.
        (0.4, 2, 2 * (0.4 + 1 / 3 + 3 * (0.4 - 1 / 3)) / 3),
        # There is no third negative.
        (0.4, 3, 2 * (0.4 + 1 / 3 + 3 * (0.4 - 1 / 3)) / 3),
    ],
)
def test_worked_literal(margin: float, hardest: int, expected: float) -> None:
    loss = rank_triplet_loss(LITERAL, hard_rank, margin, hardest=hardest)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_worked_literal_soft() -> None:
    # Each row holds a positive one below its negative: ranks 1 + s(1) and 1 + s(-1), over 2.
    scores = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    behind = (1 / (1 + math.exp(-1)) - 1 / (1 + math.e)) / 2
    loss = rank_triplet_loss(scores, HandcraftedSorter(lam=1.0), margin=0.5)
    assert loss.item() == pytest.approx(2 * (0.5 + behind), rel=1e-14)


def test_several_positives_are_averaged() -> None:
    # Ranks 1..4; positives at 1 and 4, so the negative at 2 is hardest: hinges 0 and 2/4. Columns
    # are single items: no triplet.
    scores = torch.tensor([[4.0, 3, 2, 1]], dtype=torch.float64)
    positives = torch.tensor([[True, False, False, True]])
    loss = rank_triplet_loss(scores, hard_rank, 0.0, positives=positives)
    assert loss.item() == pytest.approx((0 + 2 / 4) / 2, rel=1e-15)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("hardest", [1, 2, 50])
@pytest.mark.parametrize("margin", [0.0, 0.2, 3.0])
@pytest.mark.parametrize("shape", [(2, 1), (2, 9), (9, 2), (12, 12), (7, 15)])
def test_agrees_with_the_reference(
    shape: tuple[int, int], margin: float, hardest: int, device: str
) -> None:
    scores, positives = random_case(*shape, device=device)
    for used in (positives, None) if shape[0] == shape[1] else (positives,):
        results = []
        for loss in (rank_triplet_loss, reference_rank_triplet_loss):
            leaf = scores.clone().requires_grad_()
            value = loss(leaf, SORTER, margin, hardest=hardest, positives=used)
            value.backward()
            results.append((value.detach(), leaf.grad))
        torch.testing.assert_close(*results, **ROUNDING)


def test_positives_default_to_the_diagonal() -> None:
    scores, _ = random_case(8, 8)
    assert torch.equal(
        rank_triplet_loss(scores, SORTER, 0.2),
        rank_triplet_loss(scores, SORTER, 0.2, positives=torch.eye(8, dtype=torch.bool)),
    )


def test_both_directions() -> None:
    scores, positives = random_case(7, 15)
    torch.testing.assert_close(
        rank_triplet_loss(scores, SORTER, 0.2, positives=positives),
        rank_triplet_loss(scores.T, SORTER, 0.2, positives=positives.T),
        **ROUNDING,
    )


def test_one_sorter_call_each_way() -> None:
    shapes = []

    def sorter(scores: Tensor) -> Tensor:
        shapes.append(tuple(scores.shape))
        return hard_rank(scores, normalize=True)

    scores, positives = random_case(7, 15)
    rank_triplet_loss(scores, sorter, 0.2, positives=positives)
    assert shapes == [(7, 15), (15, 7)]


def test_scale_of_the_sorter_does_not_matter() -> None:
    scores, _ = random_case(8, 8)
    torch.testing.assert_close(
        rank_triplet_loss(scores, HandcraftedSorter(normalize=False), 0.2),
        rank_triplet_loss(scores, HandcraftedSorter(normalize=True), 0.2),
        **ROUNDING,
    )


@pytest.mark.parametrize(
    ("shape", "positive"), [((1, 1), True), ((0, 0), True), ((3, 4), False), ((3, 4), True)]
)
def test_no_triplet_is_zero_with_a_graph(shape: tuple[int, int], positive: bool) -> None:
    scores = torch.randn(shape, requires_grad=True)
    loss = rank_triplet_loss(scores, SORTER, 0.2, positives=torch.full(shape, positive))
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(scores.grad, torch.zeros(shape))


def test_a_batch_of_one_pair_is_zero() -> None:
    assert RankTripletLoss(SORTER, margin=0.2)(torch.ones(1, 1)).item() == 0


def test_tied_scores_cost_the_margin() -> None:
    assert rank_triplet_loss(torch.ones(5, 5), SORTER, 0.25).item() == pytest.approx(2 * 0.25)


def test_gradcheck() -> None:
    scores, positives = random_case(5, 6)
    scores.requires_grad_()
    for hardest in (1, 3):
        loss = RankTripletLoss(SORTER, 0.3, hardest)
        assert torch.autograd.gradcheck(lambda s, f=loss: f(s, positives), scores)
        assert torch.autograd.gradcheck(lambda s, f=loss: f(s[:, :5]), scores)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_scores_are_computed_in_float32(dtype: torch.dtype) -> None:
    scores = random_case(8, 8)[0].to(dtype).requires_grad_()
    loss = rank_triplet_loss(scores, SORTER, 0.2)
    assert torch.equal(loss, rank_triplet_loss(scores.float(), SORTER, 0.2))
    loss.backward()
    assert scores.grad.dtype == dtype


def test_gradient_descent_retrieves() -> None:
    scores = random_case(12, 12)[0].requires_grad_()
    loss = RankTripletLoss(SORTER, margin=0.1)
    optimizer = torch.optim.Adam([scores], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss(scores).backward()
        optimizer.step()
    assert scores.argmax(0).tolist() == scores.argmax(1).tolist() == list(range(12))


def test_module() -> None:
    scores, positives = random_case(7, 15)
    sorter = HandcraftedSorter(learnable=True)
    loss = RankTripletLoss(sorter, 0.3, hardest=2)
    assert torch.equal(
        loss(scores, positives),
        rank_triplet_loss(scores, sorter, 0.3, hardest=2, positives=positives),
    )
    assert list(loss.parameters()) == [sorter.log_lam]
    assert "margin=0.3, hardest=2" in repr(loss)


def test_traces_into_one_graph() -> None:
    scores, positives = random_case(7, 15)
    compiled = torch.compile(rank_triplet_loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        compiled(scores, SORTER, 0.2, positives=positives),
        rank_triplet_loss(scores, SORTER, 0.2, positives=positives),
        **ROUNDING,
    )


@pytest.mark.parametrize(
    ("scores", "options", "error", "match"),
    [
        (torch.ones(2, 2).long(), {}, TypeError, r"scores must be float16.*got torch\.int64"),
        (torch.ones(2, 3), {}, ValueError, r"scores must have shape \(B, B\), got \(2, 3\)"),
        (
            torch.ones(3),
            {"positives": torch.ones(3, dtype=torch.bool)},
            ValueError,
            r"scores must have shape \(B, M\), got \(3,\)",
        ),
        (
            torch.ones(2, 3),
            {"positives": torch.ones(2, 3)},
            TypeError,
            r"positives must be a bool tensor, got torch\.float32",
        ),
        (
            torch.ones(2, 3),
            {"positives": torch.ones(3, 2, dtype=torch.bool)},
            ValueError,
            r"positives must have the shape of scores, \(2, 3\), got \(3, 2\)",
        ),
        (torch.ones(2, 2), {"margin": -0.1}, ValueError, r"margin must be at least 0.*got -0\.1"),
        (torch.ones(2, 2), {"margin": math.nan}, ValueError, "margin must be at least 0.*got nan"),
        (torch.ones(2, 2), {"margin": "0.2"}, TypeError, "margin must be a number, got str"),
        (torch.ones(2, 2), {"hardest": 0}, ValueError, "hardest must be at least 1, got 0"),
        (torch.ones(2, 2), {"hardest": 1.0}, TypeError, "hardest must be an integer, got float"),
        (torch.ones(2, 2), {"sorter": 3}, TypeError, "sorter must be .*got int"),
    ],
)
def test_bad_input(
    scores: Tensor, options: dict[str, object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        rank_triplet_loss(scores, **{"sorter": SORTER, "margin": 0.2, **options})


def test_bad_options_at_construction() -> None:
    with pytest.raises(TypeError, match="sorter must be a module or function"):
        RankTripletLoss("exa", 0.2)
    with pytest.raises(ValueError, match="margin must be at least 0"):
        RankTripletLoss(SORTER, -1.0)
    with pytest.raises(ValueError, match="hardest must be at least 1"):
        RankTripletLoss(SORTER, 0.2, hardest=0)
