"""`conv_stack` against nn.Conv1d and its equations: values, derivatives, modes, and bad input."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sodeep_fast
from sodeep_fast.benchmark import Case, WrongResult
from sodeep_fast.benchmark import conv_stack as benchmark
from sodeep_fast.benchmark.call import make_call
from sodeep_fast.ops import conv_stack as module
from sodeep_fast.ops._frozen_conv_stack import FrozenConvStack
from sodeep_fast.ops.conv_stack import conv_stack
from sodeep_fast.reference.conv_stack import conv_stack as reference
from sodeep_fast.sorters.cnn import CNNSorter, ReleasedCNNSorter
from sodeep_fast.testing import (
    DEVICES,
    NETWORK_ROUNDING,
    ConvLayer,
    assert_as_accurate,
    in_turn,
    make_conv_blocks,
    make_conv_inputs,
)

STACKS: dict[str, list[ConvLayer]] = {
    "affine": [(1, 3, 2, 0, True, False, None)],
    "relu": [(1, 4, 3, 0, True, True, 0), (4, 5, 2, 0, False, True, 0)],
    "prelu": [(2, 7, 2, "valid", True, False, 0.25), (7, 3, 4, 0, True, False, None)],
    "same": [(1, 4, 2, "same", True, True, 0.25), (4, 4, 5, "same", True, False, 0)],
    "padded": [(3, 4, 5, 2, True, True, 0), (4, 1, 1, 1, True, False, None)],
    "without bias": [(1, 4, 3, 0, False, True, 0.1), (4, 2, 3, 0, False, False, None)],
    "linear between": [(1, 4, 2, 0, True, True, None), (4, 3, 3, 0, True, False, 0)],
    "negative slope": [(1, 6, 3, 0, True, True, -0.3), (6, 2, 3, 0, True, False, -0.1)],
    "slope one": [(1, 3, 2, 0, True, True, 1.0), (3, 2, 3, 0, True, False, 0)],
    "slopes": [(1, 3, 2, 0, True, True, (0.1, -0.2, 0.5)), (3, 2, 3, 0, True, False, None)],
    "whole": [(1, 4, 3, 0, True, True, 0), (4, 9, 8, 0, True, False, None)],
}


pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")


def value_and_grads(
    function: Callable[..., Tensor], inputs: Tensor, blocks: nn.ModuleList
) -> list[Tensor]:
    """The value, and the gradients of a weighted sum of it for whatever requires one."""
    leaves = [x for x in (inputs, *blocks.parameters()) if x.requires_grad]
    value = function(inputs, blocks)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return [value.detach(), *torch.autograd.grad((value * weights.to(value)).sum(), leaves)]


def away_from_kinks(inputs: Tensor, blocks: nn.ModuleList) -> Tensor:
    """Which rows have no activation that rounding might put on the other side of zero."""
    far = torch.ones(len(inputs), dtype=torch.bool)
    for layer in (m for m in blocks.modules() if not list(m.children())):
        if isinstance(layer, (nn.ReLU, nn.PReLU)):
            far &= inputs.flatten(1).abs().amin(1) > 3e-6
        inputs = layer(inputs)
    return far


def check_accuracy(inputs: Tensor, blocks: nn.ModuleList, floor: float) -> None:
    """Asserts that values and gradients are as accurate as PyTorch's layers in the same dtype.

    `floor` is in rounding errors of the largest number.
    """
    doubles = copy.deepcopy(blocks).double()
    eager, actual = (
        value_and_grads(f, inputs.detach().requires_grad_(), blocks) for f in (in_turn, conv_stack)
    )
    exact = value_and_grads(in_turn, inputs.double().requires_grad_(), doubles)
    every = torch.ones(len(inputs), dtype=torch.bool)
    # In float32, a few activations may change sides of zero, which is not an inaccuracy.
    smooth = away_from_kinks(inputs.double(), doubles) if inputs.dtype == torch.float32 else every
    for what, rows, a, e, x in zip(
        ("value", "grad"), (every, smooth), actual, eager, exact, strict=True
    ):
        assert a.dtype == inputs.dtype
        truth = x[rows].numpy().astype(np.longdouble)
        least = floor * torch.finfo(inputs.dtype).eps * float(x.abs().max())
        assert_as_accurate(a[rows].double(), e[rows].double(), truth, floor=least, what=what)


@pytest.fixture
def frozen_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch size of every call of the frozen function."""
    calls = []

    class Spy:
        @staticmethod
        def apply(inputs: Tensor, *args: Any) -> tuple[Tensor, ...]:
            calls.append(len(inputs))
            return FrozenConvStack.apply(inputs, *args)

    monkeypatch.setattr(module, "FrozenConvStack", Spy)
    return calls


