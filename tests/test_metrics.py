"""The exact metrics against worked literals, SciPy, scikit-learn and loops."""

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from torch import Tensor

from sodeep_fast import (
    Sigmoid,
    h_ap,
    hard_rank,
    metrics,
    smooth_ap,
    smooth_ndcg,
    smooth_recall,
)
from sodeep_fast.testing import DEVICES, DISTRIBUTIONS, ROUNDING, make_scores

# Sums of fewer than a thousand terms of order one, in float64.
METRICS = {
    "spearman": metrics.spearman,
    "average_precision": metrics.average_precision,
    "recall_at_k": lambda scores, labels, **options: metrics.recall_at_k(
        scores, labels, 2, **options
    ),
    "r_precision": metrics.r_precision,
    "map_at_r": metrics.map_at_r,
    "ndcg": lambda scores, labels, **options: metrics.ndcg(scores, labels.bool(), **options),
}
BINARY = ["average_precision", "recall_at_k", "r_precision", "map_at_r"]


def random_labels(shape: tuple[int, ...], share: float = 0.3, device: str = "cpu") -> Tensor:
    labels = make_scores("uniform", shape, seed=1, device=device) < 2 * share - 1
    labels[..., 0] = True
    return labels


# --- Spearman ---


@pytest.mark.parametrize(
    ("predictions", "targets", "expected"),
    [
        ([0.1, 0.9, 0.5], [1, 2, 3], 0.5),
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        # Centred average ranks -1, 0, 1 against -1/2, -1/2, 1.
        ([3, 2, 1], [5, 5, 1], 1.5 / math.sqrt(2 * 1.5)),
    ],
)
def test_spearman_literal(predictions: list[float], targets: list[float], expected: float) -> None:
    value = metrics.spearman(torch.tensor(predictions), torch.tensor(targets))
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("distribution", [d for d in DISTRIBUTIONS if d != "constant"])
@pytest.mark.parametrize("targets", ["normal", "tied"])
def test_spearman_agrees_with_scipy(distribution: str, targets: str, device: str) -> None:
    x = make_scores(distribution, (5, 60), device=device)
    y = make_scores(targets, (5, 60), seed=1, device=device)
    expected = [
        scipy.stats.spearmanr(a.numpy(), b.numpy()).statistic
        for a, b in zip(x.cpu(), y.cpu(), strict=True)
    ]
    torch.testing.assert_close(
        metrics.spearman(x, y).cpu(), torch.tensor(expected, dtype=torch.float64), **ROUNDING
    )


def test_spearman_of_equal_orders_is_exactly_one() -> None:
    x = make_scores("tied", (1000,))
    assert metrics.spearman(x, 3 * x + 1).item() == 1
    assert metrics.spearman(x, -x).item() == -1


def test_spearman_is_nan_where_it_is_not_defined() -> None:
    x = torch.tensor([[1.0, 2, 3], [2, 2, 2], [1, 2, 3], [1, math.nan, 3]])
    y = torch.tensor([[1.0, 2, 3], [1, 2, 3], [2, 2, 2], [1, 2, 3]])
    value = metrics.spearman(x, y)
    assert value[0].item() == 1
    assert value[1:].isnan().all()
    assert value.nanmean().item() == 1
    assert metrics.spearman(torch.ones(2, 1), torch.ones(2, 1)).isnan().tolist() == [True, True]
    assert metrics.spearman(torch.ones(0), torch.ones(0)).isnan()


# --- Average precision ---


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([4, 3, 2, 1], [1, 0, 1, 0], (1 + 2 / 3) / 2),
        ([4, 3, 2, 1], [0, 0, 0, 1], 1 / 4),
        # A tie comes in at once: both positives at precision 2/3.
        ([2, 2, 2, 1], [1, 0, 1, 0], 2 / 3),
        ([1, 1, 1, 1], [1, 0, 0, 0], 1 / 4),
    ],
)
def test_average_precision_literal(scores: list[float], labels: list[int], expected: float) -> None:
    value = metrics.average_precision(torch.tensor(scores), torch.tensor(labels))
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_average_precision_agrees_with_sklearn(
    distribution: str, share: float, device: str
) -> None:
    scores = make_scores(distribution, (5, 60), device=device)
    labels = random_labels((5, 60), share, device=device)
    expected = [
        sklearn.metrics.average_precision_score(label.numpy(), score.numpy())
        for score, label in zip(scores.cpu(), labels.cpu(), strict=True)
    ]
    torch.testing.assert_close(
        metrics.average_precision(scores, labels).cpu(),
        torch.tensor(expected, dtype=torch.float64),
        **ROUNDING,
    )


