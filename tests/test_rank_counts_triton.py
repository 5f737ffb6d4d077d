"""The Triton kernels of rank_counts in Triton's interpreter, against the float64 reference."""

import pytest
import torch
from torch import Tensor

from sodeep_fast import ByLevel, Ramp, Sigmoid, Step, Sup
from sodeep_fast.comparators import Comparator, encode
from sodeep_fast.testing import check_triton_counts, counts_of, derivatives, make_scores

OPS = torch.ops.sodeep_fast
COMPARATORS: dict[str, Comparator] = {
    "sigmoid": Sigmoid(0.1),
    "sup": Sup(0.1, rho=3.0, delta=0.2),
    "sup_linear": Sup(0.1, rho=3.0, delta=None, offset=1.0),
    "step": Step(0.5),
    "sup_ap": ByLevel(),
    "by_level": ByLevel(Step(0.25), Sup(0.2, rho=5.0), Sigmoid(0.3)),
    "h_rank": ByLevel(Sup(0.1, rho=3.0), Step(), Ramp(leak=0.5, beta=2.0, gamma=0.25)),
}


def some_levels(shape: tuple[int, int], targets: int, num_levels: int = 2) -> Tensor:
    """Levels above 0 for a few items, one fewer in each next row: more would be slow."""
    generator = torch.Generator().manual_seed(1)
    levels = torch.zeros(shape, dtype=torch.int64)
    for row in range(shape[0]):
        where = torch.randperm(shape[1], generator=generator)[: max(targets - row, 0)]
        levels[row, where] = 1 + torch.arange(len(where)) % (num_levels - 1)
    return levels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", COMPARATORS)
def test_agrees_with_the_reference(name: str, dtype: torch.dtype) -> None:
    """Rows of five, four and three targets: more than a program takes, or not."""
    scores = make_scores("uniform", (3, 21), dtype=dtype)
    scores[0, 3] = scores[0, 5]
    check_triton_counts(scores, some_levels((3, 21), 5, num_levels=3), COMPARATORS[name])


@pytest.mark.parametrize("distribution", ["cauchy", "clustered", "tied", "constant", "outliers"])
@pytest.mark.parametrize("comparator", [Sigmoid(0.01), Sigmoid(30.0), ByLevel()], ids=str)
def test_distributions(distribution: str, comparator: Comparator) -> None:
    check_triton_counts(make_scores(distribution, (1, 40)), some_levels((1, 40), 3), comparator)


@pytest.mark.parametrize("items", [1, 2, 65, 600])
def test_sizes(items: int) -> None:
    check_triton_counts(make_scores("normal", (2, items)), some_levels((2, items), 2), Sigmoid(0.1))


def test_long_rows_flush_their_sums() -> None:
    check_triton_counts(make_scores("normal", (1, 2100)), some_levels((1, 2100), 1), Sigmoid(0.1))


def test_programs_of_several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sodeep_fast.kernels._config.COUNTS_PROGRAMS", 1)
    check_triton_counts(make_scores("normal", (1, 100)), some_levels((1, 100), 6), Sigmoid(0.1))


def test_every_item_a_target() -> None:
    check_triton_counts(
        make_scores("normal", (1, 18)), some_levels((1, 18), 18, num_levels=4), Sigmoid(0.3)
    )


def test_more_levels_than_a_program_keeps() -> None:
    levels = some_levels((2, 30), 13, num_levels=12)
    check_triton_counts(
        make_scores("normal", (2, 30)), levels, ByLevel(Sup(), Sigmoid(0.1), Step())
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half(dtype: torch.dtype) -> None:
    check_triton_counts(
        make_scores("normal", (2, 30), dtype=dtype), some_levels((2, 30), 3), Sigmoid(0.1)
    )


@pytest.mark.parametrize("targets", [3, 6])
def test_masked_items_take_no_part(targets: int) -> None:
    scores, levels = make_scores("normal", (2, 20)), some_levels((2, 20), targets)
    mask = torch.rand(2, 20, generator=torch.Generator().manual_seed(2)) > 0.3
    mask[0, int(levels[0].argmax())] = False  # a target among them
    check_triton_counts(scores, levels, Sigmoid(0.1), mask=mask)
    leaf = torch.where(mask, scores, float("nan")).requires_grad_()
    counts = counts_of(levels, mask=mask)(leaf)
    (grad,) = torch.autograd.grad(counts.square().sum(), leaf)
    assert counts.isfinite().all()
    assert grad.isfinite().all()
    assert (grad[~mask] == 0).all()


def test_targets_of_another_choice() -> None:
    """Targets may be irrelevant, and rows without targets lie between the others."""
    scores, levels = make_scores("normal", (5, 12)), some_levels((5, 12), 4)
    targets = torch.zeros(5, 12, dtype=torch.bool)
    targets[1, 2], targets[3, [0, 7, 11]] = True, True
    check_triton_counts(scores, levels, Sigmoid(0.1), targets=targets)


def test_rows_are_found_among_many() -> None:
    scores = make_scores("normal", (150, 3))
    targets = torch.zeros(150, 3, dtype=torch.bool)
    targets[[0, 127, 128, 149]] = True
    levels = targets.long()
    ours, expected = (
        counts_of(levels, backend, targets=targets)(scores) for backend in ("triton", "reference")
    )
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("targets", [3, 6])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_in_its_row(targets: int, bad: float) -> None:
    clean, levels = make_scores("uniform", (3, 15)), some_levels((3, 15), targets)
    scores = clean.clone()
    scores[1, 7] = bad
    rows = (levels > 0).nonzero()[:, 0]
    grad = torch.randn(len(rows), 2, generator=torch.Generator().manual_seed(0))
    expected = derivatives(counts_of(levels), clean, grad, clean)
    actual = derivatives(counts_of(levels), scores, grad, clean)
    for name, value in actual.items():
        row = torch.arange(3) if name in ("grad", "second") else rows
        assert value[row == 1].isnan().all(), name
        assert torch.equal(value[row != 1], expected[name][row != 1]), name


def test_a_row_without_targets_has_no_gradient_whatever_its_scores() -> None:
    scores = torch.tensor([[float("nan"), 1.0], [0.0, 1.0]], requires_grad=True)
    counts = counts_of(torch.tensor([[0, 0], [0, 1]]))(scores)
    (grad,) = torch.autograd.grad(counts.sum(), scores)
    assert counts.isfinite().all()
    assert torch.equal(grad[0], torch.zeros(2))


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0), (2, 4)])
def test_empty(shape: tuple[int, int]) -> None:
    scores = torch.zeros(shape, requires_grad=True)
    counts = counts_of(torch.zeros(shape, dtype=torch.bool))(scores)
    (grad,) = torch.autograd.grad(counts.sum(), scores, materialize_grads=True)
    assert counts.shape == (0, 2)
    assert torch.equal(grad, torch.zeros(shape))


