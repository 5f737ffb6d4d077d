"""The training loop."""

import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sodeep_fast._checks import check_count
from sodeep_fast._files import FilePath, check_output
from sodeep_fast.ops.hard_rank import hard_rank
from sodeep_fast.sorters.learned import LearnedSorter
from sodeep_fast.synthetic import generate_batch
from sodeep_fast.training.objective import objective
from sodeep_fast.training.optimizers import make_optimizers
from sodeep_fast.training.processes import (
    average_over_processes,
    check_same_step,
    check_statistics,
    copy_from_first,
    join_processes,
    own_device,
    rank_and_world,
    share_statistics,
)
from sodeep_fast.training.progress import Progress
from sodeep_fast.training.settings import Settings, make_settings
from sodeep_fast.training.state import Saver, State, load_state

# The decay per step of the running mean of the error.
_RUNNING = 0.99


@dataclass(frozen=True)
class TrainingRun:
    """The facts and the result of a training run.

    Arguments:
        settings: the settings of the run.
        steps: how many were done, including before resumptions.
        seconds: how long they took.
        processes: number of processes at the end.
        process: rank of this process.
        error: the running mean of the L1 difference of ranks / n, at the end.
    """

    settings: Settings
    steps: int
    seconds: float
    processes: int
    process: int
    error: float


def train_sorter(
    sorter: nn.Module,
    steps: int,
    *,
    preset: str = "paper",
    until: int | None = None,
    checkpoint: FilePath | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
    tensorboard: FilePath | None = None,
    **settings: Any,
) -> TrainingRun:
    """Trains a learned sorter on synthetic vectors, in place.

    SoDeep (Engilberge et al., CVPR 2019), section 4.1.1. Under torchrun, every process calls it and
    takes a share of each step's vectors; the training equals that of a single process up to the
    rounding of sums. Afterwards the sorter is frozen, is on `device`, and has the averaged weights,
    if any.

    Arguments:
        sorter: a learned sorter, such as `LSTMSorter()`; set `sorter.standardize` first.
        steps: total steps of the optimizer, including those done before a resumption.
        preset: "paper" or "fast"; see `make_settings`.
        until: the step to end at, without finishing the run; the learning rate schedule is still
            that of `steps`. Default: `steps`.
        checkpoint: the file of the run's state. If it exists, the run resumes from it exactly. It
            is written during the run, taking at most a fiftieth of the time, and when the run is
            interrupted. Default: none.
        device: where to train. Default: the CPU.
        progress: show a bar with the running error. Default: True.
        tensorboard: a folder for logs. Default: none.
        settings: fields of `Settings` that differ from the preset.

    Returns:
        the result of the run.

    Raises:
        ImportError: a checkpoint without safetensors installed, or logs without tensorboard.
        OSError: the checkpoint could not be written; the previous one is intact.
        TypeError: not a learned sorter, an unknown setting, or an argument of a wrong type.
        ValueError: a setting out of range, a length that the sorter does not accept, one row in a
            batch for batch normalization, a batch that the processes cannot share, a device that
            PyTorch cannot use, or a checkpoint that is not a file, is of another run, is beyond the
            last step, or is not visible to all processes.
        KeyboardInterrupt: the run was interrupted; it was saved first.

    Example:
        >>> import sodeep_fast
        >>> from sodeep_fast.training import train_sorter
        >>> sorter = sodeep_fast.EquivariantSorter()
        >>> run = train_sorter(sorter, steps=3, batch_size=8, length=20, progress=False)
        >>> run.steps
        3
    """
    if not isinstance(sorter, LearnedSorter):
        raise TypeError(f"sorter must be a learned sorter, got {type(sorter).__name__}")
    chosen = make_settings(preset, steps=steps, **settings)
    if until is not None:
        check_count(until, "until")
        if until > steps:
            raise ValueError(f"until must be between 1 and the {steps} steps, got {until}")
    if sorter.length not in (None, chosen.length):
        raise ValueError(
            f"length must be {sorter.length}, which this {type(sorter).__name__} was made for, "
            f"got {chosen.length}"
        )
    check_statistics(sorter, chosen.batch_size)
    if checkpoint is not None:
        check_output(checkpoint, "checkpoint")
    on = own_device(device)
    was_normalized, sorter.normalize = sorter.normalize, True
    try:
        join_processes(on)
        return _train(sorter, chosen, until or steps, checkpoint, on, progress, tensorboard)
    finally:
        sorter.normalize = was_normalized
        sorter.trainable = False


