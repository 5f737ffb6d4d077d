"""Checks for every GPU kernel of `bilstm`: on a GPU, interpreted or emulated."""

import functools
import itertools
import math
import unittest.mock
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sodeep_fast.kernels._layouts import lstm_saved_shape
from sodeep_fast.ops.bilstm import HALVES, bilstm
from sodeep_fast.testing.accuracy import assert_as_accurate
from sodeep_fast.testing.networks import bilstm_derivatives, make_bilstm
from sodeep_fast.testing.scores import make_scores

Network = Callable[[Tensor], Tensor]


def by_kernels(lstm: nn.LSTM, backend: str = "auto", precision: str = "auto") -> Network:
    """Returns `bilstm` with the weights of an LSTM, as a function of the scores."""
    weights = list(lstm.parameters())
    return lambda scores: bilstm(scores, weights, backend=backend, precision=precision)


def by_torch(lstm: nn.LSTM) -> Network:
    """Returns PyTorch's hidden states as a function of the scores."""
    return lambda scores: lstm(scores.unsqueeze(-1))[0]


def exact_bilstm(lstm: nn.LSTM, scores: Tensor) -> dict[str, Tensor]:
    """Returns `bilstm_derivatives` of PyTorch's LSTM in float64 on the CPU."""
    exact = make_bilstm(lstm.hidden_size, lstm.num_layers)
    exact.load_state_dict(lstm.state_dict())
    return bilstm_derivatives(by_torch(exact.double()), exact, scores.cpu().double())


def check_bilstm_accuracy(
    actual: dict[str, Tensor], eager: dict[str, Tensor], exact: dict[str, Tensor], eps: float
) -> None:
    """Asserts that each is float32 and as accurate as PyTorch's, plus `eps` of the largest."""
    for name, value in actual.items():
        assert value.dtype == torch.float32, name
        assert_as_accurate(
            value.cpu().double(),
            eager[name].cpu().double(),
            exact[name].numpy().astype(np.longdouble),
            floor=eps * float(exact[name].abs().max()),
            what=name,
        )


@functools.cache
def onednn_has_bf16_lstm() -> bool:
    """Returns whether oneDNN's LSTM takes bfloat16 on this processor, as it does with AVX-512.

    PyTorch's own LSTM asks oneDNN without checking, and fails if it does not.
    """
    with torch.random.fork_rng(devices=()):
        lstm = nn.LSTM(1, 1)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            lstm(torch.zeros(1, 1, 1))
    except RuntimeError:
        return False
    return True


def bilstm_under_autocast(lstm: nn.LSTM, scores: Tensor, precision: str) -> dict[str, Tensor]:
    """Returns `bilstm_derivatives` of PyTorch's LSTM in a half type."""
    # In float16 it has none.
    onednn = torch.backends.mkldnn.flags(enabled=precision == "bf16" and onednn_has_bf16_lstm())
    with torch.autocast(scores.device.type, HALVES[precision]), onednn:
        return bilstm_derivatives(lambda x: by_torch(lstm)(x).float(), lstm, scores)


def check_rows_that_are_not_finite(
    lstm: nn.LSTM, backend: str, precision: str, steps: int = 3, device: str = "cpu"
) -> None:
    """Asserts that bad scores and gradients change nothing outside their row."""
    network = by_kernels(lstm.requires_grad_(False), backend, precision)
    others = [0, 2, 3, 5, 6, 8]

    def run(scores: Tensor, incoming: Tensor) -> tuple[Tensor, Tensor]:
        leaf = scores.clone().requires_grad_()
        hidden = network(leaf)
        return hidden.detach(), torch.autograd.grad(hidden, leaf, incoming)[0]

    scores = make_scores("normal", (9, steps), device=device)
    incoming = make_scores("normal", (9, steps, 2 * lstm.hidden_size), seed=1, device=device)
    hidden, grad = run(scores, incoming)
    bad = scores.clone()
    bad[1, 2], bad[4, 0], bad[7, 1] = torch.nan, torch.inf, -torch.inf
    bad_hidden, bad_grad = run(bad, incoming)
    assert torch.equal(bad_hidden[others], hidden[others])
    assert torch.equal(bad_grad[others], grad[others])
    assert bad_hidden[1].isnan().all()
    incoming[1, 0, 3], incoming[4, 1, 0], incoming[7, 2, 2] = torch.nan, torch.inf, -torch.inf
    _, bad_grad = run(scores, incoming)
    assert torch.equal(bad_grad[others], grad[others])
    assert bad_grad[1].isnan().any()


