"""The errors of the CPU kernels, compared with those of eager PyTorch."""

import pytest
import torch

import sodeep_fast
from sodeep_fast.reference.soft_rank import soft_rank as reference
from sodeep_fast.testing import (
    DISTRIBUTIONS,
    assert_as_accurate,
    check_gradients_of_any_size,
    exact_soft_rank,
    make_scores,
)

pytestmark = pytest.mark.kernels
OPS = torch.ops.sodeep_fast
LAMS = [0.01, 1.0, 10.0, 100.0, 1e4]


def check(scores: torch.Tensor, lam: float, method: str, targets: torch.Tensor) -> None:
    """Compares value and gradient of one row at `targets`."""
    n = len(scores)
    grad = torch.randn(n, generator=torch.Generator().manual_seed(1)).to(scores.dtype)
    exact_ranks, exact_grad = exact_soft_rank(scores, grad, lam, targets)

    if n <= 1000:
        leaf = scores.clone().requires_grad_()
        eager_ranks = reference(leaf, lam)
        (eager_grad,) = torch.autograd.grad(eager_ranks, leaf, grad)
        eager_ranks, eager_grad = eager_ranks[targets], eager_grad[targets]
    else:
        # The eager formula for the targets alone, so that long rows need no n x n matrix.
        beaten_by = torch.sigmoid(lam * (scores - scores[targets, None]))
        slope = beaten_by * (1 - beaten_by)
        eager_ranks = beaten_by.sum(-1) + 0.5
        eager_grad = lam * ((slope * grad).sum(-1) - slope.sum(-1) * grad[targets])

    rounding = 4 * torch.finfo(scores.dtype).eps * n
    ranks = OPS.soft_rank(scores, None, lam, False, method)[targets]
    assert_as_accurate(ranks, eager_ranks, exact_ranks, floor=rounding, what="rank")
    # A term of the gradient is at most lam / 4 times a difference of two incoming gradients.
    scale = lam / 4 * float(grad.abs().max())
    result = OPS.soft_rank_backward(grad, scores, None, lam, False, method)[targets]
    assert_as_accurate(result, eager_grad, exact_grad, floor=rounding * scale, what="gradient")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["direct", "linear"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("n", [1, 2, 3, 17, 100, 999])
def test_short_rows(n: int, distribution: str, method: str, dtype: torch.dtype) -> None:
    for lam in LAMS:
        check(make_scores(distribution, (n,), dtype=dtype), lam, method, torch.arange(n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
# The linear method cuts rows of twice 2^18 bytes and more into blocks.
@pytest.mark.parametrize(
    ("method", "n"), [("direct", 20_000), ("linear", 100_000), ("linear", 140_000)]
)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_long_rows(distribution: str, method: str, n: int, dtype: torch.dtype) -> None:
    targets = torch.randint(n, (20,), generator=torch.Generator().manual_seed(4))
    targets[:2] = torch.tensor([0, n - 1])  # where the outliers are
    for lam in LAMS if method == "linear" else [0.01, 10.0, 1e4]:
        check(make_scores(distribution, (n,), dtype=dtype), lam, method, targets)


# With AVX-512, float32 rows whose range is less than 64 / lam have panels of width 4 / lam, and are
# ordered 2048 items at a time.
@pytest.mark.parametrize("n", [2, 16, 17, 100, 2047, 2048, 2049, 5000])
def test_rows_of_few_wide_panels(n: int) -> None:
    targets = torch.linspace(0, n - 1, min(n, 100)).long()
    for width in (0.5, *(4.0 * k - 0.01 for k in range(1, 18)), 4.0, 32.0, 64.0):
        scores = make_scores("uniform", (n,)).add(1).mul(width / 20)
        scores[0], scores[-1] = 0, width / 10
        check(scores, 10.0, "linear", targets)
        check(scores.clamp(width / 100, width / 11), 10.0, "linear", targets)
        # Nearly all panels are empty.
        check(scores.sub(width / 20).sign().mul(width / 20), 10.0, "linear", targets)


# Where few neighbours of a score are not saturated, the linear method puts the row in order, 2048
# items at a time, and gives up if one has more than 256 of them, as in the clusters.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 17, 65, 500, 2047, 2048, 2049, 5000])
def test_steep_rows(n: int, dtype: torch.dtype) -> None:
    targets = torch.linspace(0, n - 1, min(n, 100)).long()
    scores = make_scores("normal", (n,), dtype=dtype)
    for items_per_width in (0.01, 0.5, 2.0):
        lam = n / (7 * items_per_width)
        check(scores, lam, "linear", targets)
        for start in range(0, n, 1700):
            clustered = scores.sort().values
            cluster = clustered[start : start + 300]
            cluster.copy_(cluster[0] + 1e-3 * (cluster - cluster[0]))
            check(clustered, lam, "linear", targets)
            cluster.fill_(cluster[0].item())
            check(clustered, lam, "linear", targets)


def test_steep_rows_are_the_same_with_any_number_of_threads(set_threads) -> None:
    scores, grad = make_scores("normal", (2, 40_000))
    found = []
    for threads in (1, 2, 3):
        set_threads(threads)
        ranks = OPS.soft_rank(scores, None, 1e4, False, "linear")
        found.append((ranks, OPS.soft_rank_backward(grad, scores, None, 1e4, False, "linear")))
    for ranks, gradient in found[1:]:
        assert torch.equal(ranks, found[0][0])
        assert torch.equal(gradient, found[0][1])


@pytest.mark.parametrize("method", ["direct", "linear"])
@pytest.mark.parametrize("lam", [1.0, 100.0, 1e5])
def test_an_incoming_gradient_that_is_not_finite_reaches_the_whole_row(
    lam: float, method: str
) -> None:
    scores = make_scores("normal", (2, 700))
    for value in (torch.nan, torch.inf, -torch.inf):
        grad = torch.ones(2, 700)
        grad[0, 123] = value
        found = OPS.soft_rank_backward(grad, scores, None, lam, False, method)
        assert not found[0].isfinite().any()
        assert not found[1].any()


@pytest.mark.parametrize("method", ["direct", "linear"])
def test_scores_and_temperature_may_be_of_any_scale(method: str) -> None:
    scores = make_scores("uniform", (3, 300))
    grad = torch.randn(3, 300, generator=torch.Generator().manual_seed(2))
    ranks = OPS.soft_rank(scores, None, 16.0, False, method)
    gradient = OPS.soft_rank_backward(grad, scores, None, 16.0, False, method)
    for power in (-100, -20, 30, 100):
        scaled, lam = scores * 2.0**power, 16.0 * 2.0**-power
        assert torch.equal(OPS.soft_rank(scaled, None, lam, False, method), ranks)
        scaled_gradient = OPS.soft_rank_backward(grad, scaled, None, lam, False, method)
        assert torch.equal(scaled_gradient * 2.0**power, gradient)


@pytest.mark.parametrize("method", ["direct", "linear"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_double_backward_against_the_reference(distribution: str, method: str) -> None:
    generator = torch.Generator().manual_seed(5)
    for lam in (0.1, 10.0, 1e3):
        scores = make_scores(distribution, (2, 300), dtype=torch.float64)
        grad, grad_grad = torch.randn(2, 2, 300, generator=generator, dtype=torch.float64)
        leaf = scores.clone().requires_grad_()
        (first,) = torch.autograd.grad(reference(leaf, lam), leaf, grad, create_graph=True)
        (expected,) = torch.autograd.grad(first, leaf, grad_grad)
        ours = OPS.soft_rank_double_backward(grad_grad, grad, scores, None, lam, False, method)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11 * lam**2 * 300)


@pytest.mark.parametrize("method", ["direct", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [100, 128, 257, 2000])
@pytest.mark.parametrize("width", [0.0, 1e-3, 120.0])
def test_equal_terms(width: float, n: int, dtype: torch.dtype, method: str) -> None:
    """The rounding errors of their sum all have one sign."""
    scores = (torch.arange(n) % 2 * width).to(dtype)
    for weight in torch.linspace(1, 2, 200, dtype=dtype):
        grad = torch.zeros(n, dtype=dtype)
        grad[0] = weight
        exact = exact_soft_rank(scores, grad, 1.0, torch.tensor([0]))[1]
        found = OPS.soft_rank_backward(grad, scores, None, 1.0, False, method)[:1]
        floor = 4 * torch.finfo(dtype).eps * n * float(weight) / 4
        assert_as_accurate(found, torch.from_numpy(exact.astype("float64")), exact, floor=floor)


@pytest.mark.parametrize("instruction_set", ["baseline", "avx2"])
def test_on_other_instruction_sets(instruction_set: str, rerun_on) -> None:
    """The same checks in a process that is limited to an older instruction set."""
    selected = "(test_short_rows and (17 or 999) and (normal or outliers)) or (few_wide and 2049)"
    selected += " or any_size or equal_terms or (steep and not threads)"
    rerun_on(__file__, selected, 117, instruction_set)


@pytest.mark.parametrize("method", ["auto", "direct", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [20, 48, 100, 128, 200, 2000])
def test_gradients_of_any_size_in_wide_rows(n: int, dtype: torch.dtype, method: str) -> None:
    check_gradients_of_any_size(lambda s: sodeep_fast.soft_rank(s, 1.0, method=method), n, dtype)