# --- Values and derivatives ---


def test_worked_literal() -> None:
    block = nn.Sequential(nn.Conv1d(1, 2, 2), nn.BatchNorm1d(2, eps=0), nn.PReLU(init=0.5))
    conv, norm, _ = block
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[1.0, 2.0]], [[-1.0, 1.0]]]))
        conv.bias.copy_(torch.tensor([0.0, 1.0]))
        norm.running_mean.copy_(torch.tensor([1.0, 0.0]))
        norm.running_var.copy_(torch.tensor([4.0, 1.0]))
    # The first channel is (x1 + 2 x2 - 1) / 2, the second x2 - x1 + 1, halved below zero.
    expected = torch.tensor([[[2.0, 0.5, -0.75], [2.0, -0.5, 0.0]]])
    inputs = torch.tensor([[[1.0, 2.0, 0.0, -1.0]]])
    blocks = [block.eval().requires_grad_(False)]
    assert torch.equal(conv_stack(inputs, blocks), expected)
    assert torch.equal(reference(inputs, blocks), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("wants", ["nothing", "inputs", "parameters", "both", "one weight"])
@pytest.mark.parametrize("name", STACKS)
def test_as_pytorch_and_the_reference(name: str, wants: str, training: bool, device: str) -> None:
    blocks = make_conv_blocks(STACKS[name]).train(training).to(device)
    blocks.requires_grad_(wants in ("parameters", "both"))
    if wants == "one weight":
        next(blocks.parameters()).requires_grad_()
    inputs = make_conv_inputs(blocks).requires_grad_(wants in ("inputs", "both"))
    if wants == "nothing":
        results = [[f(inputs, copy.deepcopy(blocks))] for f in (conv_stack, in_turn, reference)]
    else:
        results = [value_and_grads(f, inputs, blocks) for f in (conv_stack, in_turn, reference)]
    for other in results[1:]:
        for actual, expected in zip(results[0], other, strict=True):
            torch.testing.assert_close(actual, expected, **NETWORK_ROUNDING)


@pytest.mark.parametrize("training", [True, False])
def test_converted_layers(training: bool) -> None:
    """What conversion for several processes, and fusion, make of blocks."""
    blocks = make_conv_blocks([(1, 5, 3, 0, True, True, 0), (5, 2, 2, 0, True, True, 0)])
    blocks.train(training)
    inputs = make_conv_inputs(blocks)
    expected = conv_stack(inputs, copy.deepcopy(blocks))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(blocks))
    if not training:  # in which it wants a GPU
        torch.testing.assert_close(conv_stack(inputs, converted), expected)
    padded = nn.ModuleList(nn.Sequential(*block, nn.Identity()) for block in blocks)
    torch.testing.assert_close(conv_stack(inputs, padded), expected)


@pytest.mark.parametrize("batch", [1, 3, 513])
@pytest.mark.parametrize("length", [1, 2, 101])
@pytest.mark.parametrize("channels", [1, 7, 100, 129])
def test_sizes_that_are_no_multiple_of_a_tile(channels: int, length: int, batch: int) -> None:
    sizes = [min(length, 3), 1 + (length > 3)]
    layers = [
        (1, channels, sizes[0], 0, True, True, 0.25),
        (channels, 5, sizes[1], 0, True, True, 0),
    ]
    blocks = make_conv_blocks(layers).float()
    check_accuracy(make_conv_inputs(blocks, batch, length), blocks, floor=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "sorter",
    [ReleasedCNNSorter, lambda: CNNSorter(100), lambda: CNNSorter(100, padding="same")],
)
def test_as_accurate_as_pytorch(sorter: Callable[[], Any], dtype: torch.dtype) -> None:
    network = sorter()
    blocks = nn.ModuleList(getattr(network, "blocks", network.children()))
    for block in blocks:
        for layer in block.children():
            if isinstance(layer, nn.BatchNorm1d):
                nn.init.uniform_(layer.running_mean, -0.5, 0.5)
                nn.init.uniform_(layer.running_var, 0.5, 2)
    inputs = torch.rand(17, 1, 100) * 2 - 1
    check_accuracy(inputs.to(dtype), blocks.to(dtype), floor=1)


