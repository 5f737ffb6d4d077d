"""The bidirectional LSTM against torch.nn.LSTM and its equations: value, gradients, bad input."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sodeep_fast
from sodeep_fast import _native, bilstm
from sodeep_fast.ops import bilstm as module
from sodeep_fast.ops.bilstm import rounded_bilstm
from sodeep_fast.sorters.lstm import LSTMSorter
from sodeep_fast.testing import assert_as_accurate, make_scores
from sodeep_fast.testing import bilstm_derivatives as value_and_gradients
from sodeep_fast.testing import make_bilstm as make_lstm

needs_kernels = pytest.mark.skipif(not _native.HAS_CPU, reason="the C++ kernels are not built")
OPS = torch.ops.sodeep_fast
BACKENDS = ["auto", "reference"]
# None is a multiple of a vector, of the rows of a product or of those of a tile.
SHAPES = [(1, 1, 1, 1), (3, 2, 7, 2), (513, 2, 7, 1), (65, 9, 33, 2), (13, 101, 100, 2)]
SHAPES += [(7, 5, 129, 3), (1, 101, 129, 2), (3, 1, 100, 2), (35, 50, 100, 2)]


pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")


def converted(lstm: nn.LSTM, dtype: torch.dtype) -> nn.LSTM:
    """The same LSTM in another dtype."""
    other = nn.LSTM(1, lstm.hidden_size, lstm.num_layers, batch_first=True, bidirectional=True)
    other.load_state_dict(lstm.state_dict())
    return other.to(dtype)


def ours(lstm: nn.LSTM, backend: str = "auto", precision: str = "auto") -> Any:
    weights = list(lstm.parameters())
    return lambda scores: bilstm(scores, weights, backend=backend, precision=precision)


def torchs(lstm: nn.LSTM) -> Any:
    return lambda scores: lstm(scores.unsqueeze(-1))[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_worked_example(backend: str) -> None:
    # One unit: z = x for the cell's input, and 0 for the gates, which are then 1/2; no recurrence.
    gates = torch.tensor([[0.0], [0.0], [1.0], [0.0]])
    direction = [gates, torch.zeros(4, 1), torch.zeros(4), torch.zeros(4)]
    hidden = bilstm(torch.tensor([[1.0, -2.0]]), direction * 2, backend=backend)
    # c_1 = tanh(1) / 2 = 0.380797, c_2 = c_1 / 2 + tanh(-2) / 2 = -0.291615; h = tanh(c) / 2;
    # backwards c_2 = -0.482014, c_1 = c_2 / 2 + tanh(1) / 2 = 0.139790.
    expected = torch.tensor([[[0.181700, 0.069443], [-0.141810, -0.223927]]])
    torch.testing.assert_close(hidden, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("b", "n", "hidden", "layers"), SHAPES)
def test_agrees_with_torch_in_float64(
    b: int, n: int, hidden: int, layers: int, backend: str
) -> None:
    if backend == "reference" and b * n > 1000:
        pytest.skip("slow, and covered by the smaller shapes")
    lstm = make_lstm(hidden, layers, 2.0).double()
    scores = make_scores("normal", (b, n), dtype=torch.float64)
    actual = value_and_gradients(ours(lstm, backend), lstm, scores)
    expected = value_and_gradients(torchs(lstm), lstm, scores)
    for name, value in actual.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("scale", [1.0, 3.0])
# A single number may be exact by luck: many of them in the smallest shape.
@pytest.mark.parametrize(("b", "n", "hidden", "layers"), [(50, 1, 1, 1), *SHAPES[1:]])
def test_as_accurate_as_torch_in_float32(
    b: int, n: int, hidden: int, layers: int, scale: float
) -> None:
    lstm = make_lstm(hidden, layers, scale)
    exact_lstm = converted(lstm, torch.float64)
    scores = make_scores("normal", (b, n))
    exact = value_and_gradients(torchs(exact_lstm), exact_lstm, scores.double())
    eager = value_and_gradients(torchs(lstm), lstm, scores)
    for name, value in value_and_gradients(ours(lstm), lstm, scores).items():
        largest = float(exact[name].abs().max())
        assert_as_accurate(
            value.double(),
            eager[name].double(),
            exact[name].numpy().astype(np.longdouble),
            floor=torch.finfo(torch.float32).eps * largest,
            what=name,
        )


@pytest.mark.parametrize("instruction_set", ["avx512_bf16", "avx512", "avx2", "baseline"])
def test_on_other_instruction_sets(rerun_on: Any, instruction_set: str) -> None:
    rerun_on(__file__, "13 or 35 or activations or strided", instruction_set)


@needs_kernels
@pytest.mark.parametrize("gate", [0, 2, 3])
def test_activations_are_accurate_to_rounding(gate: int) -> None:
    # One step: i and o are 1, or sigmoid(x), and g is tanh(1), or tanh(x).
    scores = torch.cat([torch.linspace(-w, w, 4001) for w in (1e-6, 0.3, 1, 9, 80)])
    bias = torch.tensor([100.0, 0.0, 1.0, 100.0])
    bias[gate] = 0
    column = torch.zeros(4, 1)
    column[gate] = 1
    weights = [column, torch.zeros(4, 1), bias, torch.zeros(4)] * 2
    actual = bilstm(scores.unsqueeze(-1), weights)[:, 0, 0].double()
    x = scores.double()
    one, sigmoid, tanh = torch.tanh(torch.tensor(1.0).double()), x.sigmoid(), x.tanh()
    exact = {0: (sigmoid * one).tanh(), 2: tanh.tanh(), 3: sigmoid * one.tanh()}[gate]
    error = ((actual - exact) / exact).abs().nan_to_num()
    # Two activations and two products, each rounded about once; what is smaller than 1e-33 has
    # saturated.
    assert error[exact.abs() > 1e-33].max() < 4 * torch.finfo(torch.float32).eps
    assert (actual - exact).abs().max() < 1.5 * torch.finfo(torch.float32).eps


@needs_kernels
def test_saturated_gates_and_large_scores() -> None:
    lstm = make_lstm(20, 2, 30.0)
    scores = make_scores("outliers", (3, 50)).requires_grad_()
    hidden = bilstm(scores, list(lstm.parameters()))
    assert hidden.isfinite().all()
    assert hidden.abs().max() <= 1
    (grad,) = torch.autograd.grad(hidden.sum(), scores)
    assert grad.isfinite().all()


@needs_kernels
@pytest.mark.parametrize("segment_bytes", [0, 1 << 20])
@pytest.mark.parametrize("shape", [(70, 3, 9, 2), (5, 101, 17, 1), (9, 14, 5, 2)])
def test_what_was_not_saved_is_computed_anew(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int, int], segment_bytes: int
) -> None:
    b, n, hidden, layers = shape
    lstm = make_lstm(hidden, layers)
    scores = make_scores("normal", (b, n))
    saved = value_and_gradients(ours(lstm), lstm, scores)
    monkeypatch.setattr(module, "SAVED_BYTES", 0)
    monkeypatch.setattr(module, "SEGMENT_BYTES", segment_bytes)
    anew = value_and_gradients(ours(lstm), lstm, scores)
    for name, value in anew.items():
        # A tile may have other rows, and sums over them be grouped differently.
        torch.testing.assert_close(value, saved[name], rtol=1e-5, atol=1e-5, msg=name)
    assert torch.equal(anew["scores"], saved["scores"])


@needs_kernels
def test_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    lstm = make_lstm(7, 1)
    weights = list(lstm.parameters())
    scores = torch.randn(3, 5, requires_grad=True)
    sizes: list[int] = []

    def kept(value: Tensor) -> Tensor:
        sizes.append(value.numel())
        return value

    monkeypatch.setattr(module, "SEGMENT_BYTES", 0)
    parameters = sum(weight.numel() for weight in weights)
    for wants_weights, most in ((False, 0), (True, 2 * 7 * 15)):
        # The state before the last step, or all gates and what else the backward reads.
        for limit, gates in ((0, 2 * 2 * 7 * 3), (1 << 20, 12 * 7 * 15)):
            monkeypatch.setattr(module, "SAVED_BYTES", limit)
            lstm.requires_grad_(wants_weights)
            sizes.clear()
            with torch.autograd.graph.saved_tensors_hooks(kept, lambda value: value):
                bilstm(scores, weights)
            assert sum(sizes) == parameters + 15 + most + gates
    sizes.clear()
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda value: value), torch.no_grad():
        bilstm(scores, weights)
    assert sizes == []


@needs_kernels
@pytest.mark.parametrize(("hidden", "rows", "keeps_all"), [(128, 128, False), (256, 64, True)])
def test_layers_of_many_units_keep_more(hidden: int, rows: int, keeps_all: bool) -> None:
    weights = [weight.detach() for weight in make_lstm(hidden, 1).parameters()]
    sizes: list[int] = []

    def kept(value: Tensor) -> Tensor:
        sizes.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(kept, lambda value: value):
        bilstm(torch.randn(rows, 64, requires_grad=True), weights)
    assert (max(sizes) == 2 * 6 * hidden * rows * 64) == keeps_all


@needs_kernels
@pytest.mark.parametrize("saved_bytes", [0, 1 << 30])
def test_every_combination_of_gradients(monkeypatch: pytest.MonkeyPatch, saved_bytes: int) -> None:
    monkeypatch.setattr(module, "SAVED_BYTES", saved_bytes)
    lstm = make_lstm(3, 2).double()
    weights = list(lstm.parameters())
    scores = make_scores("normal", (2, 4), dtype=torch.float64)
    expected = value_and_gradients(torchs(lstm), lstm, scores)
    values = [expected["scores"], *list(expected.values())[2:]]
    chosen = [{k} for k in range(17)] + [set(range(17)), {0, 5}, {1, 8, 16}]
    for wanted in chosen:
        leaves = [scores.clone(), *(weight.detach().clone() for weight in weights)]
        for k in wanted:
            leaves[k].requires_grad_()
        hidden = bilstm(leaves[0], leaves[1:])
        hidden.backward(make_scores("normal", hidden.shape, dtype=torch.float64, seed=5))
        for k, leaf in enumerate(leaves):
            assert (leaf.grad is not None) == (k in wanted)
            if leaf.grad is not None:
                torch.testing.assert_close(leaf.grad, values[k])


@needs_kernels
@pytest.mark.parametrize("saved_bytes", [0, 1 << 30])
def test_gradcheck(monkeypatch: pytest.MonkeyPatch, saved_bytes: int) -> None:
    monkeypatch.setattr(module, "SAVED_BYTES", saved_bytes)
    weights = [weight.detach().requires_grad_() for weight in make_lstm(2, 2).double().parameters()]
    scores = make_scores("normal", (2, 3), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *w: bilstm(x, w), (scores, *weights))


def test_the_reference_is_differentiable_twice_and_the_kernel_says_that_it_is_not() -> None:
    weights = [weight.detach() for weight in make_lstm(2, 1).double().parameters()]
    scores = make_scores("normal", (2, 3), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: bilstm(x, weights, backend="reference"), scores)
    if _native.HAS_CPU:
        (grad,) = torch.autograd.grad(bilstm(scores, weights).sum(), scores, create_graph=True)
        with pytest.raises(NotImplementedError, match="once only; backend='reference'"):
            torch.autograd.grad(grad.sum(), scores)


@needs_kernels
def test_the_kernels_are_well_behaved_operators() -> None:
    weights = [weight.detach() for weight in make_lstm(5, 1).parameters()]
    wanted = [weight.clone().requires_grad_() for weight in weights]
    sequence = torch.randn(4, 3, 1)
    for given, keeps in itertools.product((weights, wanted), (0, 1, 2, 4)):
        for leaf in (sequence, sequence.clone().requires_grad_()):
            torch.library.opcheck(OPS.bilstm_layer, (leaf, given, None, keeps, False, False, False))
    hidden, saved, _ = OPS.bilstm_layer(sequence, weights, None, 4, False, False, False)
    _, kept, _ = OPS.bilstm_layer(sequence, weights, None, 2, False, False, False)
    assert kept.shape == (2, 2, 3, 2, 5)
    for states, values, wants in itertools.product((None, hidden), (saved, kept), (False, True)):
        arguments = (hidden, sequence, weights, None, states, values, wants, False, False)
        torch.library.opcheck(OPS.bilstm_layer_backward, arguments)
    head = torch.randn(10)
    leaf = sequence.clone().requires_grad_()
    torch.library.opcheck(OPS.bilstm_layer, (leaf, weights, head, 4, False, False, False))
    learned = head.clone().requires_grad_()
    torch.library.opcheck(OPS.bilstm_layer, (leaf, wanted, learned, 4, False, False, True))
    for states, wants, wants_head in itertools.product((None, hidden), *[(False, True)] * 2):
        arguments = (torch.randn(2, 4, 3), sequence, weights, head, states, saved, wants, False)
        torch.library.opcheck(OPS.bilstm_layer_backward, (*arguments, wants_head))


@needs_kernels
@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("features", [1, 10])
def test_bf16_kernels_are_well_behaved_operators(features: int, rounds: bool) -> None:
    lstm = nn.LSTM(features, 5, bidirectional=True)
    weights = [weight.detach().requires_grad_() for weight in lstm.parameters()]
    sequence = torch.randn(4, 3, features)
    if features > 1:
        sequence = sequence.bfloat16()
    sequence.requires_grad_()
    for keeps in (2, 4):
        torch.library.opcheck(
            OPS.bilstm_layer, (sequence, weights, None, keeps, True, rounds, False)
        )
        detached = sequence.detach(), [weight.detach() for weight in weights], None
        hidden, saved, _ = OPS.bilstm_layer(*detached, keeps, True, rounds, False)
        for states, wants in itertools.product((None, hidden), (False, True)):
            arguments = (hidden, *detached, states, saved, wants, True, False)
            torch.library.opcheck(OPS.bilstm_layer_backward, arguments)


@needs_kernels
@pytest.mark.parametrize("precision", ["full", "bf16"])
def test_compile(precision: str) -> None:
    lstm = make_lstm(5, 2)
    function = ours(lstm, precision=precision)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    scores = make_scores("normal", (3, 6))
    actual = value_and_gradients(compiled, lstm, scores)
    for name, value in value_and_gradients(function, lstm, scores).items():
        assert torch.equal(actual[name], value), name


@needs_kernels
@pytest.mark.parametrize("b", [1, 16, 128, 130])
def test_threads_do_not_change_the_numbers(b: int) -> None:
    lstm = make_lstm(40, 2)
    scores = make_scores("normal", (b, 30))
    one = value_and_gradients(ours(lstm), lstm, scores)
    torch.set_num_threads(2)
    for name, value in value_and_gradients(ours(lstm), lstm, scores).items():
        assert torch.equal(value, one[name]), name
    torch.set_num_threads(5)
    for name, value in value_and_gradients(ours(lstm), lstm, scores).items():
        torch.testing.assert_close(value, one[name], rtol=1e-5, atol=1e-5, msg=name)


@needs_kernels
@pytest.mark.parametrize("b", [1, 16, 128, 130])
def test_threads_do_not_change_the_numbers_in_bf16(b: int) -> None:
    lstm = make_lstm(40, 2)
    function = ours(lstm, precision="bf16")
    scores = make_scores("normal", (b, 30))
    one = value_and_gradients(function, lstm, scores)
    torch.set_num_threads(2)
    for name, value in value_and_gradients(function, lstm, scores).items():
        assert torch.equal(value, one[name]), name
    # Only the sums over rows may be grouped differently.
    torch.set_num_threads(5)
    several = value_and_gradients(function, lstm, scores)
    assert all(torch.equal(several[name], one[name]) for name in ("hidden", "scores"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_and_expanded_tensors(backend: str) -> None:
    lstm = make_lstm(6, 2)
    scores = make_scores("normal", (9, 8, 2))
    strided = scores[..., 1].T
    actual = value_and_gradients(ours(lstm, backend), lstm, strided)
    # PyTorch's products may add in another order where strides differ.
    exact = {} if backend == "reference" else {"rtol": 0, "atol": 0}
    for name, value in value_and_gradients(ours(lstm, backend), lstm, strided.contiguous()).items():
        torch.testing.assert_close(actual[name], value, **exact, msg=name)
    row = scores[:1, :, 0].expand(5, 8)
    assert torch.equal(ours(lstm, backend)(row), ours(lstm, backend)(row.contiguous()))
    spread = [torch.stack([weight, weight], -1)[..., 0] for weight in lstm.parameters()]
    assert not any(weight.is_contiguous() for weight in spread)
    assert torch.equal(bilstm(strided, spread, backend=backend), actual["hidden"])
    leaf = strided.clone().requires_grad_()
    ours(lstm, backend)(leaf).sum().backward()  # an expanded incoming gradient
    expected = strided.clone().requires_grad_()
    torchs(lstm)(expected).sum().backward()
    torch.testing.assert_close(leaf.grad, expected.grad)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_that_are_not_finite_stay_in_their_row(backend: str) -> None:
    lstm = make_lstm(20, 2)
    scores = make_scores("normal", (9, 6))
    clean = value_and_gradients(ours(lstm, backend), lstm, scores)
    scores[1, 2], scores[4, 0], scores[7, 5] = torch.nan, torch.inf, -torch.inf
    spoilt = value_and_gradients(ours(lstm, backend), lstm, scores)
    others = [0, 2, 3, 5, 6, 8]
    for name in ("hidden", "scores"):
        assert torch.equal(spoilt[name][others], clean[name][others])
    assert spoilt["hidden"][1].isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_empty(shape: tuple[int, int], backend: str) -> None:
    weights = [weight.detach().requires_grad_() for weight in make_lstm(4, 2).parameters()]
    scores = torch.zeros(shape, requires_grad=True)
    hidden = bilstm(scores, weights, backend=backend)
    assert hidden.shape == (*shape, 8)
    if hidden.requires_grad:  # the reference never read anything
        hidden.sum().backward()
    for leaf in (scores, *weights):
        assert leaf.grad is None or (leaf.grad.shape == leaf.shape and not leaf.grad.any())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(dtype: torch.dtype, backend: str) -> None:
    lstm = make_lstm(6, 2)
    scores = make_scores("normal", (3, 8), dtype=dtype).requires_grad_()
    hidden = ours(lstm, backend)(scores)
    assert hidden.dtype == torch.float32
    torch.testing.assert_close(hidden, ours(lstm, backend)(scores.detach().float()))
    hidden.sum().backward()
    assert scores.grad.dtype == dtype
    halves = [weight.detach().to(dtype).requires_grad_() for weight in lstm.parameters()]
    result = bilstm(scores, halves, backend=backend)
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), hidden, rtol=0, atol=0.02)
    result.sum().backward()
    assert all(weight.grad.dtype == dtype for weight in halves)


@needs_kernels
@pytest.mark.parametrize(("b", "n", "hidden", "layers"), [*SHAPES[2:], (5, 50, 33, 1)])
def test_bf16_as_accurate_as_torch_under_autocast(b: int, n: int, hidden: int, layers: int) -> None:
    lstm = make_lstm(hidden, layers)
    exact_lstm = converted(lstm, torch.float64)
    scores = make_scores("normal", (b, n))
    exact = value_and_gradients(torchs(exact_lstm), exact_lstm, scores.double())
    with torch.autocast("cpu", torch.bfloat16):
        eager = value_and_gradients(lambda x: torchs(lstm)(x).float(), lstm, scores)
    weights = list(lstm.parameters())
    actual = value_and_gradients(lambda x: bilstm(x, weights, precision="bf16"), lstm, scores)
    for name, value in actual.items():
        assert value.dtype == torch.float32
        ours_error, eager_error = (
            float((tensor.double() - exact[name]).abs().max()) for tensor in (value, eager[name])
        )
        assert ours_error <= eager_error, name


@needs_kernels
def test_rounded_states_are_those_of_full_precision_rounded_once() -> None:
    weights = list(make_lstm(40, 2).parameters())
    scores = make_scores("normal", (9, 8))
    assert torch.equal(rounded_bilstm(scores, weights), bilstm(scores, weights))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = rounded_bilstm(scores, weights)
        expected = bilstm(scores, weights)
    assert rounded.dtype == (torch.bfloat16 if _native.cpu_has_bf16() else torch.float32)
    assert torch.equal(rounded, expected.to(rounded.dtype))


@needs_kernels
def test_precision_follows_weights_and_autocast() -> None:
    lstm = make_lstm(40, 2)
    weights = list(lstm.parameters())
    scores = make_scores("normal", (9, 8))
    full, half = (bilstm(scores, weights, precision=p) for p in ("full", "bf16"))
    assert torch.equal(half, full) == (not _native.cpu_has_bf16())
    assert torch.equal(bilstm(scores, weights), full)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bilstm(scores, weights), half)
        assert torch.equal(bilstm(scores, weights, precision="full"), full)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(bilstm(scores, weights), full)
    rounded = [weight.bfloat16() for weight in weights]
    exactly = [weight.float() for weight in rounded]
    expected = bilstm(scores, exactly, precision="bf16").bfloat16()
    assert torch.equal(bilstm(scores, rounded), expected)


# --- The head ---


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", ["scores", "head", "weights"])
@pytest.mark.parametrize(("b", "n", "hidden", "layers"), [(1, 1, 1, 1), (20, 6, 33, 2)])
def test_a_head_is_a_product_with_the_hidden_states(
    b: int, n: int, hidden: int, layers: int, wanted: str, backend: str
) -> None:
    weights = list(make_lstm(hidden, layers).double().parameters())
    head = torch.randn(2 * hidden, dtype=torch.float64)
    scores = make_scores("normal", (b, n)).double()
    leaves = {"scores": [scores], "head": [scores, head], "weights": [scores, *weights]}[wanted]
    for weight in weights:
        weight.requires_grad_(wanted == "weights")
    for leaf in leaves:
        leaf.requires_grad_()
    actual = bilstm(scores, weights, head, backend=backend)
    expected = bilstm(scores, weights, backend=backend) @ head
    torch.testing.assert_close(actual, expected)
    incoming = torch.randn_like(expected)
    for ours_, theirs in zip(
        torch.autograd.grad(actual, leaves, incoming),
        torch.autograd.grad(expected, leaves, incoming),
        strict=True,
    ):
        torch.testing.assert_close(ours_, theirs)
    with torch.no_grad():
        torch.testing.assert_close(bilstm(scores, weights, head, backend=backend), expected)


@needs_kernels
@pytest.mark.parametrize("precision", ["full", "bf16"])
def test_hidden_states_are_not_kept_with_a_head(precision: str) -> None:
    weights = [weight.detach() for weight in make_lstm(40, 1).parameters()]
    head = torch.randn(80)
    scores = make_scores("normal", (7, 30)).requires_grad_()
    with torch.no_grad():
        expected = bilstm(scores, weights, precision=precision) @ head
    kept = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        actual = bilstm(scores, weights, head, precision=precision)
    torch.testing.assert_close(actual, expected)
    assert not any(value.shape == (30, 7, 80) for value in kept)


# --- The sorter ---


@needs_kernels
@pytest.mark.parametrize("head", ["position", "dense"])
def test_the_sorter_uses_the_kernel(monkeypatch: pytest.MonkeyPatch, head: str) -> None:
    sorter = LSTMSorter(6, 2, head, 9 if head == "dense" else None)
    scores = make_scores("normal", (130, 9))
    expected = sorter(scores)
    monkeypatch.setattr("sodeep_fast.sorters.lstm.HIDDEN_BYTES", 0)
    with torch.no_grad():
        torch.testing.assert_close(sorter(scores), expected)  # in parts
    monkeypatch.setattr(sorter.lstm, "forward", None)
    assert torch.equal(sorter(scores), expected)
    monkeypatch.undo()
    monkeypatch.setattr(_native, "HAS_CPU", False)
    torch.testing.assert_close(sorter(scores), expected)


# --- Bad input ---


def without(k: int) -> list[Tensor]:
    weights = list(make_lstm(2, 1).parameters())
    return weights[:k] + weights[k + 1 :]


@pytest.mark.parametrize(
    ("scores", "weights", "options", "error", "match"),
    [
        ([1.0], without(8), {}, TypeError, r"scores must be a torch\.Tensor, got list"),
        (torch.ones(2, 3).int(), without(8), {}, TypeError, "scores must be float16"),
        (torch.ones(3), without(8), {}, ValueError, r"scores must have shape \(b, n\), got \(3,\)"),
        (torch.ones(2, 3), [1.0] * 8, {}, TypeError, r"weights must be torch\.Tensors, got float"),
        (
            torch.ones(2, 3),
            [*without(7), torch.zeros(8).double()],
            {},
            TypeError,
            r"one floating-point dtype, got torch\.float32 and torch\.float64",
        ),
        (torch.ones(2, 3), without(0), {}, ValueError, "weights must be 8 for each layer, got 7"),
        (torch.ones(2, 3), [], {}, ValueError, "weights must be 8 for each layer, got 0"),
        (
            torch.ones(2, 3),
            [*without(7), torch.zeros(4)],
            {},
            ValueError,
            r"weights\[7\] must have shape \(8,\), got \(4,\)",
        ),
        (
            torch.ones(2, 3),
            [weight.to("meta") for weight in without(8)],
            {},
            ValueError,
            "weights must be on the device of scores, cpu, got meta",
        ),
        (
            torch.ones(2, 3),
            without(8),
            {"backend": "cuda"},
            ValueError,
            "it serves CUDA tensors, and this one is on cpu",
        ),
        (
            torch.ones(2, 3),
            without(8),
            {"precision": "tf32"},
            ValueError,
            "precision must be one of 'auto', 'full', 'bf16', 'fp16', got 'tf32'",
        ),
        (
            torch.ones(2, 3),
            [weight.double() for weight in without(8)],
            {"precision": "bf16"},
            ValueError,
            "precision must be 'auto' or 'full' for float64 weights, got 'bf16'",
        ),
        (torch.rand(3, 4), without(8), {"head": 1.0}, TypeError, "head must be"),
        (torch.rand(3, 4), without(8), {"head": torch.rand(4).double()}, TypeError, "head must be"),
        (
            torch.rand(3, 4),
            without(8),
            {"head": torch.rand(5)},
            ValueError,
            r"head must have shape \(4,\), got \(5,\)",
        ),
    ],
)
def test_bad_input(
    scores: Any, weights: Any, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        sodeep_fast.bilstm(scores, weights, **options)


@needs_kernels
def test_the_operators_check_sizes() -> None:
    weights = [weight.detach() for weight in make_lstm(3, 1).parameters()]
    sequence = torch.randn(4, 2, 1)
    hidden, saved, _ = OPS.bilstm_layer(sequence, weights, None, 4, False, False, False)
    for call in (
        lambda: OPS.bilstm_layer(sequence, weights[:4], None, 0, False, False, False),
        lambda: OPS.bilstm_layer(
            sequence, [*weights[:7], torch.zeros(3)], None, 0, False, False, False
        ),
        lambda: OPS.bilstm_layer(torch.randn(4, 2, 2), weights, None, 0, False, False, False),
        lambda: OPS.bilstm_layer_backward(
            hidden[1:], sequence, weights, None, None, saved, True, False, False
        ),
        lambda: OPS.bilstm_layer_backward(
            hidden, sequence, weights, None, hidden[1:], saved, True, False, False
        ),
        lambda: OPS.bilstm_layer_backward(
            hidden, sequence, weights, None, None, saved[1:], True, False, False
        ),
        lambda: OPS.bilstm_layer_backward(
            hidden, sequence, weights, None, None, saved[:, :2], True, False, False
        ),
        lambda: OPS.bilstm_layer_backward(
            hidden, sequence, weights, None, None, saved[0], True, False, False
        ),
        lambda: OPS.bilstm_layer(sequence, weights, None, -1, False, False, False),
        lambda: OPS.bilstm_layer(sequence, weights, torch.zeros(5), 0, False, False, False),
        lambda: OPS.bilstm_layer_backward(
            hidden, sequence, weights, torch.zeros(6), hidden, saved, True, False, False
        ),
        lambda: OPS.bilstm_layer_backward(
            hidden, sequence, weights, None, hidden, saved, True, False, True
        ),
    ):
        with pytest.raises(RuntimeError):
            call()
