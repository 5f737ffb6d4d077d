"""bilstm on a GPU: every precision and derivative against PyTorch's LSTM in float64."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sodeep_fast import LSTMSorter, _native
from sodeep_fast.ops import bilstm as module
from sodeep_fast.testing import (
    bilstm_derivatives,
    capture_graph,
    make_bilstm,
    make_scores,
)
from sodeep_fast.testing.lstm import (
    bilstm_under_autocast,
    by_kernels,
    by_torch,
    check_bilstm_accuracy,
    check_empty,
    check_rows_that_are_not_finite,
    check_scale_of_gradients,
    exact_bilstm,
)

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("same_weights")]

OPS = torch.ops.sodeep_fast
# Rows, steps, hidden units and layers: full and partial tiles of 8 and 16 rows.
SHAPES = [(50, 1, 1, 1), (3, 2, 7, 2), (513, 2, 7, 1), (65, 9, 33, 2), (13, 101, 60, 2)]
SHAPES += [(8, 20, 64, 1), (600, 5, 16, 1)]
LARGER = [(13, 101, 100, 2), (530, 20, 128, 1), (64, 100, 128, 2), (1, 101, 127, 2)]
HALF = [(backend, half) for backend in ("triton", "cuda") for half in ("bf16", "fp16")]
every_kernel = pytest.mark.parametrize(("backend", "precision"), [("triton", "full"), *HALF])
both_backends = pytest.mark.parametrize("backend", ["triton", "cuda"])


def on_gpu(hidden: int, layers: int, scale: float = 1.0) -> nn.LSTM:
    return make_bilstm(hidden, layers, scale).cuda()


def needs_kernels(backend: str) -> None:
    if backend == "cuda" and not _native.HAS_CUDA:
        pytest.skip("the CUDA library is not built")


def ours(lstm: nn.LSTM, precision: str = "full", backend: str = "triton") -> Any:
    needs_kernels(backend)
    return by_kernels(lstm, backend, precision)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize(("b", "n", "hidden", "layers"), SHAPES)
def test_full_is_as_accurate_as_torch(
    b: int, n: int, hidden: int, layers: int, scale: float
) -> None:
    lstm = on_gpu(hidden, layers, scale)
    scores = make_scores("normal", (b, n), device="cuda")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        eager = bilstm_derivatives(by_torch(lstm), lstm, scores)
    actual = bilstm_derivatives(ours(lstm), lstm, scores)
    check_bilstm_accuracy(
        actual, eager, exact_bilstm(lstm, scores), 2 * torch.finfo(torch.float32).eps
    )


@pytest.mark.parametrize(("backend", "precision"), HALF)
@pytest.mark.parametrize(("b", "n", "hidden", "layers"), [*SHAPES, *LARGER])
def test_half_is_as_accurate_as_torch(
    b: int, n: int, hidden: int, layers: int, backend: str, precision: str
) -> None:
    lstm = on_gpu(hidden, layers)
    scores = make_scores("normal", (b, n), device="cuda")
    rival = (lstm, scores)
    if precision == "bf16":  # which autocast of cuDNN's LSTM takes for float16
        rival = (copy.deepcopy(lstm).cpu(), scores.cpu())
    eager = bilstm_under_autocast(*rival, precision)
    actual = bilstm_derivatives(ours(lstm, precision, backend), lstm, scores)
    check_bilstm_accuracy(
        actual, eager, exact_bilstm(lstm, scores), torch.finfo(module.HALVES[precision]).eps
    )


@pytest.mark.parametrize(("b", "n", "hidden", "layers"), LARGER)
def test_by_default_as_accurate_as_torch(b: int, n: int, hidden: int, layers: int) -> None:
    """Float32 weights: float16 products against PyTorch's, of TF32."""
    lstm = on_gpu(hidden, layers)
    scores = make_scores("normal", (b, n), device="cuda")
    eager = bilstm_derivatives(by_torch(lstm), lstm, scores)
    actual = bilstm_derivatives(ours(lstm, "auto", "auto"), lstm, scores)
    check_bilstm_accuracy(actual, eager, exact_bilstm(lstm, scores), torch.finfo(torch.float16).eps)


@every_kernel
def test_many_rows(backend: str, precision: str) -> None:
    """Several waves of programs; each row has the same result as alone."""
    lstm = on_gpu(60, 2).requires_grad_(False)
    scores = make_scores("normal", (5003, 30), device="cuda")
    whole = ours(lstm, precision, backend)(scores)
    assert whole.isfinite().all()
    for rows in (slice(0, 1), slice(2500, 2511), slice(5002, 5003)):
        torch.testing.assert_close(whole[rows], ours(lstm, precision, backend)(scores[rows]))


