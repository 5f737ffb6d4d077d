"""The rank counts as a user meets them: values, shapes, dtypes, masks, derivatives, bad input."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sodeep_fast import (
    ByLevel,
    Ramp,
    Sigmoid,
    Step,
    Sup,
    _native,
    hard_rank,
    rank_counts,
    soft_rank,
)
from sodeep_fast.comparators import Comparator, encode
from sodeep_fast.ops import _backend
from sodeep_fast.ops import rank_counts as module
from sodeep_fast.ops._levels import find_marked
from sodeep_fast.reference.rank_counts import compare
from sodeep_fast.reference.rank_counts import rank_counts as reference
from sodeep_fast.testing import (
    DISTRIBUTIONS,
    assert_as_accurate,
    derivatives,
    make_scores,
)

needs_kernels = pytest.mark.skipif(not _native.HAS_CPU, reason="the C++ kernels are not built")
OPS = torch.ops.sodeep_fast
METHODS = ["direct", "linear"]
# Every implementation, as the options that choose it.
OPTIONS: dict[str, dict[str, str]] = {
    "direct": {"method": "direct"},
    "linear": {"method": "linear"},
    "reference": {"backend": "reference"},
}
COMPARATORS: dict[str, Comparator] = {
    "sigmoid": Sigmoid(0.1),
    "sup": Sup(0.1, rho=3.0, delta=0.2),
    "sup_linear": Sup(0.1, rho=3.0, delta=None, offset=1.0),
    "step": Step(0.5),
    "ramp": Ramp(leak=2.0, beta=3.0, gamma=0.25),
    "h_rank": ByLevel(Step(), Sigmoid(0.2), Ramp(beta=5.0)),
    "by_level": ByLevel(Sup(0.2, rho=5.0), Step(), Sigmoid(0.3)),
}


def random_levels(shape: tuple[int, ...], num_levels: int, seed: int = 1) -> Tensor:
    return torch.randint(num_levels, shape, generator=torch.Generator().manual_seed(seed))


def value_and_gradient(scores: Tensor, levels: Tensor, **options) -> tuple[Tensor, Tensor]:
    """The counts, and the gradient of their sum with fixed random weights."""
    leaf = scores.detach().clone().requires_grad_()
    counts = rank_counts(leaf, levels, **options).counts
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(counts.shape, generator=generator, dtype=torch.float64)
    (grad,) = torch.autograd.grad((counts * weight.to(counts.dtype)).sum(), leaf)
    return counts.detach(), grad


@pytest.mark.parametrize("how", OPTIONS)
def test_worked_example(how: str) -> None:
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.0, 0.0, 0.0, 1.0]])
    levels = torch.tensor([[0, 1, 0, 1], [1, 2, 0, 0]])
    result = rank_counts(scores, levels, comparator=Step(), **OPTIONS[how])
    assert result.rows.tolist() == [0, 0, 1, 1]
    assert result.columns.tolist() == [1, 3, 0, 1]
    # Two of level 0 outrank the last of row 0; in row 1 three are tied, and a tie counts 1.
    assert result.counts.tolist() == [[1, 0, 0], [2, 1, 0], [2, 0, 1], [2, 1, 0]]
    # sigmoid(0.1 / 0.1) = 0.731059, sigmoid(-0.1 / 0.1) = 0.268941, sigmoid(-7) = 0.000911,
    # sigmoid(8) = 0.999665, sigmoid(6) = 0.997527, sigmoid(7) = 0.999089
    soft = rank_counts(scores[:1], levels[:1], comparator=Sigmoid(0.1), **OPTIONS[how]).counts
    expected = [[0.731059 + 0.268941, 0.000911], [0.999665 + 0.997527, 0.999089]]
    torch.testing.assert_close(soft, torch.tensor(expected), atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", COMPARATORS)
def test_reference_is_the_sum_over_pairs(name: str) -> None:
    comparator = COMPARATORS[name]
    by_level = (
        (comparator.lower, comparator.same, comparator.higher)
        if isinstance(comparator, ByLevel)
        else (comparator,) * 3
    )
    scores = make_scores("tied", (3, 9), dtype=torch.float64) / 4
    levels = random_levels((3, 9), 4)
    counts, rows, columns = rank_counts(scores, levels, comparator=comparator, backend="reference")
    expected = torch.zeros_like(counts)
    for t, (row, i) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        for k in range(9):
            if k != i:
                own, other = int(levels[row, i]), int(levels[row, k])
                which = by_level[0 if other < own else 1 if other == own else 2]
                expected[t, other] += compare(which, scores[row, k] - scores[row, i])
    torch.testing.assert_close(counts, expected, rtol=1e-13, atol=1e-13)


@needs_kernels
@pytest.mark.parametrize("name", COMPARATORS)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(("items", "num_levels"), [(1, 2), (2, 3), (17, 2), (60, 9), (515, 3)])
def test_kernels_agree_with_the_reference(
    items: int, num_levels: int, distribution: str, name: str
) -> None:
    scores = make_scores(distribution, (3, items), dtype=torch.float64)
    levels = random_levels((3, items), num_levels)
    options = {"comparator": COMPARATORS[name], "num_levels": num_levels}
    if name == "step":
        expected = rank_counts(scores, levels, **options, backend="reference").counts
        for method in METHODS:
            assert torch.equal(
                rank_counts(scores, levels, **options, method=method).counts, expected
            )
        return
    # Straight lines as long as the row are summed with the rounding of its range.
    largest = 10 * float(scores.max() - scores.min()) if name in ("ramp", "h_rank") else 0.0
    rounding = 4 * torch.finfo(torch.float64).eps * items * largest
    reference_results = value_and_gradient(scores, levels, **options, backend="reference")
    for method in METHODS:
        results = value_and_gradient(scores, levels, **options, method=method)
        for ours, expected in zip(results, reference_results, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-11, atol=max(1e-11, rounding))


@needs_kernels
def test_auto_runs_the_kernels() -> None:
    assert _backend.choose("cpu", "rank_counts")[0] == "cpp"
    if _backend.has_triton():
        assert _backend.choose("cuda", "rank_counts")[0] == "triton"
    # With a sigmoid they all round differently, which tells them apart.
    scores, few = make_scores("normal", (4, 2000)) / 10, random_levels((4, 2000), 2)
    few[:, 3:] = 0
    many = random_levels((4, 2000), 2)
    for levels, expected in ((few, "direct"), (many, "linear")):
        for comparator in (Sigmoid(), ByLevel()):
            auto, cpp, direct, linear, eager = (
                rank_counts(scores, levels, comparator=comparator, **options).counts
                for options in ({}, {"backend": "cpp"}, *OPTIONS.values())
            )
            assert torch.equal(auto, cpp)
            assert torch.equal(auto, direct if expected == "direct" else linear)
            if isinstance(comparator, Sigmoid):
                assert not torch.equal(direct, linear)
                assert not torch.equal(auto, eager)


def exact(
    scores: Tensor, levels: Tensor, columns: Tensor, grad: Tensor, comparator: Comparator
) -> tuple[np.ndarray, np.ndarray]:
    """Counts and gradient of one row, Sigmoid or default ByLevel, in extended precision."""
    s = scores.numpy().astype(np.longdouble)
    g = grad.numpy().astype(np.longdouble)
    level = levels.numpy()
    x = s[None] - s[columns.numpy()][:, None]
    simple = comparator.lower if isinstance(comparator, ByLevel) else comparator
    tau = np.longdouble(simple.tau)
    # exp of a negative number only; anything below its range is an exact zero.
    small = np.exp(np.maximum(-np.abs(x / tau), np.longdouble(-11000)))
    value = np.where(x >= 0, 1, small) / (1 + small)
    slope = small / (1 + small) ** 2 / tau
    if isinstance(comparator, ByLevel):
        assert isinstance(simple, Sup)
        delta, offset = (np.longdouble(v) for v in simple.resolved())
        soft = value + np.where(x > 0, np.longdouble(simple.start), 0)
        value = np.where(x > delta, simple.rho * (x - delta) + offset, soft)
        slope = np.where(x > delta, np.longdouble(simple.rho), slope)
        lower = level[None] < level[columns.numpy()][:, None]
        value = np.where(lower, value, (x >= 0).astype(np.longdouble))
        slope = np.where(lower, slope, 0)
    itself = np.arange(len(s))[None] == columns.numpy()[:, None]
    value, slope = np.where(itself, 0, value), np.where(itself, 0, slope)
    of_level = [(value * (level == which)).sum(-1) for which in range(g.shape[1])]
    terms = slope * g[:, level]
    gradient = terms.sum(0)
    np.subtract.at(gradient, columns.numpy(), terms.sum(1))
    return np.stack(of_level, -1), gradient


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("comparator", [Sigmoid(0.01), Sigmoid(0.3), ByLevel()], ids=str)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("items", [3, 100, 3000])
def test_accuracy(
    items: int, distribution: str, comparator: Comparator, dtype: torch.dtype
) -> None:
    scores = make_scores(distribution, (1, items), dtype=dtype)
    levels = random_levels((1, items), 3)
    levels[:, 20:] *= levels[:, 20:] < 2  # many irrelevant, some of each
    levels[:, 200:] = 0
    options = {"comparator": comparator, "num_levels": 3}
    eager_counts, eager_grad = value_and_gradient(scores, levels, **options, backend="reference")
    weight = torch.randn(
        eager_counts.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    ).to(dtype)
    columns = rank_counts(scores, levels, num_levels=3).columns
    exact_counts, exact_grad = exact(scores[0], levels[0], columns, weight, comparator)

    rounding = 4 * torch.finfo(dtype).eps * items
    largest = 1.0  # term
    if isinstance(comparator, ByLevel):
        largest += 1 + 100 * float(scores.double().max() - scores.double().min())
    tau = comparator.lower.tau if isinstance(comparator, ByLevel) else comparator.tau
    steepest = max(0.25 / tau, 100.0 if isinstance(comparator, ByLevel) else 0.0)
    scale = steepest * float(weight.abs().max())
    for method in METHODS:
        counts, grad = value_and_gradient(scores, levels, **options, method=method)
        assert_as_accurate(
            counts, eager_counts, exact_counts, floor=rounding * largest, what=f"{method} value"
        )
        assert_as_accurate(
            grad[0], eager_grad[0], exact_grad, floor=rounding * scale, what=f"{method} gradient"
        )


@needs_kernels
@pytest.mark.parametrize("instruction_set", ["baseline", "avx2"])
def test_older_processors(instruction_set: str, rerun_on) -> None:
    """Some of the checks in a process that is held to an older instruction set."""
    selected = (
        "(test_kernels_agree and normal) or (test_accuracy and outliers) or gradcheck or nearly_all"
    )
    rerun_on(__file__, selected, instruction_set)


def test_one_level_is_the_soft_rank() -> None:
    scores = make_scores("normal", (4, 50), dtype=torch.float64)
    everything = torch.ones_like(scores, dtype=torch.bool)
    counts, rows, columns = rank_counts(
        scores, everything.long() * 0, comparator=Sigmoid(0.1), targets=everything
    )
    assert torch.equal(rows * 50 + columns, torch.arange(200))
    torch.testing.assert_close(1 + counts.view(4, 50), soft_rank(scores, 10.0))


@pytest.mark.parametrize("how", OPTIONS)
def test_steps_are_exact_ranks_and_have_no_gradient(how: str) -> None:
    scores = make_scores("tied", (3, 40)).requires_grad_()
    levels = random_levels((3, 40), 4)
    for at_zero, ties in ((0.0, "min"), (0.5, "average"), (1.0, "max")):
        counts, rows, columns = rank_counts(
            scores, levels, comparator=Step(at_zero), **OPTIONS[how]
        )
        assert torch.equal(1 + counts.sum(-1), hard_rank(scores, ties=ties)[rows, columns])
    if counts.requires_grad:
        (grad,) = torch.autograd.grad(counts.sum(), scores)
        assert (grad == 0).all()


@pytest.mark.parametrize("how", OPTIONS)
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0), (1, 1), (2, 1), (1, 65)])
@pytest.mark.parametrize("share", ["none", "one", "all"])
def test_shapes(shape: tuple[int, int], share: str, how: str) -> None:
    levels = torch.full(shape, int(share == "all"))
    if share == "one" and shape[1] > 0:
        levels[:1, -1] = 1
    expected = {"none": 0, "one": int(levels.sum()), "all": levels.numel()}[share]
    scores = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    result = rank_counts(scores, levels, num_levels=2, **OPTIONS[how])
    assert result.counts.shape == (expected, 2)
    assert result.rows.shape == result.columns.shape == (expected,)
    (grad,) = torch.autograd.grad(result.counts.square().sum(), scores, materialize_grads=True)
    assert grad.shape == shape
    assert grad.isfinite().all()
    assert (result.counts <= max(0, shape[1] - 1)).all()


def test_number_of_levels() -> None:
    scores = torch.randn(2, 6)
    assert rank_counts(scores, torch.zeros(2, 6, dtype=torch.bool)).counts.shape == (0, 2)
    assert rank_counts(scores, torch.full((2, 6), 3)).counts.shape == (12, 4)
    assert rank_counts(scores, torch.full((2, 6), 254)).counts.shape == (12, 255)
    assert rank_counts(scores, torch.ones(2, 6).bool(), num_levels=5).counts.shape == (12, 5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_any_integers_are_levels(dtype: torch.dtype) -> None:
    scores, levels = make_scores("normal", (3, 40)), random_levels((3, 40), 2)
    expected = rank_counts(scores, levels.bool()).counts
    assert torch.equal(rank_counts(scores, levels.to(dtype)).counts, expected)
    strided = levels.bool().T.contiguous().T
    assert torch.equal(rank_counts(scores, strided).counts, expected)


def test_chosen_targets() -> None:
    scores, levels = make_scores("normal", (3, 40)), random_levels((3, 40), 3)
    everything = torch.ones_like(levels, dtype=torch.bool)
    complete = rank_counts(scores, levels, targets=everything, comparator=ByLevel())
    some = random_levels((3, 40), 2, seed=5).bool()
    chosen = rank_counts(scores, levels, targets=some, comparator=ByLevel())
    assert torch.equal(chosen.counts, complete.counts.view(3, 40, 3)[some])


@pytest.mark.parametrize("how", OPTIONS)
def test_strided_and_expanded_inputs(how: str) -> None:
    wide = make_scores("normal", (40, 3, 50), dtype=torch.float64)
    for scores in (wide[::2, 1, 5:45:3], wide[:, 0].T, wide[0, 0].expand(6, 50)):
        levels = random_levels(tuple(scores.shape), 3)
        leaf = scores.detach().requires_grad_()
        counts = rank_counts(leaf, levels, **OPTIONS[how]).counts
        copy = scores.detach().contiguous().requires_grad_()
        expected = rank_counts(copy, levels, **OPTIONS[how]).counts
        torch.testing.assert_close(counts, expected)
        # sum() sends an expanded gradient of stride 0.
        counts.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(leaf.grad, copy.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_half_scores_are_counted_in_float32(method: str, dtype: torch.dtype) -> None:
    scores = make_scores("uniform", (2, 300)).to(dtype)
    levels = random_levels((2, 300), 3)
    for comparator in (Sigmoid(), ByLevel()):  # tau = 0.01: the originals give NaN gradients
        options = {"comparator": comparator, "method": method}
        counts, grad = value_and_gradient(scores, levels, **options)
        wide, wide_grad = value_and_gradient(scores.float(), levels, **options)
        assert counts.dtype == torch.float32
        assert torch.equal(counts, wide)
        assert grad.dtype == dtype
        assert grad.isfinite().all()
        assert torch.equal(grad, wide_grad.to(dtype))


@pytest.mark.parametrize("how", OPTIONS)
@pytest.mark.parametrize("name", ["sigmoid", "by_level"])
def test_masked_rows_are_the_rows_without_the_masked_entries(name: str, how: str) -> None:
    scores = make_scores("normal", (5, 60), dtype=torch.float64)
    levels = random_levels((5, 60), 3)
    mask = torch.rand(5, 60, generator=torch.Generator().manual_seed(2)) > 0.4
    mask[3], mask[4] = False, True
    options = {"comparator": COMPARATORS[name], "num_levels": 3, **OPTIONS[how]}
    # What is masked may be anything.
    leaf = scores.masked_fill(~mask, torch.nan).requires_grad_()
    result = rank_counts(leaf, levels.masked_fill(~mask, -7), mask=mask, **options)
    (grad,) = torch.autograd.grad(result.counts.square().sum(), leaf)
    for row in range(5):
        short = scores[row][mask[row]][None].requires_grad_()
        alone = rank_counts(short, levels[row][mask[row]][None], **options)
        (short_grad,) = torch.autograd.grad(
            alone.counts.square().sum(), short, materialize_grads=True
        )
        torch.testing.assert_close(result.counts[result.rows == row], alone.counts)
        torch.testing.assert_close(grad[row][mask[row]], short_grad[0])
        assert (grad[row][~mask[row]] == 0).all()


@needs_kernels
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("most", [0, 1, 2])
@pytest.mark.parametrize("name", COMPARATORS)
def test_rows_in_which_nearly_all_items_share_a_level(name: str, most: int, masked: bool) -> None:
    # One of 16 items elsewhere is the last row that the kernels leave as it is.
    items, columns = 331, torch.randperm(331, generator=torch.Generator().manual_seed(0))
    others = torch.tensor([0, 1, items // 16 - 1, items // 16, items // 16 + 1, items // 8])
    scores = make_scores("normal", (len(others), items), dtype=torch.float64)
    is_other = columns < others.unsqueeze(1)
    levels = torch.where(is_other, random_levels(tuple(scores.shape), 4), most)
    mask = (levels < 3) if masked else None
    targets = (columns % 7 == 0) | (is_other & (columns % 2 == 0))
    options = {"comparator": COMPARATORS[name], "num_levels": 4, "targets": targets, "mask": mask}
    expected = value_and_gradient(scores, levels, **options, backend="reference")
    for anything in (0.0, torch.nan, torch.inf) if masked else (0.0,):
        given = scores if mask is None else scores.masked_fill(~mask, anything)
        ours = value_and_gradient(given, levels, **options, method="direct")
        for value, wanted in zip(ours, expected, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-11, atol=1e-10)
    # What is not finite and does take part spoils its row, on either side of the boundary.
    spoiled = scores.clone()
    spoiled[3, int((~is_other[3]).nonzero()[0])] = torch.nan
    counts, grad = value_and_gradient(spoiled, levels, **options, method="direct")
    valid = torch.ones_like(targets) if mask is None else mask
    rows = (targets & valid).nonzero()[:, 0]
    assert counts[rows == 3].isnan().all()
    assert counts[rows != 3].isfinite().all()
    assert torch.equal(grad[3].isnan(), valid[3])


def test_targets_are_found_wherever_they_are_stored() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.rand(6, 64, generator=generator) > 0.7
    for marks in (wide, wide[:, :16], wide[1:2, 3:19], wide[2:], wide.T, wide[:0], wide[:, :13]):
        for given in (marks, marks.contiguous(), marks.to(torch.uint8)):
            rows, columns, offsets = find_marked(given)
            assert torch.equal(torch.stack([rows, columns], -1), given.nonzero())
            assert torch.equal(offsets.diff(), given.count_nonzero(-1))
            assert offsets[0] == 0


@pytest.mark.parametrize("how", OPTIONS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_a_non_finite_score_spoils_its_own_row_only(poison: float, how: str) -> None:
    clean = make_scores("normal", (3, 45), dtype=torch.float64)
    levels = random_levels((3, 45), 3)
    for level in range(3):  # an item of any level
        scores = clean.clone()
        scores[1, int((levels[1] == level).nonzero()[0])] = poison
        scores.requires_grad_()
        result = rank_counts(scores, levels, **OPTIONS[how])
        (grad,) = torch.autograd.grad(result.counts.square().sum(), scores)
        assert result.counts[result.rows == 1].isnan().all()
        assert grad[1].isnan().all()
        leaf = clean.clone().requires_grad_()
        expected = rank_counts(leaf, levels, **OPTIONS[how]).counts
        (expected_grad,) = torch.autograd.grad(expected.square().sum(), leaf)
        others = result.rows != 1
        assert torch.equal(result.counts[others], expected[others])
        assert torch.equal(grad[[0, 2]], expected_grad[[0, 2]])


@pytest.mark.parametrize("method", METHODS)
def test_temperatures_whose_reciprocal_overflows(method: str) -> None:
    levels = torch.ones(1, 5, dtype=torch.bool)
    for dtype in (torch.float32, torch.float64):
        for scores, expected in (([1.0] * 5, [2.0] * 5), ([5.0, 4, 3, 2, 1], [0.0, 1, 2, 3, 4])):
            given = torch.tensor([scores], dtype=dtype)
            options = {"comparator": Sigmoid(5e-324), "method": method}
            counts = rank_counts(given, levels, **options).counts[:, 1]
            torch.testing.assert_close(counts, torch.tensor(expected, dtype=dtype))


@pytest.mark.parametrize("method", METHODS)
def test_extreme_magnitudes(method: str) -> None:
    largest, tiny = torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny
    scores = torch.tensor([[largest / 2, -largest / 2, 0.0, 1.0], [0.0, tiny, -tiny, tiny / 4]])
    levels = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]])
    for tau in (1e-38, 1e-30, 1.0, 1e30, 1e300):
        counts = rank_counts(scores, levels, comparator=Sigmoid(tau), method=method).counts
        expected = rank_counts(
            scores.double(), levels, comparator=Sigmoid(tau), backend="reference"
        ).counts
        torch.testing.assert_close(counts.double(), expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("comparator", [Step(), Sup(), Ramp()], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_scores_less_than_a_normal_number_apart(method: str, comparator: Comparator) -> None:
    tiny = torch.finfo(torch.float32).tiny
    scores = torch.tensor([[tiny, 1.5 * tiny, 1.25 * tiny, tiny]])
    levels = torch.tensor([[0, 1, 0, 1]])
    counts = rank_counts(scores, levels, comparator=comparator, method=method).counts
    expected = rank_counts(
        scores.double(), levels, comparator=comparator, backend="reference"
    ).counts
    torch.testing.assert_close(counts.double(), expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("method", METHODS)
def test_numbers_below_the_normal_ones_outside(method: str) -> None:
    scores = torch.linspace(0, 1, 20).view(1, -1).requires_grad_()
    counts = rank_counts(scores, torch.ones(1, 20, dtype=torch.bool), method=method).counts
    counts.sum().backward()
    assert torch.tensor([torch.finfo(torch.float32).tiny]).div(2).item() > 0


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", [name for name in COMPARATORS if name != "step"])
@pytest.mark.parametrize("method", METHODS)
def test_gradcheck(method: str, name: str, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(2, 9, dtype=torch.float64, generator=generator, requires_grad=True)
    levels = random_levels((2, 9), 3)
    mask = torch.rand(2, 9, generator=generator) > 0.3 if masked else None

    def counts(values: Tensor) -> Tensor:
        return rank_counts(
            values, levels, comparator=COMPARATORS[name], mask=mask, method=method
        ).counts

    assert torch.autograd.gradcheck(counts, scores)
    assert torch.autograd.gradgradcheck(counts, scores)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_opcheck(method: str, dtype: torch.dtype) -> None:
    scores = torch.randn(3, 20).to(dtype).requires_grad_()
    levels = random_levels((3, 20), 3).to(torch.uint8)
    rows, columns = levels.nonzero(as_tuple=True)
    offsets = torch.searchsorted(rows, torch.arange(4))
    options = (levels, columns, offsets, 3, *encode(ByLevel(Sigmoid(0.2), Sup(), Step())), method)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    grad = torch.randn(len(rows), 3, dtype=wide, requires_grad=True)
    tangent = torch.randn(3, 20).to(dtype)
    torch.library.opcheck(OPS.find_marked, (options[0],))
    torch.library.opcheck(OPS.rank_counts, (scores, *options))
    torch.library.opcheck(OPS.rank_counts_backward, (grad, scores, *options))
    grad, scores = grad.detach(), scores.detach()
    torch.library.opcheck(OPS.rank_counts_tangent, (tangent, scores, *options))
    torch.library.opcheck(OPS.rank_counts_double_backward, (tangent, grad, scores, *options))


@needs_kernels
def test_operators_refuse_what_would_index_out_of_bounds() -> None:
    scores, levels = torch.randn(2, 4), torch.ones(2, 4, dtype=torch.uint8)
    encoded = (*encode(Sigmoid()), "auto")
    good = (torch.tensor([0, 3]), torch.tensor([0, 1, 2]))
    assert OPS.rank_counts(scores, levels, *good, 2, *encoded).shape == (2, 2)
    for columns, offsets, match in (
        ([0, 4], [0, 1, 2], "columns must be between"),
        ([0, -1], [0, 1, 2], "columns must be between"),
        ([0, 1], [0, 1, 3], "offsets must rise"),
        ([0, 1], [0, 3, 2], "offsets must rise"),
        ([0, 1], [0, 2], "an offset for every row"),
    ):
        with pytest.raises(RuntimeError, match=match):
            OPS.rank_counts(
                scores, levels, torch.tensor(columns), torch.tensor(offsets), 2, *encoded
            )
    with pytest.raises(RuntimeError, match="method must be auto, direct or linear, got fast"):
        OPS.rank_counts(scores, levels, *good, 2, *encode(Sigmoid()), "fast")


@needs_kernels
@pytest.mark.parametrize("name", ["sigmoid", "by_level"])
@pytest.mark.parametrize("method", METHODS)
def test_rows_do_not_depend_on_the_number_of_threads(
    method: str, name: str, set_threads: Callable[[int], None]
) -> None:
    scores = make_scores("normal", (150, 700))
    levels = random_levels((150, 700), 3)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        options = {"comparator": COMPARATORS[name], "method": method}
        results.append(value_and_gradient(scores, levels, **options))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@needs_kernels
@pytest.mark.parametrize("name", ["sigmoid", "by_level"])
@pytest.mark.parametrize("method", METHODS)
def test_threads_that_share_a_row(
    method: str, name: str, set_threads: Callable[[int], None]
) -> None:
    scores = make_scores("normal", (1, 70_000), dtype=torch.float64)
    levels = random_levels((1, 70_000), 3)
    levels[:, 20:-20] = 0
    options = {"comparator": COMPARATORS[name], "method": method}
    results = []
    for threads in (1, 3, 3):
        set_threads(threads)
        results.append(value_and_gradient(scores, levels, **options))
    for alone, together, again in zip(*results, strict=True):
        assert torch.equal(together, again)
        assert not torch.equal(alone, together)  # another order of summation: they did share it
        torch.testing.assert_close(alone, together, rtol=1e-10, atol=1e-10)
    # What is not finite in the part of one thread spoils the parts of all.
    scores[0, 40_000] = torch.inf
    counts, grad = value_and_gradient(scores, levels, **options)
    assert counts.isnan().all()
    assert grad.isnan().all()


@pytest.mark.parametrize("how", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("delta", [0.25, None])
def test_boundaries_are_decided_exactly(delta: float | None, dtype: torch.dtype, how: str) -> None:
    # Differences of exactly 0 and of exactly delta everywhere; the jumps there are large.
    scores = torch.randint(-16, 17, (2, 300), generator=torch.Generator().manual_seed(0)) / 8
    levels = random_levels((2, 300), 3)
    comparator = ByLevel(Sup(0.1, rho=1.0, delta=delta, start=2.0, offset=9.0), Step(0.25), Step())
    options = {"comparator": comparator, "num_levels": 3}
    counts = rank_counts(scores.to(dtype), levels, **options, **OPTIONS[how]).counts
    exact_counts = rank_counts(scores.double(), levels, **options, backend="reference").counts
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(counts.double(), exact_counts, rtol=tolerance, atol=tolerance)


@needs_kernels
@pytest.mark.parametrize("name", [name for name in COMPARATORS if name not in ("step", "ramp")])
@pytest.mark.parametrize("method", METHODS)
def test_second_derivatives_agree_with_the_reference(method: str, name: str) -> None:
    scores = make_scores("clustered", (2, 200), dtype=torch.float64) / 5
    levels = random_levels((2, 200), 3)
    generator = torch.Generator().manual_seed(2)
    grad = torch.randn(int((levels > 0).sum()), 3, generator=generator, dtype=torch.float64)
    tangent = torch.randn(2, 200, generator=generator, dtype=torch.float64)
    ours, expected = (
        derivatives(
            lambda values, how=how: (
                rank_counts(values, levels, comparator=COMPARATORS[name], **OPTIONS[how]).counts
            ),
            scores,
            grad,
            tangent,
        )
        for how in (method, "reference")
    )
    for what, value in expected.items():
        torch.testing.assert_close(ours[what], value, rtol=1e-11, atol=1e-9, msg=what)


@needs_kernels
@pytest.mark.parametrize("method", METHODS)
def test_vmap(method: str) -> None:
    scores = torch.randn(4, 3, 11, dtype=torch.float64, requires_grad=True)
    levels = random_levels((3, 11), 3)

    def counts(values: Tensor) -> Tensor:
        options = {"comparator": ByLevel(Sigmoid(0.3)), "num_levels": 3, "method": method}
        return rank_counts(values, levels, **options).counts

    expected = torch.stack([counts(values) for values in scores])
    batched = torch.func.vmap(counts)(scores)
    assert torch.equal(batched, expected)
    swapped = torch.func.vmap(counts, in_dims=1, out_dims=1)(scores.transpose(0, 1))
    assert torch.equal(swapped.transpose(0, 1), expected)
    # Through both derivatives, with a vmap of each.
    weight = torch.randn(scores.shape, dtype=torch.float64)
    firsts = [
        torch.autograd.grad(value.square().sum(), scores, create_graph=True)[0]
        for value in (batched, expected)
    ]
    seconds = [torch.autograd.grad((first * weight).sum(), scores)[0] for first in firsts]
    torch.testing.assert_close(*firsts)
    torch.testing.assert_close(*seconds)


def test_the_reference_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = make_scores("normal", (3, 40), dtype=torch.float64)
    levels = random_levels((3, 40), 3)
    expected = value_and_gradient(scores, levels, backend="reference")
    monkeypatch.setattr(module, "REFERENCE_PAIRS", 280)
    for ours, whole in zip(
        value_and_gradient(scores, levels, backend="reference"), expected, strict=True
    ):
        torch.testing.assert_close(ours, whole, rtol=1e-14, atol=1e-14)


def test_levels_that_take_no_part() -> None:
    scores = make_scores("normal", (2, 8), dtype=torch.float64)
    levels = random_levels((2, 8), 4).to(torch.uint8)
    rows, columns = (levels > 0).nonzero(as_tuple=True)
    counts = reference(scores, levels, rows, columns, 3, Sigmoid())
    assert (counts[levels[rows, columns] == 3] == 0).all()
    if _native.HAS_CPU:
        offsets = torch.searchsorted(rows, torch.arange(3))
        for method in METHODS:
            ours = OPS.rank_counts(scores, levels, columns, offsets, 3, *encode(Sigmoid()), method)
            torch.testing.assert_close(ours, counts)


SCORES, LEVELS = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("scores", "levels", "options", "error", "message"),
    [
        ([[1.0]], LEVELS, {}, TypeError, "scores must be a torch.Tensor, got list"),
        (LEVELS, LEVELS, {}, TypeError, "scores must be float16.* got torch.int64"),
        (SCORES[0], LEVELS[0], {}, ValueError, r"scores must have shape \(B, M\), got \(3,\)"),
        (SCORES, SCORES, {}, TypeError, "levels must be integers or bool, got torch.float32"),
        (SCORES, [[1]], {}, TypeError, "levels must be a torch.Tensor, got list"),
        (SCORES, LEVELS[:1], {}, ValueError, r"levels must have the shape of scores, \(2, 3\)"),
        (SCORES, -LEVELS, {}, ValueError, "levels must be between 0 and 254, got -1"),
        (SCORES, 255 * LEVELS, {}, ValueError, "levels must be between 0 and 254, got 255"),
        (SCORES, LEVELS, {"num_levels": 1}, ValueError, "levels must be between 0 and 0, got 1"),
        (SCORES, LEVELS.bool(), {"num_levels": 1}, ValueError, "num_levels must be at least 2"),
        (SCORES, LEVELS, {"num_levels": 256}, ValueError, "num_levels must be at most 255"),
        (SCORES, LEVELS, {"num_levels": 2.0}, TypeError, "num_levels must be an integer"),
        (SCORES, LEVELS, {"targets": LEVELS}, TypeError, "targets must be a bool tensor"),
        (SCORES, LEVELS, {"mask": LEVELS}, TypeError, "mask must be a bool tensor"),
        (SCORES, LEVELS, {"comparator": 0.01}, TypeError, "comparator must be a Sigmoid.*float"),
        (SCORES, LEVELS, {"method": "fast"}, ValueError, "method must be one of .* got 'fast'"),
        (SCORES, LEVELS, {"backend": "gpu"}, ValueError, "backend must be one of .* got 'gpu'"),
        (SCORES, LEVELS, {"backend": "cuda"}, ValueError, "rank_counts has no cuda kernels"),
    ],
)
def test_bad_input(scores, levels, options, error, message) -> None:
    with pytest.raises(error, match=message):
        rank_counts(scores, levels, **options)


@needs_kernels
def test_a_gradient_that_all_levels_share_need_not_be_written_out() -> None:
    scores = torch.rand(3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = random_levels((3, 20), 3).to(torch.uint8)
    found = rank_counts(scores, levels, num_levels=3)
    offsets = torch.searchsorted(found.rows, torch.arange(4))
    rest = (scores, levels, found.columns, offsets, 3, *encode(Sigmoid(0.1)), "auto")
    count = len(found.columns)

    def backward(grad: Tensor) -> Tensor:
        result: Tensor = OPS.rank_counts_backward(grad, *rest)
        return result

    shared = torch.rand(count, 1, dtype=torch.float64).expand(count, 3)
    torch.testing.assert_close(backward(shared), backward(shared.contiguous()), rtol=0, atol=0)
    # As many numbers in another shape are as many numbers.
    wide = torch.rand(3, 1, dtype=torch.float64).expand(3, count)
    torch.testing.assert_close(backward(wide), backward(wide.contiguous()), rtol=0, atol=0)
