"""The Triton kernels of bilstm in Triton's interpreter, against PyTorch's LSTM in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sodeep_fast import bilstm
from sodeep_fast.kernels import _config, _layouts
from sodeep_fast.kernels._config import LstmBlocks
from sodeep_fast.ops import bilstm as module
from sodeep_fast.testing import (
    bilstm_derivatives,
    make_bilstm,
    make_scores,
)
from sodeep_fast.testing.lstm import (
    bilstm_under_autocast,
    by_kernels,
    by_torch,
    check_bilstm_accuracy,
    check_computed_anew,
    check_empty,
    check_half_types,
    check_nothing_out_of_bounds,
    check_operators,
    check_rows_of_different_scales,
    check_rows_that_are_not_finite,
    check_saturation,
    check_scale_of_gradients,
    exact_bilstm,
)

pytestmark = pytest.mark.usefixtures("same_weights")

# Rows, steps, hidden units and layers: full and partial tiles.
SHAPES = [(50, 1, 1, 1), (3, 2, 7, 2), (8, 3, 16, 1), (17, 3, 33, 2), (5, 12, 7, 1), (6, 2, 60, 2)]
every_precision = pytest.mark.parametrize("precision", ["full", "bf16", "fp16"])


def by_triton(lstm: nn.LSTM, precision: str = "full") -> Any:
    return by_kernels(lstm, "triton", precision)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize(("b", "n", "hidden", "layers"), SHAPES)
def test_full_is_as_accurate_as_torch(
    b: int, n: int, hidden: int, layers: int, scale: float
) -> None:
    lstm = make_bilstm(hidden, layers, scale)
    scores = make_scores("normal", (b, n))
    eager = bilstm_derivatives(by_torch(lstm), lstm, scores)
    actual = bilstm_derivatives(by_triton(lstm), lstm, scores)
    eps = 2 * torch.finfo(torch.float32).eps
    check_bilstm_accuracy(actual, eager, exact_bilstm(lstm, scores), eps)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(("b", "n", "hidden", "layers"), SHAPES)
def test_half_is_as_accurate_as_torch(
    b: int, n: int, hidden: int, layers: int, precision: str
) -> None:
    lstm = make_bilstm(hidden, layers)
    scores = make_scores("normal", (b, n))
    eager = bilstm_under_autocast(lstm, scores, precision)
    actual = bilstm_derivatives(by_triton(lstm, precision), lstm, scores)
    eps = torch.finfo(module.HALVES[precision]).eps
    check_bilstm_accuracy(actual, eager, exact_bilstm(lstm, scores), eps)


@pytest.mark.parametrize("rows", [8, 16])
@every_precision
def test_tiles(monkeypatch: pytest.MonkeyPatch, rows: int, precision: str) -> None:
    """Neither a row's tile nor the other rows change its result."""
    lstm = make_bilstm(5, 2)
    scores = make_scores("normal", (19, 3))
    with torch.no_grad():
        alone = torch.cat([by_triton(lstm, precision)(row) for row in scores.split(1)])
    monkeypatch.setattr(_config, "lstm_blocks", lambda *key: LstmBlocks(rows, 16))
    found = bilstm_derivatives(by_triton(lstm, precision), lstm, scores)
    # The interpreter multiplies by NumPy, and the layer by PyTorch: both may round differently in
    # matrices of another size.
    close = 1e-6 if precision == "full" else torch.finfo(module.HALVES[precision]).eps
    torch.testing.assert_close(found["hidden"], alone, rtol=0, atol=close)
    exact = exact_bilstm(lstm, scores)
    for name, value in found.items():
        torch.testing.assert_close(value.double(), exact[name], rtol=0.05, atol=0.05, msg=name)


def test_head() -> None:
    lstm = make_bilstm(9, 2).requires_grad_(False)
    weights, head = list(lstm.parameters()), torch.randn(18)
    scores = make_scores("normal", (4, 5)).requires_grad_()
    actual = bilstm(scores, weights, head, precision="full", backend="triton")
    expected = bilstm(scores, weights, precision="full", backend="triton") @ head
    torch.testing.assert_close(actual, expected)
    incoming = torch.randn_like(expected)
    ours_, theirs = (torch.autograd.grad(y, scores, incoming)[0] for y in (actual, expected))
    torch.testing.assert_close(ours_, theirs)


