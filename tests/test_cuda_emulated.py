"""The logic of csrc/cuda on the CPU: its kernels compiled as C++ over tests/cuda_emulator."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from sodeep_fast.reference.soft_rank import soft_rank as reference
from sodeep_fast.testing import (
    DISTRIBUTIONS,
    check_against_reference,
    check_gradients_of_any_size,
    exact_soft_rank,
    make_scores,
)

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.kernels,
]

ROOT = Path(__file__).parent.parent


class Call(ctypes.Structure):
    """`SodeepFastSoftRank` of csrc/cuda/soft_rank.h."""

    _fields_ = [
        ("rows", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("lam", ctypes.c_double),
        ("derivative", ctypes.c_int32),
        ("is_double", ctypes.c_int32),
        ("linear", ctypes.c_int32),
        ("normalize", ctypes.c_int32),
        ("scores", ctypes.c_void_p),
        ("mask", ctypes.c_void_p),
        ("grad", ctypes.c_void_p),
        ("grad_grad", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    built = tmp_path_factory.mktemp("emulated") / "soft_rank.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wno-unknown-pragmas"]
    flags += ["-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
    includes = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests/cuda_emulator'}"]
    source = ROOT / "csrc/cuda/soft_rank.cu"
    command = ["g++", *flags, *includes, "-x", "c++", str(source), "-o", str(built)]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(built))
    loaded.sodeep_fast_soft_rank_workspace.restype = ctypes.c_size_t
    loaded.sodeep_fast_soft_rank.restype = ctypes.c_char_p
    return loaded


@pytest.fixture
def rank(library):
    """Returns the emulated soft rank as a function that is differentiable twice."""

    def call(derivative, scores, lam, method, mask, normalize, grad=None, grad_grad=None):
        tensors = [None if x is None else x.detach().contiguous() for x in (grad, grad_grad)]
        scores = scores.detach().contiguous()
        out = torch.full_like(scores, float("nan"))
        n = scores.shape[-1]
        arguments = Call(
            rows=scores.numel() // n,
            n=n,
            lam=lam,
            derivative=derivative,
            is_double=scores.dtype == torch.float64,
            linear=method == "linear",
            normalize=normalize,
            scores=scores.data_ptr(),
            mask=None if mask is None else mask.data_ptr(),
            grad=None if tensors[0] is None else tensors[0].data_ptr(),
            grad_grad=None if tensors[1] is None else tensors[1].data_ptr(),
            out=out.data_ptr(),
        )
        size = library.sodeep_fast_soft_rank_workspace(ctypes.byref(arguments))
        guard = 64
        workspace = torch.full((size + guard,), 0xFB, dtype=torch.uint8)
        arguments.workspace = workspace.data_ptr()
        assert library.sodeep_fast_soft_rank(ctypes.byref(arguments), None) is None
        assert (workspace[size:] == 0xFB).all()
        return out

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, grad, scores, *options):
            ctx.options = options
            ctx.save_for_backward(grad, scores)
            return call(1, scores, *options, grad=grad)

        @staticmethod
        def backward(ctx, grad_grad):
            grad, scores = ctx.saved_tensors
            for_grad = call(1, scores, *ctx.options, grad=grad_grad)
            second = call(2, scores, *ctx.options, grad=grad, grad_grad=grad_grad)
            return for_grad, second, None, None, None, None

    class Forward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, scores, *options):
            ctx.options = options
            ctx.save_for_backward(scores)
            return call(0, scores, *options)

        @staticmethod
        def backward(ctx, grad):
            (scores,) = ctx.saved_tensors
            return Backward.apply(grad, scores, *ctx.options), None, None, None, None

    def rank(scores, lam=10.0, method="direct", mask=None, normalize=False):
        return Forward.apply(scores, lam, method, mask, normalize)

    return rank


def check(rank, scores, lam, method, **options):
    check_against_reference(
        lambda s: rank(s, lam, method, **options),
        lambda s: reference(s, lam, **options),
        scores,
        lam,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", ["direct", "linear"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("lam", [0.01, 10.0, 1e4])
def test_distributions(rank, lam, distribution, method, dtype):
    check(rank, make_scores(distribution, (2, 150), dtype=dtype), lam, method)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", ["direct", "linear"])
@pytest.mark.parametrize("n", [20, 200])
def test_gradients_of_any_size_in_wide_rows(rank, n, method, dtype):
    check_gradients_of_any_size(lambda s: rank(s, 1.0, method), n, dtype)


@pytest.mark.parametrize("method", ["direct", "linear"])
@pytest.mark.parametrize("shape", [(5, 1), (9, 2), (3, 31), (2, 64), (2, 65), (1, 301)])
def test_shapes(rank, shape, method):
    check(rank, make_scores("normal", shape), 10.0, method)


@pytest.mark.parametrize("lam", [10.0, 700.0, 3e4])
def test_linear_of_long_rows(rank, lam):
    """Several chunks; panels beyond those in shared memory; a window narrower than the range."""
    scores = make_scores("normal", (9000,)).requires_grad_()
    grad = torch.randn(9000, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(0, 9000, 100)
    exact_ranks, exact_grad = exact_soft_rank(scores, grad, lam, targets)
    ranks = rank(scores, lam, "linear")
    (gradient,) = torch.autograd.grad(ranks, scores, grad)
    rounding = 4 * torch.finfo(torch.float32).eps * 9000
    scale = lam / 4 * float(grad.abs().max())
    error = np.abs(ranks.detach().numpy()[targets] - exact_ranks).max()
    assert error <= rounding
    error = np.abs(gradient.numpy()[targets] - exact_grad).max()
    assert error <= rounding * scale


@pytest.mark.parametrize("method", ["direct", "linear"])
@pytest.mark.parametrize("normalize", [False, True])
def test_mask(rank, method, normalize):
    scores = make_scores("normal", (4, 90))
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(2)) > 0.3
    mask[1] = False
    check(rank, scores, 10.0, method, mask=mask, normalize=normalize)
    poisoned = torch.where(mask, scores, float("nan"))
    clean = rank(scores, 10.0, method, mask, normalize)
    assert torch.equal(rank(poisoned, 10.0, method, mask, normalize), clean)


@pytest.mark.parametrize("method", ["direct", "linear"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_in_its_row(rank, bad, method):
    clean = make_scores("uniform", (3, 70))
    scores = clean.clone()
    scores[1, 30] = bad
    ranks, expected = rank(scores, 10.0, method), rank(clean, 10.0, method)
    assert ranks[1].isnan().all()
    assert torch.equal(ranks[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("method", ["direct", "linear"])
def test_extreme_scores(rank, method):
    huge = torch.tensor([[3e38, -3e38, 0.0]])
    assert torch.equal(rank(huge, 1e-3, method), torch.tensor([[1.0, 3.0, 2.0]]))
    assert torch.equal(rank(huge, 1e39, method), torch.tensor([[1.0, 3.0, 2.0]]))
    torch.testing.assert_close(rank(huge, 1e-60, method), torch.full((1, 3), 2.0))
    wide = torch.tensor([[1.7e308, -1.7e308, 0.0]], dtype=torch.float64)
    ranks = rank(wide, 1e-300, method)
    assert torch.equal(ranks, torch.tensor([[1.0, 3.0, 2.0]], dtype=torch.float64))


@pytest.mark.parametrize("method", ["direct", "linear"])
def test_gradients_of_any_size(rank, method):
    scores = make_scores("uniform", (1, 50)).requires_grad_()
    for size in (1e-37, 1e30):
        grad = size * torch.randn(1, 50, generator=torch.Generator().manual_seed(3))
        (ours,) = torch.autograd.grad(rank(scores, 10.0, method), scores, grad)
        (expected,) = torch.autograd.grad(reference(scores.double(), 10.0), scores, grad.double())
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5 * size)


def test_linear_is_deterministic_and_near_direct(rank):
    scores = make_scores("cauchy", (1, 4500))
    linear = rank(scores, 10.0, "linear")
    torch.testing.assert_close(linear, rank(scores, 10.0, "direct"), rtol=1e-5, atol=1e-3)
    assert torch.equal(linear, rank(scores, 10.0, "linear"))
