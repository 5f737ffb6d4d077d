"""The state of a training run: what a step changes, and the file to resume from."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sodeep_fast._files import FilePath, import_safetensors, write_atomically
from sodeep_fast.sorters.checkpoint import described
from sodeep_fast.training.optimizers import kept_tensors, restore_tensors
from sodeep_fast.training.settings import Settings, check_resumable

# The key of the JSON header in the metadata of a safetensors file.
_KEY = "sodeep_fast_training"

_FORMAT = 1


@dataclass
class State:
    """Everything that a step changes.

    Every step draws its vectors from a generator seeded by the run's seed and the step's number, so
    no generator state is kept.
    """

    sorter: nn.Module
    optimizers: list[Optimizer]
    average: dict[str, Tensor] | None
    """The averaged floating-point entries of the sorter's state dict."""
    step: int = 0
    """How many steps are done."""
    seconds: float = 0.0
    """How long they took."""
    error: Tensor | float = float("nan")
    """The running mean of their L1 differences."""


def save_state(state: State, settings: Settings, path: FilePath) -> None:
    """Writes the state to a safetensors file, whole or not at all.

    Raises:
        ImportError: safetensors is not installed.
        OSError: the file cannot be written, for example if the disk is full; an old one is left
            intact.
    """
    safetensors = import_safetensors()
    tensors = {f"sorter.{key}": value for key, value in state.sorter.state_dict().items()}
    for key, value in (state.average or {}).items():
        tensors[f"average.{key}"] = value
    tensors.update(kept_tensors(state.optimizers, state.sorter))
    header = {
        "format": _FORMAT,
        "sorter": _identity(state.sorter),
        "settings": settings.as_json(),
        "step": state.step,
        "seconds": state.seconds,
        "error": repr(float(state.error)),
    }
    content = safetensors.torch.save(
        {
            key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for key, value in tensors.items()
        },
        {_KEY: json.dumps(header)},
    )
    try:
        write_atomically(Path(path), content)
    except OSError as error:
        raise OSError(
            error.errno,
            f"the training state could not be saved ({error.strerror}); whatever was saved "
            "before is intact",
            str(path),
        ) from error


def load_state(state: State, settings: Settings, path: FilePath, last: int) -> None:
    """Loads a file of `save_state` into a fresh state of the same run.

    Arguments:
        state: fresh.
        settings: of the run.
        path: the file.
        last: the step at which the run will end.

    Raises:
        ImportError: safetensors is not installed.
        ValueError: a file that is damaged, of another sorter or other settings, or of a run that is
            beyond `last`.
    """
    safetensors = import_safetensors()
    try:
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        header = None if text is None else json.loads(text)
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or not a safetensors file: {error}") from None
    if header is None:
        raise ValueError(f"{path} holds no training state")
    if header.get("format") != _FORMAT:
        raise ValueError(
            f"{path} has format {header.get('format')!r} of training; this version reads {_FORMAT}"
        )
    ours, theirs = _identity(state.sorter), header["sorter"]
    if ours != theirs:
        raise ValueError(
            f"{path} is the training of another sorter: it is of {_named(theirs)}, "
            f"and this is {_named(ours)}"
        )
    check_resumable(settings, header["settings"], path)
    if header["step"] > last:
        raise ValueError(
            f"{'until' if last < settings.steps else 'steps'} must be at least {header['step']}, "
            f"the steps that the run in {path} has done, got {last}"
        )
    _fill(state, tensors)
    state.step, state.seconds = header["step"], header["seconds"]
    state.error = float(header["error"])


def _fill(state: State, tensors: Mapping[str, Tensor]) -> None:
    prefix = "sorter."
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    state.sorter.load_state_dict(weights)
    for key, value in (state.average or {}).items():
        value.copy_(tensors[f"average.{key}"])
    restore_tensors(state.optimizers, state.sorter, tensors)


def _identity(sorter: nn.Module) -> dict[str, Any]:
    arguments: dict[str, Any] = json.loads(json.dumps(described(sorter)))
    return {"type": type(sorter).__name__, "arguments": arguments}


def _named(identity: Mapping[str, Any]) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in identity["arguments"].items())
    return f"{identity['type']}({arguments})"


# Most seconds between two saves, however long a save seemed to take: the machine may have slept.
_LONGEST = 600.0


class Saver:
    """Saves a run when told to, and regularly, taking at most a fiftieth of its time.

    If a step takes longer than the interval, as on large networks, every step is saved.
    """

    def __init__(self, path: FilePath | None, settings: Settings) -> None:
        self._path = path
        self._settings = settings
        self._saved_step = -1
        self._due = 0.0

    def offer(self, state: State) -> None:
        """Saves the state if it is due."""
        if time.monotonic() >= self._due:
            self.save(state)

    def save(self, state: State) -> None:
        """Saves the state, unless it is already saved."""
        if self._path is None or state.step == self._saved_step:
            return
        begin = time.monotonic()
        save_state(state, self._settings, self._path)
        end = time.monotonic()
        self._saved_step = state.step
        self._due = end + min(49 * (end - begin), _LONGEST)
