"""The benchmark of `bilstm`: a frozen sorter, one layer of 128 units and a rank per position.

`torch.compile` has no row: it leaves `torch.nn.LSTM` to PyTorch's own kernel, on a GPU cuDNN's.
"""

import functools

import torch
from torch import Tensor, nn

from sodeep_fast.benchmark.checks import some_rows, within
from sodeep_fast.benchmark.costs import per_element
from sodeep_fast.benchmark.model import Function, Operator, Provider, Shape, Unavailable
from sodeep_fast.benchmark.ours import build_ours
from sodeep_fast.benchmark.soft_rank import make_scores, min_bytes
from sodeep_fast.ops.bilstm import bilstm

HIDDEN = 128
SHAPES: tuple[Shape, ...] = ((1, 100), (16, 100), (512, 100), (64, 1000))
QUICK_SHAPES: tuple[Shape, ...] = ((1, 100), (16, 100))


# Errors allowed to products of float32, and to those of TF32 or float16, per largest number.
FULL_BOUND, HALF_BOUND = 1e-5, 5e-3


@functools.cache
def network(device: str = "cpu") -> tuple[nn.LSTM, nn.Linear]:
    """Returns the LSTM and the projection, frozen and the same on every machine."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        lstm = nn.LSTM(1, HIDDEN, batch_first=True, bidirectional=True)
        linear = nn.Linear(2 * HIDDEN, 1)
    return lstm.requires_grad_(False).to(device), linear.requires_grad_(False).to(device)


def check(
    scores: Tensor,
    ranks: Tensor,
    grad: Tensor | None,
    grad_scores: Tensor | None,
    half: bool = False,
) -> None:
    """Raises `WrongResult` unless a few rows agree with PyTorch in float64.

    They must agree to float32, or, if `half` and on GPUs, to products of half the digits.
    """
    rows = some_rows(len(scores))
    leaf = scores[rows].cpu().double().requires_grad_()
    lstm, linear = network()
    exact_lstm = nn.LSTM(1, HIDDEN, batch_first=True, bidirectional=True)
    exact_lstm.load_state_dict(lstm.state_dict())
    hidden, _ = exact_lstm.double()(leaf.unsqueeze(-1))
    exact = hidden @ linear.weight[0].double() + linear.bias.double()
    bound = torch.full_like(leaf, HALF_BOUND if half or scores.is_cuda else FULL_BOUND)
    within(ranks[rows].cpu().double() - exact.detach(), bound, "rank")
    if grad is not None and grad_scores is not None:
        (slope,) = torch.autograd.grad(exact, leaf, grad[rows].cpu().double())
        bound *= slope.abs().max()
        within(grad_scores[rows].cpu().double() - slope, bound, "gradient")


def _project(hidden: Tensor) -> Tensor:
    ranks: Tensor = network(hidden.device.type)[1](hidden)
    return ranks.squeeze(-1)


def route(backend: str, method: str) -> Function:
    """Returns our network by a backend; the method is the precision."""

    def rank(scores: Tensor) -> Tensor:
        weights = list(network(scores.device.type)[0].parameters())
        with torch.set_grad_enabled(scores.requires_grad):
            return _project(bilstm(scores, weights, precision=method, backend=backend))

    return rank


def build_torch(device: str, onednn: bool = True) -> Function:
    """torch.nn.LSTM, with a graph only where one is asked for: oneDNN is slower with one."""
    lstm = network(device)[0]
    if device != "cpu" and not onednn:
        raise Unavailable("oneDNN serves CPU tensors alone")

    def rank(scores: Tensor) -> Tensor:
        with (
            torch.set_grad_enabled(scores.requires_grad),
            torch.backends.mkldnn.flags(enabled=onednn),
        ):
            return _project(lstm(scores.unsqueeze(-1))[0])

    return rank


SECONDS, MEMORY = per_element(2e-5), per_element(8e3)
PROVIDERS = (
    Provider("ours", build_ours("bilstm", route), check, SECONDS, MEMORY),
    Provider("nn.LSTM", build_torch, check, SECONDS, MEMORY),
    Provider(
        "nn.LSTM-native",
        functools.partial(build_torch, onednn=False),
        check,
        SECONDS,
        MEMORY,
        note="without oneDNN",
    ),
)

OPERATOR = Operator(
    name="bilstm",
    providers={provider.name: provider for provider in PROVIDERS},
    ours="ours",
    shapes=SHAPES,
    quick_shapes=QUICK_SHAPES,
    quick_memory_shapes=((16, 100),),
    make_scores=make_scores,
    min_bytes=min_bytes,
    route=route,
)
