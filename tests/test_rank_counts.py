"""The rank counts as a user meets them: values, shapes, dtypes, masks, bad input."""

from collections.abc import Callable

import pytest
import torch

from sodeep_fast import (
    ByLevel,
    Sigmoid,
    Step,
    _native,
    hard_rank,
    rank_counts,
    soft_rank,
)
from sodeep_fast.comparators import encode
from sodeep_fast.ops import _backend
from sodeep_fast.ops import rank_counts as module
from sodeep_fast.ops._levels import find_marked
from sodeep_fast.reference.rank_counts import compare
from sodeep_fast.reference.rank_counts import rank_counts as reference
from sodeep_fast.testing import (
    COMPARATORS,
    COUNT_METHODS,
    COUNT_WAYS,
    DISTRIBUTIONS,
    make_scores,
    random_levels,
    value_and_gradient,
)

OPS = torch.ops.sodeep_fast


@pytest.mark.parametrize("how", COUNT_WAYS)
def test_worked_literal(how: str) -> None:
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.0, 0.0, 0.0, 1.0]])
    levels = torch.tensor([[0, 1, 0, 1], [1, 2, 0, 0]])
    result = rank_counts(scores, levels, comparator=Step(), **COUNT_WAYS[how])
    assert result.rows.tolist() == [0, 0, 1, 1]
    assert result.columns.tolist() == [1, 3, 0, 1]
    # Two items of level 0 outrank the last of row 0; in row 1 three are tied, and a tie counts 1.
    assert result.counts.tolist() == [[1, 0, 0], [2, 1, 0], [2, 0, 1], [2, 1, 0]]
    # sigmoid(0.1 / 0.1) = 0.731059, sigmoid(-0.1 / 0.1) = 0.268941, sigmoid(-7) = 0.000911,
    # sigmoid(8) = 0.999665, sigmoid(6) = 0.997527, sigmoid(7) = 0.999089
    soft = rank_counts(scores[:1], levels[:1], comparator=Sigmoid(0.1), **COUNT_WAYS[how]).counts
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


@pytest.mark.kernels
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
        for method in COUNT_METHODS:
            assert torch.equal(
                rank_counts(scores, levels, **options, method=method).counts, expected
            )
        return
    # Sums of lines over the whole row have rounding errors relative to its range.
    largest = 10 * float(scores.max() - scores.min()) if name in ("ramp", "h_rank") else 0.0
    rounding = 4 * torch.finfo(torch.float64).eps * items * largest
    reference_results = value_and_gradient(scores, levels, **options, backend="reference")
    for method in COUNT_METHODS:
        results = value_and_gradient(scores, levels, **options, method=method)
        for ours, expected in zip(results, reference_results, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-11, atol=max(1e-11, rounding))


@pytest.mark.kernels
def test_auto_runs_the_kernels() -> None:
    assert _backend.choose("cpu", "rank_counts")[0] == "cpp"
    if _backend.has_triton():
        assert _backend.choose("cuda", "rank_counts")[0] == "triton"
    # With a sigmoid, all of them round differently, which shows which one ran.
    scores, few = make_scores("normal", (4, 2000)) / 10, random_levels((4, 2000), 2)
    few[:, 3:] = 0
    many = random_levels((4, 2000), 2)
    for levels, expected in ((few, "direct"), (many, "linear")):
        for comparator in (Sigmoid(), ByLevel()):
            auto, cpp, direct, linear, eager = (
                rank_counts(scores, levels, comparator=comparator, **options).counts
                for options in ({}, {"backend": "cpp"}, *COUNT_WAYS.values())
            )
            assert torch.equal(auto, cpp)
            assert torch.equal(auto, direct if expected == "direct" else linear)
            if isinstance(comparator, Sigmoid):
                assert not torch.equal(direct, linear)
                assert not torch.equal(auto, eager)


def test_one_level_is_the_soft_rank() -> None:
    scores = make_scores("normal", (4, 50), dtype=torch.float64)
    everything = torch.ones_like(scores, dtype=torch.bool)
    counts, rows, columns = rank_counts(
        scores, everything.long() * 0, comparator=Sigmoid(0.1), targets=everything
    )
    assert torch.equal(rows * 50 + columns, torch.arange(200))
    torch.testing.assert_close(1 + counts.view(4, 50), soft_rank(scores, 10.0))


