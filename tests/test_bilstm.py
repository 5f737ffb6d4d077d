"""The bidirectional LSTM against torch.nn.LSTM and its equations: values and gradients."""

from typing import Any

import pytest
import torch

from sodeep_fast import _native, bilstm
from sodeep_fast.ops import bilstm as module
from sodeep_fast.sorters.lstm import LSTMSorter
from sodeep_fast.testing import bilstm_derivatives, make_bilstm, make_scores
from sodeep_fast.testing.lstm import by_kernels, by_torch, check_bilstm_accuracy, exact_bilstm

BACKENDS = ["auto", "reference"]
# No size is a multiple of a vector, of the rows of a product or of those of a tile.
SHAPES = [(1, 1, 1, 1), (3, 2, 7, 2), (513, 2, 7, 1), (65, 9, 33, 2), (13, 101, 100, 2)]
SHAPES += [(7, 5, 129, 3), (1, 101, 129, 2), (3, 1, 100, 2), (35, 50, 100, 2)]

pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")


@pytest.mark.parametrize("backend", BACKENDS)
def test_worked_literal(backend: str) -> None:
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
    lstm = make_bilstm(hidden, layers, 2.0).double()
    scores = make_scores("normal", (b, n), dtype=torch.float64)
    actual = bilstm_derivatives(by_kernels(lstm, backend), lstm, scores)
    expected = bilstm_derivatives(by_torch(lstm), lstm, scores)
    for name, value in actual.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("scale", [1.0, 3.0])
# A single number may be exact by luck, so the smallest shape has many rows.
@pytest.mark.parametrize(("b", "n", "hidden", "layers"), [(50, 1, 1, 1), *SHAPES[1:]])
def test_as_accurate_as_torch_in_float32(
    b: int, n: int, hidden: int, layers: int, scale: float
) -> None:
    lstm = make_bilstm(hidden, layers, scale)
    scores = make_scores("normal", (b, n))
    exact = exact_bilstm(lstm, scores)
    eager = bilstm_derivatives(by_torch(lstm), lstm, scores)
    actual = bilstm_derivatives(by_kernels(lstm), lstm, scores)
    check_bilstm_accuracy(actual, eager, exact, torch.finfo(torch.float32).eps)


@pytest.mark.kernels
@pytest.mark.parametrize("instruction_set", ["avx512_bf16", "avx512", "avx2", "baseline"])
def test_on_other_instruction_sets(rerun_on: Any, instruction_set: str) -> None:
    rerun_on(__file__, "13 or 35 or activations or strided", 15, instruction_set)


@pytest.mark.kernels
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
    # Two activations and two products, each with about one rounding error; below 1e-33 they have
    # saturated.
    assert error[exact.abs() > 1e-33].max() < 4 * torch.finfo(torch.float32).eps
    assert (actual - exact).abs().max() < 1.5 * torch.finfo(torch.float32).eps


@pytest.mark.kernels
def test_saturated_gates_and_large_scores() -> None:
    lstm = make_bilstm(20, 2, 30.0)
    scores = make_scores("outliers", (3, 50)).requires_grad_()
    hidden = bilstm(scores, list(lstm.parameters()))
    assert hidden.isfinite().all()
    assert hidden.abs().max() <= 1
    (grad,) = torch.autograd.grad(hidden.sum(), scores)
    assert grad.isfinite().all()


@pytest.mark.kernels
@pytest.mark.parametrize("saved_bytes", [0, 1 << 30])
def test_every_combination_of_gradients(monkeypatch: pytest.MonkeyPatch, saved_bytes: int) -> None:
    monkeypatch.setattr(module, "SAVED_BYTES", saved_bytes)
    lstm = make_bilstm(3, 2).double()
    weights = list(lstm.parameters())
    scores = make_scores("normal", (2, 4), dtype=torch.float64)
    expected = bilstm_derivatives(by_torch(lstm), lstm, scores)
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


@pytest.mark.kernels
@pytest.mark.parametrize("saved_bytes", [0, 1 << 30])
def test_gradcheck(monkeypatch: pytest.MonkeyPatch, saved_bytes: int) -> None:
    monkeypatch.setattr(module, "SAVED_BYTES", saved_bytes)
    weights = [
        weight.detach().requires_grad_() for weight in make_bilstm(2, 2).double().parameters()
    ]
    scores = make_scores("normal", (2, 3), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *w: bilstm(x, w), (scores, *weights))


def test_the_reference_is_differentiable_twice_and_the_kernel_says_that_it_is_not() -> None:
    weights = [weight.detach() for weight in make_bilstm(2, 1).double().parameters()]
    scores = make_scores("normal", (2, 3), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: bilstm(x, weights, backend="reference"), scores)
    if _native.HAS_CPU:
        (grad,) = torch.autograd.grad(bilstm(scores, weights).sum(), scores, create_graph=True)
        with pytest.raises(NotImplementedError, match="once only; backend='reference'"):
            torch.autograd.grad(grad.sum(), scores)


@pytest.mark.kernels
@pytest.mark.parametrize("precision", ["full", "bf16"])
def test_compile(precision: str) -> None:
    lstm = make_bilstm(5, 2)
    function = by_kernels(lstm, precision=precision)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    scores = make_scores("normal", (3, 6))
    actual = bilstm_derivatives(compiled, lstm, scores)
    for name, value in bilstm_derivatives(function, lstm, scores).items():
        assert torch.equal(actual[name], value), name


