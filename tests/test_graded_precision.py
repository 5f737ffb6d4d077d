"""Average precisions from rank counts: the kernel and the plain formula that stands in for it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sodeep_fast
from sodeep_fast import _native
from sodeep_fast.comparators import ByLevel, Sigmoid, Step
from sodeep_fast.ops import graded_precision as module
from sodeep_fast.ops.graded_precision import graded_precision, has_kernel
from sodeep_fast.ops.rank_counts import RankCounts, rank_counts

OPS = torch.ops.sodeep_fast
pytestmark = pytest.mark.skipif(not _native.HAS_CPU, reason="the C++ kernels are not built")
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "alpha": {"alpha": 1.5},
    "soft": {"soft": True},
    "by level": {"relevances": torch.tensor([0.0, 0.5, 2.0, 0.25])},
    "by row": {"relevances": torch.rand(6, 4, generator=torch.Generator().manual_seed(1))},
}


def make(items: int = 40, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, levels and mask of six rows, one of them without a target."""
    generator = torch.Generator().manual_seed(items)
    scores = torch.rand(6, items, generator=generator, dtype=torch.float64).to(dtype)
    levels = torch.randint(4, (6, items), generator=generator, dtype=torch.uint8)
    levels[3] = 0
    return scores, levels, torch.rand(6, items, generator=generator) < 0.8


def evaluate(
    scores: Tensor, levels: Tensor, mask: Tensor, least: int, options: dict[str, Any]
) -> Tensor:
    """By soft counts and, from level `least` on, exact ones."""
    options = {
        name: value.to(scores.dtype) if isinstance(value, Tensor) else value
        for name, value in options.items()
    }
    found = rank_counts(scores, levels, comparator=Sigmoid(0.2), mask=mask, num_levels=4)
    missing = rank_counts(
        scores.detach(),
        levels,
        comparator=Step(),
        targets=levels >= least,
        mask=mask,
        num_levels=4,
    )
    return graded_precision(found, levels, missing if least < 4 else None, least=least, **options)


@pytest.mark.parametrize("least", [1, 2, 4])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_kernel_is_the_formula(name: str, least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, levels, mask = make()
    results = []
    for kernel in (True, False):
        assert kernel is False or has_kernel(scores)
        monkeypatch.setattr(module, "has_kernel", lambda counts, kernel=kernel: kernel)
        leaf = scores.clone().requires_grad_()
        values = evaluate(leaf, levels, mask, least, OPTIONS[name])
        by_kernel = "_GradedPrecision" in type(values.grad_fn).__name__
        assert by_kernel is kernel
        (grad,) = torch.autograd.grad(values, leaf, torch.arange(1.0, 7).double())
        assert values.isnan().tolist() == [False, False, False, True, False, False]
        assert grad[3].count_nonzero() == 0
        results.append((values, grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, rtol=1e-12, atol=1e-13)


# What is counted exactly is constant, and what `soft` leaves out must not be in the value either.
@pytest.mark.parametrize(("name", "least"), [("default", 1), ("by level", 1), ("soft", 4)])
def test_derivatives(name: str, least: int) -> None:
    scores, levels, mask = (tensor[:3] for tensor in make(items=9))

    def call(given: Tensor) -> Tensor:
        return evaluate(given, levels, mask, least, OPTIONS[name])

    leaf = scores.clone().requires_grad_()
    assert torch.autograd.gradcheck(call, leaf)
    assert torch.autograd.gradgradcheck(call, leaf)


def test_relevances_may_want_a_gradient() -> None:
    scores, levels, mask = make()
    relevances = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    values = evaluate(scores, levels, mask, 2, {"relevances": relevances})
    (grad,) = torch.autograd.grad(values.nansum(), relevances)
    assert grad.isfinite().all()
    assert grad.count_nonzero() > 0


@pytest.mark.parametrize("name", ["smooth_ap", "h_ap"])
def test_vmap_over_scores(name: str) -> None:
    scores, levels, _ = make()
    metric = getattr(sodeep_fast, name)
    given = levels > 0 if name == "smooth_ap" else levels
    both = torch.stack([scores, scores.flip(-1)])
    mapped = torch.vmap(lambda some: metric(some, given))(both)
    expected = torch.stack([metric(some, given) for some in both])
    torch.testing.assert_close(mapped, expected, equal_nan=True)


def test_worked_by_hand() -> None:
    # Two targets: of level 1, outranked by one item of level 0; of level 2, by nobody.
    places = torch.tensor([1, 2])
    counts = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    found = RankCounts(counts, torch.tensor([0, 0]), places)
    levels = torch.tensor([[0, 1, 2]])
    values = graded_precision(found, levels)
    assert values.tolist() == pytest.approx([((1 + 1) / 3 + 2) / 3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("soft", [False, True])
def test_the_operator_holds_to_its_contract(soft: bool, dtype: torch.dtype) -> None:
    scores, levels, mask = make(dtype=dtype)
    levels[3] = 1  # opcheck takes no NaN for equal
    comparator = ByLevel()
    found = rank_counts(scores, levels, comparator=comparator, mask=mask)
    some = rank_counts(scores, levels, comparator=Step(), targets=levels > 1, mask=mask)
    call = OPS.graded_precision.default
    missing = some.counts, some.rows
    torch.library.opcheck(call, (found[0], levels, *found[1:], *missing, 2, None, 1.0, soft))
    torch.library.opcheck(
        call, (found[0], levels, *found[1:], None, None, 1, torch.ones(4), 1.0, soft)
    )


def test_what_does_not_fit_is_refused() -> None:
    scores, levels, mask = make()
    found = rank_counts(scores, levels, mask=mask)

    def call(**changed: Any) -> None:
        given = {
            "counts": found.counts,
            "levels": levels,
            "rows": found.rows,
            "columns": found.columns,
            "missing": None,
            "missing_rows": None,
            "least": 1,
            "relevances": None,
        }
        OPS.graded_precision(*(given | changed).values(), 1.0, False)

    call()
    with pytest.raises(RuntimeError, match="do not fit the counts"):
        call(columns=found.columns + 40)
    with pytest.raises(RuntimeError, match="do not fit the counts"):
        call(levels=levels + 4)
    with pytest.raises(RuntimeError, match="do not fit the counts"):
        call(missing=found.counts[1:], missing_rows=found.rows[1:])
    with pytest.raises(RuntimeError, match="one of each for every target"):
        call(columns=found.columns[1:])
    with pytest.raises(RuntimeError, match="as many levels"):
        call(missing=found.counts)
    with pytest.raises(RuntimeError, match="uint8"):
        call(levels=levels.long())
    with pytest.raises(RuntimeError, match=r"\(L\) or \(B, L\)"):
        call(relevances=torch.ones(3))


def test_results_do_not_depend_on_the_number_of_threads(set_threads: Callable[[int], None]) -> None:
    scores, levels, mask = make(items=9000, dtype=torch.float32)
    found = rank_counts(scores, levels, mask=mask)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        results.append(
            OPS.graded_precision(found[0], levels, *found[1:], None, None, 1, None, 1.0, False)
        )
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)