@pytest.mark.parametrize("name", ["same", "prelu", "negative slope", "whole", "slopes"])
def test_gradcheck(name: str) -> None:
    blocks = make_conv_blocks(STACKS[name])
    inputs = make_conv_inputs(blocks, 2, 10).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: conv_stack(x, blocks), inputs)
    assert torch.autograd.gradgradcheck(lambda x: conv_stack(x, blocks), inputs)


@pytest.mark.parametrize("name", ["same", "prelu"])
def test_gradcheck_in_training(name: str) -> None:
    blocks = make_conv_blocks(STACKS[name]).train().requires_grad_()
    leaves = (make_conv_inputs(blocks, 2, 6).requires_grad_(), *blocks.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: conv_stack(x, blocks), leaves)
    assert torch.autograd.gradgradcheck(lambda x, *_: conv_stack(x, blocks), leaves)


def test_running_statistics_follow() -> None:
    blocks = make_conv_blocks(STACKS["relu"]).train()
    again = copy.deepcopy(blocks)
    inputs = make_conv_inputs(blocks)
    for _ in range(2):
        conv_stack(inputs, blocks)
        in_turn(inputs, again)
    for name, value in blocks.state_dict().items():
        torch.testing.assert_close(value, again.state_dict()[name])


# --- Which route ---


def test_the_frozen_function_serves_what_is_fixed(frozen_calls: list[int]) -> None:
    blocks = make_conv_blocks(STACKS["relu"])
    inputs = make_conv_inputs(blocks).requires_grad_()
    conv_stack(inputs, blocks).sum().backward()
    assert frozen_calls == [3]
    blocks.requires_grad_()
    with torch.no_grad():
        conv_stack(inputs, blocks)
    assert frozen_calls == [3, 3]
    conv_stack(inputs, blocks)
    blocks.requires_grad_(False).train()
    conv_stack(inputs, blocks)
    assert frozen_calls == [3, 3]


def test_weights_that_change_are_seen() -> None:
    blocks = make_conv_blocks(STACKS["relu"])
    inputs = make_conv_inputs(blocks)
    conv_stack(inputs, blocks)
    for parameter in blocks.parameters():
        parameter.data.mul_(1.5)
    torch.testing.assert_close(conv_stack(inputs, blocks), in_turn(inputs, blocks))


def test_large_batches_go_in_pieces(frozen_calls: list[int]) -> None:
    blocks = make_conv_blocks(STACKS["prelu"])
    inputs = make_conv_inputs(blocks, 2 * module.ROWS + 1).requires_grad_()
    actual = value_and_grads(conv_stack, inputs, blocks)
    assert frozen_calls == [module.ROWS, module.ROWS, 1]
    for a, e in zip(actual, value_and_grads(in_turn, inputs, blocks), strict=True):
        torch.testing.assert_close(a, e, **NETWORK_ROUNDING)


@pytest.mark.parametrize("keep", [False, True])
def test_without_a_gradient_nothing_is_kept(keep: bool) -> None:
    weights, biases = (
        [torch.ones(2, 1, 1, 3), torch.ones(1, 2, 1, 1)],
        [torch.ones(2), torch.ones(1)],
    )
    arguments = (torch.ones(1, 1, 1, 5), [(0, 0), (0, 0)], [0.0, 0.0], keep, *weights, *biases)
    assert len(FrozenConvStack.apply(*arguments)) == (3 if keep else 1)


# --- Inputs of every kind ---


