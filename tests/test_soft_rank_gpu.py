"""soft_rank on a GPU: every backend, method, dtype and derivative against the float64 reference."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import sodeep_fast
from sodeep_fast.reference.soft_rank import soft_rank as reference
from sodeep_fast.testing import (
    DISTRIBUTIONS,
    capture_graph,
    check_against_reference,
    check_gradients_of_any_size,
    derivatives,
    exact_soft_rank,
    make_scores,
)

pytestmark = pytest.mark.gpu

ROUTES = [("triton", "direct"), ("cuda", "direct"), ("cuda", "linear")]
every_route = pytest.mark.parametrize(("backend", "method"), ROUTES)
every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
KERNELS = {
    ("triton", "direct"): ["soft_rank_fwd_kernel", "soft_rank_bwd_kernel"],
    ("cuda", "direct"): ["soft_rank_direct_kernel"] * 2,
    ("cuda", "linear"): 2
    * ["survey_kernel", "plan_kernel", "accumulate_kernel", "combine_kernel", "evaluate_kernel"],
}


def ranker(backend, method, lam=10.0, **options):
    options.update(backend=backend, method=method)
    return lambda scores: sodeep_fast.soft_rank(scores, lam, **options)


def check(backend, method, scores, lam, **options):
    def eager(s):
        mask = options.get("mask")
        mask = None if mask is None else mask.to(s.device)
        return reference(s, lam, mask=mask, normalize=options.get("normalize", False))

    check_against_reference(ranker(backend, method, lam, **options), eager, scores, lam)


@every_route
@every_dtype
@pytest.mark.parametrize("shape", [(5, 1), (33, 7), (3, 64), (3, 100), (2, 1000)])
def test_agrees_with_the_reference(backend, method, dtype, shape):
    check(backend, method, make_scores("normal", shape, dtype=dtype, device="cuda"), 10.0)


@every_route
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", [20, 100, 2000])
def test_gradients_of_any_size_in_wide_rows(backend, method, n, dtype):
    check_gradients_of_any_size(ranker(backend, method, 1.0), n, dtype, "cuda")


@every_route
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("lam", [0.01, 10.0, 1e4])
def test_distributions(backend, method, dtype, distribution, lam):
    scores = make_scores(distribution, (2, 500), dtype=dtype, device="cuda")
    check(backend, method, scores, lam)


@every_route
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("lam", [0.01, 10.0, 1e4])
def test_long_rows(backend, method, dtype, distribution, lam):
    n = 100_000 if method == "linear" else 20_000
    scores = make_scores(distribution, (n,), dtype=dtype)
    grad = torch.randn(n, generator=torch.Generator().manual_seed(1)).to(dtype)
    targets = torch.randint(n, (12,), generator=torch.Generator().manual_seed(4))
    targets[:2] = torch.tensor([0, n - 1])  # where the outliers are
    exact_ranks, exact_grad = exact_soft_rank(scores, grad, lam, targets)
    leaf = scores.cuda().requires_grad_()
    ranks = ranker(backend, method, lam)(leaf)
    (gradient,) = torch.autograd.grad(ranks, leaf, grad.cuda())
    rounding = 4 * torch.finfo(dtype).eps * n
    error = np.abs(ranks.detach().cpu().numpy()[targets] - exact_ranks).max()
    assert error <= rounding
    error = np.abs(gradient.cpu().numpy()[targets] - exact_grad).max()
    assert error <= rounding * lam / 4 * float(grad.abs().max())


@every_route
@pytest.mark.parametrize("n", [20, 300])
@pytest.mark.parametrize("normalize", [False, True])
def test_mask(backend, method, n, normalize):
    scores = make_scores("normal", (5, n), device="cuda")
    mask = torch.rand(5, n, generator=torch.Generator().manual_seed(2)).cuda() > 0.3
    mask[1] = False
    check(backend, method, scores, 10.0, mask=mask, normalize=normalize)
    poisoned = torch.where(mask, scores, float("nan")).requires_grad_()
    ranks = ranker(backend, method, mask=mask, normalize=normalize)(poisoned)
    ranks.backward(torch.where(mask, 1.0, float("nan")) * torch.arange(n, device="cuda"))
    assert (ranks[~mask] == 0).all()
    assert (poisoned.grad[~mask] == 0).all()
    assert ranks.isfinite().all()
    assert poisoned.grad.isfinite().all()


@every_route
@pytest.mark.parametrize("n", [5, 200, 5000])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_in_its_row(backend, method, n, bad):
    clean = make_scores("uniform", (6, n), device="cuda")
    scores = clean.clone()
    scores[3, n // 2] = bad
    grad = torch.randn(6, n, generator=torch.Generator().manual_seed(0)).cuda()
    expected = derivatives(ranker(backend, method), clean, grad, grad)
    actual = derivatives(ranker(backend, method), scores, grad, grad)
    others = torch.arange(6) != 3
    for name, value in actual.items():
        assert value[3].isnan().all(), name
        assert torch.equal(value[others], expected[name][others]), name


@every_route
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4), (2, 0, 3)])
def test_empty(backend, method, shape):
    scores = torch.zeros(shape, device="cuda", requires_grad=True)
    ranks = ranker(backend, method)(scores)
    ranks.sum().backward()
    assert ranks.shape == scores.grad.shape == torch.Size(shape)


@every_route
def test_extreme_scores(backend, method):
    huge = torch.tensor([[3e38, -3e38, 0.0]], device="cuda")
    expected = torch.tensor([[1.0, 3.0, 2.0]], device="cuda")
    assert torch.equal(ranker(backend, method, 1e-3)(huge), expected)
    assert torch.equal(ranker(backend, method, 1e39)(huge), expected)
    half = torch.full_like(expected, 2.0)
    torch.testing.assert_close(ranker(backend, method, 1e-60)(huge), half)


@every_route
def test_strided_and_expanded_inputs(backend, method):
    wide = make_scores("normal", (400, 24), device="cuda")
    scores = wide.t()[3:20]
    grad = torch.ones(1, 1, device="cuda").expand(17, 400)
    function = ranker(backend, method)
    expected = derivatives(function, scores.contiguous(), grad.contiguous(), scores.contiguous())
    for name, value in derivatives(function, scores, grad, scores).items():
        assert torch.equal(value, expected[name]), name


@every_route
def test_gradcheck(backend, method):
    scores = make_scores("uniform", (2, 9), dtype=torch.float64, device="cuda").requires_grad_()
    mask = torch.rand(2, 9, generator=torch.Generator().manual_seed(0)).cuda() > 0.2
    function = ranker(backend, method, 3.0, mask=mask, normalize=True)
    torch.autograd.gradcheck(function, scores)
    torch.autograd.gradgradcheck(function, scores)


@every_route
def test_opcheck(backend, method):
    prefix = "triton_" if backend == "triton" else ""
    scores = make_scores("uniform", (3, 50), device="cuda").requires_grad_()
    grad = torch.randn(3, 50, device="cuda").requires_grad_()
    mask = torch.rand(3, 50, device="cuda") > 0.4
    ops = torch.ops.sodeep_fast
    for options in ((mask, 2.0, True, method), (None, 2.0, False, method)):
        forward = getattr(ops, f"{prefix}soft_rank").default
        torch.library.opcheck(forward, (scores, *options))
        backward = getattr(ops, f"{prefix}soft_rank_backward").default
        torch.library.opcheck(backward, (grad, scores, *options))
        double = getattr(ops, f"{prefix}soft_rank_double_backward").default
        detached = (grad.detach(), grad.detach(), scores.detach())
        torch.library.opcheck(double, (*detached, *options))


@every_route
@pytest.mark.filterwarnings("ignore")  # torch's compiler sets off deprecations of its own
def test_compile(backend, method):
    function = ranker(backend, method)
    compiled = torch.compile(function, fullgraph=True)
    for n in (30, 70, 110):
        scores = make_scores("normal", (4, n), device="cuda").requires_grad_()
        ranks, expected = compiled(scores), function(scores)
        assert torch.equal(ranks, expected)
        for result in (ranks, expected):
            scores.grad = None
            result.square().sum().backward()
        assert scores.grad.isfinite().all()


@every_route
def test_vmap_and_autocast(backend, method):
    scores = make_scores("normal", (3, 4, 60), device="cuda")
    function = ranker(backend, method)
    assert torch.equal(torch.func.vmap(function, in_dims=1, out_dims=1)(scores), function(scores))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert torch.equal(function(scores), function(scores.float()))


@every_route
@pytest.mark.parametrize("shape", [(64, 100), (2, 30_000)])
def test_deterministic(backend, method, shape):
    scores = make_scores("normal", shape, device="cuda")
    first = derivatives(ranker(backend, method), scores, scores, scores)
    for _ in range(3):
        again = derivatives(ranker(backend, method), scores, scores, scores)
        assert all(torch.equal(again[name], first[name]) for name in first)


@every_route
def test_another_stream(backend, method):
    scores = make_scores("normal", (8, 5000), device="cuda")
    expected = ranker(backend, method)(scores * 2)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # The doubled scores exist on this stream only: a kernel elsewhere would read too early.
        torch.cuda._sleep(20_000_000)
        ranks = ranker(backend, method)(scores * 2)
    stream.synchronize()
    assert torch.equal(ranks, expected)


@every_route
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="needs two GPUs"
)
def test_another_device(backend, method):
    scores = make_scores("normal", (8, 500), device="cuda:1")
    expected = ranker(backend, method)(scores.to("cuda:0"))
    assert torch.equal(ranker(backend, method)(scores).to("cuda:0"), expected)


@every_route
@pytest.mark.parametrize("shape", [(512, 100), (2, 40_000)])
def test_cuda_graph(backend, method, shape):
    function = ranker(backend, method)
    scores = make_scores("normal", shape, device="cuda").requires_grad_()
    grad = torch.randn(shape, device="cuda")

    def both():
        ranks = function(scores)
        return ranks, torch.autograd.grad(ranks, scores, grad)[0]

    graph, captured = capture_graph(both)
    # Replays on new data, of another range: no decision may have been frozen at capture.
    for factor in (1.0, 1e-3, 1e3):
        with torch.no_grad():
            scores.copy_(factor * make_scores("cauchy", shape, seed=1, device="cuda"))
        graph.replay()
        torch.cuda.synchronize()
        for replayed, eager in zip(captured, both(), strict=True):
            assert torch.equal(replayed, eager)


def test_first_call_inside_a_graph(tmp_path):
    """The linear method builds its tables at its first call, even while a graph is captured."""
    program = """
