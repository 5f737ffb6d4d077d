"""The optimizers of a training, and their state for every parameter."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sodeep_fast.training.settings import Settings


def make_optimizers(sorter: nn.Module, settings: Settings) -> list[Optimizer]:
    """Returns the optimizers; each parameter is in exactly one.

    "muon" is Muon (Jordan et al., 2024) for the matrices, with updates as large as Adam's, so that
    one learning rate suits both; and Adam for the rest: biases, vectors and convolutions.
    """
    parameters = list(sorter.parameters())
    if settings.optimizer == "adam":
        return [torch.optim.Adam(parameters, settings.lr)]
    matrices = [p for p in parameters if p.dim() == 2 and min(p.shape) > 1]
    rest = [p for p in parameters if p.dim() != 2 or min(p.shape) <= 1]
    found: list[Optimizer] = []
    if matrices:
        found.append(
            torch.optim.Muon(matrices, settings.lr, weight_decay=0, adjust_lr_fn="match_rms_adamw")
        )
    if rest:
        found.append(torch.optim.Adam(rest, settings.lr))
    return found


def kept_tensors(optimizers: list[Optimizer], module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields the optimizers' state, named such as "adam.exp_avg." and the parameter's name."""
    names: dict[Tensor, str] = {p: name for name, p in module.named_parameters()}
    for optimizer in optimizers:
        for parameter, kept in optimizer.state.items():
            for key, value in kept.items():
                yield f"{_name(optimizer)}.{key}.{names[parameter]}", value


def restore_tensors(
    optimizers: list[Optimizer], module: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Restores into fresh optimizers the state from `kept_tensors`; ignores other names."""
    parameters = dict(module.named_parameters())
    for optimizer in optimizers:
        updated = {p for group in optimizer.param_groups for p in group["params"]}
        for full, value in tensors.items():
            name, _, rest = full.partition(".")
            key, _, of = rest.partition(".")
            parameter = parameters.get(of)
            if name != _name(optimizer) or parameter is None or parameter not in updated:
                continue
            # Adam keeps its count of steps on the CPU.
            on = value.device if value.dim() == 0 else parameter.device
            optimizer.state[parameter][key] = value.to(on)


def _name(optimizer: Optimizer) -> str:
    return type(optimizer).__name__.lower()
