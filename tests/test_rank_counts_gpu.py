"""rank_counts on a GPU: every comparator, dtype and derivative against the float64 reference."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sodeep_fast import ByLevel, Ramp, Sigmoid, Step, Sup
from sodeep_fast.comparators import Comparator, encode
from sodeep_fast.testing import (
    DISTRIBUTIONS,
    capture_graph,
    check_triton_counts,
    counts_of,
    derivatives,
    make_scores,
)

pytestmark = pytest.mark.gpu

OPS = torch.ops.sodeep_fast
COMPARATORS: dict[str, Comparator] = {
    "sigmoid": Sigmoid(0.1),
    "sup": Sup(0.1, rho=3.0, delta=0.2),
    "sup_linear": Sup(0.1, rho=3.0, delta=None, offset=1.0),
    "step": Step(0.5),
    "sup_ap": ByLevel(),
    "by_level": ByLevel(Step(0.25), Sup(0.2, rho=5.0), Sigmoid(0.3)),
    "h_rank": ByLevel(Sup(0.1, rho=3.0), Step(), Ramp(leak=0.5, beta=2.0, gamma=0.25)),
}
every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)


def some_levels(shape: tuple[int, int], share: float, num_levels: int = 2) -> Tensor:
    """Levels above 0 for a share of the items, none in the second row."""
    generator = torch.Generator().manual_seed(1)
    levels = torch.randint(1, num_levels, shape, generator=generator)
    levels = levels * (torch.rand(shape, generator=generator) < share)
    levels[1:2] = 0
    return levels.cuda()


@every_dtype
@pytest.mark.parametrize("name", COMPARATORS)
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(5, 1), (33, 7), (3, 100), (3, 1000)])
def test_agrees_with_the_reference(
    shape: tuple[int, int], share: float, name: str, dtype: torch.dtype
) -> None:
    scores = make_scores("normal", shape, dtype=dtype, device="cuda")
    check_triton_counts(
        scores, some_levels(shape, share, num_levels=4), COMPARATORS[name], num_levels=4
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("comparator", [Sigmoid(0.01), Sigmoid(30.0), ByLevel()], ids=str)
def test_distributions(distribution: str, comparator: Comparator, dtype: torch.dtype) -> None:
    scores = make_scores(distribution, (2, 500), dtype=dtype, device="cuda")
    check_triton_counts(scores, some_levels((2, 500), 0.02), comparator)


@pytest.mark.parametrize("num_levels", [2, 3, 20, 255])
def test_numbers_of_levels(num_levels: int) -> None:
    levels = some_levels((3, 400), 0.9, num_levels)
    check_triton_counts(
        make_scores("normal", (3, 400), device="cuda"), levels, ByLevel(), num_levels=num_levels
    )


@pytest.mark.parametrize("share", [0.0001, 0.02])
def test_long_rows(share: float) -> None:
    shape = (2, 20_000)
    check_triton_counts(
        make_scores("normal", shape, device="cuda"), some_levels(shape, share), Sigmoid()
    )


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_masked_items_take_no_part(share: float) -> None:
    scores, levels = make_scores("normal", (6, 300), device="cuda"), some_levels((6, 300), share)
    mask = torch.rand(6, 300, generator=torch.Generator().manual_seed(2)).cuda() > 0.3
    mask[3] = False
    check_triton_counts(scores, levels, Sigmoid(0.1), mask=mask)
    leaf = torch.where(mask, scores, float("nan")).requires_grad_()
    counts = counts_of(levels, mask=mask)(leaf)
    (grad,) = torch.autograd.grad(counts.square().sum(), leaf)
    assert counts.isfinite().all()
    assert grad.isfinite().all()
    assert (grad[~mask] == 0).all()


@pytest.mark.parametrize("share", [0.005, 0.3])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_in_its_row(share: float, bad: float) -> None:
    clean, levels = make_scores("uniform", (5, 700), device="cuda"), some_levels((5, 700), share)
    levels[3, 7] = 1
    scores = clean.clone()
    scores[3, 600] = bad
    rows = levels.nonzero()[:, 0]
    grad = torch.randn(len(rows), 2, generator=torch.Generator().manual_seed(0)).cuda()
    expected = derivatives(counts_of(levels), clean, grad, clean)
    actual = derivatives(counts_of(levels), scores, grad, clean)
    for name, value in actual.items():
        row = torch.arange(5, device="cuda") if name in ("grad", "second") else rows
        assert value[row == 3].isnan().all(), name
        assert torch.equal(value[row != 3], expected[name][row != 3]), name


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0), (2, 4)])
def test_empty(shape: tuple[int, int]) -> None:
    scores = torch.zeros(shape, device="cuda", requires_grad=True)
    counts = counts_of(torch.zeros(shape, dtype=torch.bool, device="cuda"))(scores)
    (grad,) = torch.autograd.grad(counts.sum(), scores, materialize_grads=True)
    assert counts.shape == (0, 2)
    assert torch.equal(grad, torch.zeros_like(scores))


def test_rows_are_found_among_many() -> None:
    scores = make_scores("normal", (40_000, 5), device="cuda")
    levels = some_levels((40_000, 5), 0.2)
    expected = counts_of(levels, "reference")(scores)
    torch.testing.assert_close(counts_of(levels)(scores), expected)


def test_steps_are_exact() -> None:
    scores = make_scores("tied", (20, 3000), device="cuda")
    levels = some_levels((20, 3000), 0.01)
    ours, expected = (
        counts_of(levels, backend, comparator=Step())(scores) for backend in ("triton", "reference")
    )
    assert torch.equal(ours, expected)


def test_gradcheck() -> None:
    scores = make_scores("uniform", (3, 9), dtype=torch.float64, device="cuda").requires_grad_()
    for share in (0.2, 0.9):
        function = counts_of(some_levels((3, 9), share), comparator=COMPARATORS["by_level"])
        assert torch.autograd.gradcheck(function, scores)
        assert torch.autograd.gradgradcheck(function, scores)


def operands() -> tuple[Tensor, tuple]:
    """Scores, and the other arguments of the operator."""
    scores, levels = make_scores("normal", (64, 900), device="cuda"), some_levels((64, 900), 0.005)
    rows, columns = levels.nonzero(as_tuple=True)
    offsets = torch.searchsorted(rows, torch.arange(65, device="cuda"))
    return scores, (levels.to(torch.uint8), columns, offsets, 2, *encode(Sigmoid()), "auto")


def test_opcheck() -> None:
    scores, options = operands()
    grad = torch.randn(len(options[1]), 2, device="cuda")
    tangent = torch.randn_like(scores)
    torch.library.opcheck(OPS.triton_rank_counts.default, (scores.requires_grad_(), *options))
    torch.library.opcheck(
        OPS.triton_rank_counts_backward.default, (grad.requires_grad_(), scores, *options)
    )
    grad, scores = grad.detach(), scores.detach()
    torch.library.opcheck(OPS.triton_rank_counts_tangent.default, (tangent, scores, *options))
    double = OPS.triton_rank_counts_double_backward.default
    torch.library.opcheck(double, (tangent, grad, scores, *options))


@pytest.mark.filterwarnings("ignore")  # torch's compiler sets off deprecations of its own
def test_compile() -> None:
    scores, options = operands()

    def function(s: Tensor) -> Tensor:
        return OPS.triton_rank_counts(s, *options).square().sum()

    compiled = torch.compile(function, fullgraph=True)
    results = []
    for call in (function, compiled):
        leaf = scores.clone().requires_grad_()
        value = call(leaf)
        value.backward()
        results.append((value, leaf.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("share", [0.005, 0.2])
def test_deterministic(share: float) -> None:
    scores, levels = (
        make_scores("normal", (20, 2000), device="cuda"),
        some_levels((20, 2000), share),
    )
    grad = torch.ones(int((levels > 0).sum()), 2, device="cuda")
    first = derivatives(counts_of(levels), scores, grad, scores)
    for _ in range(3):
        again = derivatives(counts_of(levels), scores, grad, scores)
        assert all(torch.equal(again[name], first[name]) for name in first)


def test_another_stream() -> None:
    scores, options = operands()
    expected = OPS.triton_rank_counts(scores * 2, *options)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # The doubled scores exist on this stream only: a kernel elsewhere would read too early.
        torch.cuda._sleep(20_000_000)
        counts = OPS.triton_rank_counts(scores * 2, *options)
    stream.synchronize()
    assert torch.equal(counts, expected)


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="needs two GPUs"
)
def test_another_device() -> None:
    scores, levels = make_scores("normal", (8, 500), device="cuda:1"), some_levels((8, 500), 0.1)
    expected = counts_of(levels)(scores.to("cuda:0"))
    assert torch.equal(counts_of(levels.to("cuda:1"))(scores).to("cuda:0"), expected)


def test_cuda_graph() -> None:
    """If targets are given, nothing waits for the device: a replay takes new scores and targets."""
    scores, (levels, columns, offsets, *rest) = operands()
    scores.requires_grad_()
    grad = torch.randn(len(columns), 2, device="cuda")

    def both() -> tuple[Tensor, Tensor]:
        counts = OPS.triton_rank_counts(scores, levels, columns, offsets, *rest)
        return counts, torch.autograd.grad(counts, scores, grad)[0]

    graph, captured = capture_graph(both)
    for factor in (1.0, 1e-3, 1e3):
        with torch.no_grad():
            scores.copy_(factor * make_scores("cauchy", scores.shape, seed=1, device="cuda"))
            # The same number of targets, but all in two rows.
            offsets[1:33] = len(columns) // 2
            offsets[33:] = len(columns)
            columns.copy_(torch.arange(len(columns), device="cuda") % (len(columns) // 2))
        graph.replay()
        torch.cuda.synchronize()
        for replayed, eager in zip(captured, both(), strict=True):
            assert torch.equal(replayed, eager)


@pytest.mark.large
def test_more_elements_than_32_bits_count(needs_gpu_memory: Callable[[int], None]) -> None:
    """Offsets beyond 2^31: the last rows have the same results as alone."""
    needs_gpu_memory(60)
    torch.use_deterministic_algorithms(False)  # which would fill the outputs first
    rows, items = (1 << 19) + 3, 4096
    scores = torch.rand(rows, items, device="cuda")
    levels = torch.zeros(rows, items, dtype=torch.uint8, device="cuda")
    levels[:, 7] = 1
    rest = (2, *encode(Sigmoid()), "auto")

    def both(begin: int, end: int) -> tuple[Tensor, Tensor]:
        leaf = scores[begin:end].detach().requires_grad_()
        columns = torch.full((end - begin,), 7, device="cuda")
        offsets = torch.arange(end - begin + 1, device="cuda")
        counts = OPS.triton_rank_counts(leaf, levels[begin:end], columns, offsets, *rest)
        return counts, torch.autograd.grad(counts.sum(), leaf)[0]

    counts, grad = both(0, rows)
    for at in (0, rows // 2, rows - 5):
        alone = both(at, at + 5)
        assert torch.equal(counts[at : at + 5], alone[0])
        assert torch.equal(grad[at : at + 5], alone[1])


def test_runs_the_named_kernels() -> None:
    """One launch for the counts, two for the gradient, and none of torch's."""
    scores, options = operands()
    scores.requires_grad_()
    grad = torch.randn(len(options[1]), 2, device="cuda")
    OPS.triton_rank_counts(scores, *options).backward(grad)
    # Not asked to fill memory with NaN, torch launches nothing of its own.
    torch.use_deterministic_algorithms(False)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torch.autograd.grad(OPS.triton_rank_counts(scores, *options), scores, grad)
        torch.cuda.synchronize()
    launched = [
        event.name
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and "kernel" in event.name
    ]
    expected = ["fwd_kernel", "bwd_targets_kernel", "bwd_items_kernel"]
    assert len(launched) == len(expected), launched
    for name, kernel in zip(launched, expected, strict=True):
        assert f"rank_counts_{kernel}" in name


def test_auto_runs_the_kernels() -> None:
    scores, levels = make_scores("normal", (4, 300), device="cuda"), some_levels((4, 300), 0.1)
    assert torch.equal(counts_of(levels, "auto")(scores), counts_of(levels)(scores))
