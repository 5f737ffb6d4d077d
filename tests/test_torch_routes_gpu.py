"""What PyTorch's operators compute on a GPU: hard_rank, conv_stack and the search for targets.

They contain no operator of ours to opcheck; conv_stack in Triton has its own tests.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sodeep_fast import hard_rank
from sodeep_fast.ops._levels import find_marked
from sodeep_fast.ops.conv_stack import conv_stack
from sodeep_fast.reference.hard_rank import hard_rank as reference_hard_rank
from sodeep_fast.testing import DISTRIBUTIONS, capture_graph, make_scores

pytestmark = pytest.mark.gpu


def blocks(device: str) -> list[nn.Module]:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv1d(1, 7, 3), nn.BatchNorm1d(7), nn.PReLU(7))
    made = nn.ModuleList([first, nn.Conv1d(7, 5, 4)]).eval().requires_grad_(False)
    return list(made.to(device))


def convolved(scores: Tensor) -> Tensor:
    return conv_stack(scores.unsqueeze(1), blocks(str(scores.device)))


def marked(scores: Tensor) -> Tensor:
    rows, columns, offsets = find_marked(scores > 0.5)
    return torch.cat([rows, columns, offsets])


ROUTES: dict[str, Callable[[Tensor], Tensor]] = {
    "hard_rank": hard_rank,
    "conv_stack": convolved,
    "find_marked": marked,
}
every_route = pytest.mark.parametrize("name", ROUTES)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64], ids=str
)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("shape", [(5, 1), (33, 7), (3, 1000)])
def test_hard_rank_is_exact(shape: tuple[int, int], distribution: str, dtype: torch.dtype) -> None:
    scores = make_scores(distribution, shape, dtype=dtype)
    assert torch.equal(hard_rank(scores.cuda()).cpu(), reference_hard_rank(scores))


def test_hard_rank_of_long_rows() -> None:
    scores = make_scores("tied", (2, 3_000_000))
    assert torch.equal(hard_rank(scores.cuda()).cpu(), hard_rank(scores))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_conv_stack_agrees_with_float64(dtype: torch.dtype) -> None:
    scores = make_scores("normal", (9, 30))
    parts = [block.to(dtype) for block in blocks("cuda")]
    leaf = scores.to("cuda", dtype).requires_grad_()
    value = conv_stack(leaf.unsqueeze(1), parts)
    (grad,) = torch.autograd.grad(value.float().square().sum(), leaf)
    exact = scores.double().requires_grad_()
    expected = conv_stack(exact.unsqueeze(1), [block.double() for block in blocks("cpu")])
    (slope,) = torch.autograd.grad(expected.square().sum(), exact)
    # TF32 has as many digits as float16.
    for actual, true in ((value, expected), (grad, slope)):
        error = float((actual.cpu().double() - true).norm() / true.norm())
        assert error <= 16 * torch.finfo(dtype if dtype.itemsize == 2 else torch.float16).eps


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (1, 1), (500, 77)])
def test_find_marked_agrees_with_the_cpu(shape: tuple[int, int]) -> None:
    marks = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.7
    for given in (marks, marks.to(torch.uint8)):
        for actual, expected in zip(find_marked(given.cuda()), find_marked(given), strict=True):
            assert torch.equal(actual.cpu(), expected)


@every_route
def test_repeats_itself(name: str) -> None:
    scores = make_scores("tied", (64, 900), device="cuda")
    first = ROUTES[name](scores)
    assert all(torch.equal(ROUTES[name](scores), first) for _ in range(3))


@every_route
def test_another_stream(name: str) -> None:
    scores = make_scores("normal", (64, 900), device="cuda")
    expected = ROUTES[name](scores * 2)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # The doubled scores exist on this stream only: a kernel elsewhere would read too early.
        torch.cuda._sleep(20_000_000)
        actual = ROUTES[name](scores * 2)
    stream.synchronize()
    assert torch.equal(actual, expected)


@every_route
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="needs two GPUs"
)
def test_another_device(name: str) -> None:
    scores = make_scores("normal", (8, 500), device="cuda:1")
    assert torch.equal(ROUTES[name](scores).to("cuda:0"), ROUTES[name](scores.to("cuda:0")))


def test_cuda_graph_of_hard_rank() -> None:
    torch.use_deterministic_algorithms(False)  # which would fill memory
    scores = make_scores("normal", (64, 300), device="cuda")
    graph, captured = capture_graph(lambda: hard_rank(scores))
    scores.copy_(make_scores("tied", scores.shape, seed=1, device="cuda"))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, hard_rank(scores))


def test_cuda_graph_of_conv_stack() -> None:
    torch.use_deterministic_algorithms(False)
    parts: list[Any] = blocks("cuda")
    scores = make_scores("normal", (64, 30), device="cuda").requires_grad_()

    def both() -> tuple[Tensor, Tensor]:
        value = conv_stack(scores.unsqueeze(1), parts)
        return value, torch.autograd.grad(value.square().sum(), scores)[0]

    graph, captured = capture_graph(both, warm_up=3)
    with torch.no_grad():
        scores.copy_(make_scores("uniform", scores.shape, seed=1, device="cuda"))
    graph.replay()
    torch.cuda.synchronize()
    for replayed, eager in zip(captured, both(), strict=True):
        torch.testing.assert_close(replayed, eager)


@pytest.mark.filterwarnings("ignore")  # torch's compiler sets off deprecations of its own
@pytest.mark.parametrize("name", ["hard_rank", "conv_stack"])
def test_compile(name: str) -> None:
    scores = make_scores("normal", (30, 70), device="cuda")
    parts = blocks("cuda")
    call = hard_rank if name == "hard_rank" else lambda s: conv_stack(s.unsqueeze(1), parts)
    compiled = torch.compile(call, fullgraph=True)
    torch.testing.assert_close(compiled(scores), call(scores), rtol=2e-3, atol=2e-3)


@pytest.mark.large
def test_hard_rank_of_more_elements_than_32_bits_count(
    needs_gpu_memory: Callable[[int], None],
) -> None:
    """Offsets beyond 2^31: the last rows have the same results as alone."""
    # Positions and orders are 64-bit, and several of them exist at once.
    needs_gpu_memory(130)
    torch.use_deterministic_algorithms(False)
    rows = (1 << 25) + 3
    scores = torch.rand(rows, 64, dtype=torch.float16, device="cuda")
    try:
        ranks = hard_rank(scores)
    except torch.OutOfMemoryError:
        pytest.skip("PyTorch's sort takes more memory than there is")
    for at in (0, rows // 2, rows - 5):
        assert torch.equal(ranks[at : at + 5], hard_rank(scores[at : at + 5]))