def test_the_table_of_tiles() -> None:
    for full in (False, True):
        for backward in (False, True):
            for batch in (1, 528, 529, 1 << 40):
                blocks = _config.lstm_blocks(backward, full, True, batch, 90)
                assert blocks.rows % _layouts.LSTM_GRANULE == 0
                assert blocks.warps(16) in (1, 2)
                assert blocks.warps(128) == 8


@every_precision
def test_what_was_not_saved_is_computed_anew(precision: str) -> None:
    check_computed_anew("triton", precision)


def test_every_combination_of_gradients() -> None:
    lstm = make_bilstm(3, 2)
    weights = list(lstm.parameters())
    scores = make_scores("normal", (2, 4))
    expected = bilstm_derivatives(by_torch(lstm), lstm, scores)
    incoming = make_scores("normal", (2, 4, 6), seed=5)
    values = [expected["scores"], *list(expected.values())[2:]]
    for wanted in ({0}, {1}, {2}, {7}, {9}, {14}, {0, 5}, {1, 8, 16}):
        leaves = [scores.clone(), *(weight.detach().clone() for weight in weights)]
        for k in wanted:
            leaves[k].requires_grad_()
        bilstm(leaves[0], leaves[1:], backend="triton", precision="full").backward(incoming)
        for k, leaf in enumerate(leaves):
            assert (leaf.grad is not None) == (k in wanted)
            if leaf.grad is not None:
                torch.testing.assert_close(leaf.grad, values[k])


@every_precision
def test_nothing_is_kept_without_gradients(precision: str) -> None:
    lstm = make_bilstm(3, 1)
    scores = torch.randn(2, 4, requires_grad=True)
    weights = [weight.detach() for weight in lstm.parameters()]
    for wanted, steps in ((scores, 4), (scores.detach(), 0)):
        kept: list[tuple[int, ...]] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda value, kept=kept: kept.append(value.shape) or value, lambda value: value
        ):
            bilstm(wanted, weights, backend="triton", precision=precision)
        shape = _layouts.lstm_saved_shape(steps, 2, 3)
        assert (shape in kept) == (steps > 0)


@pytest.mark.parametrize("exponent", [-90, -40, 0, 40, 90])
def test_fp16_gradients_have_their_own_scale(exponent: int) -> None:
    check_scale_of_gradients(make_bilstm(6, 2), "triton", exponent)


def test_fp16_rows_of_different_scales() -> None:
    check_rows_of_different_scales("triton")


@every_precision
def test_what_is_not_finite_stays_in_its_row(precision: str) -> None:
    check_rows_that_are_not_finite(make_bilstm(5, 2), "triton", precision)


@every_precision
def test_large_scores_and_weights_saturate(precision: str) -> None:
    check_saturation("triton", precision)


@every_precision
@pytest.mark.parametrize("hidden", [9, 18])
def test_nothing_out_of_bounds(hidden: int, precision: str) -> None:
    from sodeep_fast.kernels import bilstm as kernels

    check_nothing_out_of_bounds(kernels, hidden, precision)


def test_strided_and_expanded_tensors() -> None:
    lstm = make_bilstm(4, 2)
    scores = make_scores("normal", (5, 9, 2))
    strided = scores[..., 1].T
    expected = bilstm_derivatives(by_triton(lstm), lstm, strided.contiguous())
    for name, value in bilstm_derivatives(by_triton(lstm), lstm, strided).items():
        assert torch.equal(value, expected[name]), name
    row = scores[:1, :, 0].expand(5, 9)
    assert torch.equal(by_triton(lstm)(row), by_triton(lstm)(row.contiguous()))
    spread = [torch.stack([weight, weight], -1)[..., 0] for weight in lstm.parameters()]
    found = bilstm(strided, spread, backend="triton", precision="full")
    assert torch.equal(found, expected["hidden"])
    leaf = strided.clone().requires_grad_()
    by_triton(lstm)(leaf).sum().backward()  # an expanded incoming gradient
    wanted = strided.clone().requires_grad_()
    by_torch(lstm)(wanted).sum().backward()
    torch.testing.assert_close(leaf.grad, wanted.grad)


