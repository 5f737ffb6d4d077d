"""Training sorters: schedules, exact resumption, several processes, bad input, judging."""

import builtins
import json
import math
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sodeep_fast
from sodeep_fast import CNNSorter, EquivariantSorter, HandcraftedSorter, LSTMSorter, hard_rank
from sodeep_fast.cli import main
from sodeep_fast.training import (
    UNSEEN,
    error_by_distribution,
    gradient_use,
    make_settings,
    mean_error,
    train_sorter,
)
from sodeep_fast.training.objective import objective
from sodeep_fast.training.optimizers import make_optimizers
from sodeep_fast.training.record import report
from sodeep_fast.training.settings import OPTIMIZERS
from sodeep_fast.training.state import Saver, State, save_state

SMALL: dict[str, Any] = {"batch_size": 8, "length": 12, "progress": False}


pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")


def weights(sorter: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in sorter.state_dict().items()}


def assert_equal_weights(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


# --- Settings ---


def test_the_papers_schedule() -> None:
    settings = make_settings("paper", steps=10**6)
    assert (settings.batch_size, settings.lr, settings.average) == (512, 1e-3, 0)
    epoch = 100_000 / 512
    assert settings.learning_rate(math.floor(100 * epoch)) == 1e-3
    assert settings.learning_rate(math.ceil(100 * epoch)) == 0.5e-3
    assert settings.learning_rate(math.ceil(300 * epoch)) == 0.125e-3


def test_the_fast_schedule() -> None:
    settings = make_settings("fast", steps=1000, warm_up=100, lr=0.01)
    rates = [settings.learning_rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[99] == rates[100] == max(rates) == pytest.approx(0.01)
    assert rates[550] == pytest.approx(0.005)
    assert 0 < rates[-1] < 1e-7
    assert rates[100:] == sorted(rates[100:], reverse=True)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({}, TypeError, "steps must be given"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 1.5}, TypeError, "steps must be an integer"),
        ({"steps": 1, "speed": 2}, TypeError, "unknown settings: speed"),
        ({"steps": 1, "dist": "gamma"}, ValueError, "dist must be None, a number .*got 'gamma'"),
        ({"steps": 1, "length": (5, 3)}, ValueError, r"length must be \(shortest, longest\)"),
        ({"steps": 1, "lr": 0.0}, ValueError, "lr must be positive"),
        ({"steps": 1, "schedule": "linear"}, ValueError, "schedule must be one of"),
        ({"steps": 1, "average": 1.0}, ValueError, "average must be below 1"),
        ({"steps": 1, "precision": "float16"}, ValueError, "precision must be one of"),
        ({"steps": 1, "preset": "slow"}, ValueError, "preset must be one of 'paper', 'fast'"),
    ],
)
def test_bad_settings(changes: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make_settings(**changes)


# --- Training ---


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_it_learns(preset: str, optimizer: str) -> None:
    sorter = LSTMSorter(8, 1, normalize=False)
    sorter.standardize = True
    before = mean_error(sorter, 12, vectors=200)
    run = train_sorter(
        sorter,
        60,
        preset=preset,
        **(SMALL | {"batch_size": 64}),
        optimizer=optimizer,
        lr=0.01,
        warm_up=5,
    )
    assert mean_error(sorter, 12, vectors=200) < before / 2
    assert (run.steps, run.processes) == (60, 1)
    assert 0 < run.error < before
    assert not sorter.normalize
    assert not sorter.trainable


def test_the_first_step_is_adams() -> None:
    sorter = LSTMSorter(3, 1)
    before = weights(sorter)
    train_sorter(sorter, 1, lr=0.01, **SMALL)
    for key, value in sorter.state_dict().items():
        step = (value - before[key]).abs()
        assert step.max() <= 0.01 * (1 + 1e-4)
        assert step.mean() > 0.005


def test_muon_takes_the_matrices_and_adam_the_rest() -> None:
    sorter = LSTMSorter(16, 2)
    before = weights(sorter)
    train_sorter(sorter, 1, optimizer="muon", lr=0.01, **SMALL)
    for key, value in sorter.state_dict().items():
        step = (value - before[key]) / 0.01
        if value.dim() < 2 or 1 in value.shape:
            assert step.abs().max() <= 1 + 1e-4
            assert step.abs().mean() > 0.5
            continue
        # As large as a step of 0.2 in every weight is if all directions are alike, which five
        # Newton-Schulz steps bring the larger ones near to: 0.7 to 1.2 times.
        size = torch.linalg.svdvals(step) / (0.2 * max(step.shape) ** 0.5)
        assert 0.65 < size[0] < 1.25
        assert size[1] > 0.65


def test_the_averaged_weights() -> None:
    sorters = [CNNSorter(12, 2, [3]) for _ in range(3)]
    first = weights(sorters[0])
    for sorter, steps, average in zip(sorters, (1, 2, 2), (0.0, 0.0, 0.15), strict=True):
        sorter.load_state_dict(first)
        train_sorter(sorter, steps, average=average, **SMALL)
    one, two, averaged = (sorter.state_dict() for sorter in sorters)
    for key in one:
        if one[key].is_floating_point():
            wanted = 0.1 * first[key] + 0.9 * one[key]
            wanted = 0.15 * wanted + 0.85 * two[key]
            torch.testing.assert_close(averaged[key], wanted)


def test_the_objective_of_the_gradient() -> None:
    sorter = HandcraftedSorter(2.0).double()
    scores = torch.randn(3, 6, dtype=torch.float64)
    ranks = hard_rank(scores, normalize=True)
    targets = hard_rank(torch.rand(3, 6, dtype=torch.float64), normalize=True)
    loss, error = objective(sorter, scores, ranks, targets, 0.1)
    known = scores.clone().requires_grad_()
    sodeep_fast.SpearmanLoss(sorter)(known, -targets).backward()
    assert known.grad is not None
    cosine = torch.cosine_similarity(-known.grad, ranks - targets, dim=-1).mean()
    torch.testing.assert_close(error, (sorter(scores) - ranks).abs().mean())
    torch.testing.assert_close(loss, error - 0.1 * cosine)


def test_a_training_for_the_gradient_improves_it() -> None:
    plain, trained = (EquivariantSorter(sharpness=[4.0]) for _ in range(2))
    train_sorter(trained, 30, **SMALL, gradient_weight=1.0, lr=0.02)
    before, after = (gradient_use(sorter, 12, steps=20) for sorter in (plain, trained))
    assert after.cosine > before.cosine + 0.02


def test_mixed_precision_and_lengths() -> None:
    sorter = LSTMSorter(4, 1)
    train_sorter(sorter, 3, **(SMALL | {"length": (5, 9)}), precision="bfloat16")
    assert all(value.dtype == torch.float32 for value in sorter.parameters())
    assert all(value.isfinite().all() for value in sorter.parameters())


# --- Resumption ---

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
    assert_equal_weights(weights(resumed), weights(whole))
    assert (again.steps, again.error) == (run.steps, run.error)
    # There is nothing left to do.
    finished = MAKERS[name]()
    assert train_sorter(finished, 7, checkpoint=path, **options).seconds == again.seconds
    assert_equal_weights(weights(finished), weights(whole))


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
    assert_equal_weights(weights(resumed), weights(whole))


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
    # What one process resumes, two have trained.
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


# --- Bad input, and what is shown ---


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="sorter must be a learned sorter, got HandcraftedSorter"):
        train_sorter(HandcraftedSorter(), 1)
    with pytest.raises(ValueError, match="length must be 10, which this CNNSorter was made for"):
        train_sorter(CNNSorter(10, 2), 1)
    with pytest.raises(TypeError, match="unknown settings: momentum"):
        train_sorter(LSTMSorter(2), 1, momentum=0.9)