# --- Recall at k ---


@pytest.mark.parametrize(
    ("scores", "labels", "k", "expected"),
    [
        ([4, 3, 2, 1], [0, 1, 0, 1], 1, 0.0),
        ([4, 3, 2, 1], [0, 1, 0, 1], 2, 1.0),
        ([4, 3, 2, 1], [0, 0, 0, 1], 3, 0.0),
        ([4, 3, 2, 1], [0, 0, 0, 1], 99, 1.0),
        # The negative of a tie comes first; tied positives do not stand in each other's way.
        ([4, 4, 2, 1], [1, 0, 0, 0], 1, 0.0),
        ([4, 4, 2, 1], [1, 0, 0, 0], 2, 1.0),
        ([4, 4, 2, 1], [1, 1, 0, 0], 1, 1.0),
        ([-math.inf, -math.inf], [1, 0], 1, 0.0),
    ],
)
def test_recall_at_k_literal(
    scores: list[float], labels: list[int], k: int, expected: float
) -> None:
    value = metrics.recall_at_k(torch.tensor(scores), torch.tensor(labels), k)
    assert value.dtype == torch.float64
    assert value.item() == expected


@pytest.mark.parametrize("k", [1, 2, 5, 20])
@pytest.mark.parametrize("distribution", ["normal", "tied", "constant"])
def test_recall_at_k_agrees_with_a_loop(distribution: str, k: int) -> None:
    scores = make_scores(distribution, (40, 20))
    labels = random_labels((40, 20), 0.1)
    for row, label, value in zip(
        scores.tolist(), labels.tolist(), metrics.recall_at_k(scores, labels, k), strict=True
    ):
        # Best first, negatives before positives in a tie.
        order = sorted(range(20), key=lambda i, s=row, y=label: (-s[i], y[i]))
        assert value.item() == any(label[i] for i in order[:k])


@pytest.mark.parametrize("k", [1, 3, 9])
def test_recall_at_k_of_one_positive_is_sklearns_top_k_accuracy(k: int) -> None:
    scores = make_scores("normal", (50, 10), dtype=torch.float64)
    target = torch.arange(50) % 10
    labels = torch.nn.functional.one_hot(target, 10)
    expected = sklearn.metrics.top_k_accuracy_score(
        target.numpy(), scores.numpy(), k=k, labels=np.arange(10)
    )
    assert metrics.recall_at_k(scores, labels, k).mean().item() == pytest.approx(expected)


# --- R-precision and MAP@R ---


@pytest.mark.parametrize(
    ("scores", "labels", "precision", "mean"),
    [
        ([4, 3, 2, 1], [1, 0, 1, 0], 1 / 2, 1 / 2),
        ([4, 3, 2, 1], [0, 1, 1, 0], 1 / 2, 1 / 4),
        ([4, 3, 2, 1], [1, 1, 0, 1], 2 / 3, 2 / 3),
        ([4, 3, 2, 1], [0, 1, 1, 1], 2 / 3, (1 / 2 + 2 / 3) / 3),
        # The negatives of a tie come first.
        ([1, 1, 1, 1], [1, 0, 1, 0], 0.0, 0.0),
        ([1, 1, 1, 1], [1, 1, 1, 0], 2 / 3, (1 / 2 + 2 / 3) / 3),
    ],
)
def test_r_precision_and_map_at_r_literal(
    scores: list[float], labels: list[int], precision: float, mean: float
) -> None:
    given = torch.tensor(scores), torch.tensor(labels)
    assert metrics.r_precision(*given).item() == pytest.approx(precision, rel=1e-15)
    assert metrics.map_at_r(*given).item() == pytest.approx(mean, rel=1e-15)


# --- NDCG ---


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("num_levels", [2, 5])
def test_ndcg_agrees_with_sklearn(distribution: str, num_levels: int) -> None:
    scores = make_scores(distribution, (6, 50))
    levels = torch.randint(num_levels, (6, 50), generator=torch.Generator().manual_seed(1))
    for k in (None, 1, 7, 50, 99):
        expected = [
            sklearn.metrics.ndcg_score(2.0 ** level[None] - 1, score[None], k=k)
            for score, level in zip(scores.numpy(), levels.numpy(), strict=True)
        ]
        torch.testing.assert_close(
            metrics.ndcg(scores, levels, k), torch.tensor(expected, dtype=torch.float64), **ROUNDING
        )


