"""The soft rank as a user meets it: values, shapes, dtypes, masks, transforms, bad input."""

import itertools
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

import sodeep_fast
from sodeep_fast import _native
from sodeep_fast.reference.soft_rank import soft_rank as reference
from sodeep_fast.testing import make_scores

METHODS = ["direct", "linear"]
OPS = torch.ops.sodeep_fast


def test_worked_literal() -> None:
    # sigmoid(10 * 0.2) = 0.880797, sigmoid(10 * 0.5) = 0.993307, sigmoid(10 * 0.3) = 0.952574
    scores = torch.tensor([0.5, 0.7, 0.2])
    expected = torch.tensor(
        [1 + 0.880797 + 0.047426, 1 + 0.119203 + 0.006693, 1 + 0.952574 + 0.993307]
    )
    for backend in ("auto", "reference"):
        torch.testing.assert_close(
            sodeep_fast.soft_rank(scores, 10.0, backend=backend), expected, atol=2e-6, rtol=0
        )


def test_reference_is_the_sum_over_pairs() -> None:
    scores = make_scores("normal", (3, 6), dtype=torch.float64)
    expected = torch.empty_like(scores)
    for row in range(3):
        for i in range(6):
            beaten_by = [
                1 / (1 + torch.exp(-2.5 * (scores[row, j] - scores[row, i])))
                for j in range(6)
                if j != i
            ]
            expected[row, i] = 1 + sum(beaten_by)
    torch.testing.assert_close(reference(scores, 2.5), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_properties(method: str) -> None:
    scores = make_scores("normal", (4, 333), dtype=torch.float64)
    ranks = sodeep_fast.soft_rank(scores, 3.0, method=method)
    total = torch.full((4,), 333 * 334 / 2, dtype=torch.float64)
    torch.testing.assert_close(ranks.sum(-1), total)  # every pair adds one rank in all
    torch.testing.assert_close(sodeep_fast.soft_rank(scores + 7, 3.0, method=method), ranks)
    torch.testing.assert_close(sodeep_fast.soft_rank(scores * 2, 1.5, method=method), ranks)
    order = torch.randperm(333, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        sodeep_fast.soft_rank(scores[:, order], 3.0, method=method), ranks[:, order]
    )


@pytest.mark.parametrize("method", METHODS)
def test_large_lam_gives_the_exact_rank(method: str) -> None:
    scores = torch.randperm(200, generator=torch.Generator().manual_seed(0)).float()
    soft = sodeep_fast.soft_rank(scores, 100.0, method=method)
    assert torch.equal(soft, sodeep_fast.hard_rank(scores))
    tied = torch.tensor([1.0, 5.0, 5.0, 5.0, 2.0])
    soft = sodeep_fast.soft_rank(tied, 1e4, method=method)
    torch.testing.assert_close(soft, sodeep_fast.hard_rank(tied))


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_auto_sees_that_most_panels_are_empty(dtype: torch.dtype) -> None:
    scores = 10 * make_scores("clustered", (3, 400), dtype=dtype)
    auto, linear, direct = (
        sodeep_fast.soft_rank(scores, 20.0, method=method)
        for method in ("auto", "linear", "direct")
    )
    assert torch.equal(auto, linear)
    assert not torch.equal(auto, direct)


@pytest.mark.kernels
def test_auto_runs_the_method_that_its_cost_model_names() -> None:
    # The two methods round differently, which shows which one ran.
    for shape, distribution, expected, other in (
        ((4, 30), "normal", "direct", "linear"),
        ((2, 5000), "normal", "linear", "direct"),
        ((2, 200), "uniform", "linear", "direct"),
    ):
        scores = make_scores(distribution, shape)
        auto = sodeep_fast.soft_rank(scores)
        assert torch.equal(auto, sodeep_fast.soft_rank(scores, method=expected))
        assert not torch.equal(auto, sodeep_fast.soft_rank(scores, method=other))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "shape", [(0,), (1,), (2,), (0, 5), (3, 0), (2, 3, 17), (2, 0, 3), (1, 1, 65)]
)
def test_shapes(shape: tuple[int, ...], method: str, backend: str) -> None:
    scores = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    ranks = sodeep_fast.soft_rank(scores, 2.0, method=method, backend=backend)
    assert ranks.shape == shape
    torch.testing.assert_close(ranks, reference(scores, 2.0))
    (grad,) = torch.autograd.grad(ranks.square().sum(), scores)
    copy = scores.detach().requires_grad_()
    (expected,) = torch.autograd.grad(reference(copy, 2.0).square().sum(), copy)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("method", METHODS)
