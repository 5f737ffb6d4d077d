"""`sodeep-fast train`: the file that it writes, its options, and bad input."""

import json
from pathlib import Path

import pytest
import torch

import sodeep_fast
from sodeep_fast import LSTMSorter
from sodeep_fast.cli import main
from sodeep_fast.testing import assert_equal_weights, weights_of
from sodeep_fast.training import mean_error
from sodeep_fast.training.record import report

ARGUMENTS = ["train", "--sorter", "lstm", "--option", "hidden_size=4", "--batch-size=8"]
ARGUMENTS += ["--length=12", "--threads=1", "--quiet", "--vectors=20"]

pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")


@pytest.fixture
def _short_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges sorters at few lengths and step sizes, which takes most of the time here."""
    monkeypatch.setattr("sodeep_fast.training.record.LENGTHS", (12, 20))
    monkeypatch.setattr("sodeep_fast.training.evaluate.RATES", (1.0,))


@pytest.mark.usefixtures("_short_record")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "sorter.safetensors"
    arguments = [*ARGUMENTS, "--steps=4", f"--output={output}", "--standardize"]
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
    assert_equal_weights(weights_of(sodeep_fast.load_sorter(output)), weights_of(sorter))


@pytest.mark.usefixtures("_short_record")
def test_a_training_that_begins_with_a_trained_sorter(tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert main([*ARGUMENTS, "--steps=3", f"--output={first}", "--standardize"]) == 0
    more = [*_without_options(ARGUMENTS), f"--initial={first}", f"--output={second}"]
    # With a rate of nothing it stays as it was.
    assert main([*more, "--steps=1", "--lr=1e-30", "--seed=1"]) == 0
    trained, same = sodeep_fast.load_sorter(first), sodeep_fast.load_sorter(second)
    assert isinstance(same, LSTMSorter)
    assert same.standardize
    assert_equal_weights(weights_of(same), weights_of(trained))
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
    arguments = [*_without_options(ARGUMENTS), "--initial=lstm", *extra, "--steps=1"]
    assert main([*arguments, f"--output={tmp_path / 'sorter.safetensors'}"]) == 2
    assert match in capsys.readouterr().err


@pytest.mark.usefixtures("_short_record")
def test_a_training_that_ends_early(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "sorter.safetensors"
    command = [*ARGUMENTS, f"--output={output}", "--steps=9", "--preset=fast"]
    assert main([*command, "--until=4"]) == 0
    record = sodeep_fast.read_record(output)
    assert (record["steps"], record["settings"]["steps"]) == (4, 9)
    early = weights_of(sodeep_fast.load_sorter(output))
    # The run is still there to be finished, as if it had not ended.
    assert main(command) == 0
    late = weights_of(sodeep_fast.load_sorter(output))
    output.with_suffix(".safetensors.training").unlink()
    assert main(command) == 0
    assert_equal_weights(weights_of(sodeep_fast.load_sorter(output)), late)
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
        (["--output=."], "--output must be a file, got '.'"),
        (["--output=/tmp"], "--output must be a file, got '/tmp'"),
    ],
)
def test_bad_commands(
    extra: list[str], match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*ARGUMENTS, "--steps=1", f"--output={tmp_path / 'sorter.safetensors'}", *extra]
    assert main(arguments) == 2
    assert match in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        (["--vectors=0"], "expected a number of at least 1, got '0'"),
        (["--device=gpu"], "PyTorch cannot use 'gpu' here"),
        (["--device=meta:x"], "PyTorch cannot use 'meta:x' here"),
    ],
)
def test_bad_options_are_found_before_anything_else(
    extra: list[str], match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*ARGUMENTS, "--steps=1", f"--output={tmp_path / 'sorter'}", *extra])
    assert match in capsys.readouterr().err


def test_a_range_of_lengths_for_a_sorter_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sorter.safetensors"
    command = ["train", "--sorter=mlp", "--steps=1", "--length=5:30", f"--output={output}"]
    assert main(command) == 2
    assert "--length must be one number for --sorter mlp" in capsys.readouterr().err


def test_stopped_by_hand_it_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sodeep_fast.training.command.train_sorter", interrupt)
    output = tmp_path / "sorter.safetensors"
    assert main([*ARGUMENTS, "--steps=1", f"--output={output}"]) == 130
    assert "stopped; given again, it goes on where it was" in capsys.readouterr().err