def test_long_rows() -> None:
    lstm = on_gpu(16, 1).requires_grad_(False)
    scores = make_scores("normal", (3, 20_000), device="cuda")
    exact = make_bilstm(16, 1).double()
    exact.load_state_dict(lstm.state_dict())
    expected = by_torch(exact)(scores.cpu().double())
    torch.testing.assert_close(ours(lstm)(scores).cpu().double(), expected, rtol=0, atol=1e-5)


@pytest.mark.large
@both_backends
def test_more_than_two_to_the_31_numbers(backend: str) -> None:
    """What is saved is indexed in 64 bits."""
    if torch.cuda.get_device_properties(0).total_memory < 40e9:
        pytest.skip("needs 40 GB of GPU memory")
    lstm = on_gpu(128, 1).requires_grad_(False)
    torch.use_deterministic_algorithms(False)  # which would fill the memory first
    scores = make_scores("normal", (20_000, 100), device="cuda").requires_grad_()
    hidden = ours(lstm, "fp16", backend)(scores)  # 10 numbers a score and hidden unit: 2.56e9
    (grad,) = torch.autograd.grad(hidden[..., 0].sum(), scores)
    few = scores[-9:].detach().requires_grad_()
    (expected,) = torch.autograd.grad(ours(lstm, "fp16", backend)(few)[..., 0].sum(), few)
    torch.testing.assert_close(grad[-9:], expected)


@every_kernel
def test_what_is_not_finite_stays_in_its_row(backend: str, precision: str) -> None:
    needs_kernels(backend)
    check_rows_that_are_not_finite(on_gpu(33, 2), backend, precision, steps=9, device="cuda")


@pytest.mark.parametrize("exponent", [-90, 90])
@both_backends
def test_fp16_gradients_have_their_own_scale(exponent: int, backend: str) -> None:
    needs_kernels(backend)
    check_scale_of_gradients(on_gpu(100, 2), backend, exponent, steps=40, device="cuda")


@every_kernel
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_empty(shape: tuple[int, int], backend: str, precision: str) -> None:
    needs_kernels(backend)
    check_empty(shape, backend, precision, device="cuda")


@every_kernel
def test_deterministic(backend: str, precision: str) -> None:
    lstm = on_gpu(60, 2)
    scores = make_scores("normal", (600, 40), device="cuda")
    first = bilstm_derivatives(ours(lstm, precision, backend), lstm, scores)
    for _ in range(3):
        again = bilstm_derivatives(ours(lstm, precision, backend), lstm, scores)
        assert all(torch.equal(again[name], first[name]) for name in ("hidden", "scores"))


@every_kernel
def test_opcheck(backend: str, precision: str) -> None:
    if backend == "cuda" and not _native.HAS_CUDA:
        pytest.skip("the CUDA library is not built")
    layer, layer_backward = {
        "triton": (OPS.triton_bilstm_layer, OPS.triton_bilstm_layer_backward),
        "cuda": (OPS.cuda_bilstm_layer, OPS.cuda_bilstm_layer_backward),
    }[backend]
    weights = [weight.detach() for weight in on_gpu(20, 1).parameters()]
    for features in (1, 3):
        weights[0], weights[4] = torch.randn(2, 80, features, device="cuda")
        wanted = [weight.clone().requires_grad_() for weight in weights]
        sequence = torch.randn(4, 9, features, device="cuda")
        for given, saves in ((weights, True), (weights, False), (wanted, True)):
            leaf = sequence.clone().requires_grad_()
            torch.library.opcheck(layer, (leaf, given, None, saves, precision))
        hidden, saved = layer(sequence, weights, None, True, precision)
        for states in (None, hidden):
            for wants in (False, True):
                arguments = (hidden, sequence, weights, None, states, saved, wants, precision)
                torch.library.opcheck(layer_backward, arguments)
        head, leaf = torch.randn(40, device="cuda"), sequence.clone().requires_grad_()
        torch.library.opcheck(layer, (leaf, weights, head, True, precision))


@pytest.mark.filterwarnings("ignore")  # torch's compiler sets off deprecations of its own
def test_compile() -> None:
    lstm = on_gpu(20, 2).requires_grad_(False)
    weights = list(lstm.parameters())

    def function(scores: Tensor) -> Tensor:
        sequence = scores.t().unsqueeze(-1)
        for layer in (weights[:8], weights[8:]):
            sequence = OPS.triton_bilstm_layer(sequence, layer, None, True, "fp16")[0]
        return sequence.square().sum()

    results = []
    for call in (function, torch.compile(function, fullgraph=True)):
        leaf = make_scores("normal", (30, 20), device="cuda").requires_grad_()
        value = call(leaf)
        value.backward()
        results.append((value, leaf.grad))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hidden", [20, 300])
