"""The exact rank against worked literals, SciPy and the comparison of all pairs."""

import pytest
import scipy.stats
import torch

import sodeep_fast
from sodeep_fast.ops.hard_rank import _by_sorting
from sodeep_fast.reference.hard_rank import hard_rank as reference_hard_rank
from sodeep_fast.testing import DEVICES, DISTRIBUTIONS, make_scores

TIES = ("average", "min", "max", "ordinal")


@pytest.mark.parametrize(
    ("ties", "expected"),
    [
        ("average", [2.5, 1, 2.5, 4]),
        ("min", [2, 1, 2, 4]),
        ("max", [3, 1, 3, 4]),
        ("ordinal", [2, 1, 3, 4]),
    ],
)
def test_worked_literal(ties: str, expected: list[float]) -> None:
    ranks = sodeep_fast.hard_rank(torch.tensor([0.3, 0.9, 0.3, -1.0]), ties=ties)
    assert ranks.tolist() == expected


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("shape", [(1,), (2,), (7, 33), (2, 3, 100), (3, 257), (2, 3000)])
def test_agrees_with_scipy(distribution: str, shape: tuple[int, ...], ties: str) -> None:
    scores = make_scores(distribution, shape)
    expected = scipy.stats.rankdata(-scores.numpy(), method=ties, axis=-1)
    ranks = sodeep_fast.hard_rank(scores, ties=ties)
    assert ranks.dtype == torch.float32
    assert torch.equal(ranks.double(), torch.from_numpy(expected).double())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_agrees_with_the_reference(device: str, ties: str, normalize: bool, masked: bool) -> None:
    scores = make_scores("tied", (6, 21), dtype=torch.float64, device=device)
    mask = make_scores("uniform", (6, 21), seed=1, device=device) > 0 if masked else None
    arguments = {"mask": mask, "normalize": normalize, "ties": ties}
    ranks = sodeep_fast.hard_rank(scores, **arguments)
    assert torch.equal(ranks, reference_hard_rank(scores, **arguments))


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("masked", [False, True])
# On both sides of the switch from counting to sorting, for all instruction sets and both dtypes.
@pytest.mark.parametrize("n", [48, 49, 64, 65, 96, 97, 128, 129, 192, 193, 256, 257])
def test_the_kernel_agrees_with_torch_sort(n: int, masked: bool, ties: str) -> None:
    scores = make_scores("tied", (3, n))
    scores[0] *= 0  # zeros of both signs are equal
    scores[1, ::5] = torch.inf
    scores[2] = make_scores("normal", (n,))
    mask = make_scores("uniform", (3, n), seed=1) > 0 if masked else None
    expected = _by_sorting(scores, mask, True, ties)
    assert torch.equal(
        sodeep_fast.hard_rank(scores, mask=mask, normalize=True, ties=ties), expected
    )


@pytest.mark.kernels
def test_the_kernel_is_a_well_behaved_operator() -> None:
    scores, mask = torch.randn(4, 3, 50), torch.rand(4, 3, 50) > 0.3
    for arguments in ((scores, None, False, "average"), (scores.half(), mask, True, "ordinal")):
        torch.library.opcheck(torch.ops.sodeep_fast.hard_rank, arguments)
    batched = torch.func.vmap(lambda s, m: sodeep_fast.hard_rank(s, mask=m))(scores, mask)
    assert torch.equal(batched, sodeep_fast.hard_rank(scores, mask=mask))
    compiled = torch.compile(sodeep_fast.hard_rank, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(scores), sodeep_fast.hard_rank(scores))


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("masked", [False, True])
def test_vmap_of_torch_sort(masked: bool, ties: str) -> None:
    scores = make_scores("tied", (4, 3, 20))
    mask = torch.rand(4, 3, 20) > 0.3 if masked else None
    expected = _by_sorting(scores, mask, False, ties)
    batched = torch.func.vmap(
        lambda s, m: _by_sorting(s, m, False, ties), in_dims=(0, 0 if masked else None)
    )(scores, mask)
    assert torch.equal(batched, expected)


def test_masked_entries_count_for_nobody_whatever_they_hold() -> None:
    scores = torch.tensor([[2.0, float("nan"), 1.0, float("inf"), 2.0, -float("inf")]])
    mask = torch.tensor([[True, False, True, False, True, False]])
    ranks = sodeep_fast.hard_rank(scores, mask=mask)
    assert ranks.tolist() == [[1.5, 0, 3, 0, 1.5, 0]]
    assert sodeep_fast.hard_rank(scores, mask=mask, normalize=True).tolist() == [
        [0.5, 0, 1, 0, 0.5, 0]
    ]