def test_strided_expanded_and_transposed_inputs(method: str) -> None:
    wide = make_scores("normal", (40, 3, 50), dtype=torch.float64)
    for scores in (wide[::2, 1, 5:45:3], wide[:, 0].T, wide[0, 0].expand(6, 50)):
        leaf = scores.detach().requires_grad_()
        ranks = sodeep_fast.soft_rank(leaf, method=method)
        torch.testing.assert_close(ranks, reference(scores.contiguous()))
        # sum() sends an expanded gradient of stride 0.
        torch.autograd.backward(ranks, torch.ones((), dtype=torch.float64).expand_as(ranks))
        torch.testing.assert_close(leaf.grad, torch.zeros_like(scores), atol=1e-11, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_scores_are_ranked_in_float32(dtype: torch.dtype, method: str) -> None:
    scores = make_scores("normal", (2, 700)).to(dtype).requires_grad_()
    ranks = sodeep_fast.soft_rank(scores, method=method)
    assert ranks.dtype == torch.float32
    wide = scores.detach().float().requires_grad_()
    assert torch.equal(ranks, sodeep_fast.soft_rank(wide, method=method))
    weight = torch.randn(2, 700)
    (grad,) = torch.autograd.grad((ranks * weight).sum(), scores)
    (expected,) = torch.autograd.grad(
        (sodeep_fast.soft_rank(wide, method=method) * weight).sum(), wide
    )
    assert grad.dtype == dtype
    assert torch.equal(grad, expected.to(dtype))


def test_autocast_does_not_lower_the_precision() -> None:
    scores = make_scores("normal", (2, 300))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ranks = sodeep_fast.soft_rank(scores)
    assert ranks.dtype == torch.float32
    assert torch.equal(ranks, sodeep_fast.soft_rank(scores))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("normalize", [False, True])
def test_masked_rows_are_the_rows_without_the_masked_entries(method: str, normalize: bool) -> None:
    scores = make_scores("normal", (5, 60), dtype=torch.float64)
    mask = torch.rand(5, 60, generator=torch.Generator().manual_seed(2)) > 0.4
    mask[3] = False
    mask[4] = True
    weight = torch.randn(5, 60, dtype=torch.float64)
    # What is masked may be anything.
    leaf = scores.masked_fill(~mask, torch.nan).requires_grad_()
    ranks = sodeep_fast.soft_rank(leaf, 4.0, mask=mask, normalize=normalize, method=method)
    (grad,) = torch.autograd.grad((ranks * weight).sum(), leaf)
    # PyTorch may add in any order.
    exactly = {"rtol": 0, "atol": 0} if _native.HAS_CPU else {}
    for row in range(5):
        keep = mask[row]
        short = scores[row][keep].requires_grad_()
        alone = sodeep_fast.soft_rank(short, 4.0, normalize=normalize, method=method)
        (short_grad,) = torch.autograd.grad((alone * weight[row][keep]).sum(), short)
        torch.testing.assert_close(ranks[row][keep], alone, **exactly)
        torch.testing.assert_close(grad[row][keep], short_grad, **exactly)
        assert (ranks[row][~keep] == 0).all()
        assert (grad[row][~keep] == 0).all()


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_in_its_row(poison: float, method: str, backend: str) -> None:
    clean = make_scores("normal", (3, 45), dtype=torch.float64)
    scores = clean.clone()
    scores[1, 7] = poison
    scores.requires_grad_()
    ranks = sodeep_fast.soft_rank(scores, method=method, backend=backend)
    (grad,) = torch.autograd.grad(ranks.square().sum(), scores)
    assert ranks[1].isnan().all()
    assert grad[1].isnan().all()
    clean.requires_grad_()
    expected = sodeep_fast.soft_rank(clean, method=method, backend=backend)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), clean)
    for row in (0, 2):
        assert torch.equal(ranks[row], expected[row])
        assert torch.equal(grad[row], expected_grad[row])


