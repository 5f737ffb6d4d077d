"""The ways to compute a loss: ours, plain PyTorch, compiled and a peer, and how each is checked."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

import sodeep_fast
from bench import retrieval
from bench.losses import LOSSES, Members, Rival, proxy_loss
from bench.retrieval import PER_CLASS, PLAIN
from sodeep_fast.benchmark import Provider, Unavailable, WrongResult
from sodeep_fast.benchmark.costs import Cost, per_element, per_pair
from sodeep_fast.benchmark.model import Function, Shape
from sodeep_fast.benchmark.soft_rank import make_scores

CHECKED = 1024  # batches up to which results are compared with float64 on the CPU
CHUNK = 256
# The modes for compiled losses, whose first backward frees their buffers.
FIRST_BACKWARD = ("forward", "both")
# Costs of rivals, by name; the rival of a histogram has numbers for each pair and bin.
COSTS: dict[str, dict[str, Cost]] = {
    "triples": {"seconds": per_pair(2e-11), "memory": per_pair(40)},
    "positives": {"memory": per_element(80 * PER_CLASS)},
    "eager": {"memory": per_element(400)},
}


@functools.cache
def batch_of(batch: int, device: str) -> tuple[Tensor, dict[int, Tensor]]:
    """Returns embeddings and labels, the same on every machine."""
    return retrieval.make_batch(batch, PER_CLASS, device)


@functools.cache
def targets_of(name: str, shape: Shape, device: str) -> Tensor:
    """Returns the second argument of a loss."""
    loss = LOSSES[name]
    if loss.targets is not None:
        return loss.targets(shape).to(device)
    return batch_of(shape[0], device)[1][loss.columns]


@functools.cache
def members_of(name: str, batch: int, device: str) -> Members:
    """Returns a batch's members, as rivals take them."""
    labels = batch_of(batch, device)[1]
    (proxies,) = proxy_loss(sodeep_fast.ClusterLoss)().parameters()
    return Members(
        retrieval.shared_labels(labels[LOSSES[name].columns]),
        labels[PLAIN],
        normalize(proxies.detach(), dim=-1).to(device),
    )


def inputs_of(name: str) -> Callable[[Shape, str], Tensor]:
    """Returns what makes the first argument of a loss."""
    embeddings = LOSSES[name].columns
    return lambda shape, device: (
        batch_of(shape[0], device)[0] if embeddings else make_scores(shape, device)
    )


def shape_of(name: str, inputs: Tensor) -> Shape:
    """Returns the shape of the scores that a loss sees."""
    count = inputs.shape[0]
    return (count, count if LOSSES[name].columns else inputs.shape[1])


def build_ours(name: str, compiled: bool = False, **options: Any) -> Callable[[str], Function]:
    """Ours, with options."""

    def build(device: str) -> Function:
        loss: Callable[..., Tensor] = LOSSES[name].build(**options).to(device)
        if compiled:
            torch.compiler.reset()
            loss = torch.compile(loss, dynamic=False)
        return lambda inputs: loss(
            inputs, targets_of(name, shape_of(name, inputs), inputs.device.type)
        )

    return build


def build_rival(name: str, rival: Rival, compiled: bool = False) -> Callable[[str], Function]:
    """A rival on embeddings of any length."""

    def of_any_length(embeddings: Tensor, members: Members) -> Tensor:
        return rival(normalize(embeddings, dim=-1), members)

    def build(device: str) -> Function:
        call = of_any_length
        if compiled:
            torch.compiler.reset()
            call = torch.compile(of_any_length, fullgraph=True, dynamic=False)
        return lambda embeddings: call(
            embeddings, members_of(name, len(embeddings), embeddings.device.type)
        )

    return build


def build_products(device: str) -> Function:
    """The score matrix, and the two products of its backward."""
    made: dict[int, Callable[[], Any]] = {}

    def products(embeddings: Tensor) -> Tensor:
        key = len(embeddings)
        if key not in made:
            made[key] = retrieval.products_call(embeddings)
        result: Tensor = made[key]()[0]
        return result

    return products


