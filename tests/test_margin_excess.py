"""By how much scores are on the wrong side of a margin: the kernel and the plain formula."""

from collections.abc import Callable

import pytest
import torch

from sodeep_fast.ops import margin_excess as module
from sodeep_fast.ops.margin_excess import count_active, margin_excess

OPS = torch.ops.sodeep_fast
MARGINS = (0.7, 0.2)
ROUTES = [
    pytest.param(True, marks=pytest.mark.kernels, id="kernel"),
    pytest.param(False, id="torch"),
]
SHAPES = [(0, 5), (3, 0), (1, 1), (2, 17), (3, 129), (2, 3000)]


@pytest.fixture
def _route(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_has_kernel", lambda scores: kernel)


def make(shape: tuple[int, int], masked: bool) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(shape[1])
    scores = torch.rand(shape, generator=generator) * 2 - 1
    positives = torch.rand(shape, generator=generator) < 0.3
    mask = torch.rand(shape, generator=generator) < 0.8
    return scores, positives, mask if masked else None


def formula(
    scores: torch.Tensor, positives: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    part = torch.ones_like(positives) if mask is None else mask
    near = (MARGINS[0] - scores[positives & part]).relu()
    far = (scores[~positives & part] - MARGINS[1]).relu()
    return torch.stack([near.sum(), far.sum()]), torch.stack([(near > 0).sum(), (far > 0).sum()])


@pytest.mark.usefixtures("_route")
@pytest.mark.parametrize("kernel", ROUTES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_is_its_formula(
    shape: tuple[int, int], masked: bool, dtype: torch.dtype, kernel: bool
) -> None:
    scores, positives, mask = make(shape, masked)
    scores = scores.to(dtype).t().contiguous().t()  # by columns
    leaf, exact = scores.clone().requires_grad_(), scores.double().requires_grad_()
    expected, active = formula(exact, positives, mask)
    found = margin_excess(leaf, positives, mask, *MARGINS)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found, expected.to(found.dtype))
    torch.testing.assert_close(count_active(leaf, positives, mask, *MARGINS), active)
    weights = torch.tensor([2.0, 3.0])
    (grad,) = torch.autograd.grad(found, leaf, weights.to(found.dtype))
    (exact_grad,) = torch.autograd.grad(expected, exact, weights.double())
    torch.testing.assert_close(grad, exact_grad.to(dtype))


@pytest.mark.usefixtures("_route")
@pytest.mark.parametrize("kernel", ROUTES)
def test_scores_at_their_margins_are_on_the_right_side(kernel: bool) -> None:
    scores = torch.tensor([[0.5, 0.5]], requires_grad=True)
    positives = torch.tensor([[True, False]])
    found = margin_excess(scores, positives, None, 0.5, 0.5)
    assert found.tolist() == [0, 0]
    assert count_active(scores, positives, None, 0.5, 0.5).tolist() == [0, 0]
    assert torch.autograd.grad(found.sum(), scores)[0].tolist() == [[0, 0]]
    transformed = torch.func.grad(lambda x: margin_excess(x, positives, None, 0.5, 0.5).sum())
    assert transformed(scores.detach()).tolist() == [[0, 0]]


@pytest.mark.usefixtures("_route")
@pytest.mark.parametrize("kernel", ROUTES)
def test_nan_counts_where_it_takes_part(kernel: bool) -> None:
    scores = torch.tensor([[torch.nan, 0.9, torch.nan]])
    positives = torch.tensor([[True, False, False]])
    assert margin_excess(scores, positives, None, *MARGINS).isnan().all()
    mask = torch.tensor([[False, True, False]])
    found = margin_excess(scores, positives, mask, *MARGINS)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.7]))


@pytest.mark.kernels
@pytest.mark.parametrize("masked", [False, True])
def test_the_operators_hold_to_their_contracts(masked: bool) -> None:
    given = (*make((2, 17), masked), *MARGINS)
    torch.library.opcheck(OPS.margin_excess.default, given)
    torch.library.opcheck(OPS.margin_excess_backward.default, (torch.ones(2), *given))
    with pytest.raises(RuntimeError, match="of the size of scores"):
        OPS.margin_excess(torch.zeros(2, 3), torch.zeros(3, dtype=torch.bool), None, *MARGINS)


@pytest.mark.kernels
def test_results_do_not_depend_on_the_number_of_threads(set_threads: Callable[[int], None]) -> None:
    given = (*make((40, 3000), True), *MARGINS)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        results.append(
            (*OPS.margin_excess(*given), OPS.margin_excess_backward(torch.ones(2), *given))
        )
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.kernels
@pytest.mark.parametrize("instruction_set", ["baseline", "avx2"])
def test_on_other_instruction_sets(instruction_set: str, rerun_on) -> None:
    """The same checks in a process that is limited to an older instruction set."""
    rerun_on(__file__, "test_is_its_formula and kernel", 36, instruction_set)