# --- H-AP ---


@pytest.mark.parametrize("distribution", [d for d in DISTRIBUTIONS if d != "cauchy"])
def test_h_ap_of_two_levels_is_average_precision(distribution: str) -> None:
    scores, labels = make_scores(distribution, (6, 50)), random_labels((6, 50))
    torch.testing.assert_close(
        metrics.h_ap(scores, labels), metrics.average_precision(scores, labels), **ROUNDING
    )


def test_h_ap_literal() -> None:
    # Relevances 1/2 and 2: (1/2) / 1 + (2 + 1/2) / 2 + (1/2 + 1/2 + 1/2) / 4 over 1/2 + 2 + 1/2.
    scores, levels = torch.tensor([[0.9, 0.8, 0.7, 0.1]]), torch.tensor([[1, 2, 0, 1]])
    assert metrics.h_ap(scores, levels).item() == pytest.approx(2.125 / 3, rel=1e-15)
    # A perfect order is 1, whatever the relevances.
    for relevances in (None, torch.tensor([0.0, 0.3, 7.0])):
        best = metrics.h_ap(torch.tensor([[2.0, 3, 0, 1]]), levels, relevances=relevances)
        assert best.item() == pytest.approx(1, rel=1e-15)
    assert not metrics.h_ap(scores.requires_grad_(), levels).requires_grad


def test_h_ap_that_counts_the_query_but_does_not_rank_it() -> None:
    scores, levels = torch.tensor([[1.0, 0.5, 0.9, 0.1]]), torch.tensor([[2, 2, 1, 0]])
    others = torch.tensor([[False, True, True, True]])
    # Relevances 1 and 4 / 2 instead of 4 / 1: (1 + (2 + 1) / 2) / (1 + 2).
    value = metrics.h_ap(scores, levels, alpha=2.0, mask=others, counted=others | True)
    assert value.item() == pytest.approx(2.5 / 3, rel=1e-15)
    alone = metrics.h_ap(scores, levels, alpha=2.0, mask=others, counted=others)
    assert torch.equal(alone, metrics.h_ap(scores, levels, alpha=2.0, mask=others))
    # An item that is not counted may have any level.
    levels[0, 0] = -5
    assert torch.equal(alone, metrics.h_ap(scores, levels, alpha=2.0, mask=others, counted=others))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"counted": torch.ones(2, 3)}, TypeError, "counted must be a bool tensor, got"),
        ({"counted": torch.ones(2, 4) > 0}, ValueError, "counted must have the shape of scores"),
        ({"alpha": 0.0}, ValueError, "alpha must be positive and finite, got 0.0"),
        ({"relevances": torch.arange(2.0)}, ValueError, "counted must be None with relevances"),
    ],
)
def test_counted_of_bad_values(options: dict, error: type[Exception], match: str) -> None:
    counted = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(error, match=match):
        metrics.h_ap(torch.rand(2, 3), torch.ones(2, 3).long(), **{"counted": counted, **options})


# --- The losses' values converge to them ---


def test_smooth_values_converge_to_the_exact_metrics() -> None:
    scores = make_scores("normal", (20, 60), dtype=torch.float64)
    labels = random_labels((20, 60))
    levels = torch.randint(4, (20, 60), generator=torch.Generator().manual_seed(2))
    tau, close = 1e-9, {"rtol": 1e-6, "atol": 1e-6}
    for value, exact in (
        (smooth_ap(scores, labels, tau), metrics.average_precision(scores, labels)),
        (smooth_ndcg(scores, levels, tau), metrics.ndcg(scores, levels)),
        (h_ap(scores, levels, Sigmoid(tau)), metrics.h_ap(scores, levels)),
    ):
        torch.testing.assert_close(value, exact, **close)
    # With one positive, recall at k is whether its rank is at most k.
    one = torch.zeros_like(labels)
    one[:, 0] = True
    for k in (1, 5, 30):
        recall = smooth_recall(scores, one, [k], tau, temperature=1e-3, clip=False)
        exact = metrics.recall_at_k(scores, one, k)
        # A rank of k itself is at the middle of the threshold.
        at_the_edge = hard_rank(scores)[:, 0] == k
        torch.testing.assert_close(recall[~at_the_edge], exact[~at_the_edge], **close)
        assert ((recall[at_the_edge] - 0.5).abs() < 1e-3).all()


