"""Average precisions over rank counts: the kernel and the plain formula that can replace it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sodeep_fast
from sodeep_fast.comparators import ByLevel, Comparator, Sigmoid, Step, Sup, encode
from sodeep_fast.ops import graded_precision as module
from sodeep_fast.ops._row_values import LONG_ROW, has_kernel
from sodeep_fast.ops.graded_precision import graded_precision
from sodeep_fast.testing import make_graded_rows, values_and_gradient

OPS = torch.ops.sodeep_fast
OPERATOR = "graded_precision"
pytestmark = pytest.mark.kernels
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "alpha": {"alpha": 1.5},
    "soft": {"soft": True},
    "by level": {"relevances": torch.tensor([0.0, 0.5, 2.0, 0.25])},
    "by row": {"relevances": torch.rand(6, 4, generator=torch.Generator().manual_seed(1))},
}
COMPARATORS: dict[str, Comparator] = {
    "sigmoid": Sigmoid(0.2),
    "sup": ByLevel(),
    "several": ByLevel(Sup(tau=0.05), Sigmoid(0.1), Step()),
    "nothing to differentiate": Step(),
}


def evaluate(
    scores: Tensor,
    levels: Tensor,
    mask: Tensor,
    least: int = 4,
    comparator: Comparator = COMPARATORS["sigmoid"],
    **options: Any,
) -> Tensor:
    """By soft counts and, for levels of at least `least`, exact ones."""
    options = {
        name: value.to(scores.dtype) if isinstance(value, Tensor) else value
        for name, value in options.items()
    }
    options |= {"numerator": Step(), "least": least}
    return graded_precision(scores, levels, comparator, mask=mask, num_levels=4, **options)


def by_both(
    monkeypatch: pytest.MonkeyPatch, scores: Tensor, *given: Any, **options: Any
) -> list[tuple[Tensor, Tensor]]:
    """Value and gradient by the kernel and by the formula; asserts that each did run."""
    results = []
    for kernel in (True, False):
        assert kernel is False or has_kernel(scores, OPERATOR)
        monkeypatch.setattr(module, "has_kernel", lambda *_, kernel=kernel: kernel)
        results.append(values_and_gradient(lambda leaf: evaluate(leaf, *given, **options), scores))
        assert ("_RowValues" in type(results[-1][0].grad_fn).__name__) is kernel
        monkeypatch.undo()
    return results


@pytest.mark.parametrize("least", [1, 2, 3, 4])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_kernel_is_the_formula(name: str, least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, formula = by_both(monkeypatch, *make_graded_rows(), least, **OPTIONS[name])
    assert kernel[0].isnan().tolist() == [False, False, False, True, False, False]
    assert kernel[1][3].count_nonzero() == 0
    for one, other in zip(kernel, formula, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, rtol=1e-12, atol=1e-13)


# Pairs and, with many items and therefore many targets, sums, in single and double precision.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("items", [1, 40, 3000])
@pytest.mark.parametrize("comparator", list(COMPARATORS)[:-1])
def test_comparators_and_sizes(
    comparator: str, items: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = make_graded_rows(items, dtype)
    kernel, formula = by_both(monkeypatch, *given, comparator=COMPARATORS[comparator])
    assert kernel[0].dtype == formula[0].dtype
    assert kernel[1].dtype == dtype
    close: dict[str, Any] = {}
    if dtype == torch.float64:
        close = {"rtol": 1e-9, "atol": 1e-12}
    for one, other in zip(kernel, formula, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, **close)


def test_steps_have_no_gradient() -> None:
    scores, levels, mask = make_graded_rows()
    leaf = scores.clone().requires_grad_()
    values = evaluate(leaf, levels, mask, comparator=Step())
    (grad,) = torch.autograd.grad(values.nansum(), leaf)
    assert grad.count_nonzero() == 0


def test_what_is_not_finite_stays_in_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, levels, mask = make_graded_rows()
    scores[1, 5], scores[4, 7] = torch.nan, torch.inf
    mask[1, 5] = mask[4, 7] = True
    kernel, formula = by_both(monkeypatch, scores, levels, mask, comparator=ByLevel())
    for value, grad in (kernel, formula):
        assert value.isnan().tolist() == [False, True, False, True, True, False]
        assert grad.isnan().any(-1).tolist() == [False, True, False, False, True, False]
    torch.testing.assert_close(kernel[1], formula[1], equal_nan=True)
    # What is masked may be anything.
    mask[1, 5] = mask[4, 7] = False
    assert evaluate(scores, levels, mask).isnan().tolist() == [False] * 3 + [True] + [False] * 2


# Exact counts are constant; counts without a gradient (`soft`) must not vary in the value either.
@pytest.mark.parametrize(("name", "least"), [("default", 1), ("by level", 1), ("soft", 4)])
def test_derivatives(name: str, least: int) -> None:
    scores, levels, mask = (tensor[:3] for tensor in make_graded_rows(items=9))

    def call(given: Tensor) -> Tensor:
        return evaluate(given, levels, mask, least, **OPTIONS[name])

    leaf = scores.clone().requires_grad_()
    assert torch.autograd.gradcheck(call, leaf)
    assert torch.autograd.gradgradcheck(call, leaf)


def test_a_graph_that_is_kept_serves_again() -> None:
    scores, levels, mask = make_graded_rows()
    leaf = scores.clone().requires_grad_()
    total = evaluate(leaf, levels, mask).nansum()
    results = [torch.autograd.grad(3 * total, leaf, retain_graph=True)[0] for _ in range(3)]
    assert results[0].count_nonzero() > 0
    for again in results[1:]:
        torch.testing.assert_close(again, results[0], rtol=0, atol=0)


def test_relevances_may_want_a_gradient() -> None:
    scores, levels, mask = make_graded_rows()
    relevances = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    values = evaluate(scores, levels, mask, 2, relevances=relevances)
    (grad,) = torch.autograd.grad(values.nansum(), relevances)
    assert grad.isfinite().all()
    assert grad.count_nonzero() > 0


@pytest.mark.parametrize("name", ["smooth_ap", "h_ap"])
def test_vmap_over_scores(name: str) -> None:
    scores, levels, _ = make_graded_rows()
    metric = getattr(sodeep_fast, name)
    given = levels > 0 if name == "smooth_ap" else levels
    both = torch.stack([scores, scores.flip(-1)])
    mapped = torch.vmap(lambda some: metric(some, given))(both)
    expected = torch.stack([metric(some, given) for some in both])
    torch.testing.assert_close(mapped, expected, equal_nan=True)


def test_worked_literal() -> None:
    # Two targets: that of level 1 is outranked by one item of level 0 and one of level 2, that of
    # level 2 by none. The relevances are 1 and 2.
    scores, levels = torch.tensor([[0.7, 0.6, 0.8]]), torch.tensor([[0, 1, 2]])
    values = graded_precision(scores, levels, Step(), soft=True)
    assert values.tolist() == pytest.approx([((1 + 1) / 3 + 2) / 3])


def operands(dtype: torch.dtype = torch.float64, comparator: Comparator | None = None) -> list[Any]:
    """The operator's arguments up to the method."""
    scores, levels, mask = make_graded_rows(dtype=dtype)
    levels[3] = 1  # opcheck does not take NaN for equal
    compact = levels.masked_fill(~mask, 255)
    return [scores, compact, 4, *encode(comparator or ByLevel()), "auto"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("wants_gradient", [False, True])
def test_the_operator_holds_to_its_contract(
    wants_gradient: bool, soft: bool, dtype: torch.dtype
) -> None:
    call, last = OPS.graded_precision.default, (1.0, soft, wants_gradient)
    for rest in ((2, 1.0, None), (4, 0.0, torch.ones(4))):
        torch.library.opcheck(call, (*operands(dtype), *rest, *last))


def test_what_does_not_fit_is_refused() -> None:
    given = operands()

    def call(at: int, value: Any, least: int = 4, relevances: Tensor | None = None) -> None:
        changed = [*given[:at], value, *given[at + 1 :]]
        OPS.graded_precision(*changed, least, 0.0, relevances, 1.0, False, True)

    with pytest.raises(RuntimeError, match="uint8"):
        call(1, given[1].long())
    with pytest.raises(RuntimeError, match="of the size of scores"):
        call(1, given[1][:, 1:])
    with pytest.raises(RuntimeError, match="between 1 and 255 levels"):
        call(2, 256)
    with pytest.raises(RuntimeError, match="least must be at least 1"):
        call(0, given[0], 0)
    with pytest.raises(RuntimeError, match=r"\(L\) or \(B, L\)"):
        call(0, given[0], 4, torch.ones(3))


def test_results_do_not_depend_on_the_number_of_threads(set_threads: Callable[[int], None]) -> None:
    scores, levels, mask = make_graded_rows(items=9000, dtype=torch.float32)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        leaf = scores.clone().requires_grad_()
        values = evaluate(leaf, levels, mask, comparator=ByLevel())
        results.append((values, *torch.autograd.grad(values.nansum(), leaf)))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)


def test_a_long_row_by_itself_is_divided_among_the_threads(
    set_threads: Callable[[int], None],
) -> None:
    scores = torch.rand(1, LONG_ROW, generator=torch.Generator().manual_seed(0))
    set_threads(2)
    assert not has_kernel(scores, OPERATOR)
    assert has_kernel(scores[:, 1:], OPERATOR)
    labels = torch.arange(LONG_ROW).remainder(7).eq(0).unsqueeze(0)
    divided = sodeep_fast.smooth_ap(scores, labels)
    set_threads(1)
    assert has_kernel(scores, OPERATOR)
    torch.testing.assert_close(sodeep_fast.smooth_ap(scores, labels), divided)
