"""soft_histogram and AP_Q on a GPU, against the CPU's float64 kernels and against themselves."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sodeep_fast import QuantizedAPLoss, quantized_ap, soft_histogram
from sodeep_fast.testing import DISTRIBUTIONS, capture_graph, make_scores

pytestmark = pytest.mark.gpu


def random_levels(shape: tuple[int, ...], num_levels: int) -> Tensor:
    return torch.randint(num_levels, shape, generator=torch.Generator().manual_seed(1))


def derivatives(scores: Tensor, levels: Tensor | None, **options) -> dict[str, Tensor]:
    """The histogram, its gradient for fixed weights, and the gradient of that for the weights."""
    leaf = scores.detach().requires_grad_()
    value = soft_histogram(leaf, levels, **options)
    generator = torch.Generator().manual_seed(3)
    grad = torch.randn(value.shape, generator=generator).to(value).requires_grad_()
    (first,) = torch.autograd.grad(value, leaf, grad, create_graph=True)
    along = torch.randn(first.shape, generator=generator).to(first)
    (for_grad,) = torch.autograd.grad(first, grad, along)
    return {"value": value.detach(), "grad": first.detach(), "for_grad": for_grad}


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("shape", [(5, 1), (33, 7), (4, 100), (3, 5000), (2, 50_000)], ids=str)
def test_matches_the_cpu(shape: tuple[int, int], distribution: str, dtype: torch.dtype) -> None:
    scores = make_scores(distribution, shape, dtype=dtype)
    levels = random_levels(shape, 3)
    # Against the CPU in the same precision: positions are rounded alike, so scores fall on the same
    # side of a centre.
    expected = derivatives(scores, levels)
    actual = derivatives(scores.cuda(), levels.cuda(), backend="triton")
    eps = torch.finfo(expected["value"].dtype).eps
    for name, value in actual.items():
        tolerance = {"rtol": 1e-2 if dtype.itemsize == 2 else 16 * eps, "atol": 4 * eps * shape[1]}
        if name != "value":
            tolerance["atol"] *= 20  # bins
        torch.testing.assert_close(value.cpu(), expected[name], **tolerance)


@pytest.mark.parametrize(("bins", "low", "high"), [(1, 0, 1), (2, -1, 1), (16, 0, 1), (700, -2, 1)])
def test_bins(bins: int, low: float, high: float) -> None:
    scores = make_scores("uniform", (6, 1000), dtype=torch.float64) * 1.5
    options = {"bins": bins, "low": low, "high": high}
    expected = derivatives(scores, None, **options)
    for name, value in derivatives(scores.cuda(), None, **options, backend="triton").items():
        torch.testing.assert_close(value.cpu(), expected[name], rtol=1e-11, atol=1e-9)


def test_auto_takes_triton_and_repeats_itself() -> None:
    scores, levels = make_scores("normal", (64, 20_000), device="cuda"), None
    first = derivatives(scores, levels, backend="triton")
    for _ in range(3):
        for name, value in derivatives(scores, levels).items():
            assert torch.equal(value, first[name]), name


def test_a_nan_and_a_mask() -> None:
    scores = make_scores("normal", (3, 400), device="cuda")
    scores[1, 7], scores[2, 5] = torch.nan, torch.inf
    mask = torch.ones_like(scores, dtype=torch.bool)
    counts = soft_histogram(scores, mask=mask)
    assert counts.isnan().any(-1)[:, 0].tolist() == [False, True, False]
    mask[1, 7] = False
    counts = soft_histogram(scores, mask=mask)
    torch.testing.assert_close(counts.sum(-1)[:, 0].cpu(), torch.tensor([400.0, 399.0, 400.0]))


def test_gradcheck_and_opcheck() -> None:
    places = torch.rand(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = ((torch.randint(-1, 6, (2, 9)) + 0.1 + 0.8 * places) / 5).cuda().requires_grad_()
    levels = random_levels((2, 9), 3).cuda()

    def counts(values: Tensor) -> Tensor:
        return soft_histogram(values, levels, bins=6, low=0, high=1, num_levels=3)

    assert torch.autograd.gradcheck(counts, scores)
    assert torch.autograd.gradgradcheck(counts, scores)
    options = (levels.to(torch.uint8), 3, 6, 0.0, 1.0)
    ops = torch.ops.sodeep_fast
    torch.library.opcheck(ops.triton_soft_histogram, (scores, *options))
    torch.library.opcheck(ops.triton_soft_histogram, (scores, None, 1, 6, 0.0, 1.0))
    grad = torch.rand(2, 3, 6, dtype=torch.float64, device="cuda")
    tangent = torch.rand(2, 9, dtype=torch.float64, device="cuda")
    scores = scores.detach()
    torch.library.opcheck(ops.triton_soft_histogram_backward, (grad, scores, *options))
    torch.library.opcheck(ops.triton_soft_histogram_tangent, (tangent, scores, *options))


def test_cuda_graph() -> None:
    scores = make_scores("normal", (64, 100), device="cuda").requires_grad_()
    labels = random_levels((64, 100), 2).bool().cuda()

    def both() -> tuple[Tensor, Tensor]:
        values = quantized_ap(scores, labels)
        return values, torch.autograd.grad(values.sum(), scores)[0]

    graph, captured = capture_graph(both)
    with torch.no_grad():
        scores.copy_(make_scores("uniform", (64, 100), seed=1, device="cuda"))
    graph.replay()
    torch.cuda.synchronize()
    for replayed, eager in zip(captured, both(), strict=True):
        assert torch.equal(replayed, eager)


@pytest.mark.filterwarnings("ignore")  # torch's compiler sets off deprecations of its own
def test_compile() -> None:
    scores = make_scores("normal", (64, 300), device="cuda")
    options = (random_levels((64, 300), 2).to("cuda", torch.uint8), 2, 20, -1.0, 1.0)

    def function(s: Tensor) -> Tensor:
        return torch.ops.sodeep_fast.triton_soft_histogram(s, *options).square().sum()

    results = []
    for call in (function, torch.compile(function, fullgraph=True)):
        leaf = scores.clone().requires_grad_()
        value = call(leaf)
        value.backward()
        results.append((value, leaf.grad))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_another_stream() -> None:
    scores = make_scores("normal", (64, 5000), device="cuda")
    expected = soft_histogram(scores * 2, backend="triton")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # The doubled scores exist on this stream only: a kernel elsewhere would read too early.
        torch.cuda._sleep(20_000_000)
        counts = soft_histogram(scores * 2, backend="triton")
    stream.synchronize()
    assert torch.equal(counts, expected)


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="needs two GPUs"
)
def test_another_device() -> None:
    scores = make_scores("normal", (8, 500), device="cuda:1")
    expected = soft_histogram(scores.to("cuda:0"), backend="triton")
    assert torch.equal(soft_histogram(scores, backend="triton").to("cuda:0"), expected)


@pytest.mark.large
def test_more_elements_than_32_bits_count(needs_gpu_memory: Callable[[int], None]) -> None:
    """Offsets beyond 2^31: the last rows have the same results as alone."""
    needs_gpu_memory(60)
    torch.use_deterministic_algorithms(False)  # which would fill the outputs first
    rows = (1 << 25) + 3
    scores = torch.rand(rows, 64, device="cuda")
    grad = torch.arange(20.0, device="cuda").square().expand(rows, 1, 20)

    def both(begin: int, end: int) -> tuple[Tensor, Tensor]:
        leaf = scores[begin:end].detach().requires_grad_()
        counts = soft_histogram(leaf, backend="triton")
        return counts.detach(), torch.autograd.grad(counts, leaf, grad[begin:end])[0]

    whole = both(0, rows)
    for at in (0, rows // 2, rows - 5):
        for mine, alone in zip(whole, both(at, at + 5), strict=True):
            assert torch.equal(mine[at : at + 5], alone)


def test_memory_of_a_large_batch() -> None:
    """Forward and backward of 4096 queries and items stay under twice the scores."""
    scores = torch.rand(4096, 4096, device="cuda").requires_grad_()
    labels = torch.rand(4096, 4096, device="cuda") < 0.01
    torch.use_deterministic_algorithms(False)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(quantized_ap(scores, labels).nansum(), scores)
    assert torch.cuda.max_memory_allocated() - before < 2 * 4 * 4096**2


def test_the_loss_agrees_with_the_cpu() -> None:
    embeddings = make_scores("normal", (60, 16), dtype=torch.float64)
    labels = torch.arange(60) % 12
    results = []
    for device in ("cpu", "cuda"):
        leaf = embeddings.to(device).requires_grad_()
        value = QuantizedAPLoss()(leaf, labels.to(device))
        value.backward()
        results.append((value.detach().cpu(), leaf.grad.cpu()))
    for actual, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)
