"""The output of a running training: a bar or lines, and logs for TensorBoard."""

import time
from typing import Any

from sodeep_fast._files import FilePath
from sodeep_fast.training.settings import Settings
from sodeep_fast.training.state import State

# Seconds between two readings of the error, which make the host wait for a GPU.
_PERIOD = 1.0


class Progress:
    """Shows the running error about every second, on a bar where tqdm is installed."""

    def __init__(
        self, state: State, settings: Settings, show: bool, tensorboard: FilePath | None
    ) -> None:
        self._state = state
        self._settings = settings
        self._bar = _bar(state.step, settings.steps) if show else None
        self._logs = None if tensorboard is None else _logs(tensorboard)
        self._due = 0.0

    def __enter__(self) -> "Progress":
        return self

    def update(self) -> None:
        """Notes the state, and shows it if an update is due or it is the last."""
        now = time.monotonic()
        step = self._state.step
        if now < self._due and step < self._settings.steps:
            return
        self._due = now + _PERIOD
        error = float(self._state.error)
        rate = self._settings.learning_rate(step - 1)
        if self._bar is not None:
            self._bar.set_postfix_str(f"L1 {error:.5f}, rate {rate:.2g}", refresh=False)
            self._bar.update(step - self._bar.n)
        if self._logs is not None:
            self._logs.add_scalar("L1", error, step)
            self._logs.add_scalar("learning rate", rate, step)
            self._logs.add_scalar("seconds", self._state.seconds, step)

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._logs is not None:
            self._logs.close()


class _Lines:
    """Stands in for tqdm's bar."""

    def __init__(self, step: int, steps: int) -> None:
        self.n = step
        self._steps = steps
        self._text = ""

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        """Takes the text of the next line."""
        self._text = text

    def update(self, steps: int) -> None:
        """Prints a line."""
        self.n += steps
        print(f"step {self.n} of {self._steps}: {self._text}", flush=True)

    def close(self) -> None:
        """Does nothing."""


def _bar(step: int, steps: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return _Lines(step, steps)
    return tqdm(total=steps, initial=step, unit="step", desc="training")


def _logs(folder: FilePath) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ImportError("logs need TensorBoard: pip install tensorboard") from None
    return SummaryWriter(str(folder))