def test_a_row_without_valid_entries_is_all_zero() -> None:
    mask = torch.zeros(2, 3, dtype=torch.bool)
    ranks = sodeep_fast.hard_rank(torch.randn(2, 3), mask=mask, normalize=True)
    assert ranks.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_infinities_rank_and_a_nan_stays_in_its_row() -> None:
    inf, nan = float("inf"), float("nan")
    ranks = sodeep_fast.hard_rank(torch.tensor([[inf, 0, -inf, inf], [1, nan, 2, 3]]))
    assert ranks[0].tolist() == [1.5, 3, 4, 1.5]
    assert ranks[1].isnan().all()


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.uint16, torch.int16, torch.int32, torch.int64]
)
def test_integers(dtype: torch.dtype, masked: bool, ties: str) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(0, 50, (4, 100), generator=generator)
    scores = (numbers if dtype != torch.bool else numbers > 25).to(dtype)
    mask = torch.rand(4, 100, generator=generator) > 0.3 if masked else None
    expected = _by_sorting(scores.long(), mask, False, ties)
    assert torch.equal(sodeep_fast.hard_rank(scores, mask=mask, ties=ties), expected)


def test_integers_that_float64_does_not_hold() -> None:
    scores = torch.tensor([2**53, 2**53 + 1, -(2**62), -(2**62) - 1])
    assert sodeep_fast.hard_rank(scores).tolist() == [2, 1, 3, 4]
    assert sodeep_fast.hard_rank(torch.empty(3, 0, dtype=torch.int64)).shape == (3, 0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.float16])
def test_integers_and_halves_give_float32_ranks(dtype: torch.dtype) -> None:
    ranks = sodeep_fast.hard_rank(torch.tensor([3, 1, 2, 2], dtype=dtype))
    assert ranks.dtype == torch.float32
    assert ranks.tolist() == [1, 4, 2.5, 2.5]


def test_large_integers_are_not_rounded() -> None:
    big = 2**62
    assert sodeep_fast.hard_rank(torch.tensor([big, big + 1, big - 1])).tolist() == [2, 1, 3]


def test_bools_rank() -> None:
    assert sodeep_fast.hard_rank(torch.tensor([False, True, False])).tolist() == [2.5, 1, 2.5]


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5), (2, 0, 4)])
@pytest.mark.parametrize("normalize", [False, True])
def test_empty(shape: tuple[int, ...], normalize: bool) -> None:
    assert sodeep_fast.hard_rank(torch.empty(shape), normalize=normalize).shape == shape


def test_one_element_ranks_first() -> None:
    assert sodeep_fast.hard_rank(torch.tensor([[5.0], [-5.0]])).tolist() == [[1], [1]]


def test_strided_and_expanded_inputs() -> None:
    scores = make_scores("normal", (8, 12))
    assert torch.equal(
        sodeep_fast.hard_rank(scores.T), sodeep_fast.hard_rank(scores.T.contiguous())
    )
    row = scores[:1].expand(4, 12)
    assert torch.equal(sodeep_fast.hard_rank(row), sodeep_fast.hard_rank(row.contiguous()))


def test_no_gradient() -> None:
    assert not sodeep_fast.hard_rank(torch.randn(5, requires_grad=True)).requires_grad


@pytest.mark.parametrize(
    ("scores", "options", "error", "match"),
    [
        ([1.0, 2.0], {}, TypeError, r"scores must be a torch\.Tensor, got list"),
        (torch.zeros(3, dtype=torch.complex64), {}, TypeError, r"real, got torch\.complex64"),
        (torch.tensor(1.0), {}, ValueError, "at least one dimension"),
        (torch.zeros(3), {"mask": torch.ones(3)}, TypeError, r"mask must be a bool .*float32"),
        (
            torch.zeros(3),
            {"mask": torch.ones(2, dtype=torch.bool)},
            ValueError,
            r"mask must have the shape of scores, \(3,\), got \(2,\)",
        ),
        (
            torch.zeros(3),
            {"ties": "dense"},
            ValueError,
            r"ties must be one of .*'ordinal'.*'dense'",
        ),
    ],
)
def test_bad_input(
    scores: torch.Tensor, options: dict[str, object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        sodeep_fast.hard_rank(scores, **options)


ROWS = {
    "even": lambda x: x,
    "an outlier": lambda x: torch.cat([x[1:], torch.tensor([1e6], dtype=x.dtype)]),
    "many scales": lambda x: (x - 0.5).sign() * 10 ** (30 * (x - 0.5).abs() - 15),
    "ties": lambda x: (x * 50).round(),
    "infinities": lambda x: torch.where(x > 0.99, torch.inf, torch.where(x < 0.01, -torch.inf, x)),
    "beyond the largest": lambda x: (2 * x - 1) * 1e308,
    "below the normal": lambda x: (x * 4096).round() * torch.finfo(x.dtype).smallest_normal / 4096,
    "constant": lambda x: torch.zeros_like(x),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("items", [300, 511, 512, 3000, 20000])
@pytest.mark.parametrize("name", ROWS)
def test_long_rows_of_every_spread(name: str, items: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(items)
    row = ROWS[name](torch.rand(items, generator=generator, dtype=torch.float64)).to(dtype)
    ranks = sodeep_fast.hard_rank(row, ties="ordinal")
    assert torch.equal(ranks, _by_sorting(row, None, False, "ordinal"))
