"""The permutation-equivariant sorter: its guarantees by construction, and bad input."""

import copy

import pytest
import torch
from torch import Tensor

import sodeep_fast
from sodeep_fast import EquivariantSorter, hard_rank, load_sorter
from sodeep_fast.sorters.standardize import standardize
from sodeep_fast.testing import DEVICES, DISTRIBUTIONS, make_scores

pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")


def double_sorter(**options: object) -> EquivariantSorter:
    """A sorter of float64 whose network does something."""
    sorter = EquivariantSorter(**options).double()
    torch.nn.init.normal_(sorter.output.weight, std=0.1)
    return sorter


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("n", [1, 2, 3, 100])
def test_permutation_shift_and_scale(distribution: str, n: int) -> None:
    sorter = double_sorter()
    scores = make_scores(distribution, (3, n), dtype=torch.float64)
    ranks = sorter(scores)
    order = torch.randperm(n)
    torch.testing.assert_close(sorter(scores[:, order]), ranks[:, order], rtol=0, atol=1e-9)
    for changed in (scores * 1e-3, scores * 1e3, scores * 1e-200):
        torch.testing.assert_close(sorter(changed), ranks, rtol=0, atol=1e-9)
    if distribution != "outliers":  # beside 1e9, a shift by 5 has rounded the others
        torch.testing.assert_close(sorter(scores + 5), ranks, rtol=0, atol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (7,), (2, 3, 4)])
def test_shapes(shape: tuple[int, ...], device: str) -> None:
    sorter = EquivariantSorter().to(device)
    scores = torch.randn(shape, device=device, requires_grad=True)
    ranks = sorter(scores)
    assert ranks.shape == shape
    assert ranks.dtype == torch.float32
    ranks.sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_untrained_it_is_near_the_ranks() -> None:
    scores = make_scores("normal", (50, 100))
    error = EquivariantSorter()(scores) - hard_rank(scores, normalize=True)
    assert error.abs().mean() < 0.004
    plain = EquivariantSorter(normalize=False)(scores)
    torch.testing.assert_close(plain, 100 * EquivariantSorter()(scores))


def test_masked_entries_count_for_nobody() -> None:
    sorter = double_sorter(sharpness=[0.5, 1.0, 2.0])
    scores = torch.randn(4, 12, dtype=torch.float64)
    mask = torch.rand(4, 12) < 0.6
    mask[0], mask[1] = True, False
    hidden = torch.where(mask, scores, torch.inf).requires_grad_()
    ranks = sorter(hidden, mask)
    for row in range(4):
        alone = sorter(scores[row][mask[row]])
        torch.testing.assert_close(ranks[row][mask[row]], alone, rtol=0, atol=1e-9)
    assert (ranks[~mask] == 0).all()
    ranks.square().sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
    assert (hidden.grad[~mask] == 0).all()
    count = mask.sum(-1, keepdim=True)
    sorter.normalize = False
    torch.testing.assert_close(sorter(hidden, mask), ranks * count)


def test_derivatives() -> None:
    sorter = double_sorter(trainable=True)
    scores = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    weights = [sorter.log_sharpness, sorter.hidden.weight]

    def ranks(scores: Tensor, *_: Tensor) -> Tensor:
        result: Tensor = sorter(scores)
        return result

    assert torch.autograd.gradcheck(ranks, (scores, *weights))
    assert torch.autograd.gradgradcheck(ranks, (scores, *weights))


def test_it_compiles_whole() -> None:
    sorter = load_sorter("equivariant")
    compiled = torch.compile(sorter, fullgraph=True, backend="aot_eager")
    scores, mask = torch.randn(3, 9), torch.rand(3, 9) < 0.7
    torch.testing.assert_close(compiled(scores), sorter(scores))
    torch.testing.assert_close(compiled(scores, mask), sorter(scores, mask))


