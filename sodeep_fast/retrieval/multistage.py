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
    """Adds the gradient of the loss over all batches to `.grad`, one batch at a time.

    Computes all embeddings without a graph, then the loss and its gradient for them. Then it runs
    each batch again, and backpropagates that gradient from its embeddings to the parameters. Revaud
    et al., Learning with Average Precision, ICCV 2019, Algorithm 1. The result is that of

        loss(torch.cat([model(inputs) for inputs, _ in batches]), labels).backward()

    for about one more forward pass, in the memory of a single batch. Dropout draws the same numbers
    both times, buffers (the averages of batch norm) are updated once, and the random state ends the
    same. Batch norm in training mode normalizes each batch separately, as in that line.

    Arguments:
        model: inputs -> embeddings (b, D), run in its current mode. A module wrapped in
            DistributedDataParallel synchronizes once, with the last batch.
        batches: pairs (inputs, labels): inputs are passed to the model, labels are (b, ...)
            tensors. They are kept in a list, so leave large inputs on the CPU and move them in the
            model.
        loss: embeddings (B, D), labels (B, ...) -> scalar. Its parameters get gradients too.
        scaler: a gradient scaler that scales the loss, for mixed precision in float16; unscale as
            usual.

    Returns:
        The loss, detached and unscaled.

    Raises:
        TypeError: a model that is not a module or does not return a tensor; batches that are not
            pairs, or labels that are not tensors; a loss that is not callable or does not return a
            tensor.
        ValueError: a model without a parameter to train, or without exactly one embedding per
            label; no batches; labels that cannot be concatenated; a loss that is not one number, or
            that has no graph.

    Example:
        >>> import torch, sodeep_fast
        >>> model = torch.nn.Linear(5, 3)
        >>> batches = [(torch.randn(4, 5), torch.tensor([0, 0, 1, 1])) for _ in range(3)]
        >>> value = sodeep_fast.multistage_step(model, batches, sodeep_fast.SmoothAPLoss())
        >>> model.weight.grad.shape
        torch.Size([3, 5])
    """
    _check_model(model)
    if not callable(loss):
        raise TypeError(
            "loss must be a module or function (B, D), (B, ...) -> scalar, "
            f"got {type(loss).__name__}"
        )
    batches = _checked_batches(batches)
    labels = torch.cat([each for _, each in batches])
    buffers = _buffers(model)
    devices = sorted({tensor.get_device() for tensor in model.parameters() if tensor.is_cuda})

    states, parts = [], []
    with torch.no_grad():
        for inputs, own_labels in batches:
            states.append(_random_state(devices))
            parts.append(_checked_embeddings(model(inputs), own_labels))
        for module, name, buffer, before in buffers:
            module._buffers[name] = buffer  # which the model may have replaced
            buffer.copy_(before)

    embeddings = torch.cat(parts).requires_grad_()
    with torch.enable_grad():
        value = loss(embeddings, labels)
    _check_value(value)
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


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("model must have a parameter that requires a gradient, got none")
    if getattr(model, "static_graph", False):
        raise ValueError(
            "model must not be a DistributedDataParallel with static_graph=True, which cannot skip "
            "averaging gradients after the first batches"
        )


def _checked_batches(batches: Iterable[tuple[Any, Tensor]]) -> list[tuple[Any, Tensor]]:
    """Returns the batches, or raises unless they are pairs whose labels can be concatenated."""
    if not isinstance(batches, Iterable):
        raise TypeError(
            f"batches must be a sequence of pairs (inputs, labels), got {type(batches).__name__}"
        )
    batches = list(batches)
    if len(batches) == 0:
        raise ValueError("batches must hold at least one batch, got none")
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            many = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
            raise TypeError(
                f"batches must hold pairs (inputs, labels), got a {type(batch).__name__}{many}"
            )
        labels = batch[1]
        if not isinstance(labels, Tensor):
            raise TypeError(
                f"the labels of batches must be a torch.Tensor, got {type(labels).__name__}"
            )
        first = batches[0][1]
        if labels.dim() == 0 or labels.shape[1:] != first.shape[1:]:
            raise ValueError(
                "the labels of batches must have shape (b, ...), equal but for b, got "
                f"{tuple(first.shape)} and {tuple(labels.shape)}"
            )
        if labels.device != first.device:
            raise ValueError(
                "the labels of batches must be on one device, got "
                f"{first.device} and {labels.device}"
            )
    return batches


def _checked_embeddings(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Returns the embeddings of a batch, or raises unless there is one per label."""
    if not isinstance(embeddings, Tensor):
        raise TypeError(f"model must return a torch.Tensor, got {type(embeddings).__name__}")
    if embeddings.dim() == 0 or len(embeddings) != len(labels):
        raise ValueError(
            f"model must return an embedding for each of the {len(labels)} labels of a batch, "
            f"got shape {tuple(embeddings.shape)}"
        )
    return embeddings


def _check_value(value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"loss must return a torch.Tensor, got {type(value).__name__}")
    if value.numel() != 1:
        raise ValueError(f"loss must return a scalar, got shape {tuple(value.shape)}")
    if not value.requires_grad:
        raise ValueError("loss must return a value with a graph, got one without")


def _buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor, Tensor]]:
    """Returns every buffer with its module, its name there, and a copy of its values."""
    return [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]


def _random_state(devices: list[int]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]


def _set_random_state(states: list[Tensor], devices: list[int]) -> None:
    torch.set_rng_state(states[0])
    for device, state in zip(devices, states[1:], strict=True):
        torch.cuda.set_rng_state(state, device)


def _unsynchronized(model: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """Keeps DistributedDataParallel from averaging incomplete gradients."""
    no_sync = None if last else getattr(model, "no_sync", None)
    return nullcontext() if no_sync is None else no_sync()
