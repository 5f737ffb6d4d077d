"""`sodeep-fast train`: the file that it writes, its options, and bad input."""

import json
import re
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
    # The recorded command trains it again.
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
    # With a negligible learning rate, it stays as it was.
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


def _never(*_: object, **__: object) -> None:
    raise AssertionError("the training began")


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        (["--output=m.json"], "--output must not end in .json, .* got 'm.json'"),
        (["--output=lstm"], r"--output must be a file, got 'lstm', .*'\./lstm' is a file"),
        (["--output=no/z"], r"--output cannot be written \(No such file or directory\): 'no/z'"),
        (["--output=file/z"], r"--output cannot be written \(Not a directory\): 'file/z'"),
        (["--output=folder/z"], "the record of --output must be a file, got 'folder/z.json'"),
        (["--checkpoint=z"], "--checkpoint must be a file of its own, got 'z', where the sorter"),
        (["--checkpoint=./z.json"], r"of its own, got '\./z\.json', where its record goes"),
        (["--checkpoint=folder"], "checkpoint must be a file, got 'folder'"),
        (["--checkpoint=no/z"], r"checkpoint cannot be written \(No such file"),
        (["--initial=lstm"], r"path must be '\./lstm' for the file of that name, got 'lstm'"),
    ],
)
def test_bad_files_are_found_before_the_training(
    extra: list[str],
    match: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sodeep_fast.training.loop._train", _never)
    (tmp_path / "folder" / "z.json").mkdir(parents=True)
    sodeep_fast.save_sorter(LSTMSorter(4), "./file")
    if "--initial=lstm" in extra:
        sodeep_fast.save_sorter(LSTMSorter(4), "./lstm")
    before = sorted(tmp_path.rglob("*"))
    assert main([*_without_options(ARGUMENTS), "--steps=1", "--output=z", *extra]) == 2
    message = capsys.readouterr().err
    assert re.search(match, message)
    assert message.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("_short_record")
def test_every_sorter_has_a_record_of_its_own(tmp_path: Path) -> None:
    for name, record in (
        ("run.v1", "run.v1.json"),
        ("run.v2", "run.v2.json"),
        ("run", "run.json"),
        ("x.safetensors", "x.json"),
    ):
        assert main([*ARGUMENTS, "--steps=1", f"--output={tmp_path / name}"]) == 0
        written = json.loads((tmp_path / record).read_text())
        assert written == sodeep_fast.read_record(tmp_path / name)
        assert f"/{name}" in written["command"]
        assert isinstance(sodeep_fast.load_sorter(tmp_path / name), LSTMSorter)
    assert len(list(tmp_path.glob("*.json"))) == 4


def test_help_says_where_the_record_goes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "run.v1 and run.v1.json" in text
    assert "ends in .json, or is the name of a sorter of the package, is refused" in text


@pytest.mark.usefixtures("_short_record")
def test_a_run_is_not_cut_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "sorter.safetensors"
    assert main([*ARGUMENTS, "--steps=4", f"--output={output}"]) == 0
    old = output.read_bytes()
    capsys.readouterr()
    state = re.escape(f"{output}.training")
    for extra, name in ((["--steps=4", "--until=3"], "until"), (["--steps=3"], "steps")):
        assert main([*ARGUMENTS, *extra, f"--output={output}"]) == 2
        message = f"{name} must be at least 4, the steps that the run in {state} has done, got 3"
        assert re.search(message, capsys.readouterr().err)
    assert output.read_bytes() == old


@pytest.mark.usefixtures("_short_record")
def test_a_dense_head_takes_the_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "sorter.safetensors"
    dense = [*_without_options(ARGUMENTS), "--option", "head=dense", "hidden_size=4"]
    dense += ["--steps=1", f"--output={output}"]
    assert main(dense) == 0
    sorter = sodeep_fast.load_sorter(output)
    assert isinstance(sorter, LSTMSorter)
    assert (sorter.head, sorter.length) == ("dense", 12)
    assert main([*dense, "--length=5:12"]) == 2
    message = "--length must be one number for --sorter lstm with head=dense"
    assert message in capsys.readouterr().err


def test_one_row_for_batch_normalization(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sorter.safetensors"
    command = ["train", "--sorter=cnn", "--steps=1", "--length=12", "--batch-size=1", "--quiet"]
    assert main([*command, f"--output={output}"]) == 2
    assert "batch_size must be at least 2 for CNNSorter, whose" in capsys.readouterr().err


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