# --- All of them ---


@pytest.mark.parametrize("name", METRICS)
def test_leading_dimensions_are_rows(name: str) -> None:
    scores = make_scores("tied", (3, 4, 9))
    labels = random_labels((3, 4, 9))
    value = METRICS[name](scores, labels)
    assert value.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            one = METRICS[name](scores[i, j], labels[i, j])
            assert one.shape == ()
            torch.testing.assert_close(one, value[i, j], equal_nan=True, **ROUNDING)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("filler", [0.0, math.inf, math.nan])
def test_a_mask_is_a_shorter_row(name: str, filler: float) -> None:
    scores = make_scores("tied", (12, 9))
    labels = random_labels((12, 9))
    mask = torch.arange(9) < torch.arange(12).unsqueeze(-1)
    value = METRICS[name](scores.masked_fill(~mask, filler), labels, mask=mask)
    for i in range(12):
        expected = METRICS[name](scores[i][mask[i]], labels[i][mask[i]])
        torch.testing.assert_close(value[i], expected, equal_nan=True, **ROUNDING)


@pytest.mark.parametrize("name", [*BINARY, "ndcg"])
def test_rows_without_a_positive_are_nan(name: str) -> None:
    scores = make_scores("normal", (3, 5))
    labels = torch.zeros(3, 5)
    labels[1, 2] = 1
    value = METRICS[name](scores, labels)
    assert value.isnan().tolist() == [True, False, True]
    assert value.nanmean() == value[1]
    assert METRICS[name](torch.ones(2, 0), torch.ones(2, 0)).isnan().tolist() == [True, True]


@pytest.mark.parametrize("name", METRICS)
def test_a_nan_stays_in_its_row(name: str) -> None:
    scores = make_scores("normal", (3, 5))
    labels = random_labels((3, 5))
    expected = METRICS[name](scores, labels)
    for column in range(5):  # a positive or a negative
        spoilt = scores.clone()
        spoilt[1, column] = math.nan
        value = METRICS[name](spoilt, labels)
        assert value[1].isnan()
        assert torch.equal(value[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("name", METRICS)
def test_integers_and_halves(name: str) -> None:
    scores = torch.randint(-9, 9, (4, 12), generator=torch.Generator().manual_seed(0))
    labels = random_labels((4, 12))
    expected = METRICS[name](scores.double(), labels)
    for dtype in (torch.int8, torch.int64, torch.float16, torch.bfloat16):
        assert torch.equal(METRICS[name](scores.to(dtype), labels), expected)


@pytest.mark.parametrize("name", METRICS)
def test_no_gradient(name: str) -> None:
    scores = torch.randn(4, 6, requires_grad=True)
    assert not METRICS[name](scores, random_labels((4, 6))).requires_grad


@pytest.mark.parametrize("name", METRICS)
def test_bad_input(name: str) -> None:
    metric = METRICS[name]
    with pytest.raises(TypeError, match=r"must be real, got torch\.complex64"):
        metric(torch.zeros(3, dtype=torch.complex64), torch.ones(3))
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor, got list"):
        metric([1.0, 2.0], torch.ones(2))
    with pytest.raises(ValueError, match="at least one dimension"):
        metric(torch.tensor(1.0), torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"must have the shape of .*\(3,\), got \(3, 1\)"):
        metric(torch.zeros(3), torch.ones(3, 1))
    with pytest.raises(TypeError, match=r"mask must be a bool tensor, got torch\.float32"):
        metric(torch.zeros(3), torch.ones(3), mask=torch.ones(3))


@pytest.mark.parametrize("name", BINARY)
def test_labels_that_are_not_binary(name: str) -> None:
    with pytest.raises(ValueError, match="labels must be binary, 0 or 1, got 2"):
        METRICS[name](torch.zeros(3), torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    ("k", "error", "match"),
    [
        (0, ValueError, "k must be at least 1, got 0"),
        (1.0, TypeError, "k must be an integer, got float"),
        (True, TypeError, "k must be an integer, got bool"),
    ],
)
def test_bad_k(k: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        metrics.recall_at_k(torch.zeros(3), torch.ones(3), k)
