"""Trainings that are stopped: exact resumption, damaged files, a full disk, several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sodeep_fast
from sodeep_fast import CNNSorter, EquivariantSorter, LSTMSorter
from sodeep_fast.testing import assert_equal_weights, weights_of
from sodeep_fast.training import (
    make_settings,
    train_sorter,
)
from sodeep_fast.training.optimizers import make_optimizers
from sodeep_fast.training.settings import OPTIMIZERS
from sodeep_fast.training.state import Saver, State, save_state

SMALL: dict[str, Any] = {"batch_size": 8, "length": 12, "progress": False}


pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: LSTMSorter(4, 1),
    "cnn": lambda: CNNSorter(12, 2, [3]),
    "equivariant": lambda: EquivariantSorter(),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MAKERS)
def test_a_resumed_training_is_the_same(name: str, optimizer: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    options = {
        **SMALL,
        "optimizer": optimizer,
        "gradient_weight": 0.1 if name == "equivariant" else 0.0,
        "average": 0.9,
    }
    whole, halves = MAKERS[name](), MAKERS[name]()
    halves.load_state_dict(whole.state_dict())
    run = train_sorter(whole, 7, **options)
    train_sorter(halves, 3, checkpoint=path, **options)
    resumed = MAKERS[name]()  # other weights, which the file replaces
    again = train_sorter(resumed, 7, checkpoint=path, **options)
    assert_equal_weights(weights_of(resumed), weights_of(whole))
    assert (again.steps, again.error) == (run.steps, run.error)
    # There is nothing left to do.
    finished = MAKERS[name]()
    assert train_sorter(finished, 7, checkpoint=path, **options).seconds == again.seconds
    assert_equal_weights(weights_of(finished), weights_of(whole))


COMMAND = [sys.executable, "-m", "sodeep_fast.cli", "train", "--sorter", "lstm"]
COMMAND += ["--option", "hidden_size=4", "--batch-size=8", "--length=12", "--threads=1", "--quiet"]
COMMAND += ["--vectors=20"]


def steps_in(path: Path) -> int:
    # Read at once, as the run may replace the file meanwhile: 8 bytes of length, and a JSON header.
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    step: int = json.loads(header["__metadata__"]["sodeep_fast_training"])["step"]
    return step


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    path, output = tmp_path / "run", tmp_path / "sorter.safetensors"
    command = [*COMMAND, f"--output={output}", f"--checkpoint={path}", "--steps=1000000"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not path.exists() or steps_in(path) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(60) != 0
    assert not output.exists()

    steps = steps_in(path) + 3
    resumed, whole = LSTMSorter(4), LSTMSorter(4)
    train_sorter(resumed, steps, checkpoint=path, **SMALL)
    torch.manual_seed(0)  # as the command does
    whole = LSTMSorter(4)
    train_sorter(whole, steps, **SMALL)
    assert_equal_weights(weights_of(resumed), weights_of(whole))


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    sorter = LSTMSorter(4, 1)
    train_sorter(sorter, 2, checkpoint=path, **SMALL)
    old = path.read_bytes()

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match=r"could not be saved \(No space left .*before is intact"):
            train_sorter(LSTMSorter(4, 1), 5, checkpoint=path, **SMALL)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["run"]
    train_sorter(LSTMSorter(4, 1), 5, checkpoint=path, **SMALL)
    assert steps_in(path) == 5


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train_sorter(LSTMSorter(4, 1), 2, preset="fast", checkpoint=path, **SMALL)
    old = path.read_bytes()
    for sorter, change, match in (
        (LSTMSorter(4, 1), {"lr": 0.1}, "another training run: lr was 0.002 and is 0.1; resume"),
        (LSTMSorter(4, 1), {"optimizer": "muon"}, "optimizer was 'adam' and is 'muon'"),
        (LSTMSorter(4, 1), {"seed": 3}, "seed was 0 and is 3"),
        (LSTMSorter(4, 1), {"length": (2, 12)}, r"length was 12 and is \[2, 12\]"),
        (
            LSTMSorter(5, 1),
            {},
            r"another sorter: it is of LSTMSorter\(hidden_size=4.*hidden_size=5",
        ),
        (sodeep_fast.GRUSorter(4, 1), {}, r"it is of LSTMSorter.*this is GRUSorter"),
    ):
        with pytest.raises(ValueError, match=match):
            train_sorter(sorter, 2, preset="fast", checkpoint=path, **(SMALL | change))
    with pytest.raises(ValueError, match="steps was 2 and is 4"):
        train_sorter(LSTMSorter(4, 1), 4, preset="fast", checkpoint=path, **SMALL)
    assert path.read_bytes() == old


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train_sorter(LSTMSorter(4, 1), 2, checkpoint=path, **SMALL)
    content = path.read_bytes()
    for share in (0, 0.1, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="run is damaged"):
            train_sorter(LSTMSorter(4, 1), 3, checkpoint=path, **SMALL)
    sodeep_fast.save_sorter(LSTMSorter(4, 1), path)
    with pytest.raises(ValueError, match="run holds no training state"):
        train_sorter(LSTMSorter(4, 1), 3, checkpoint=path, **SMALL)


def test_saving_takes_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    settings = make_settings(steps=1)
    sorter = LSTMSorter(2, 1)
    saved = []
    duration = 1.0

    def slow_save(state: State, *_: Any) -> None:
        now[0] += duration
        saved.append(state.step)

    monkeypatch.setattr("sodeep_fast.training.state.save_state", slow_save)
    state = State(sorter, make_optimizers(sorter, settings), None)
    saver = Saver(tmp_path / "run", settings)
    for state.step in range(1, 101):
        now[0] += 10.0
        saver.offer(state)
    assert saved == list(range(1, 101, 5))
    duration = 3600.0  # as if the machine slept meanwhile
    for state.step in range(101, 201):
        now[0] += 10.0
        saver.offer(state)
    assert saved == [*range(1, 101, 5), 101, 161]
    monkeypatch.undo()
    save_state(state, settings, tmp_path / "run")
    assert steps_in(tmp_path / "run") == 200


# --- Several processes ---


SCRIPT = """
import sys, torch
from sodeep_fast import LSTMSorter
from sodeep_fast.training import train_sorter
torch.set_num_threads(1)
seed = int(__import__("os").environ["RANK"])
torch.manual_seed(seed)  # the first process's weights are those of all
sorter = LSTMSorter(4, 1).double()
run = train_sorter(sorter, 4, batch_size=8, length=12, progress=False, clip=0.1, average=0.5,
                   checkpoint=sys.argv[1])