import torch, sodeep_fast
scores = torch.randn(1, 5000, device="cuda")
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    ranks = sodeep_fast.soft_rank(scores, method="linear", backend="cuda")
graph.replay()
expected = sodeep_fast.soft_rank(scores, method="linear", backend="cuda")
assert torch.equal(ranks, expected)
assert torch.allclose(ranks.sum(), torch.tensor(5000 * 5001 / 2, device="cuda"))
"""
    # From another folder: in a clone, its own folder would come before the built package.
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


@every_route
def test_runs_the_named_kernels(backend, method):
    """One launch per derivative for all pairs, five for the linear method, and none of torch's."""
    scores = make_scores("normal", (4, 3000), device="cuda").requires_grad_()
    grad = torch.randn(4, 3000, device="cuda")
    function = ranker(backend, method)
    function(scores).backward(grad)
    # Not asked to fill memory with NaN, torch launches nothing of its own.
    torch.use_deterministic_algorithms(False)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torch.autograd.grad(function(scores), scores, grad)
        torch.cuda.synchronize()
    launched = [
        event.name
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and "kernel" in event.name
    ]
    expected = KERNELS[backend, method]
    assert len(launched) == len(expected), launched
    for name, kernel in zip(launched, expected, strict=True):
        assert kernel in name