def _train(
    sorter: LearnedSorter,
    settings: Settings,
    last: int,
    checkpoint: FilePath | None,
    device: torch.device,
    show: bool,
    tensorboard: FilePath | None,
) -> TrainingRun:
    rank, world = rank_and_world()
    if settings.batch_size % world:
        raise ValueError(
            f"batch_size must be a multiple of the {world} processes, got {settings.batch_size}"
        )
    sorter.to(device)
    sorter.trainable = True
    share_statistics(sorter, device)
    copy_from_first(sorter.state_dict().values())
    state = State(sorter, make_optimizers(sorter, settings), None)
    if settings.average:
        state.average = {key: value.clone() for key, value in floating_state(sorter).items()}
    if checkpoint is not None and Path(checkpoint).exists():
        load_state(state, settings, checkpoint, last)
    check_same_step(state.step, device)
    saver = Saver(checkpoint if rank == 0 else None, settings)
    begin = time.monotonic() - state.seconds
    with (
        _Interruption() as interruption,
        Progress(state, settings, show and rank == 0, tensorboard if rank == 0 else None) as bar,
    ):
        stop = False
        while state.step < last and not stop:
            stop = _step(state, settings, device, interruption)
            state.seconds = time.monotonic() - begin
            bar.update()
            saver.offer(state)
        saver.save(state)
    if state.step < last:
        raise KeyboardInterrupt("another process of this training was told to stop")
    if state.average is not None:
        sorter.load_state_dict(state.average, strict=False)
    return TrainingRun(settings, state.step, state.seconds, world, rank, float(state.error))


def _step(
    state: State, settings: Settings, device: torch.device, interruption: "_Interruption"
) -> bool:
    """Takes one step, and returns whether any process was told to stop."""
    scores, ranks, targets = _batch(state.step, settings, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
        loss, error = objective(state.sorter, scores, ranks, targets, settings.gradient_weight)
    state.sorter.zero_grad()
    loss.backward()
    gradients = [p.grad for p in state.sorter.parameters() if p.grad is not None]
    interrupted = error.new_tensor(float(interruption.signal is not None))
    average_over_processes([*gradients, error, interrupted])
    if settings.clip:
        nn.utils.clip_grad_norm_(state.sorter.parameters(), settings.clip)
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate(state.step)
        optimizer.step()
    if state.average is not None:
        # The average spans fewer steps at the beginning.
        decay = min(settings.average, (1 + state.step) / (10 + state.step))
        now = floating_state(state.sorter)
        torch._foreach_lerp_(list(state.average.values()), list(now.values()), 1 - decay)
    memory = min(_RUNNING, state.step / (state.step + 1))
    state.error = memory * state.error + (1 - memory) * error if state.step else error
    state.step += 1
    # All processes stop at the same step: the first whose average includes the signal.
    return bool(interrupted) if rank_and_world()[1] > 1 else interruption.signal is not None


def _batch(step: int, settings: Settings, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Returns scores, ranks / n and other ranks / n of this process's share of a step."""
    # Seed and step are hashed, as PyTorch's CPU generator uses 32 bits of its seed.
    seed = int(np.random.SeedSequence([settings.seed, step]).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator(device).manual_seed(seed)
    scores, ranks = generate_batch(
        settings.batch_size, settings.length, settings.dist, generator=generator
    )
    targets = ranks
    if settings.gradient_weight:
        targets = hard_rank(
            torch.rand(scores.shape, generator=generator, device=device), normalize=True
        )
    rank, world = rank_and_world()
    share = slice(*(settings.batch_size * (rank + i) // world for i in (0, 1)))
    return scores[share], ranks[share], targets[share]


def floating_state(sorter: nn.Module) -> dict[str, Tensor]:
    """Returns the floating-point entries of the state dict, not copied."""
    return {k: v for k, v in sorter.state_dict().items() if v.is_floating_point()}


class _Interruption:
    """Notes SIGINT and SIGTERM, and raises them again on exit.

    No step is interrupted, and completed steps are saved. It does nothing outside the main thread,
    where Python has no signals.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "_Interruption":
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in self._SIGNALS}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.signal is not None:
            signal.raise_signal(self.signal)