@pytest.mark.parametrize("how", COUNT_WAYS)
def test_steps_are_exact_ranks_and_have_no_gradient(how: str) -> None:
    scores = make_scores("tied", (3, 40)).requires_grad_()
    levels = random_levels((3, 40), 4)
    for at_zero, ties in ((0.0, "min"), (0.5, "average"), (1.0, "max")):
        counts, rows, columns = rank_counts(
            scores, levels, comparator=Step(at_zero), **COUNT_WAYS[how]
        )
        assert torch.equal(1 + counts.sum(-1), hard_rank(scores, ties=ties)[rows, columns])
    if counts.requires_grad:
        (grad,) = torch.autograd.grad(counts.sum(), scores)
        assert (grad == 0).all()


@pytest.mark.parametrize("how", COUNT_WAYS)
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0), (1, 1), (2, 1), (1, 65)])
@pytest.mark.parametrize("share", ["none", "one", "all"])
def test_shapes(shape: tuple[int, int], share: str, how: str) -> None:
    levels = torch.full(shape, int(share == "all"))
    if share == "one" and shape[1] > 0:
        levels[:1, -1] = 1
    expected = {"none": 0, "one": int(levels.sum()), "all": levels.numel()}[share]
    scores = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    result = rank_counts(scores, levels, num_levels=2, **COUNT_WAYS[how])
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


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int32, torch.int64, torch.uint16, torch.uint64]
)
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


@pytest.mark.parametrize("how", COUNT_WAYS)
def test_strided_and_expanded_inputs(how: str) -> None:
    wide = make_scores("normal", (40, 3, 50), dtype=torch.float64)
    for scores in (wide[::2, 1, 5:45:3], wide[:, 0].T, wide[0, 0].expand(6, 50)):
        levels = random_levels(tuple(scores.shape), 3)
        leaf = scores.detach().requires_grad_()
        counts = rank_counts(leaf, levels, **COUNT_WAYS[how]).counts
        copy = scores.detach().contiguous().requires_grad_()
        expected = rank_counts(copy, levels, **COUNT_WAYS[how]).counts
        torch.testing.assert_close(counts, expected)
        # sum() sends an expanded gradient of stride 0.
        counts.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(leaf.grad, copy.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", COUNT_METHODS)
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


@pytest.mark.parametrize("how", COUNT_WAYS)
@pytest.mark.parametrize("name", ["sigmoid", "by_level"])
def test_masked_rows_are_the_rows_without_the_masked_entries(name: str, how: str) -> None:
    scores = make_scores("normal", (5, 60), dtype=torch.float64)
    levels = random_levels((5, 60), 3)
    mask = torch.rand(5, 60, generator=torch.Generator().manual_seed(2)) > 0.4
    mask[3], mask[4] = False, True
    options = {"comparator": COMPARATORS[name], "num_levels": 3, **COUNT_WAYS[how]}
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


@pytest.mark.kernels
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("most", [0, 1, 2])
@pytest.mark.parametrize("name", COMPARATORS)
def test_rows_in_which_nearly_all_items_share_a_level(name: str, most: int, masked: bool) -> None:
    # With up to one item in 16 of another level, the kernels leave a row as it is.
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
    # A score that is not finite and takes part makes its row NaN, on either side of the boundary.
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


@pytest.mark.parametrize("how", COUNT_WAYS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_in_its_row(poison: float, how: str) -> None:
    clean = make_scores("normal", (3, 45), dtype=torch.float64)
    levels = random_levels((3, 45), 3)
    for level in range(3):  # an item of any level
        scores = clean.clone()
        scores[1, int((levels[1] == level).nonzero()[0])] = poison
        scores.requires_grad_()
        result = rank_counts(scores, levels, **COUNT_WAYS[how])
        (grad,) = torch.autograd.grad(result.counts.square().sum(), scores)
        assert result.counts[result.rows == 1].isnan().all()
        assert grad[1].isnan().all()
        leaf = clean.clone().requires_grad_()
        expected = rank_counts(leaf, levels, **COUNT_WAYS[how]).counts
        (expected_grad,) = torch.autograd.grad(expected.square().sum(), leaf)
        others = result.rows != 1
        assert torch.equal(result.counts[others], expected[others])
        assert torch.equal(grad[[0, 2]], expected_grad[[0, 2]])


@pytest.mark.kernels
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


@pytest.mark.kernels
@pytest.mark.parametrize("name", ["sigmoid", "by_level"])
@pytest.mark.parametrize("method", COUNT_METHODS)
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


@pytest.mark.kernels
@pytest.mark.parametrize("name", ["sigmoid", "by_level"])
@pytest.mark.parametrize("method", COUNT_METHODS)
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
    # A non-finite score in the part of one thread makes all parts NaN.
    scores[0, 40_000] = torch.inf
    counts, grad = value_and_gradient(scores, levels, **options)
    assert counts.isnan().all()
    assert grad.isnan().all()


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
        for method in COUNT_METHODS:
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