@pytest.mark.parametrize("name", ["prelu", "padded"])
def test_strides(name: str) -> None:
    blocks = make_conv_blocks(STACKS[name])
    channels = make_conv_inputs(blocks).shape[1]
    base = torch.randn(11, 2 * channels, 4, dtype=torch.float64)
    for inputs in (base.permute(2, 1, 0)[:, ::2], base[0, 0, 0].expand(3, channels, 9)):
        torch.testing.assert_close(
            conv_stack(inputs, blocks), in_turn(inputs.contiguous(), blocks), **NETWORK_ROUNDING
        )
    inputs = make_conv_inputs(blocks).requires_grad_()
    value = conv_stack(inputs, blocks)
    one = torch.ones((), dtype=torch.float64).expand_as(value)
    (actual,) = torch.autograd.grad(value, inputs, one)
    (expected,) = torch.autograd.grad(in_turn(inputs, blocks), inputs, one.contiguous())
    torch.testing.assert_close(actual, expected, **NETWORK_ROUNDING)


def test_empty_batch() -> None:
    blocks = make_conv_blocks(STACKS["relu"])
    inputs = make_conv_inputs(blocks, 0).requires_grad_()
    value = conv_stack(inputs, blocks)
    assert value.shape == (0, 5, 7)
    value.sum().backward()
    assert inputs.grad.shape == inputs.shape


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_in_its_row(bad: float) -> None:
    blocks = make_conv_blocks(STACKS["relu"])
    inputs = make_conv_inputs(blocks)
    inputs[1, 0, 4] = bad
    torch.testing.assert_close(conv_stack(inputs, blocks), in_turn(inputs, blocks), equal_nan=True)


@pytest.mark.parametrize("name", ["relu", "prelu", "whole"])
def test_autocast(name: str) -> None:
    blocks = make_conv_blocks(STACKS[name]).float()
    inputs = make_conv_inputs(blocks).requires_grad_()
    exact = value_and_grads(in_turn, inputs, blocks)
    with torch.autocast("cpu", torch.bfloat16):
        actual, eager = (value_and_grads(f, inputs, blocks) for f in (conv_stack, in_turn))
        assert conv_stack(inputs, blocks.requires_grad_()).dtype == torch.bfloat16
    for a, e, x in zip(actual, eager, exact, strict=True):
        assert a.dtype == e.dtype
        floor = torch.finfo(torch.bfloat16).eps * float(x.abs().max())
        assert_as_accurate(a.double(), e.double(), x.double().numpy(), floor=floor)


def test_two_threads_give_the_same_numbers() -> None:
    # Without the last affine map: PyTorch may share one of its sums among threads.
    blocks = list(ReleasedCNNSorter().children())[:-1]
    scores = torch.randn(130, 1, 100).requires_grad_()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        outputs = conv_stack(scores, blocks)
        (grad,) = torch.autograd.grad(outputs.square().sum(), scores)
        results.append((outputs, grad))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("training", [False, True])
def test_compile(training: bool) -> None:
    blocks = make_conv_blocks(STACKS["same"]).train(training).requires_grad_(training)
    compiled = torch.compile(conv_stack, fullgraph=True, backend="aot_eager")
    inputs = make_conv_inputs(blocks).requires_grad_()
    actual = value_and_grads(compiled, inputs, blocks)
    for a, e in zip(actual, value_and_grads(in_turn, inputs, blocks), strict=True):
        torch.testing.assert_close(a, e, **NETWORK_ROUNDING)


def test_vmap() -> None:
    blocks = make_conv_blocks(STACKS["prelu"])
    inputs = torch.randn(3, 2, 2, 10, dtype=torch.float64).requires_grad_()
    expected = in_turn(inputs.flatten(0, 1), blocks).unflatten(0, (3, 2))
    for dim in (0, 1):
        actual = torch.vmap(lambda x: conv_stack(x, blocks), dim, dim)(inputs)
        torch.testing.assert_close(actual, expected)
        grads = [torch.autograd.grad(y.square().sum(), inputs, retain_graph=True)[0]
                 for y in (actual, expected)]  # fmt: skip
        torch.testing.assert_close(*grads)


def test_vmap_over_parameters_is_refused() -> None:
    def call(weight: Tensor) -> Tensor:
        arguments = ([(0, 0)], [1.0], False, weight, torch.zeros(2))
        return FrozenConvStack.apply(torch.ones(1, 1, 1, 4), *arguments)[0]

    with pytest.raises(NotImplementedError, match="vmap over its inputs only"):
        torch.vmap(call)(torch.ones(3, 2, 1, 1, 2))


