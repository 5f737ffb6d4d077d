"""The Triton kernels of conv_stack in Triton's interpreter, against PyTorch's layers in float64."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sodeep_fast.kernels import _config
from sodeep_fast.kernels._config import ConvBlocks
from sodeep_fast.ops.conv_stack import conv_stack
from sodeep_fast.sorters.cnn import CNNSorter, ReleasedCNNSorter
from sodeep_fast.testing import (
    TILED_STACKS,
    ConvLayer,
    check_conv_stack,
    conv_arguments,
    conv_signs,
    derivatives,
    in_turn,
    make_conv_blocks,
    make_conv_inputs,
    make_scores,
)

pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")

OPS = torch.ops.sodeep_fast
# Also with one more channel, and kernels as long as the row or longer.
STACKS: dict[str, list[ConvLayer]] = {
    **TILED_STACKS,
    "without bias": [(1, 16, 3, 0, False, True, 0.1), (16, 3, 3, 0, False, False, None)],
    "linear between": [(1, 16, 2, 0, True, True, None), (16, 3, 3, 0, True, False, 0)],
    "negative slope": [(1, 33, 3, 0, True, True, -0.3), (33, 3, 3, 0, True, True, -0.1)],
    "slope zero": [(1, 9, 3, 0, True, False, (0.0,)), (9, 3, 3, 0, True, False, None)],
    "slope one": [(1, 3, 2, 0, True, True, 1.0), (3, 3, 3, 0, True, False, 0)],
    "whole": [(1, 16, 3, 0, True, True, 0.3), (16, 33, 8, 0, True, True, None)],
    "whole, odd": [(1, 3, 3, 0, True, True, 0.3), (3, 5, 8, 0, True, False, 0)],
    "longer than the row": [(1, 16, 1, 0, True, True, 0), (16, 3, 19, "same", True, False, 0)],
}


def ours(blocks: nn.ModuleList) -> Any:
    return lambda inputs: conv_stack(inputs, blocks, backend="triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", STACKS)
def test_as_accurate_as_torch(name: str, dtype: torch.dtype) -> None:
    blocks = make_conv_blocks(STACKS[name]).to(dtype)
    check_conv_stack(blocks, make_conv_inputs(blocks, 5))


@pytest.mark.parametrize("name", ["relu", "same", "whole"])
def test_one_row(name: str) -> None:
    blocks = make_conv_blocks(STACKS[name]).float()
    check_conv_stack(blocks, make_conv_inputs(blocks, 1))


def test_the_released_network(monkeypatch: pytest.MonkeyPatch) -> None:
    # The tile with which the interpreter is fastest.
    monkeypatch.setattr(_config, "conv_blocks", lambda *key: ConvBlocks(64, 64, 128, 4, 2))
    blocks = nn.ModuleList(ReleasedCNNSorter().children())
    check_conv_stack(blocks, make_scores("uniform", (1, 1, 100)))


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_the_network_of_the_paper(padding: str) -> None:
    blocks = CNNSorter(12, 4, padding=padding).blocks
    check_conv_stack(nn.ModuleList(blocks), make_scores("uniform", (3, 1, 12)))


@pytest.mark.parametrize("tile", [(16, 16, 16), (32, 32, 32), (64, 16, 64)])
@pytest.mark.parametrize("name", ["relu", "same", "whole"])
def test_tiles(monkeypatch: pytest.MonkeyPatch, name: str, tile: tuple[int, int, int]) -> None:
    """Many tiles in each direction, or one that is mostly empty."""
    monkeypatch.setattr(_config, "conv_blocks", lambda *key: ConvBlocks(*tile, 4, 2))
    blocks = make_conv_blocks(STACKS[name]).float()
    check_conv_stack(blocks, make_conv_inputs(blocks, 7))


def test_the_table_of_tiles() -> None:
    for full in (False, True):
        for positions in (1, 4096, 4097, 1 << 40):
            for width, depth, align in ((1, 2, 1), (100, 8192, 8), (8192, 100, 4)):
                blocks = _config.conv_blocks(full, positions, width, depth, align, 90)
                assert min(blocks[:3]) >= 16
                assert blocks.channels % 8 == 0


@pytest.mark.parametrize("name", ["relu", "same", "negative slope"])
def test_signs(name: str) -> None:
    blocks = make_conv_blocks(STACKS[name])
    hidden = make_conv_inputs(blocks)
    found = conv_signs(hidden.float(), copy.deepcopy(blocks).float())
    for (*layers, activation), signs in zip(blocks, found, strict=True):
        hidden = in_turn(hidden, layers)
        clear = hidden.abs() > 1e-5
        assert torch.equal(signs[clear], hidden[clear] > 0)
        hidden = activation(hidden)


def test_an_output_of_zero_is_not_positive() -> None:
    """Its slope is the one below zero, as in PyTorch."""
    conv = nn.Conv1d(1, 2, 1, bias=False)
    blocks = nn.ModuleList([nn.Sequential(conv, nn.PReLU(init=0.5)), nn.Conv1d(2, 1, 1)])
    blocks.requires_grad_(False)
    leaf = torch.zeros(1, 1, 3, requires_grad=True)
    (actual,) = torch.autograd.grad(ours(blocks)(leaf).sum(), leaf)
    (expected,) = torch.autograd.grad(in_turn(leaf, blocks).sum(), leaf)
    torch.testing.assert_close(actual, expected)


def test_nothing_is_kept_without_gradients() -> None:
    blocks = make_conv_blocks(STACKS["relu"]).float()
    inputs = make_conv_inputs(blocks)
    parameters, *options = conv_arguments(blocks)
    with torch.no_grad():
        value = ours(blocks.requires_grad_())(inputs)  # no gradient is needed here
    for saves, size in ((False, 0), (True, 8 * 2 + 7 * 5)):
        output, signs = OPS.triton_conv_stack(inputs.mT, parameters, *options, saves, False)
        assert signs.shape == (3, size)
        assert torch.equal(output.mT, value)


@pytest.mark.parametrize("name", ["relu", "negative slope"])
def test_opcheck(name: str) -> None:
    blocks = make_conv_blocks(STACKS[name]).float()
    parameters, *options = conv_arguments(blocks)
    sequence = make_conv_inputs(blocks, 1).mT.contiguous()
    torch.library.opcheck(OPS.triton_conv_stack, (sequence, parameters, *options, False, False))
    leaf = sequence.clone().requires_grad_()
    torch.library.opcheck(OPS.triton_conv_stack, (leaf, parameters, *options, True, False))
    output, signs = OPS.triton_conv_stack(sequence, parameters, *options, True, False)
    for operator, first in (
        (OPS.triton_conv_stack_backward, output),
        (OPS.triton_conv_stack_tangent, sequence),
    ):
        leaf = first.clone().requires_grad_()
        torch.library.opcheck(operator, (leaf, signs, parameters, *options, False))


@pytest.mark.parametrize("name", ["same", "negative slope", "whole"])
def test_third_derivatives(name: str) -> None:
    """Backward and tangent are each other's transpose."""
    blocks = make_conv_blocks(STACKS[name]).float()
    inputs = make_conv_inputs(blocks)
    value = in_turn(inputs, blocks)
    directions = (torch.randn_like(value), torch.randn_like(inputs))
    first = derivatives(ours(blocks), inputs, *directions)
    # <J v, w> = <v, J' w>, with J from the tangent and J' from the backward.
    forth = (first["for_grad"] * directions[0]).sum()
    back = (first["grad"] * directions[1]).sum()
    torch.testing.assert_close(forth, back)
    assert not first["second"].any()
    grad = directions[0].requires_grad_()
    leaf = inputs.requires_grad_()
    (gradient,) = torch.autograd.grad(ours(blocks)(leaf), leaf, grad, create_graph=True)
    tangent = directions[1].requires_grad_()
    (product,) = torch.autograd.grad(gradient, grad, tangent, create_graph=True)
    (again,) = torch.autograd.grad(product, tangent, grad)
    torch.testing.assert_close(again, gradient)