@pytest.mark.kernels
@pytest.mark.parametrize("b", [1, 16, 128, 130])
def test_threads_do_not_change_the_numbers(b: int) -> None:
    lstm = make_bilstm(40, 2)
    scores = make_scores("normal", (b, 30))
    one = bilstm_derivatives(by_kernels(lstm), lstm, scores)
    torch.set_num_threads(2)
    for name, value in bilstm_derivatives(by_kernels(lstm), lstm, scores).items():
        assert torch.equal(value, one[name]), name
    torch.set_num_threads(5)
    for name, value in bilstm_derivatives(by_kernels(lstm), lstm, scores).items():
        torch.testing.assert_close(value, one[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_and_expanded_tensors(backend: str) -> None:
    lstm = make_bilstm(6, 2)
    scores = make_scores("normal", (9, 8, 2))
    strided = scores[..., 1].T
    actual = bilstm_derivatives(by_kernels(lstm, backend), lstm, strided)
    # PyTorch's products may add in another order if strides differ.
    exact = {} if backend == "reference" or not _native.HAS_CPU else {"rtol": 0, "atol": 0}
    for name, value in bilstm_derivatives(
        by_kernels(lstm, backend), lstm, strided.contiguous()
    ).items():
        torch.testing.assert_close(actual[name], value, **exact, msg=name)
    row = scores[:1, :, 0].expand(5, 8)
    assert torch.equal(by_kernels(lstm, backend)(row), by_kernels(lstm, backend)(row.contiguous()))
    spread = [torch.stack([weight, weight], -1)[..., 0] for weight in lstm.parameters()]
    assert not any(weight.is_contiguous() for weight in spread)
    assert torch.equal(bilstm(strided, spread, backend=backend), actual["hidden"])
    leaf = strided.clone().requires_grad_()
    by_kernels(lstm, backend)(leaf).sum().backward()  # an expanded incoming gradient
    expected = strided.clone().requires_grad_()
    by_torch(lstm)(expected).sum().backward()
    torch.testing.assert_close(leaf.grad, expected.grad)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_stays_in_its_row(backend: str) -> None:
    lstm = make_bilstm(20, 2)
    scores = make_scores("normal", (9, 6))
    clean = bilstm_derivatives(by_kernels(lstm, backend), lstm, scores)
    scores[1, 2], scores[4, 0], scores[7, 5] = torch.nan, torch.inf, -torch.inf
    spoilt = bilstm_derivatives(by_kernels(lstm, backend), lstm, scores)
    others = [0, 2, 3, 5, 6, 8]
    for name in ("hidden", "scores"):
        assert torch.equal(spoilt[name][others], clean[name][others])
    assert spoilt["hidden"][1].isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_empty(shape: tuple[int, int], backend: str) -> None:
    weights = [weight.detach().requires_grad_() for weight in make_bilstm(4, 2).parameters()]
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
    lstm = make_bilstm(6, 2)
    scores = make_scores("normal", (3, 8), dtype=dtype).requires_grad_()
    hidden = by_kernels(lstm, backend)(scores)
    assert hidden.dtype == torch.float32
    torch.testing.assert_close(hidden, by_kernels(lstm, backend)(scores.detach().float()))
    hidden.sum().backward()
    assert scores.grad.dtype == dtype
    halves = [weight.detach().to(dtype).requires_grad_() for weight in lstm.parameters()]
    result = bilstm(scores, halves, backend=backend)
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), hidden, rtol=0, atol=0.02)
    result.sum().backward()
    assert all(weight.grad.dtype == dtype for weight in halves)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", ["scores", "head", "weights"])
@pytest.mark.parametrize(("b", "n", "hidden", "layers"), [(1, 1, 1, 1), (20, 6, 33, 2)])
def test_a_head_is_a_product_with_the_hidden_states(
    b: int, n: int, hidden: int, layers: int, wanted: str, backend: str
) -> None:
    weights = list(make_bilstm(hidden, layers).double().parameters())
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


@pytest.mark.kernels
@pytest.mark.parametrize("head", ["position", "dense"])
def test_the_sorter_uses_the_kernel(monkeypatch: pytest.MonkeyPatch, head: str) -> None:
    sorter = LSTMSorter(6, 2, head, 9 if head == "dense" else None)
    scores = make_scores("normal", (130, 9))
    expected = sorter(scores)
    monkeypatch.setattr("sodeep_fast.sorters.lstm.HIDDEN_BYTES", 0)
    with torch.no_grad():
        torch.testing.assert_close(sorter(scores), expected)  # in parts
    torch.testing.assert_close(
        expected, sorter.project(sorter.lstm.as_torch()(scores.unsqueeze(-1))[0])
    )
    monkeypatch.undo()
    monkeypatch.setattr(_native, "HAS_CPU", False)
    torch.testing.assert_close(sorter(scores), expected)


@pytest.mark.parametrize("precision", ["auto", "full", "bf16", "fp16"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_without_kernels_it_is_pytorchs(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, precision: str
) -> None:
    monkeypatch.setattr(_native, "HAS_CPU", False)
    weights = list(make_bilstm(6, 2).to(dtype).parameters())
    scores = make_scores("normal", (3, 5))
    expected = bilstm(scores, weights, backend="reference")
    with monkeypatch.context() as without:
        without.setattr("sodeep_fast.ops.bilstm.reference_bilstm", None)
        found = bilstm(scores, weights, precision=precision)
    assert found.dtype == dtype
    close = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(found, expected, rtol=close, atol=close)