def check_scale_of_gradients(
    lstm: nn.LSTM, backend: str, exponent: int, steps: int = 4, device: str = "cpu"
) -> None:
    """Asserts that float16 gradients keep their digits when scaled by a power of two."""
    network = by_kernels(lstm.requires_grad_(False), backend, "fp16")
    found = []
    for factor in (1.0, 2.0**exponent):
        scores = make_scores("normal", (9, steps), device=device).requires_grad_()
        hidden = network(scores)
        incoming = make_scores("normal", tuple(hidden.shape), seed=1, device=device)
        found.append(torch.autograd.grad(hidden, scores, factor * incoming)[0] / factor)
    assert torch.equal(*found)


def check_rows_of_different_scales(backend: str) -> None:
    """Asserts that in float16, rows of small gradients keep their digits next to large ones."""
    lstm = make_bilstm(6, 2)
    scores = make_scores("normal", (9, 4))
    factors = torch.logspace(-6, 6, 9)[:, None, None]

    def scaled(network: Network) -> Network:
        return lambda x: network(x) * factors.to(x.dtype)

    exact = make_bilstm(6, 2)
    exact.load_state_dict(lstm.state_dict())
    expected = bilstm_derivatives(scaled(by_torch(exact.double())), exact, scores.double())
    found = bilstm_derivatives(scaled(by_kernels(lstm, backend, "fp16")), lstm, scores)
    for row, value in enumerate(found["scores"]):
        error = (value.double() - expected["scores"][row]).abs().max()
        assert error < 2e-3 * expected["scores"][row].abs().max()
    for name, value in found.items():
        assert (value.double() - expected[name]).abs().max() < 3e-3 * expected[name].abs().max()


def check_saturation(backend: str, precision: str) -> None:
    """Asserts that large scores and weights, one beyond float16, give finite numbers."""
    lstm = make_bilstm(7, 2, 30.0)
    with torch.no_grad():
        lstm.get_parameter("weight_hh_l0")[3, 2] = 1e6
    scores = make_scores("outliers", (3, 6)).requires_grad_()
    hidden = by_kernels(lstm, backend, precision)(scores)
    assert hidden.isfinite().all()
    assert hidden.abs().max() <= 1
    (grad,) = torch.autograd.grad(hidden.sum(), scores)
    assert grad.isfinite().all()


def check_empty(shape: tuple[int, int], backend: str, precision: str, device: str = "cpu") -> None:
    """Asserts that gradients are 0 if there are no rows, or no scores in them."""
    lstm = make_bilstm(4, 2).to(device)
    leaves: list[Any] = [torch.zeros(shape, device=device, requires_grad=True), *lstm.parameters()]
    hidden = by_kernels(lstm, backend, precision)(leaves[0])
    assert hidden.shape == (*shape, 8)
    hidden.sum().backward()
    for leaf in leaves:
        assert leaf.grad.shape == leaf.shape
        assert not leaf.grad.any()


def check_half_types(dtype: torch.dtype, backend: str) -> None:
    """Asserts that weights of a half type are multiplied in it, and all else is in float32."""
    lstm = make_bilstm(6, 2)
    name = {half: name for name, half in HALVES.items()}[dtype]
    scores = make_scores("normal", (3, 5), dtype=dtype).requires_grad_()
    halves: list[Any] = [weight.detach().to(dtype).requires_grad_() for weight in lstm.parameters()]
    hidden = bilstm(scores, halves, backend=backend)
    assert hidden.dtype == dtype
    floats = [half.detach().float() for half in halves]
    expected = bilstm(scores, floats, backend=backend, precision=name)
    assert expected.dtype == torch.float32
    assert torch.equal(hidden, expected.to(dtype))
    hidden.sum().backward()
    assert all(leaf.grad.dtype == dtype for leaf in (scores, *halves))