def test_strided_and_expanded_tensors() -> None:
    blocks = make_conv_blocks(STACKS["prelu"]).float()
    base = torch.randn(11, 6, 4)
    for inputs in (base.permute(2, 1, 0)[:, ::2], base[0, 0, 0].expand(3, 3, 9)):
        assert torch.equal(ours(blocks)(inputs), ours(blocks)(inputs.contiguous()))
    leaf = make_conv_inputs(blocks).requires_grad_()
    value = ours(blocks)(leaf)
    one = torch.ones(()).expand_as(value)
    results = [torch.autograd.grad(value, leaf, g, retain_graph=True) for g in (one, one.clone())]
    assert torch.equal(results[0][0], results[1][0])
    spread = copy.deepcopy(blocks)
    for conv in (layer for layer in spread.modules() if isinstance(layer, nn.Conv1d)):
        conv.weight.data = torch.stack([conv.weight, conv.weight], -1)[..., 0]
    assert torch.equal(ours(spread)(leaf), value)


def test_empty_batch() -> None:
    blocks = make_conv_blocks(STACKS["relu"]).float()
    leaf = make_conv_inputs(blocks, 0).requires_grad_()
    value = ours(blocks)(leaf)
    assert value.shape == (0, 33, 7)
    (grad,) = torch.autograd.grad(value, leaf, value.detach().requires_grad_(), create_graph=True)
    assert grad.shape == leaf.shape