def test_extreme_scores_and_temperatures() -> None:
    largest, tiny = torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny
    scores = torch.tensor([[largest, -largest, 0.0, 1.0], [0.0, tiny, -tiny, tiny / 4]])
    levels = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0]])
    for tau in (5e-324, 1e-30, 1.0, 1e38, 1e300):
        ours = counts_of(levels, comparator=Sigmoid(tau))(scores)
        exact = counts_of(levels, "reference", comparator=Sigmoid(tau))(scores.double())
        if tau >= 1e-30:
            torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-30)
        assert torch.equal(ours[:1].round(), exact[:1].float().round())
    # Thresholds distinguish subnormal differences.
    steps = counts_of(levels, comparator=Step(0.5))(scores)
    assert steps.tolist() == [[3.0, 0.0], [2.0, 0.0]]


def test_strided_and_expanded_inputs() -> None:
    scores = make_scores("normal", (40, 12)).t()[3:5, ::2]
    levels = some_levels((2, 20), 2)
    expanded = torch.ones(1, 1).expand(3, 2)
    strided = derivatives(counts_of(levels), scores, expanded, scores)
    dense = derivatives(counts_of(levels), scores.contiguous(), expanded.contiguous(), scores)
    assert all(torch.equal(strided[name], dense[name]) for name in dense)


@pytest.mark.parametrize("name", ["sigmoid", "by_level"])
def test_gradcheck(name: str) -> None:
    scores = make_scores("uniform", (1, 5), dtype=torch.float64).requires_grad_()
    function = counts_of(some_levels((1, 5), 2), comparator=COMPARATORS[name])
    assert torch.autograd.gradcheck(function, scores, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, scores, fast_mode=True)


def test_opcheck() -> None:
    scores = torch.randn(2, 6).requires_grad_()
    levels = some_levels((2, 6), 2).to(torch.uint8)
    rows, columns = levels.nonzero(as_tuple=True)
    offsets = torch.searchsorted(rows, torch.arange(3))
    options = (levels, columns, offsets, 2, *encode(ByLevel(Sigmoid(0.2), Sup(), Step())), "auto")
    grad, tangent = torch.randn(len(rows), 2, requires_grad=True), torch.randn(2, 6)
    torch.library.opcheck(OPS.triton_rank_counts.default, (scores, *options))
    torch.library.opcheck(OPS.triton_rank_counts_backward.default, (grad, scores, *options))
    grad, scores = grad.detach(), scores.detach()
    torch.library.opcheck(OPS.triton_rank_counts_tangent.default, (tangent, scores, *options))
    double = OPS.triton_rank_counts_double_backward.default
    torch.library.opcheck(double, (tangent, grad, scores, *options))


def test_runs_the_triton_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from sodeep_fast.kernels import rank_counts as kernels

    launched = []
    original = kernels._Call.launch

    def spy(call, kernel, *args, **kwargs):
        launched.append(kernel.__name__)
        return original(call, kernel, *args, **kwargs)

    monkeypatch.setattr(kernels._Call, "launch", spy)
    scores, grad = make_scores("normal", (2, 5)), torch.ones(3, 2)
    derivatives(counts_of(some_levels((2, 5), 2)), scores, grad, scores)
    backward = ["rank_counts_bwd_targets_kernel", "rank_counts_bwd_items_kernel"]
    # Counts, gradient, and of the gradient the tangent and the second derivative.
    assert launched[:3] == ["rank_counts_fwd_kernel", *backward]
    assert sorted(launched[3:]) == sorted(["rank_counts_fwd_kernel", *backward])
