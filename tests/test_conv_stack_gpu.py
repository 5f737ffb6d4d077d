"""conv_stack in Triton on a GPU: every dtype and derivative against PyTorch's layers in float64."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sodeep_fast.ops.conv_stack import conv_stack
from sodeep_fast.sorters.cnn import CNNSorter, ReleasedCNNSorter
from sodeep_fast.testing import (
    TILED_STACKS,
    ConvLayer,
    capture_graph,
    check_conv_stack,
    conv_arguments,
    in_turn,
    make_conv_blocks,
    make_conv_inputs,
    make_scores,
)

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("same_weights")]

OPS = torch.ops.sodeep_fast
STACKS: dict[str, list[ConvLayer]] = {
    **TILED_STACKS,
    "negative slope": [(1, 129, 3, 0, True, True, -0.3), (129, 64, 3, 0, True, True, -0.1)],
    "whole": [(1, 16, 3, 0, True, True, 0.3), (16, 33, 18, 0, True, True, None)],
    "wide": [(1, 256, 3, 0, True, True, 0.25), (256, 128, 5, 0, True, True, 0.25)],
}
DTYPES = [torch.float16, torch.bfloat16, torch.float32]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def on_gpu(name: str, dtype: torch.dtype = torch.float32) -> nn.ModuleList:
    return make_conv_blocks(STACKS[name]).to("cuda", dtype)


def make_inputs(blocks: nn.ModuleList, batch: int) -> Tensor:
    return make_conv_inputs(blocks, batch, 20)


def ours(blocks: nn.ModuleList) -> Any:
    return lambda inputs: conv_stack(inputs, blocks, backend="triton")


def both(blocks: nn.ModuleList, inputs: Tensor) -> tuple[Tensor, Tensor]:
    leaf = inputs.detach().clone().requires_grad_()
    value = ours(blocks)(leaf)
    incoming = make_scores("normal", tuple(value.shape), seed=1, dtype=value.dtype, device="cuda")
    return value.detach(), torch.autograd.grad(value, leaf, incoming)[0]


@pytest.mark.parametrize("batch", [1, 7, 600])
@every_dtype
@pytest.mark.parametrize("name", STACKS)
def test_as_accurate_as_torch(name: str, dtype: torch.dtype, batch: int) -> None:
    blocks = on_gpu(name, dtype)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        check_conv_stack(blocks, make_inputs(blocks, batch))


@every_dtype
@pytest.mark.parametrize("batch", [1, 70])
def test_the_released_network(dtype: torch.dtype, batch: int) -> None:
    blocks = nn.ModuleList(ReleasedCNNSorter().children()).to("cuda", dtype)
    inputs = make_scores("uniform", (batch, 1, 100), dtype=dtype, device="cuda")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        check_conv_stack(blocks, inputs)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_the_network_of_the_paper(padding: str) -> None:
    blocks = nn.ModuleList(CNNSorter(50, padding=padding).blocks).cuda()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        check_conv_stack(blocks, make_scores("uniform", (9, 1, 50), device="cuda"))


def test_by_default_products_are_of_tf32_as_torchs() -> None:
    blocks = on_gpu("wide")
    inputs = make_inputs(blocks, 50)
    exact = in_turn(inputs.cpu().double(), copy.deepcopy(blocks).cpu().double())
    errors = {}
    for tf32 in (True, False):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
            value = ours(blocks)(inputs).cpu().double()
        errors[tf32] = float((value - exact).norm() / exact.norm())
    assert errors[False] < 1e-6
    assert 1e-5 < errors[True] < 1e-2


@every_dtype
def test_many_rows(dtype: torch.dtype) -> None:
    """Several waves of programs; each row has the same result as among few rows."""
    blocks = on_gpu("wide", dtype)
    inputs = make_inputs(blocks, 5003)
    whole = ours(blocks)(inputs)
    assert whole.isfinite().all()
    for rows in (slice(0, 1), slice(2500, 2511), slice(5002, 5003)):
        close = 16 * torch.finfo(dtype).eps * float(whole.abs().max())
        torch.testing.assert_close(whole[rows], ours(blocks)(inputs[rows]), rtol=0, atol=close)


@pytest.mark.large
def test_more_than_two_to_the_31_numbers() -> None:
    if torch.cuda.get_device_properties(0).total_memory < 40e9:
        pytest.skip("needs 40 GB of GPU memory")
    torch.use_deterministic_algorithms(False)  # which would fill the memory first
    blocks = on_gpu("wide", torch.float16)
    inputs = make_scores("normal", (90_000, 1, 100), dtype=torch.float16, device="cuda")
    found = []
    for rows in (inputs, inputs[-9:]):  # 98 positions of 256 channels: 2.26e9 numbers
        leaf = rows.clone().requires_grad_()
        value = ours(blocks)(leaf)
        (grad,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
        found.append((value[-9:].detach(), grad[-9:]))
        del value, grad
    for actual, expected in zip(*found, strict=True):
        close = 16 * torch.finfo(torch.float16).eps * float(expected.abs().max())
        torch.testing.assert_close(actual, expected, rtol=0, atol=close)


@every_dtype
def test_what_is_not_finite_stays_in_its_row(dtype: torch.dtype) -> None:
    blocks = on_gpu("same", dtype)
    inputs = make_inputs(blocks, 20)
    value, grad = both(blocks, inputs)
    bad = inputs.clone()
    bad[1, 0, 2], bad[4, 0, 0], bad[7, 0, 19] = torch.nan, torch.inf, -torch.inf
    others = [k for k in range(20) if k not in (1, 4, 7)]
    bad_value, bad_grad = both(blocks, bad)
    assert torch.equal(bad_value[others], value[others])
    assert torch.equal(bad_grad[others], grad[others])
    assert bad_value[1].isnan().any()


def test_empty() -> None:
    blocks = on_gpu("relu")
    value, grad = both(blocks, make_inputs(blocks, 0))
    assert value.shape == (0, 33, 17)
    assert grad.shape == (0, 1, 20)


@every_dtype
def test_deterministic(dtype: torch.dtype) -> None:
    blocks = on_gpu("wide", dtype)
    inputs = make_inputs(blocks, 600)
    first = both(blocks, inputs)
    for _ in range(3):
        assert all(map(torch.equal, both(blocks, inputs), first))


@pytest.mark.parametrize("name", ["relu", "negative slope"])
def test_opcheck(name: str) -> None:
    blocks = on_gpu(name)
    parameters, *options = conv_arguments(blocks)
    sequence = make_inputs(blocks, 3).mT.contiguous()
    torch.library.opcheck(OPS.triton_conv_stack, (sequence, parameters, *options, False, False))
    leaf = sequence.clone().requires_grad_()
    torch.library.opcheck(OPS.triton_conv_stack, (leaf, parameters, *options, True, False))
    output, signs = OPS.triton_conv_stack(sequence, parameters, *options, True, False)
    rest = (signs, parameters, *options, False)
    leaf = output.clone().requires_grad_()
    torch.library.opcheck(OPS.triton_conv_stack_backward, (leaf, *rest))
    leaf = sequence.clone().requires_grad_()
    torch.library.opcheck(OPS.triton_conv_stack_tangent, (leaf, *rest))


@pytest.mark.filterwarnings("ignore")  # torch's compiler sets off deprecations of its own
def test_compile() -> None:
    blocks = on_gpu("same")
    compiled = torch.compile(ours(blocks), fullgraph=True)
    results = []
    for function in (compiled, ours(blocks)):
        leaf = make_inputs(blocks, 30).requires_grad_()
        value = function(leaf)
        results.append((value, torch.autograd.grad(value.square().sum(), leaf)[0]))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_another_stream() -> None:
    blocks = on_gpu("wide")
    inputs = make_inputs(blocks, 64)
    expected = ours(blocks)(inputs * 2)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # The doubled inputs exist on this stream only: a kernel elsewhere would read too early.
        torch.cuda._sleep(20_000_000)
        actual = ours(blocks)(inputs * 2)
    stream.synchronize()
    assert torch.equal(actual, expected)


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="needs two GPUs"
)
def test_another_device() -> None:
    blocks = on_gpu("wide")
    inputs = make_inputs(blocks, 64)
    expected = ours(blocks)(inputs)
    actual = ours(copy.deepcopy(blocks).to("cuda:1"))(inputs.to("cuda:1"))
    assert torch.equal(actual.to("cuda:0"), expected)


@every_dtype
def test_cuda_graph(dtype: torch.dtype) -> None:
    """Nothing waits for the GPU: slopes are read there."""
    torch.use_deterministic_algorithms(False)  # which would fill memory
    blocks = on_gpu("wide", dtype)
    inputs = make_inputs(blocks, 64).requires_grad_()
    incoming = torch.randn_like(ours(blocks)(inputs))

    def run() -> tuple[Tensor, Tensor]:
        value = ours(blocks)(inputs)
        return value, torch.autograd.grad(value, inputs, incoming)[0]

    graph, captured = capture_graph(run)
    with torch.no_grad():
        inputs.copy_(make_inputs(blocks, 64) * 0.5)
    graph.replay()
    torch.cuda.synchronize()
    for replayed, eager in zip(captured, run(), strict=True):
        assert torch.equal(replayed, eager)


def test_runs_the_named_kernels() -> None:
    """One launch for every block, forward and backward, and nothing else."""
    torch.use_deterministic_algorithms(False)
    blocks = nn.ModuleList(ReleasedCNNSorter().children()).cuda()
    inputs = make_scores("uniform", (64, 1, 100), device="cuda").requires_grad_()
    grad = torch.randn(64, 100, 1, device="cuda")
    ours(blocks)(inputs).backward(grad)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torch.autograd.grad(ours(blocks)(inputs), inputs, grad)
        torch.cuda.synchronize()
    launched = [
        event.name
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    assert len(launched) == 20, launched
    assert all("conv_stack_kernel" in name for name in launched)