@pytest.mark.parametrize("name", ["relu", "same", "negative slope", "whole"])
def test_what_is_not_finite_stays_in_its_row(name: str) -> None:
    blocks = make_conv_blocks(STACKS[name]).float()
    others = [0, 2, 3, 5, 6, 8]

    def run(inputs: Tensor, incoming: Tensor) -> tuple[Tensor, Tensor]:
        leaf = inputs.clone().requires_grad_()
        value = ours(blocks)(leaf)
        return value.detach(), torch.autograd.grad(value, leaf, incoming)[0]

    inputs = make_conv_inputs(blocks, 9)
    incoming = torch.randn_like(in_turn(inputs, blocks))
    value, grad = run(inputs, incoming)
    bad, bad_incoming = inputs.clone(), incoming.clone()
    bad[1, 0, 4], bad[4, 0, 0], bad[7, 0, 9] = torch.nan, torch.inf, -torch.inf
    bad_incoming[1], bad_incoming[4, 1, 0] = torch.nan, torch.inf
    bad_value, bad_grad = run(bad, bad_incoming)
    assert torch.equal(bad_value[others], value[others])
    assert torch.equal(bad_grad[others], grad[others])
    torch.testing.assert_close(bad_value, in_turn(bad, blocks), equal_nan=True)
    assert bad_grad[1].isnan().any()


def test_a_row_alone_is_as_it_is_among_others() -> None:
    blocks = make_conv_blocks(STACKS["same"]).float()
    inputs = make_conv_inputs(blocks, 19)
    alone = torch.cat([ours(blocks)(row) for row in inputs[::6].split(1)])
    # The interpreter multiplies by NumPy, which may round differently in another place of a tile.
    torch.testing.assert_close(ours(blocks)(inputs)[::6], alone)