def test_progress_with_and_without_tqdm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SMALL | {"progress": True}
    train_sorter(LSTMSorter(2, 1), 2, **options)
    assert "2/2" in capsys.readouterr().err
    hide(monkeypatch, "tqdm")
    train_sorter(LSTMSorter(2, 1), 2, **options)
    assert "step 2 of 2: L1 0." in capsys.readouterr().out


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Makes the import of a package fail."""
    original = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith(package):
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, list[int]] = {}

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            logged.setdefault(name, []).append(step)

        def close(self) -> None:
            logged["closed"] = []

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", module)
        train_sorter(LSTMSorter(2, 1), 3, tensorboard=tmp_path, **SMALL)
    assert logged.keys() == {"L1", "learning rate", "seconds", "closed"}
    assert logged["L1"][-1] == 3
    hide(monkeypatch, "torch.utils.tensorboard")
    with pytest.raises(ImportError, match="pip install tensorboard"):
        train_sorter(LSTMSorter(2, 1), 3, tensorboard=tmp_path, **SMALL)


# --- The command ---


@pytest.fixture
def _short_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges sorters at few lengths and step sizes, which takes most of the time here."""
    monkeypatch.setattr("sodeep_fast.training.record.LENGTHS", (12, 20))
    monkeypatch.setattr("sodeep_fast.training.evaluate.RATES", (1.0,))