def build_peer(device: str) -> Function:
    """Smooth-AP of pytorch-metric-learning, which is right only for sorted classes."""
    try:
        from pytorch_metric_learning.losses import SmoothAPLoss as Peer
    except ImportError as error:
        raise Unavailable(f"pytorch-metric-learning is not installed ({error})") from error
    peer = Peer()

    def loss(embeddings: Tensor) -> Tensor:
        labels = batch_of(len(embeddings), embeddings.device.type)[1][PLAIN]
        order = labels.argsort()
        result: Tensor = peer(embeddings[order], labels[order])
        return result

    return loss


def check_finite(
    inputs: Tensor, value: Tensor, grad: Tensor | None, grad_inputs: Tensor | None
) -> None:
    """Raises `WrongResult` unless all numbers are finite."""
    if not bool(value.isfinite().all()):
        raise WrongResult("the value is not finite")
    if grad_inputs is not None and not bool(grad_inputs.isfinite().all()):
        raise WrongResult("a gradient is not finite")


def check_against_float64(name: str) -> Callable[..., None]:
    """Returns a check of a loss against float64 on the CPU, for batches where that is fast.

    The bounds, 1e-3 for the value and 1e-2 of the norm for the gradient, lie above the effect of
    float32 scores on the wrong side of a step, and below the error of a different loss.
    """

    def check(
        inputs: Tensor, value: Tensor, grad: Tensor | None, grad_inputs: Tensor | None
    ) -> None:
        check_finite(inputs, value, grad, grad_inputs)
        if shape_of(name, inputs)[0] > CHECKED or grad is None or grad_inputs is None:
            return
        leaf = inputs.detach().cpu().double().requires_grad_()
        exact = build_ours(name)("cpu")(leaf)
        (slope,) = torch.autograd.grad(exact, leaf, grad.cpu().double())
        exact = exact.detach()
        off = float((value.cpu().double() - exact).abs() / exact.abs().clamp(min=1))
        # If all classes are separated already, the gradient is only rounding errors.
        far = float((grad_inputs.cpu().double() - slope).norm() / (slope.norm() + 1e-6))
        if not (off <= 1e-3 and far <= 1e-2):
            raise WrongResult(f"off by {off:.3g}, its gradient by {far:.3g}")

    return check


def _provider(name: str, build: Callable[[str], Function], **options: Any) -> Provider:
    defaults = {
        "check": check_finite,
        "seconds": per_element(1e-10),
        "memory": per_element(64),
    }
    return Provider(name, build, **{**defaults, **options})


def providers_of(name: str) -> list[Provider]:
    """Returns the ways to compute a loss."""
    loss, check = LOSSES[name], check_against_float64(name)
    whole = {"memory": per_element(24)}
    found = [_provider("ours", build_ours(name), check=check, memory=lambda rows, n: 512 * rows)]
    if not loss.columns:
        eager = _provider("eager", build_ours(name, backend="reference"), check=check)
        compiled = build_ours(name, compiled=True, backend="reference")
        found += [eager, replace(eager, name="compile", build=compiled, modes=FIRST_BACKWARD)]
        return found
    found.append(
        _provider(
            f"ours-chunk-{CHUNK}",
            build_ours(name, chunk_size=CHUNK),
            check=check,
            memory=lambda rows, n: 64.0 * CHUNK * n,
        )
    )
    found.append(_provider("ours-whole", build_ours(name, chunk_size=None), check=check, **whole))
    if loss.pairs:
        found.append(
            _provider("products", build_products, modes=("both",), differentiable=False, **whole)
        )
    for rival_name, rival in loss.rivals.items():
        plain = _provider(rival_name, build_rival(name, rival), check=check, **COSTS[rival_name])
        found.append(plain)
        if rival_name != "positives":
            compiled = build_rival(name, rival, compiled=True)
            found.append(replace(plain, name="compile", build=compiled, modes=FIRST_BACKWARD))
    if name == "SmoothAPLoss":
        found.append(_provider("metric-learning", build_peer, **COSTS["triples"]))
    return found
