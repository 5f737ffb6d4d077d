"""Recall and NDCG over rank counts: the kernels and the plain formulas that can replace them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sodeep_fast
from sodeep_fast.comparators import ByLevel, Comparator, Sigmoid, Step, Sup, encode
from sodeep_fast.ops import counted_ndcg as ndcg_module
from sodeep_fast.ops import counted_recall as recall_module
from sodeep_fast.ops._row_values import has_kernel
from sodeep_fast.ops.counted_ndcg import counted_ndcg
from sodeep_fast.ops.counted_recall import counted_recall
from sodeep_fast.testing import make_graded_rows, values_and_gradient

OPS = torch.ops.sodeep_fast
pytestmark = pytest.mark.kernels
COMPARATORS: dict[str, Comparator] = {
    "sigmoid": Sigmoid(0.2),
    "sup": ByLevel(),
    "several": ByLevel(Sup(tau=0.05), Sigmoid(0.1), Step()),
}
KS = (1, 3, 8, 1000)
Metric = Callable[[Tensor, Tensor, Tensor | None, Comparator], Tensor]
METRICS: dict[str, Metric] = {
    "recall": lambda scores, levels, mask, comparator: counted_recall(
        scores, levels > 0, comparator, KS, temperature=1.5, mask=mask
    ),
    "recall without clip": lambda scores, levels, mask, comparator: counted_recall(
        scores, levels > 1, comparator, (2.0,), temperature=0.2, clip=False, mask=mask
    ),
    "ndcg": lambda scores, levels, mask, comparator: counted_ndcg(
        scores, levels, comparator, mask=mask
    ),
}


def by_both(
    monkeypatch: pytest.MonkeyPatch, metric: Metric, scores: Tensor, *others: Any
) -> list[tuple[Tensor, Tensor]]:
    """Value and gradient by the kernel and by the formula; asserts that each did run."""
    results = []
    for kernel in (True, False):
        for module in (ndcg_module, recall_module):
            name = module.__name__.rpartition(".")[2]
            assert kernel is False or has_kernel(scores, name)
            monkeypatch.setattr(module, "has_kernel", lambda *_, kernel=kernel: kernel)
        results.append(values_and_gradient(lambda leaf: metric(leaf, *others), scores))
        assert ("_RowValues" in type(results[-1][0].grad_fn).__name__) is kernel
        monkeypatch.undo()
    return results


# Pairs and, with many items and therefore many targets, sums, in single and double precision.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("items", [1, 7, 40, 3000])
@pytest.mark.parametrize("comparator", COMPARATORS)
@pytest.mark.parametrize("name", METRICS)
def test_the_kernel_is_the_formula(
    name: str, comparator: str, items: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, levels, mask = make_graded_rows(items, dtype)
    for shown in (None, mask):
        others = levels, shown, COMPARATORS[comparator]
        kernel, formula = by_both(monkeypatch, METRICS[name], scores, *others)
        exact = by_both(monkeypatch, METRICS[name], scores.double(), *others)[1]
        assert kernel[0].dtype == formula[0].dtype
        assert kernel[1].dtype == dtype
        assert kernel[0][3].isnan()
        assert kernel[1][3].count_nonzero() == 0
        for one, other, wanted in zip(kernel, formula, exact, strict=True):
            if dtype == torch.float64:
                torch.testing.assert_close(one, wanted, equal_nan=True, rtol=1e-9, atol=1e-12)
                continue
            assert torch.equal(one.isnan(), wanted.isnan())
            error, allowed = (
                (found - wanted).nan_to_num().abs().max() for found in (one.double(), other)
            )
            rounding = 8 * torch.finfo(dtype).eps * wanted.nan_to_num().abs().max()
            assert error <= 2 * allowed + rounding


@pytest.mark.parametrize("levels", [2, 30, 255])
def test_any_number_of_levels(levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, mask = make_graded_rows(items=500)[::2]
    graded = torch.arange(6 * 500).view(6, 500).remainder(levels).to(torch.uint8)
    kernel, formula = by_both(monkeypatch, METRICS["ndcg"], scores, graded, mask, Sigmoid(0.1))
    for one, other in zip(kernel, formula, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


# Saturated sigmoids find exactly k items; there, the slope is half of that below.
@pytest.mark.parametrize("clip", [False, True])
def test_a_cutoff_that_is_reached_exactly(clip: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def metric(scores: Tensor, levels: Tensor) -> Tensor:
        return counted_recall(scores, levels, Sigmoid(0.1), [3], temperature=0.01, clip=clip)

    scores = torch.tensor([[0.9, 0.8, 0.6, 0.3, 0.0]], dtype=torch.float64)
    labels = torch.tensor([[True, True, False, True, False]])
    (value, grad), formula = by_both(monkeypatch, metric, scores, labels)
    assert value.item() == pytest.approx(2 / 3)
    assert grad.abs().max() > 0
    torch.testing.assert_close(grad, formula[1])
    labels[0, 2] = True
    scores[0, 2] = 0.79
    for one, other in zip(*by_both(monkeypatch, metric, scores, labels), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", METRICS)
def test_what_is_not_finite_stays_in_its_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, levels, mask = make_graded_rows()
    scores[1, 5], scores[4, 7] = torch.nan, torch.inf
    mask[1, 5] = mask[4, 7] = True
    results = by_both(monkeypatch, METRICS[name], scores, levels, mask, ByLevel())
    for value, grad in results:
        assert value.isnan().tolist() == [False, True, False, True, True, False]
        assert grad.isnan().any(-1).tolist() == [False, True, False, False, True, False]
    torch.testing.assert_close(results[0][1], results[1][1], equal_nan=True)
    # What is masked may be anything.
    mask[1, 5] = mask[4, 7] = False
    values = METRICS[name](scores, levels, mask, ByLevel())
    assert values.isnan().tolist() == [False] * 3 + [True] + [False] * 2


@pytest.mark.parametrize("name", METRICS)
def test_derivatives(name: str) -> None:
    scores, levels, mask = (tensor[:3] for tensor in make_graded_rows(items=9))

    def call(given: Tensor) -> Tensor:
        return METRICS[name](given, levels, mask, Sigmoid(0.2))

    leaf = scores.clone().requires_grad_()
    assert torch.autograd.gradcheck(call, leaf)
    assert torch.autograd.gradgradcheck(call, leaf)


@pytest.mark.parametrize("name", METRICS)
def test_vmap_over_scores(name: str) -> None:
    scores, levels, mask = make_graded_rows()
    metric = lambda some: METRICS[name](some, levels, mask, Sigmoid(0.2))  # noqa: E731
    both = torch.stack([scores, scores.flip(-1)])
    expected = torch.stack([metric(some) for some in both])
    torch.testing.assert_close(torch.vmap(metric)(both), expected, equal_nan=True)


def test_worked_literals() -> None:
    # The first of three positives has rank 1, the others 3 and 4.
    scores, labels = torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.tensor([[1, 0, 1, 1]])
    found = torch.sigmoid(torch.tensor([1.0, -1.0, -2.0])).sum()
    value = sodeep_fast.sup_recall(scores, labels, [2], Step())
    assert value.item() == pytest.approx(found.item() / 2)
    # Gains 3 at rank 2 and 1 at rank 3; the best order has them first and second.
    value = sodeep_fast.sup_ndcg(scores[:, :3], torch.tensor([[0, 2, 1]]), Step())
    log2 = torch.tensor([3.0, 4.0]).log2()
    assert value.item() == pytest.approx(((3 / log2[0] + 1 / 2) / (3 + 1 / log2[0])).item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wants_gradient", [False, True])
def test_the_operators_hold_to_their_contract(wants_gradient: bool, dtype: torch.dtype) -> None:
    scores, levels, mask = make_graded_rows(dtype=dtype)
    levels[3] = 1  # opcheck does not take NaN for equal
    given = (scores, levels.masked_fill(~mask, 255), 4, *encode(ByLevel()), "auto")
    torch.library.opcheck(OPS.counted_ndcg.default, (*given, wants_gradient))
    torch.library.opcheck(
        OPS.counted_recall.default, (*given, [1.0, 2.0], 0.5, True, wants_gradient)
    )


def test_what_does_not_fit_is_refused() -> None:
    scores, levels, _ = make_graded_rows()
    given = (scores, levels, 4, *encode(ByLevel()), "auto")
    for cutoffs in ([], [1.0, 0.0], [torch.nan]):
        with pytest.raises(RuntimeError, match="cutoffs must be positive, and at least one"):
            OPS.counted_recall(*given, cutoffs, 1.0, True, True)
    for temperature in (0.0, torch.nan):
        with pytest.raises(RuntimeError, match="temperature must be positive"):
            OPS.counted_recall(*given, [1.0], temperature, True, True)
    with pytest.raises(RuntimeError, match="of the size of scores"):
        OPS.counted_ndcg(scores, levels[:, 1:], *given[2:], True)


@pytest.mark.parametrize("name", METRICS)
def test_results_do_not_depend_on_the_number_of_threads(
    name: str, set_threads: Callable[[int], None]
) -> None:
    scores, levels, mask = make_graded_rows(items=9000, dtype=torch.float32)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        leaf = scores.clone().requires_grad_()
        values = METRICS[name](leaf, levels, mask, ByLevel())
        results.append((values, *torch.autograd.grad(values.nansum(), leaf)))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)