@pytest.mark.kernels
def test_a_long_row() -> None:
    # All pairs of it would be 160 GB.
    scores = torch.randn(1, 200_000, requires_grad=True)
    ranks = load_sorter("equivariant")(scores)
    error = 200_000 * (ranks - hard_rank(scores, normalize=True)).abs().mean()
    assert error < 0.5
    ranks.square().sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_what_is_not_finite_stays_in_its_row() -> None:
    scores = torch.randn(4, 9)
    scores[1, 3], scores[2, 0] = torch.nan, torch.inf
    ranks = EquivariantSorter()(scores)
    assert ranks[1:3].isnan().all()
    assert ranks[[0, 3]].isfinite().all()


def test_half_scores_and_constant_rows() -> None:
    sorter = EquivariantSorter()
    scores = torch.randn(2, 8)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(sorter(scores.to(dtype)), sorter(scores.to(dtype).float()))
    constant = torch.full((1, 4), 3.3, requires_grad=True)
    ranks = sorter(constant)
    torch.testing.assert_close(ranks, torch.full((1, 4), 0.625))
    ranks.square().sum().backward()
    assert constant.grad is not None
    assert (constant.grad == 0).all()


def test_standardize_against_its_definition() -> None:
    rows = make_scores("normal", (3, 10), dtype=torch.float64)
    mask = torch.rand(3, 10) < 0.7
    wanted = (rows - rows.mean(-1, keepdim=True)) / rows.std(-1, keepdim=True, correction=0)
    torch.testing.assert_close(standardize(rows), wanted)
    for row, valid, ours in zip(rows, mask, standardize(rows, mask), strict=True):
        wanted = (row[valid] - row[valid].mean()) / row[valid].std(correction=0)
        torch.testing.assert_close(ours[valid], wanted)
        assert (ours[~valid] == 0).all()
    huge = torch.tensor([[-3e38, 3e38, 3e38], [1e-40, 2e-40, 3e-40]])
    torch.testing.assert_close(standardize(huge).square().mean(-1), torch.ones(2))
    assert torch.autograd.gradcheck(standardize, rows.requires_grad_())


def test_any_learned_sorter_may_standardize() -> None:
    sorter = sodeep_fast.LSTMSorter(4)
    scores = torch.randn(2, 6)
    assert not torch.allclose(sorter(scores), sorter(7 * scores + 2))
    sorter.standardize = True
    torch.testing.assert_close(sorter(scores), sorter(7 * scores + 2))
    assert repr(sorter).splitlines()[1].endswith("standardize=True")


def test_the_trained_one() -> None:
    sorter = load_sorter("equivariant")
    assert isinstance(sorter, EquivariantSorter)
    scores, ranks = sodeep_fast.synthetic.generate_batch(
        1000, 100, generator=torch.Generator().manual_seed(5)
    )
    assert (sorter(scores) - ranks).abs().mean() < 0.0021
    longer, ranks = sodeep_fast.synthetic.generate_batch(100, 1000)
    assert (sorter(longer) - ranks).abs().mean() < 0.0004


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"sharpness": []}, ValueError, "sharpness must have an entry for every stage"),
        ({"sharpness": [1, -1]}, ValueError, "every entry of sharpness must be positive"),
        ({"sharpness": ["1"]}, TypeError, "every entry of sharpness must be a number"),
        ({"hidden_size": 0}, ValueError, "hidden_size must be at least 1, got 0"),
        ({"hidden_size": 2.0}, TypeError, "hidden_size must be an integer"),
    ],
)
def test_bad_arguments(options: dict[str, object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        EquivariantSorter(**options)


def test_bad_input() -> None:
    sorter = EquivariantSorter()
    with pytest.raises(ValueError, match="mask must have the shape of scores"):
        sorter(torch.randn(2, 3), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        sorter(torch.randn(2, 3), torch.ones(2, 3))
    with pytest.raises(TypeError, match="scores must be float16"):
        sorter(torch.ones(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    sorter = load_sorter("equivariant").to(dtype)
    scores = make_scores("normal", (3, 20), dtype=dtype).requires_grad_()
    ranks = sorter(scores)
    assert ranks.dtype == torch.float32
    exact = copy.deepcopy(sorter).float()(scores.float())
    # Rows are standardised in the half type, which moves scores by about a rounding error.
    torch.testing.assert_close(ranks, exact, rtol=0, atol=4 * torch.finfo(dtype).eps)
    ranks.square().sum().backward()
    assert scores.grad.isfinite().all()