@every_precision
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_empty(shape: tuple[int, int], precision: str) -> None:
    check_empty(shape, "triton", precision)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(dtype: torch.dtype) -> None:
    check_half_types(dtype, "triton")


def test_opcheck() -> None:
    check_operators("triton")


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")
def test_compile() -> None:
    lstm = make_bilstm(3, 2)
    compiled = torch.compile(by_triton(lstm, "fp16"), fullgraph=True, backend="aot_eager")
    scores = make_scores("normal", (3, 4))
    actual = bilstm_derivatives(compiled, lstm, scores)
    for name, value in bilstm_derivatives(by_triton(lstm, "fp16"), lstm, scores).items():
        assert torch.equal(actual[name], value), name


def test_differentiable_once() -> None:
    lstm = make_bilstm(2, 1)
    scores = torch.randn(2, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(by_triton(lstm)(scores).sum(), scores, create_graph=True)
    with pytest.raises(NotImplementedError, match="once only"):
        torch.autograd.grad(grad.sum(), scores)


# --- Which precision and which kernels ---


def test_precision_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(dtype: torch.dtype = torch.float32, precision: str = "auto") -> str:
        return module._products(precision, dtype, "cuda")

    assert chosen() == "fp16"  # as many digits as PyTorch's own, which multiplies in TF32
    assert chosen(torch.float64) == "full"
    assert chosen(torch.bfloat16) == "bf16"
    assert chosen(torch.float16) == "fp16"
    assert [chosen(precision=name) for name in ("full", "bf16", "fp16")] == ["full", "bf16", "fp16"]
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: True)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
    assert chosen() == "bf16"
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee")
    assert chosen() == "full"


@pytest.mark.parametrize(("hidden", "precision"), [(65, "full"), (129, "bf16"), (512, "fp16")])
def test_weights_that_are_too_large(hidden: int, precision: str) -> None:
    lstm = make_bilstm(hidden, 1)
    match = f"recurrent weights of {hidden} hidden units.* in precision '{precision}'"
    with pytest.raises(ValueError, match=match):
        by_triton(lstm, precision)(torch.zeros(1, 2))
    smaller = make_bilstm(hidden - 1, 1)
    assert module._why_not_triton(list(smaller.parameters()), precision) is None or hidden == 512
    double = [weight.double() for weight in lstm.parameters()]
    with pytest.raises(ValueError, match="they are float64"):
        bilstm(torch.zeros(1, 2), double, backend="triton")


@pytest.mark.parametrize("precision", ["auto", "full", "bf16", "fp16"])
def test_pytorchs_own(precision: str) -> None:
    """PyTorch's LSTM, which is used for weights that are too large; here on the CPU."""
    lstm = make_bilstm(6, 2)
    scores = make_scores("normal", (3, 5))

    def what_serves(x: Tensor) -> Tensor:
        return module._by_torch(x, list(lstm.parameters()), precision)

    with torch.backends.mkldnn.flags(enabled=False):  # which has no LSTM in float16
        expected = bilstm_derivatives(by_torch(lstm), lstm, scores)
        found = bilstm_derivatives(what_serves, lstm, scores)
    for name, value in found.items():
        assert value.dtype == torch.float32
        close = 1e-6 if precision in ("auto", "full") else 0.05
        torch.testing.assert_close(value, expected[name], rtol=close, atol=close, msg=name)
    empty = module._by_torch(torch.zeros(3, 0), list(lstm.parameters()), precision)
    assert empty.shape == (3, 0, 12)


def test_the_named_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from sodeep_fast.kernels import bilstm as kernels

    launched = []
    for name in ("bilstm_fwd_kernel", "bilstm_bwd_kernel"):

        class Spy:
            kernel, label = getattr(kernels, name), name

            def __getitem__(self, grid: tuple[int, int]) -> Any:
                launched.append((self.label, grid))
                return self.kernel[grid]

        monkeypatch.setattr(kernels, name, Spy())
    scores = torch.randn(9, 3, requires_grad=True)
    lstm = make_bilstm(4, 1).requires_grad_(False)
    by_triton(lstm, "fp16")(scores).sum().backward()
    # Both directions in one launch, two tiles of 8 rows.
    assert launched == [("bilstm_fwd_kernel", (2, 2)), ("bilstm_bwd_kernel", (2, 2))]