def test_auto_picks_the_linear_method_for_long_rows(monkeypatch):
    from sodeep_fast.ops import soft_rank as module

    long = make_scores("normal", (1, 200_000), device="cuda")
    assert torch.equal(
        sodeep_fast.soft_rank(long),
        sodeep_fast.soft_rank(long, backend="cuda", method="linear"),
    )
    monkeypatch.setattr(module, "_prefers_linear", lambda scores: False)
    short = make_scores("normal", (8, 100), device="cuda")
    assert torch.equal(sodeep_fast.soft_rank(short), ranker("triton", "direct")(short))
    assert torch.equal(
        sodeep_fast.soft_rank(short, method="linear"), ranker("cuda", "linear")(short)
    )


@pytest.mark.large
@every_route
def test_more_elements_than_32_bits_count(backend, method, needs_gpu_memory):
    """Offsets beyond 2^31: the last rows have the same results as alone."""
    rows, n = (1 << 25) + 3, 64
    needs_gpu_memory(60)
    torch.use_deterministic_algorithms(False)  # which would fill the outputs first
    scores = torch.rand(rows, n, device="cuda")
    grad = torch.arange(float(n), device="cuda").expand(rows, n)

    def both(begin, end):
        leaf = scores[begin:end].detach().requires_grad_()
        ranks = ranker(backend, method)(leaf)
        return ranks.detach(), torch.autograd.grad(ranks, leaf, grad[begin:end])[0]

    whole = both(0, rows)
    for at in (0, rows // 2, rows - 5):
        for mine, alone in zip(whole, both(at, at + 5), strict=True):
            assert torch.equal(mine[at : at + 5], alone)


def test_a_row_of_fifty_million():
    n = 50_000_000
    scores = torch.randn(n, device="cuda").requires_grad_()
    ranks = ranker("cuda", "linear")(scores)
    (gradient,) = torch.autograd.grad(ranks, scores, scores.detach())
    with torch.no_grad():
        for target in (0, n // 3, n - 1):
            wide = scores.double()
            step = torch.sigmoid(10 * (wide - wide[target]))
            slope = 10 * (step * (1 - step) * (wide - wide[target])).sum()
            rounding = 4 * torch.finfo(torch.float32).eps * n
            assert abs(float(ranks[target]) - float(step.sum() + 0.5)) <= rounding
            assert abs(float(gradient[target] - slope)) <= rounding