def test_compile_of_the_sorter(hidden: int) -> None:
    """Our kernels; and PyTorch's LSTM, step by step, for weights that are too large for them."""
    sorter = LSTMSorter(hidden, 1).cuda()
    scores = make_scores("normal", (30, 6), device="cuda")
    compiled = torch.compile(sorter.relative_ranks, fullgraph=True)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        torch.testing.assert_close(compiled(scores), sorter.relative_ranks(scores))


@both_backends
def test_another_stream(backend: str) -> None:
    lstm = on_gpu(33, 2).requires_grad_(False)
    scores = make_scores("normal", (64, 50), device="cuda")
    expected = ours(lstm, "fp16", backend)(scores * 2)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # The doubled scores exist on this stream only: a kernel elsewhere would read too early.
        torch.cuda._sleep(20_000_000)
        hidden = ours(lstm, "fp16", backend)(scores * 2)
    stream.synchronize()
    assert torch.equal(hidden, expected)


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="needs two GPUs"
)
@both_backends
def test_another_device(backend: str) -> None:
    lstm = on_gpu(33, 2).requires_grad_(False)
    scores = make_scores("normal", (64, 50), device="cuda:1")
    expected = ours(lstm, "fp16", backend)(scores.to("cuda:0"))
    assert torch.equal(ours(lstm.to("cuda:1"), "fp16", backend)(scores).to("cuda:0"), expected)


@every_kernel
def test_cuda_graph(backend: str, precision: str) -> None:
    lstm = on_gpu(64, 2).requires_grad_(False)
    scores = make_scores("normal", (64, 50), device="cuda").requires_grad_()
    incoming = make_scores("normal", (64, 50, 128), seed=1, device="cuda")

    def both() -> tuple[Tensor, Tensor]:
        hidden = ours(lstm, precision, backend)(scores)
        return hidden, torch.autograd.grad(hidden, scores, incoming)[0]

    graph, captured = capture_graph(both)
    for factor in (1.0, 1e-3, 1e3):
        with torch.no_grad():
            scores.copy_(factor * make_scores("cauchy", scores.shape, seed=1, device="cuda"))
        graph.replay()
        torch.cuda.synchronize()
        for replayed, eager in zip(captured, both(), strict=True):
            assert torch.equal(replayed, eager)


@both_backends
def test_runs_the_named_kernels(backend: str) -> None:
    """One launch of ours for both directions of a layer, forward and backward."""
    lstm = on_gpu(128, 1).requires_grad_(False)
    scores = make_scores("normal", (64, 50), device="cuda").requires_grad_()
    grad = torch.randn(64, 50, 256, device="cuda")
    ours(lstm, "fp16", backend)(scores).backward(grad)
    torch.use_deterministic_algorithms(False)  # which fills memory
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torch.autograd.grad(ours(lstm, "fp16", backend)(scores), scores, grad)
        torch.cuda.synchronize()
    launched = [
        event.name
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and "bilstm" in event.name
    ]
    assert len(launched) == 2, launched
    names = {"triton": ("fwd", "bwd"), "cuda": ("forward", "backward")}[backend]
    for name, kernel in zip(names, launched, strict=True):
        assert f"bilstm_{name}_kernel" in kernel


@pytest.mark.parametrize(("hidden", "dtype"), [(512, torch.float32), (16, torch.float64)])
def test_cudnn_serves_the_others(hidden: int, dtype: torch.dtype) -> None:
    lstm = on_gpu(hidden, 2).to(dtype)
    scores = make_scores("normal", (16, 30), device="cuda", dtype=dtype)
    with pytest.raises(ValueError, match="not available for these weights"):
        ours(lstm, "auto")(scores)
    found = bilstm_derivatives(ours(lstm, "auto", "auto"), lstm, scores)
    expected = bilstm_derivatives(by_torch(lstm), lstm, scores)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], msg=name)
    with torch.no_grad():
        torch.testing.assert_close(ours(lstm, "auto", "auto")(scores), expected["hidden"])
    half = ours(lstm.float(), "fp16", "auto")(scores.float())
    assert half.dtype == torch.float32


@pytest.mark.parametrize("head", ["position", "dense"])
def test_the_sorter_uses_the_kernels(monkeypatch: pytest.MonkeyPatch, head: str) -> None:
    sorter = LSTMSorter(128, 2, head, 50 if head == "dense" else None).cuda()
    scores = make_scores("normal", (64, 50), device="cuda").requires_grad_()
    expected = sorter.project(sorter.lstm.as_torch()(scores.unsqueeze(-1))[0])
    monkeypatch.setattr(torch._VF, "lstm", None)
    found = sorter(scores)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
    (grad,) = torch.autograd.grad(found.sum(), scores)
    assert grad.isfinite().all()