def test_nothing_out_of_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs lie in memory full of NaN, and outputs in memory that stays as it was."""
    from sodeep_fast.kernels import conv_stack as kernels

    outer: list[Tensor] = []

    def guarded(stack: Any, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        shape = (len(stack.source), *shape)
        size = int(np.prod(shape))
        outer.append(torch.full((size + 512,), 7, dtype=dtype or stack.source.dtype))
        return outer[-1][256 : 256 + size].view(shape)

    def surrounded(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        memory = torch.full((value.numel() + 512,), torch.nan)
        memory[256:-256] = value.mT.flatten() if value.dim() > 1 else value
        inner = memory[256:-256]
        return inner.view(value.mT.shape).mT if value.dim() > 1 else inner

    for name in ("relu", "negative slope"):
        blocks = make_conv_blocks(STACKS[name]).float()
        parameters, *options = conv_arguments(blocks)
        sequence = make_conv_inputs(blocks).mT
        found = []
        for guards in (False, True):
            if guards:
                monkeypatch.setattr(kernels._Stack, "empty", guarded)
                sequence = surrounded(sequence)
                parameters = [surrounded(value) for value in parameters]
            output, signs = kernels.conv_stack(sequence, parameters, *options, True, False)
            rest = (signs, parameters, *options, False)
            grad = kernels.conv_stack_backward(output, *rest)
            found.append((output, signs, grad, kernels.conv_stack_tangent(sequence, *rest)))
        monkeypatch.undo()
        for expected, value in zip(*found, strict=True):
            assert torch.equal(value, expected)
    assert len(outer) >= 14
    for memory in outer:
        assert (memory[:256] == 7).all()
        assert (memory[-256:] == 7).all()


def test_autocast() -> None:
    blocks = make_conv_blocks(STACKS["relu"]).float()
    inputs = make_conv_inputs(blocks)
    with torch.autocast("cpu", torch.bfloat16):
        value = ours(blocks)(inputs)
    assert value.dtype == torch.bfloat16
    torch.testing.assert_close(value.float(), in_turn(inputs, blocks), rtol=0.02, atol=0.05)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")
def test_compile() -> None:
    blocks = make_conv_blocks(STACKS["same"]).float()
    compiled = torch.compile(ours(blocks), fullgraph=True, backend="aot_eager")
    inputs = make_conv_inputs(blocks)
    directions = (torch.randn_like(in_turn(inputs, blocks)), torch.randn_like(inputs))
    results = []
    for function in (compiled, ours(blocks)):
        leaf = inputs.clone().requires_grad_()
        value = function(leaf)
        results.append((value, torch.autograd.grad(value, leaf, directions[0])[0]))
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual, expected)


def test_vmap() -> None:
    blocks = make_conv_blocks(STACKS["prelu"]).float()
    inputs = torch.randn(3, 2, 3, 10).requires_grad_()
    expected = in_turn(inputs.flatten(0, 1), blocks).unflatten(0, (3, 2))
    for dim in (0, 1):
        actual = torch.vmap(ours(blocks), dim, dim)(inputs)
        torch.testing.assert_close(actual, expected)
        grads = [torch.autograd.grad(y.square().sum(), inputs, retain_graph=True)[0]
                 for y in (actual, expected)]  # fmt: skip
        torch.testing.assert_close(*grads)


# --- Which products and which route ---


def test_tf32_is_pytorchs_choice() -> None:
    from sodeep_fast.ops._triton_conv_stack import _allows_tf32

    found = []
    for allowed in (True, False):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
            found.append(_allows_tf32())
    compiled = torch.compile(lambda x: x + _allows_tf32(), fullgraph=True, backend="aot_eager")
    assert compiled(torch.zeros(())) == _allows_tf32()
    assert found == [True, False]


def test_a_launch_for_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from sodeep_fast.kernels import conv_stack as kernels

    launched = []
    for name in ("conv_stack_kernel", "conv_stack_slopes_kernel"):

        class Spy:
            kernel, label = getattr(kernels, name), name

            def __getitem__(self, grid: tuple[int]) -> Any:
                launched.append((self.label, grid))
                return self.kernel[grid]

        monkeypatch.setattr(kernels, name, Spy())
    blocks = make_conv_blocks(STACKS["prelu"]).float()
    leaf = make_conv_inputs(blocks, 2).requires_grad_()
    ours(blocks)(leaf).sum().backward()
    # 20 and 8 positions in tiles of 16, 65 channels and 3 in tiles of 32 and 16.
    grids = [(2 * 3,), (1,), (2 * 3,), (2,)]
    assert launched == [("conv_stack_kernel", grid) for grid in grids]
    blocks = make_conv_blocks(STACKS["relu"]).float()
    launched.clear()
    ours(blocks)(make_conv_inputs(blocks).requires_grad_()).sum().backward()
    assert [name for name, _ in launched[2:]] == [
        "conv_stack_slopes_kernel", "conv_stack_kernel", "conv_stack_kernel",
    ]  # fmt: skip


def test_by_default_pytorch_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = make_conv_blocks(STACKS["relu"]).float()
    from sodeep_fast.kernels import conv_stack as kernels

    monkeypatch.setattr(kernels, "conv_stack_kernel", None)
    conv_stack(make_conv_inputs(blocks), blocks)
    with pytest.raises(TypeError):
        ours(blocks)(make_conv_inputs(blocks))


def test_the_reference_by_name() -> None:
    blocks = make_conv_blocks(STACKS["slope one"])
    inputs = make_conv_inputs(blocks)
    actual = conv_stack(inputs, blocks, backend="reference")
    torch.testing.assert_close(actual, in_turn(inputs, blocks))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda blocks: blocks.requires_grad_(), r"parameters of blocks\[0\] want gradients"),
        (lambda blocks: blocks.train(), r"blocks\[0\] normalizes by the statistics of the batch"),
        (lambda blocks: blocks.double(), "float64 is left to PyTorch"),
        (
            lambda blocks: blocks[1].__setitem__(2, nn.PReLU(33).requires_grad_(False)),
            r"the PReLU of blocks\[1\] has a slope for each channel",
        ),
    ],
)
def test_blocks_that_are_not_for_it(change: Any, match: str) -> None:
    blocks = make_conv_blocks(STACKS["relu"]).float()
    change(blocks)
    inputs = make_conv_inputs(blocks)
    with pytest.raises(ValueError, match=f"backend='triton' is not available for these.*{match}"):
        ours(blocks)(inputs)
    conv_stack(inputs, blocks)


@pytest.mark.parametrize("backend", ["cpp", "cuda"])
def test_backends_that_it_has_not(backend: str) -> None:
    blocks = make_conv_blocks(STACKS["relu"]).float()
    with pytest.raises(ValueError, match=f"conv_stack has no {backend} kernels yet"):
        conv_stack(make_conv_inputs(blocks), blocks, backend=backend)
    with pytest.raises(ValueError, match="backend must be one of"):
        conv_stack(make_conv_inputs(blocks), blocks, backend="cudnn")


def test_the_operators_check_their_tensors() -> None:
    parameters, *options = conv_arguments(make_conv_blocks(STACKS["relu"]).float())
    with pytest.raises(ValueError, match=r"block of \(16, 3, 1\) cannot take"):
        OPS.triton_conv_stack(torch.ones(2, 10, 2), parameters, *options, False, False)
    parameters[1] = torch.ones(15)
    with pytest.raises(ValueError, match="must have 16 channels"):
        OPS.triton_conv_stack(torch.ones(2, 10, 1), parameters, *options, False, False)
