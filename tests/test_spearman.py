"""The Spearman loss against literals, SciPy and the row-by-row reference."""

import functools
import math

import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from sodeep_fast import HandcraftedSorter, SpearmanLoss, hard_rank, soft_rank, spearman_loss
from sodeep_fast.reference.spearman import spearman_loss as reference_spearman_loss
from sodeep_fast.testing import DEVICES, ROUNDING, make_scores

SORTER = HandcraftedSorter(lam=3.0)
# Sums of fewer than a thousand terms of order one, in float64.


def random_case(*shape: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, tied targets, and a mask with rows of every length from 0 on."""
    predictions = make_scores("normal", shape, dtype=torch.float64, device=device)
    targets = make_scores("tied", shape, dtype=torch.float64, seed=1, device=device)
    lengths = torch.arange(math.prod(shape[:-1]), device=device).view(*shape[:-1], 1)
    return predictions, targets, torch.arange(shape[-1], device=device) < lengths


def test_the_scale_of_a_sorter_in_a_wrapper() -> None:
    predictions, targets, mask = random_case(5, 20)
    for normalize in (False, True):
        sorter = HandcraftedSorter(normalize=normalize)
        expected = spearman_loss(predictions, targets, sorter, mask=mask)
        wrapper = nn.DataParallel(nn.DataParallel(sorter))
        assert not hasattr(wrapper, "normalize")
        assert torch.equal(spearman_loss(predictions, targets, wrapper, mask=mask), expected)


def test_worked_literal() -> None:
    # Ranks 3, 1, 2 against 3, 2, 1: squares 0 + 1 + 1, so 6 * 2 / (3 * 8).
    loss = spearman_loss(torch.tensor([0.1, 0.9, 0.5]), torch.tensor([1, 2, 3]), hard_rank)
    assert loss.item() == pytest.approx(0.5, rel=1e-6)


def test_worked_literal_soft() -> None:
    # Two scores one apart, lam = 1: ranks 1 + s(1) and 1 + s(-1) against 2 and 1, s(-1) off each.
    predictions = torch.tensor([0.0, 1.0], dtype=torch.float64)
    off = 1 / (1 + math.e)
    for targets, error in (([0, 1], off), ([1, 0], 1 - off)):
        loss = spearman_loss(predictions, torch.tensor(targets), HandcraftedSorter(lam=1.0))
        assert loss.item() == pytest.approx(6 * 2 * error**2 / (2 * 3), rel=1e-14)


def test_tied_targets_share_their_average_rank() -> None:
    # Exact ranks 1, 2, 3 against 1.5, 1.5, 3: squares 1/4 + 1/4.
    predictions = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    loss = spearman_loss(predictions, torch.tensor([5, 5, 1]), hard_rank)
    assert loss.item() == pytest.approx(6 * 0.5 / 24, rel=1e-14)


@pytest.mark.parametrize("n", [2, 3, 10, 101])
def test_with_exact_ranks_it_is_scipys(n: int) -> None:
    predictions = make_scores("normal", (n,), dtype=torch.float64)
    targets = make_scores("normal", (n,), dtype=torch.float64, seed=1)
    expected = 1 - scipy.stats.spearmanr(predictions.numpy(), targets.numpy()).statistic
    assert spearman_loss(predictions, targets, hard_rank).item() == pytest.approx(
        expected, rel=1e-12, abs=1e-12
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(2,), (17,), (5, 2), (9, 8), (2, 3, 7), (1, 40)])
def test_agrees_with_the_reference(shape: tuple[int, ...], device: str) -> None:
    predictions, targets, mask = random_case(*shape, device=device)
    for used in (None, mask):
        grads = []
        for loss in (spearman_loss, reference_spearman_loss):
            leaf = predictions.clone().requires_grad_()
            value = loss(leaf, targets, SORTER, mask=used)
            value.backward()
            grads.append((value.detach(), leaf.grad))
        torch.testing.assert_close(*grads, **ROUNDING)


def test_batch_is_the_mean_over_rows() -> None:
    predictions, targets, _ = random_case(6, 11)
    rows = [spearman_loss(p, t, SORTER) for p, t in zip(predictions, targets, strict=True)]
    torch.testing.assert_close(
        spearman_loss(predictions, targets, SORTER), torch.stack(rows).mean(), **ROUNDING
    )


def test_every_sorter_convention_gives_the_same_loss() -> None:
    predictions, targets, mask = random_case(6, 11)
    sorters = [
        HandcraftedSorter(normalize=True),
        HandcraftedSorter(normalize=False),
        soft_rank,
        lambda scores, mask=None: soft_rank(scores, mask=mask, normalize=True),
    ]
    for used in (None, mask):
        first, *others = (spearman_loss(predictions, targets, s, mask=used) for s in sorters)
        for other in others:
            torch.testing.assert_close(other, first, **ROUNDING)


def test_sorters_see_a_batch_of_rows() -> None:
    shapes = []

    def sorter(scores: Tensor) -> Tensor:
        shapes.append(tuple(scores.shape))
        return hard_rank(scores, normalize=True)

    for shape in ((5,), (4, 5), (2, 4, 5)):
        spearman_loss(torch.randn(shape), torch.randn(shape), sorter)
    assert shapes == [(1, 5), (4, 5), (8, 5)]


def test_gradcheck() -> None:
    predictions, targets, mask = random_case(4, 6)
    predictions.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: spearman_loss(p, targets, SORTER), predictions)
    assert torch.autograd.gradcheck(
        lambda p: spearman_loss(p, targets, SORTER, mask=mask), predictions
    )


@pytest.mark.parametrize("filler", [0.0, 1e30, math.inf, math.nan])
def test_masked_entries_do_not_matter(filler: float) -> None:
    predictions, targets, mask = random_case(6, 11)
    expected = spearman_loss(predictions, targets, SORTER, mask=mask)
    predictions = predictions.masked_fill(~mask, filler).requires_grad_()
    loss = spearman_loss(predictions, targets.masked_fill(~mask, filler), SORTER, mask=mask)
    assert torch.equal(loss, expected)
    loss.backward()
    assert torch.isfinite(predictions.grad).all()
    assert (predictions.grad[~mask] == 0).all()
    assert (predictions.grad[:2] == 0).all()  # rows of no and of one valid entry
    assert (predictions.grad[2:][mask[2:]] != 0).all()


def test_rows_with_fewer_than_two_entries_are_left_out() -> None:
    predictions, targets, mask = random_case(6, 11)
    whole = spearman_loss(predictions, targets, SORTER, mask=mask)
    part = spearman_loss(predictions[2:], targets[2:], SORTER, mask=mask[2:])
    torch.testing.assert_close(whole, part, **ROUNDING)


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 0), (3, 1), (0, 5)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore:predictions .* are groups of one observation")
def test_nothing_to_compare_is_zero_with_a_graph(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    predictions = torch.full(shape, math.nan, dtype=dtype, requires_grad=True)
    loss = spearman_loss(predictions, torch.zeros(shape), SORTER)
    assert loss.item() == 0
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    loss.backward()
    assert torch.equal(predictions.grad, torch.zeros_like(predictions))


def test_all_rows_masked_is_zero_with_a_graph() -> None:
    predictions = torch.full((3, 4), math.nan, requires_grad=True)
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[0, 1] = True
    loss = spearman_loss(predictions, torch.zeros(3, 4), SORTER, mask=mask)
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(predictions.grad, torch.zeros(3, 4))


def test_a_nan_prediction_shows() -> None:
    predictions = torch.tensor([[1.0, 2.0], [math.nan, 1.0]])
    assert spearman_loss(predictions, torch.tensor([[0, 1], [0, 1]]), SORTER).isnan()


def test_integer_targets_do_not_lower_the_precision() -> None:
    predictions, targets, _ = random_case(3, 7)
    # The tied targets are multiples of one half.
    whole = spearman_loss(predictions, (2 * targets).long(), SORTER)
    assert whole.dtype == torch.float64
    torch.testing.assert_close(whole, spearman_loss(predictions, targets, SORTER), **ROUNDING)


def test_float64_targets_do_not_raise_the_precision() -> None:
    predictions, targets, _ = random_case(3, 7)
    loss = spearman_loss(predictions.float(), targets, SORTER)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, spearman_loss(predictions.float(), targets.float(), SORTER))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_predictions_are_computed_in_float32(dtype: torch.dtype) -> None:
    predictions = make_scores("normal", (3, 50), dtype=dtype).requires_grad_()
    targets = make_scores("normal", (3, 50), seed=1)
    loss = spearman_loss(predictions, targets, SORTER)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, spearman_loss(predictions.float(), targets, SORTER))
    loss.backward()
    assert predictions.grad.dtype == dtype


def test_gradient_descent_sorts() -> None:
    predictions = make_scores("normal", (4, 20)).requires_grad_()
    targets = make_scores("normal", (4, 20), seed=1)
    loss = SpearmanLoss(HandcraftedSorter(lam=3.0))
    optimizer = torch.optim.Adam([predictions], lr=0.05)
    before = spearman_loss(predictions, targets, hard_rank)
    for _ in range(200):
        optimizer.zero_grad()
        loss(predictions, targets).backward()
        optimizer.step()
    assert before > 0.5
    assert spearman_loss(predictions, targets, hard_rank) < 0.01


def test_module() -> None:
    predictions, targets, mask = random_case(6, 11)
    sorter = HandcraftedSorter(learnable=True)
    loss = SpearmanLoss(sorter)
    assert torch.equal(
        loss(predictions, targets, mask=mask),
        spearman_loss(predictions, targets, sorter, mask=mask),
    )
    assert list(loss.parameters()) == [sorter.log_lam]


@pytest.mark.parametrize("masked", [False, True])
def test_traces_into_one_graph(masked: bool) -> None:
    predictions, targets, mask = random_case(6, 11)
    used = mask if masked else None
    compiled = torch.compile(spearman_loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        compiled(predictions, targets, SORTER, mask=used),
        spearman_loss(predictions, targets, SORTER, mask=used),
        **ROUNDING,
    )


@pytest.mark.parametrize(
    ("predictions", "targets", "sorter", "mask", "error", "match"),
    [
        (torch.arange(3), torch.zeros(3), SORTER, None, TypeError, "predictions must be float16"),
        (torch.zeros(3), [1, 2, 3], SORTER, None, TypeError, "targets must be a torch.Tensor"),
        (
            torch.zeros(3),
            torch.zeros(3, dtype=torch.complex64),
            SORTER,
            None,
            TypeError,
            r"targets must be real, got torch\.complex64",
        ),
        (torch.tensor(1.0), torch.tensor(1.0), SORTER, None, ValueError, "got a scalar tensor"),
        (
            torch.zeros(3),
            torch.zeros(3, 1),
            SORTER,
            None,
            ValueError,
            r"targets must have the shape of predictions, \(3,\), got \(3, 1\)",
        ),
        (
            torch.zeros(3),
            torch.zeros(3),
            SORTER,
            torch.ones(3),
            TypeError,
            r"mask must be a bool tensor, got torch\.float32",
        ),
        (
            torch.zeros(3),
            torch.zeros(3),
            SORTER,
            torch.ones(2, dtype=torch.bool),
            ValueError,
            r"mask must have the shape of predictions, \(3,\), got \(2,\)",
        ),
        (torch.zeros(3), torch.zeros(3), "exa", None, TypeError, "sorter must be .*got str"),
        (
            torch.zeros(3),
            torch.zeros(3),
            lambda scores: scores[:, :2],
            None,
            ValueError,
            r"sorter must return ranks of the shape of its scores, \(1, 3\), got \(1, 2\)",
        ),
    ],
)
def test_bad_input(
    predictions: Tensor,
    targets: Tensor,
    sorter: object,
    mask: Tensor | None,
    error: type[Exception],
    match: str,
) -> None:
    with pytest.raises(error, match=match):
        spearman_loss(predictions, targets, sorter, mask=mask)


def test_groups_of_one_observation_are_probably_a_mistake() -> None:
    predictions = torch.randn(3, 1, requires_grad=True)
    with pytest.warns(UserWarning, match=r"predictions \(3, 1\) are groups of one observation"):
        loss = spearman_loss(predictions, torch.randn(3, 1), HandcraftedSorter())
    assert loss == 0


def test_bad_sorter_at_construction() -> None:
    with pytest.raises(TypeError, match=r"the class HandcraftedSorter: HandcraftedSorter\(...\)"):
        SpearmanLoss(HandcraftedSorter)
    with pytest.raises(TypeError, match="sorter must be a module or function"):
        SpearmanLoss(10.0)


def test_ranks_of_a_partial_are_known_to_be_plain() -> None:
    predictions, targets = make_scores("normal", (2, 3, 8)).unbind(0)
    of_lam = functools.partial(soft_rank, lam=50.0)
    by_sorter = spearman_loss(predictions, targets, HandcraftedSorter(50.0))
    torch.testing.assert_close(spearman_loss(predictions, targets, of_lam), by_sorter)
    divided = functools.partial(of_lam, normalize=True)
    torch.testing.assert_close(spearman_loss(predictions, targets, divided), by_sorter)


def test_plain_ranks_without_a_word_of_it_are_warned_of() -> None:
    predictions = make_scores("normal", (3, 8))
    with pytest.warns(UserWarning, match=r"ranks up to .* for rows of 8 scores"):
        spearman_loss(predictions, predictions, lambda rows: soft_rank(rows, 50.0))