assert (run.processes, run.process) == (2, seed)
torch.save(sorter.state_dict(), f"{sys.argv[1]}.{seed}")
try:
    train_sorter(sorter, 8, batch_size=8, length=12, progress=False, clip=0.1, average=0.5,
                 checkpoint=sys.argv[1] if seed == 0 else None)
    raise SystemExit("another file was not noticed")
except ValueError as error:
    assert "they have done [4, 0] steps" in str(error)
"""


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    script, path = tmp_path / "script.py", tmp_path / "run"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(script), str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    options = SMALL | {"clip": 0.1, "average": 0.5}
    alone, together = LSTMSorter(4, 1).double(), LSTMSorter(4, 1).double()
    torch.manual_seed(0)
    alone = LSTMSorter(4, 1).double()
    run = train_sorter(alone, 4, **options)
    # Two processes have trained it, and one resumes.
    again = train_sorter(together, 4, checkpoint=path, **options)
    assert again.error == pytest.approx(run.error, rel=1e-12)
    of_each = [torch.load(f"{path}.{i}", weights_only=True) for i in (0, 1)]
    for trained in (together.state_dict(), *of_each):
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(trained[key], value, rtol=1e-9, atol=1e-12)


def test_a_process_stops_with_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told_to_stop(state: State, *_: Any) -> bool:
        state.step += 1
        return True

    monkeypatch.setattr("sodeep_fast.training.loop._step", told_to_stop)
    with pytest.raises(KeyboardInterrupt, match="another process"):
        train_sorter(LSTMSorter(2, 1), 3, checkpoint=tmp_path / "run", **SMALL)
    assert steps_in(tmp_path / "run") == 1


def test_several_processes_act_on_a_signal_that_all_know_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A parameter that comes after the averages of a step is in those of the next.
    seen = []

    def average(tensors: list[Tensor]) -> None:
        seen.append(float(tensors[-1]))
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("sodeep_fast.training.loop.rank_and_world", lambda: (0, 2))
    monkeypatch.setattr("sodeep_fast.training.loop.average_over_processes", average)
    with pytest.raises(KeyboardInterrupt):
        train_sorter(LSTMSorter(2, 1), 5, checkpoint=tmp_path / "run", **SMALL)
    assert seen == [0, 1]
    assert steps_in(tmp_path / "run") == 2