@pytest.mark.usefixtures("_short_record")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "sorter.safetensors"
    arguments = [*COMMAND[3:], "--steps=4", f"--output={output}", "--standardize"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    sorter, record = sodeep_fast.load_sorter(output), sodeep_fast.read_record(output)
    assert isinstance(sorter, LSTMSorter)
    assert sorter.standardize
    assert json.loads(output.with_suffix(".json").read_text()) == record
    assert printed == report(record) + "\n"
    assert record["settings"]["steps"] == record["steps"] == 4
    assert record["error"][0] == mean_error(sorter, 12, vectors=20, seed=1)
    # The command on record trains it again.
    words = record["command"].split()
    assert words[0] == "sodeep-fast"
    (tmp_path / "sorter.safetensors.training").unlink()
    assert main(words[1:]) == 0
    assert_equal_weights(weights(sodeep_fast.load_sorter(output)), weights(sorter))


@pytest.mark.usefixtures("_short_record")
def test_a_training_that_begins_with_a_trained_sorter(tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert main([*COMMAND[3:], "--steps=3", f"--output={first}", "--standardize"]) == 0
    more = [*_without_options(COMMAND[3:]), f"--initial={first}", f"--output={second}"]
    # With a rate of nothing it stays as it was.
    assert main([*more, "--steps=1", "--lr=1e-30", "--seed=1"]) == 0
    trained, same = sodeep_fast.load_sorter(first), sodeep_fast.load_sorter(second)
    assert isinstance(same, LSTMSorter)
    assert same.standardize
    assert_equal_weights(weights(same), weights(trained))
    record = sodeep_fast.read_record(second)
    assert record["initial"] == sodeep_fast.read_record(first)
    assert "initial" not in record["initial"]


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        (["--sorter=gru"], "--initial must be of --sorter gru, got a LSTMSorter"),
        (["--standardize"], "has its own --option and --standardize"),
        (["--option", "hidden_size=8"], "has its own --option and --standardize"),
        (["--initial=nothing"], "nothing"),
    ],
)
def test_bad_initial_sorters(
    extra: list[str], match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*_without_options(COMMAND[3:]), "--initial=lstm", *extra, "--steps=1"]
    assert main([*arguments, f"--output={tmp_path / 'sorter.safetensors'}"]) == 2
    assert match in capsys.readouterr().err


@pytest.mark.usefixtures("_short_record")
def test_a_training_that_ends_early(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "sorter.safetensors"
    command = [*COMMAND[3:], f"--output={output}", "--steps=9", "--preset=fast"]
    assert main([*command, "--until=4"]) == 0
    record = sodeep_fast.read_record(output)
    assert (record["steps"], record["settings"]["steps"]) == (4, 9)
    early = weights(sodeep_fast.load_sorter(output))
    # The run is still there to be finished, as if it had not ended.
    assert main(command) == 0
    late = weights(sodeep_fast.load_sorter(output))
    output.with_suffix(".safetensors.training").unlink()
    assert main(command) == 0
    assert_equal_weights(weights(sodeep_fast.load_sorter(output)), late)
    assert any(not torch.equal(early[key], late[key]) for key in late)
    assert main([*command, "--until=10"]) == 2
    assert "until must be between 1 and the 9 steps, got 10" in capsys.readouterr().err


def _without_options(arguments: list[str]) -> list[str]:
    at = arguments.index("--option")
    return arguments[:at] + arguments[at + 2 :]


@pytest.mark.usefixtures("_short_record")
@pytest.mark.parametrize(
    ("extra", "match"),
    [
        (["--dist=gamma"], "dist must be None"),
        (["--option", "hidden_size=0"], "hidden_size must be at least 1"),
        (["--option", "depth=3"], "unexpected keyword argument 'depth'"),
        (["--output=/nonexistent/sorter"], "No such file or directory"),
    ],
)
def test_bad_commands(
    extra: list[str], match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*COMMAND[3:], "--steps=1", f"--output={tmp_path / 'sorter.safetensors'}", *extra]
    assert main(arguments) == 2
    assert match in capsys.readouterr().err


# --- Judging ---


def test_the_error_of_the_papers_table() -> None:
    # SoDeep's Table 1 has 0.0350.
    assert 0.034 <= mean_error(HandcraftedSorter(lam=10), 100) <= 0.036


def test_errors_by_distribution() -> None:
    errors = error_by_distribution(sodeep_fast.hard_rank, 20, vectors=50)
    assert {"released", "paper", "uniform", *UNSEEN} <= errors.keys()
    assert all(error < 1e-6 for name, error in errors.items())
    assert mean_error(sodeep_fast.hard_rank, 20, "cauchy", vectors=50) == errors["cauchy"]
    with pytest.raises(ValueError, match="dist must be None"):
        mean_error(sodeep_fast.hard_rank, 20, "gamma")


def test_the_use_of_gradients() -> None:
    smooth, sharp, flat = (
        gradient_use(sorter, 20, vectors=8)
        for sorter in (HandcraftedSorter(2), HandcraftedSorter(1e4), lambda s: s * 0 + 0.5)
    )
    assert smooth.share > 0.95
    assert smooth.cosine > 0.5
    assert smooth.reached > 0.99
    assert sharp.share < 0.5
    assert sharp.cosine < 0.3
    assert sharp.reached < 0.9
    assert (flat.share, flat.cosine) == (0, 0)