@pytest.mark.kernels
@pytest.mark.parametrize("method", METHODS)
def test_extreme_magnitudes(method: str) -> None:
    largest = torch.finfo(torch.float32).max
    tiny = torch.finfo(torch.float32).tiny
    scores = torch.tensor([[largest, -largest, 0.0, 1.0], [0.0, tiny, -tiny, tiny / 4]])
    for lam in (1e-300, 1e-30, 1.0, 1e30, 1e38):
        ranks = sodeep_fast.soft_rank(scores, lam, method=method)
        torch.testing.assert_close(
            ranks.double(), reference(scores.double(), lam), rtol=1e-6, atol=0
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_gradcheck(method: str, masked: bool, normalize: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 9, dtype=torch.float64, generator=generator, requires_grad=True)
    mask = torch.rand(2, 9, generator=generator) > 0.3 if masked else None

    def ranks(values: torch.Tensor) -> torch.Tensor:
        return sodeep_fast.soft_rank(values, 2.0, mask=mask, normalize=normalize, method=method)

    assert torch.autograd.gradcheck(ranks, scores)
    assert torch.autograd.gradgradcheck(ranks, scores)


@pytest.mark.kernels
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
def test_opcheck(method: str, dtype: torch.dtype, masked: bool) -> None:
    scores = torch.randn(3, 20).to(dtype).requires_grad_()
    mask = torch.rand(3, 20) > 0.2 if masked else None
    options = (mask, 2.0, True, method)
    rank_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    grad = torch.randn(3, 20, dtype=rank_dtype, requires_grad=True)
    torch.library.opcheck(OPS.soft_rank, (scores, *options))
    torch.library.opcheck(OPS.soft_rank_backward, (grad, scores, *options))
    torch.library.opcheck(
        OPS.soft_rank_double_backward,
        (torch.randn(3, 20).to(dtype), grad.detach(), scores.detach(), *options),
    )


@pytest.mark.kernels
def test_compiles_without_a_break_for_changing_shapes() -> None:
    def loss(scores: torch.Tensor) -> torch.Tensor:
        return sodeep_fast.soft_rank(scores * 2, 5.0, normalize=True).square().sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((3, 20), (4, 31), (2, 2, 7)):
        scores = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        (grad,) = torch.autograd.grad(compiled(scores), scores)
        (expected,) = torch.autograd.grad(loss(scores), scores)
        torch.testing.assert_close(grad, expected)


@pytest.mark.kernels
def test_vmap() -> None:
    scores = torch.randn(4, 3, 11, dtype=torch.float64)
    mask = torch.rand(3, 11) > 0.3

    def ranks(values: torch.Tensor) -> torch.Tensor:
        return sodeep_fast.soft_rank(values, mask=mask)

    expected = sodeep_fast.soft_rank(scores, mask=mask.expand(4, 3, 11))
    assert torch.equal(torch.func.vmap(ranks)(scores), expected)
    swapped = torch.func.vmap(ranks, in_dims=1, out_dims=1)(scores.transpose(0, 1))
    assert torch.equal(swapped.transpose(0, 1), expected)


# More panels than each thread could have its own counts for, and too many ties for pairs of
# neighbours.
PEAK = """
import sys, torch
from sodeep_fast import soft_rank
from sodeep_fast.benchmark.memory import peak_of
torch.set_num_threads(int(sys.argv[1]))
scores = torch.rand(1, 1 << 18)
scores[:, 1 << 15 :] = 0.5
soft_rank(scores[:, :1000], method="linear")
print(peak_of(lambda: soft_rank(scores, 1.5 * scores.numel(), method="linear"), "cpu"))
"""


@pytest.mark.kernels
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_threads() -> None:
    one, many = (
        int(subprocess.check_output([sys.executable, "-c", PEAK, threads], text=True))
        for threads in ("1", "16")
    )
    assert many < 1.1 * one


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("method", "shape", "distribution"),
    [
        *itertools.product(METHODS, [(1, 40_000), (1, 5000), (70, 130)], ["cauchy"]),
        ("linear", (1, 140_000), "normal"),  # in blocks
        ("linear", (1, 140_000), "uniform"),  # by wide panels, with AVX-512
    ],
)
def test_results_do_not_depend_on_the_number_of_threads(
    method: str, shape: tuple[int, int], distribution: str, set_threads: Callable[[int], None]
) -> None:
    scores = make_scores(distribution, shape)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    results = []
    for threads in (1, 2):
        set_threads(threads)
        results.append(
            (
                OPS.soft_rank(scores, None, 10.0, False, method),
                OPS.soft_rank_backward(grad, scores, None, 10.0, False, method),
            )
        )
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("scores", "options", "error", "message"),
    [
        ([1.0], {}, TypeError, r"scores must be a torch.Tensor, got list"),
        (torch.arange(3), {}, TypeError, r"scores must be float16.* got torch.int64"),
        (torch.zeros(3, dtype=torch.complex64), {}, TypeError, r"got torch.complex64"),
        (torch.tensor(1.0), {}, ValueError, r"scores must have at least one dimension"),
        (torch.zeros(3), {"lam": 0}, ValueError, r"lam must be positive and finite, got 0"),
        (torch.zeros(3), {"lam": -1.0}, ValueError, r"lam must be positive and finite, got -1.0"),
        (torch.zeros(3), {"lam": float("inf")}, ValueError, r"lam must be positive and finite"),
        (torch.zeros(3), {"lam": float("nan")}, ValueError, r"lam must be positive and finite"),
        (torch.zeros(3), {"lam": "10"}, TypeError, r"lam must be a number, got str"),
        (torch.zeros(3), {"mask": [True] * 3}, TypeError, r"mask must be a torch.Tensor or None"),
        (torch.zeros(3), {"mask": torch.ones(3)}, TypeError, r"mask must be a bool tensor"),
        (
            torch.zeros(2, 3),
            {"mask": torch.ones(3, dtype=torch.bool)},
            ValueError,
            r"mask must have the shape of scores, \(2, 3\), got \(3,\)",
        ),
        (torch.zeros(3), {"method": "fast"}, ValueError, r"method must be one of 'auto'.*'fast'"),
        (torch.zeros(3), {"backend": "gpu"}, ValueError, r"backend must be one of .* got 'gpu'"),
        (torch.zeros(3), {"backend": "cuda"}, ValueError, r"'cuda' is not available here"),
    ],
)
def test_bad_input(scores, options, error, message) -> None:
    with pytest.raises(error, match=message):
        sodeep_fast.soft_rank(scores, **options)