def _layer(features: int, hidden: int) -> list[Tensor]:
    """Returns the frozen weights of a layer with `features` inputs and `hidden` units."""
    weights = [weight.detach() for weight in make_bilstm(hidden, 1).parameters()]
    weights[0], weights[4] = torch.randn(2, 4 * hidden, features)
    return weights


def check_computed_anew(backend: str, precision: str) -> None:
    """Asserts that a layer's derivative is the same if its forward has saved nothing."""
    layer, layer_backward = _operators(backend)
    for features in (1, 3):
        weights = _layer(features, 9)
        sequence, grad = torch.randn(4, 10, features), torch.randn(4, 10, 18)
        found = []
        for saves in (True, False):
            output, saved = layer(sequence, weights, None, saves, precision)
            assert saved.shape == lstm_saved_shape(4 * saves, 10, 9)
            arguments = (grad, sequence, weights, None, output, saved, True, precision)
            found.append(layer_backward(*arguments))
        for once, anew in zip(*found, strict=True):
            assert torch.equal(once, anew)


def check_operators(backend: str) -> None:
    """Asserts that a layer and its derivative are well-behaved operators."""
    layer, layer_backward = _operators(backend)
    for features in (1, 2):
        weights = _layer(features, 5)
        wanted = [weight.clone().requires_grad_() for weight in weights]
        sequence = torch.randn(3, 2, features)
        for given, saves in ((weights, True), (weights, False), (wanted, True)):
            leaf = sequence.clone().requires_grad_()
            torch.library.opcheck(layer, (leaf, given, None, saves, "fp16"))
        hidden, saved = layer(sequence, weights, None, True, "fp16")
        for states, wants in itertools.product((None, hidden), (False, True)):
            arguments = (hidden, sequence, weights, None, states, saved, wants, "fp16")
            torch.library.opcheck(layer_backward, arguments)
        head, leaf = torch.randn(10), sequence.clone().requires_grad_()
        torch.library.opcheck(layer, (leaf, weights, head, True, "fp16"))


def _operators(backend: str) -> tuple[Any, Any]:
    operators = torch.ops.sodeep_fast
    names = (f"{backend}_bilstm_layer", f"{backend}_bilstm_layer_backward")
    return getattr(operators, names[0]), getattr(operators, names[1])


def check_nothing_out_of_bounds(kernels: Any, hidden: int, precision: str) -> None:
    """Asserts that a layer of `kernels`, a module, reads and writes only inside its tensors.

    Inputs lie in memory full of NaN, and outputs in memory that must not change. All of them,
    except what is saved, begin one number after an alignment for pairs.
    """
    outer: list[Tensor] = []

    def guarded(layer: Any, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        size, edge = math.prod(shape), 256 if len(shape) == 6 else 257
        outer.append(torch.full((size + 514,), 7.0, dtype=dtype))
        return outer[-1][edge : edge + size].view(shape)

    def surrounded(value: Tensor) -> Tensor:
        memory = torch.full((value.numel() + 514,), torch.nan)
        memory[257:-257] = value.flatten()
        return memory[257:-257].view(value.shape)

    def run(sequence: Tensor, grad: Tensor, weights: list[Tensor]) -> list[Tensor]:
        output, saved = kernels.bilstm_layer(sequence, weights, None, True, precision)
        found = [output]
        for states in (None, output):
            arguments = (grad, sequence, weights, None, states, saved, True, precision)
            found += kernels.bilstm_layer_backward(*arguments)
        return found

    for features in (1, 3):
        weights = _layer(features, hidden)
        sequence, grad = torch.randn(3, 11, features), torch.randn(3, 11, 2 * hidden)
        expected = run(sequence, grad, weights)
        with unittest.mock.patch.object(kernels._Layer, "empty", guarded):
            around = [surrounded(weight) for weight in weights]
            actual = run(surrounded(sequence), surrounded(grad), around)
        for value, other in zip(actual, expected, strict=True):
            # Products of matrices that are aligned differently may be rounded differently.
            torch.testing.assert_close(value, other)
    assert len(outer) >= 8
    for memory in outer:
        assert (memory[:256] == 7).all()
        assert (memory[-256:] == 7).all()