# functorch's own imports cause a deprecation warning inside torch.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["prelu", "whole"])
def test_function_transforms(name: str) -> None:
    blocks = make_conv_blocks(STACKS[name])
    inputs = make_conv_inputs(blocks)
    results = []
    for function in (conv_stack, in_turn):

        def loss(x: Tensor, function: Callable[..., Tensor] = function) -> Tensor:
            return function(x.unsqueeze(0), blocks).square().sum()

        results.append([torch.func.vmap(torch.func.grad(loss))(inputs)])
        results[-1].append(torch.func.jacrev(torch.func.jacrev(loss))(inputs[0]))
    torch.testing.assert_close(*results)


# --- Bad input ---


@pytest.mark.parametrize(
    ("inputs", "blocks", "error", "match"),
    [
        ([1.0], [nn.Conv1d(1, 2, 3)], TypeError, "inputs must be a torch.Tensor, got list"),
        (torch.ones(1, 1, 5).long(), [nn.Conv1d(1, 2, 3)], TypeError, "inputs must be float16"),
        (torch.ones(1, 1, 5).half(), [nn.Conv1d(1, 2, 3)], TypeError, "torch.float32, got torch.f"),
        (torch.ones(1, 5), [nn.Conv1d(1, 2, 3)], ValueError, r"shape \(b, c, t\), got \(1, 5\)"),
        (torch.ones(1, 2, 5), [nn.Conv1d(1, 2, 3)], ValueError, "inputs must have 1 channels"),
        (torch.ones(1, 1, 5), [], ValueError, "blocks must hold at least one block"),
        (torch.ones(1, 1, 5), [nn.Linear(5, 5)], TypeError, r"blocks\[0\] .*, got Linear"),
        (torch.ones(1, 1, 5), [nn.Sequential()], TypeError, r"blocks\[0\] .*, got nothing"),
        (
            torch.ones(1, 1, 5),
            [nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), nn.BatchNorm1d(2))],
            TypeError,
            r"blocks\[0\] .*, got Conv1d, ReLU, BatchNorm1d",
        ),
        (
            torch.ones(1, 1, 5),
            [nn.Conv1d(1, 2, 3), nn.Conv1d(3, 2, 2)],
            ValueError,
            r"blocks\[1\] must take the 2 channels of the block before",
        ),
        (torch.ones(1, 1, 5), [nn.Conv1d(1, 2, 3, stride=2)], ValueError, "must have stride"),
        (torch.ones(1, 2, 5), [nn.Conv1d(2, 2, 3, groups=2)], ValueError, "groups 1"),
        (
            torch.ones(1, 1, 5),
            [nn.Conv1d(1, 2, 3, padding=1, padding_mode="circular")],
            ValueError,
            "padded with zeros",
        ),
        (
            torch.ones(1, 1, 5),
            [nn.Conv1d(1, 2, 4), nn.Conv1d(2, 2, 3)],
            ValueError,
            r"at least one of 5 positions, got 0 after blocks\[1\]",
        ),
    ],
)
def test_bad_input(inputs: Any, blocks: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        sodeep_fast.conv_stack(inputs, blocks)


# --- Its benchmark ---


@pytest.mark.parametrize("shape", [(3, 100), (2, 16)])
@pytest.mark.parametrize("provider", benchmark.OPERATOR.providers)
def test_benchmarked_providers_are_right(provider: str, shape: tuple[int, int]) -> None:
    make_call(benchmark.OPERATOR, Case(provider, "both", shape), "cpu")()


@pytest.mark.parametrize("factor", [0.99, float("nan")])
def test_the_benchmark_refuses_what_is_wrong(factor: float) -> None:
    provider = benchmark.OPERATOR.providers["eager"]
    build = provider.build("cpu")
    wrong = replace(provider, build=lambda device: lambda scores: factor * build(scores))
    operator = replace(benchmark.OPERATOR, providers={"eager": wrong})
    with pytest.raises(WrongResult, match="value is off by"):
        make_call(operator, Case("eager", "both", (2, 16)), "cpu")
