"""Multistage backpropagation: any batch size through a network that fits only a few images."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def multistage_step(
    model: nn.Module,
    batches: Iterable[tuple[Any, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """Adds the gradient of the loss of all batches together to `.grad`, a batch at a time.

    First all embeddings without a graph, then the loss and its gradient for them, then each batch
    anew, from whose embeddings that gradient goes on to the parameters. Revaud et al., Learning
    with Average Precision, ICCV 2019, Algorithm 1. The result is that of

        loss(torch.cat([model(inputs) for inputs, _ in batches]), labels).backward()

    for about one more forward pass, in the memory of a single batch: dropout draws the same numbers
    both times, buffers (the averages of batch norm) move once, and the random state ends where it
    would have. Batch norm in training mode normalizes each batch by itself, in that line too.

    Arguments:
        model: inputs -> embeddings (b, D), in the mode that it is in. A module that is wrapped in
            DistributedDataParallel synchronizes once, with the last batch.
        batches: of (inputs, labels); inputs are what the model is called with, labels (b, ...)
            tensors. Kept in a list: leave large inputs on the CPU and move them in the model.
        loss: embeddings (B, D), labels (B, ...) -> scalar. Its own parameters get their gradient.
        scaler: scales the loss, as mixed precision in float16 needs; unscale as usual.

    Returns:
        The loss, detached and not scaled.

    Raises:
        ValueError: no batches.

    Example:
        >>> import torch, sodeep_fast
        >>> model = torch.nn.Linear(5, 3)
        >>> batches = [(torch.randn(4, 5), torch.tensor([0, 0, 1, 1])) for _ in range(3)]
        >>> value = sodeep_fast.multistage_step(model, batches, sodeep_fast.SmoothAPLoss())
        >>> model.weight.grad.shape
        torch.Size([3, 5])
    """
    batches = list(batches)
    if len(batches) == 0:
        raise ValueError("batches must hold at least one batch, got none")
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = sorted({tensor.get_device() for tensor in model.parameters() if tensor.is_cuda})

    states, parts = [], []
    with torch.no_grad():
        for inputs, _ in batches:
            states.append(_random_state(devices))
            parts.append(model(inputs))
        for buffer, before in buffers:
            buffer.copy_(before)

    embeddings = torch.cat(parts).requires_grad_()
    with torch.enable_grad():
        value = loss(embeddings, torch.cat([labels for _, labels in batches]))
    (value if scaler is None else scaler.scale(value)).backward()
    if embeddings.grad is None:
        return value.detach()
    gradients = embeddings.grad.split([len(part) for part in parts])

    with torch.random.fork_rng(devices), torch.enable_grad():
        for number, (inputs, _) in enumerate(batches):
            _set_random_state(states[number], devices)
            with _unsynchronized(model, last=number == len(batches) - 1):
                model(inputs).backward(gradients[number])
    return value.detach()


def _random_state(devices: list[int]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]


def _set_random_state(states: list[Tensor], devices: list[int]) -> None:
    torch.set_rng_state(states[0])
    for device, state in zip(devices, states[1:], strict=True):
        torch.cuda.set_rng_state(state, device)


def _unsynchronized(model: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """Keeps DistributedDataParallel from averaging gradients that are not complete yet."""
    no_sync = None if last else getattr(model, "no_sync", None)
    return nullcontext() if no_sync is None else no_sync()
