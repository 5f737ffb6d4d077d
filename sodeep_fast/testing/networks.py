"""Networks to test with, and what they compute."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sodeep_fast.testing.scores import make_scores

# Tolerance between the outputs of a network in float64 by two routes.
NETWORK_ROUNDING = {"rtol": 1e-10, "atol": 1e-12}


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Returns a copy of a module's parameters and buffers."""
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_equal_weights(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Asserts that two copies hold the same numbers under the same names."""
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def make_bilstm(hidden: int, layers: int, scale: float = 1.0) -> nn.LSTM:
    """Returns an LSTM with random weights, `scale` times larger than its initial ones."""
    lstm = nn.LSTM(1, hidden, layers, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for weight in lstm.parameters():
            weight.mul_(scale)
    return lstm


def bilstm_derivatives(
    function: Callable[[Tensor], Tensor], lstm: nn.LSTM, scores: Tensor
) -> dict[str, Tensor]:
    """Returns hidden states, and gradients of their sum with fixed random weights.

    The gradients are of the scores and of every parameter of `lstm`, whose weights `function` uses.
    """
    leaf = scores.detach().clone().requires_grad_()
    hidden = function(leaf)
    incoming = make_scores("normal", hidden.shape, dtype=hidden.dtype, seed=5).to(hidden.device)
    names = [name for name, _ in lstm.named_parameters()]
    grads = torch.autograd.grad(hidden, [leaf, *lstm.parameters()], incoming)
    return {"hidden": hidden.detach(), **dict(zip(["scores", *names], grads, strict=True))}
