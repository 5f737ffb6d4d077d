"""The Triton kernels of soft_rank in Triton's interpreter, against the float64 reference."""

import pytest
import torch

import sodeep_fast
from sodeep_fast.reference.soft_rank import soft_rank as reference
from sodeep_fast.testing import (
    check_against_reference,
    check_gradients_of_any_size,
    derivatives,
    make_scores,
)

op = torch.ops.sodeep_fast


def triton_rank(scores, lam=10.0, **kwargs):
    return sodeep_fast.soft_rank(scores, lam, backend="triton", **kwargs)


def check(scores, lam, **options):
    check_against_reference(
        lambda s: triton_rank(s, lam, **options),
        lambda s: reference(s, lam, **options),
        scores,
        lam,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(9, 1), (5, 2), (17, 7), (3, 32), (2, 33), (1, 140)])
@pytest.mark.parametrize("lam", [10.0, 300.0])
def test_agrees_with_the_reference(dtype, shape, lam):
    check(make_scores("uniform", shape, dtype=dtype), lam)


@pytest.mark.parametrize("distribution", ["cauchy", "clustered", "tied", "constant", "outliers"])
@pytest.mark.parametrize("lam", [0.01, 10.0, 1e4])
def test_distributions(distribution, lam):
    check(make_scores(distribution, (2, 40)), lam)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", [6, 40])
def test_gradients_of_any_size_in_wide_rows(n, dtype):
    check_gradients_of_any_size(lambda s: triton_rank(s, 1.0), n, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half(dtype):
    check(make_scores("normal", (3, 40), dtype=dtype), 10.0)


@pytest.mark.parametrize("n", [6, 20, 50])
@pytest.mark.parametrize("normalize", [False, True])
def test_mask(n, normalize):
    scores = make_scores("normal", (5, n))
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(2)) > 0.3
    mask[1] = False
    mask[2] = True
    check(scores, 10.0, mask=mask, normalize=normalize)
    scores = torch.where(mask, scores, float("nan")).requires_grad_()
    ranks = triton_rank(scores, mask=mask, normalize=normalize)
    ranks.backward(torch.where(mask, 1.0, float("nan")) * torch.arange(n))
    assert torch.equal(ranks[~mask], torch.zeros(int((~mask).sum())))
    assert torch.equal(scores.grad[~mask], torch.zeros(int((~mask).sum())))
    assert ranks.isfinite().all()
    assert scores.grad.isfinite().all()


def test_normalize():
    check(make_scores("uniform", (3, 21)), 10.0, normalize=True)


@pytest.mark.parametrize("n", [5, 40])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_in_its_row(n, bad):
    clean = make_scores("uniform", (6, n))
    scores = clean.clone()
    scores[3, n // 2] = bad
    grad = torch.randn(6, n, generator=torch.Generator().manual_seed(0))
    expected = derivatives(triton_rank, clean, grad, grad)
    actual = derivatives(triton_rank, scores, grad, grad)
    others = torch.arange(6) != 3
    for name, value in actual.items():
        assert value[3].isnan().all(), name
        assert torch.equal(value[others], expected[name][others]), name


def test_worked_literal():
    ranks = triton_rank(torch.tensor([0.0, 1.0, 1.0]), 1.0)
    up = 1 / (1 + torch.exp(torch.tensor(-1.0)))
    expected = torch.stack([1 + 2 * up, 1.5 + (1 - up), 1.5 + (1 - up)])
    torch.testing.assert_close(ranks, expected)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4), (2, 0, 3)])
def test_empty(shape):
    scores = torch.zeros(shape, requires_grad=True)
    ranks = triton_rank(scores)
    ranks.sum().backward()
    assert ranks.shape == scores.grad.shape == torch.Size(shape)


def test_extreme_steepness():
    scores = make_scores("normal", (2, 9))
    ranks = triton_rank(scores, 1e39)
    assert torch.equal(ranks, sodeep_fast.hard_rank(scores))
    torch.testing.assert_close(triton_rank(scores, 1e-60), torch.full((2, 9), 5.0))
    huge = torch.tensor([[3e38, -3e38, 0.0]])
    assert torch.equal(triton_rank(huge, 1e-3), torch.tensor([[1.0, 3.0, 2.0]]))
    torch.testing.assert_close(triton_rank(huge, 1e-60), torch.full((1, 3), 2.0))


def test_strided_and_expanded_inputs():
    wide = make_scores("normal", (10, 24))
    scores = wide.t()[3:20]
    grad = torch.ones(1, 1).expand(17, 10)
    expected = derivatives(triton_rank, scores.contiguous(), grad.contiguous(), scores.contiguous())
    for name, value in derivatives(triton_rank, scores, grad, scores).items():
        assert torch.equal(value, expected[name]), name


def test_deterministic():
    scores = make_scores("normal", (2, 130))
    assert torch.equal(triton_rank(scores), triton_rank(scores))


@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(masked):
    scores = make_scores("uniform", (2, 6), dtype=torch.float64).requires_grad_()
    mask = torch.tensor([[True] * 6, [True, False, True, True, False, True]]) if masked else None
    torch.autograd.gradcheck(lambda s: triton_rank(s, 3.0, mask=mask), scores)
    torch.autograd.gradgradcheck(lambda s: triton_rank(s, 3.0, mask=mask), scores)


@pytest.mark.parametrize("masked", [False, True])
def test_opcheck(masked):
    scores = make_scores("uniform", (3, 5)).requires_grad_()
    grad = torch.randn(3, 5).requires_grad_()
    mask = torch.rand(3, 5) > 0.4 if masked else None
    options = (mask, 2.0, True, "auto")
    torch.library.opcheck(op.triton_soft_rank.default, (scores, *options))
    torch.library.opcheck(op.triton_soft_rank_backward.default, (grad, scores, *options))
    detached = (grad.detach(), grad.detach(), scores.detach())
    torch.library.opcheck(op.triton_soft_rank_double_backward.default, (*detached, *options))


def test_runs_the_triton_kernels(monkeypatch):
    from sodeep_fast.kernels import soft_rank as kernels

    launched = []
    original = kernels._launch

    def spy(kernel, *args, **kwargs):
        launched.append(kernel.__name__)
        return original(kernel, *args, **kwargs)

    monkeypatch.setattr(kernels, "_launch", spy)
    scores = make_scores("normal", (2, 5))
    derivatives(triton_rank, scores, scores, scores)
    assert launched == [
        "soft_rank_fwd_kernel",
        "soft_rank_bwd_kernel",
        "soft_rank_bwd_kernel",
        "soft_rank_bwd_bwd_kernel",
    ]


def test_linear_is_refused():
    with pytest.raises(ValueError, match=r"backend='triton' is not available.*'cuda'.*'cpp'"):
        triton_rank(torch.zeros(3), method="linear")
