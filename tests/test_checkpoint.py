"""Sorters on disk: round trips, whole files or none, and files that are damaged or hostile."""

import argparse
import builtins
import json
import os
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import sodeep_fast
from sodeep_fast.sorters.checkpoint import load_sorter, read_record, read_released, save_sorter
from sodeep_fast.sorters.released import RELEASED_TYPES, released_sorter
from sodeep_fast.testing import DEVICES, make_scores

SORTERS: dict[str, Callable[[], nn.Module]] = {
    "handcrafted": lambda: sodeep_fast.HandcraftedSorter(3.0, method="direct"),
    "learnable": lambda: sodeep_fast.HandcraftedSorter(3.0, learnable=True),
    "lstm-position": lambda: sodeep_fast.LSTMSorter(5, normalize=False),
    "cnn-paper": lambda: sodeep_fast.CNNSorter(100, 2, [4], [3, 5]),
    "cnn-same": lambda: sodeep_fast.CNNSorter(100, 2, [4], padding="same"),
    "half": lambda: sodeep_fast.MLPSorter(100, 8).bfloat16(),
    "double": lambda: sodeep_fast.GRUSorter(3, 1).double(),
}


pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")


def length_of(model_type: str) -> int:
    return {"cnn": 100, "lstmla": 2}.get(model_type, 6)


def released_content(model_type: str, sorter: nn.Module) -> dict[str, Any]:
    """What the released program's training saves."""
    return {
        "epoch": 399,
        "state_dict": OrderedDict(sorter.state_dict()),
        "best_rec": 0.0033,
        "args_dict": argparse.Namespace(
            name="model",
            batch_size=256,
            lr=0.001,
            lr_steps=70,
            mepoch=400,
            print_frequency=100,
            seq_len=length_of(model_type),
            model_type=model_type,
            dist=None,
        ),
    }


def save_released(path: Path, model_type: str = "mlp", **options: Any) -> nn.Module:
    sorter = released_sorter(model_type, length_of(model_type))
    torch.save(released_content(model_type, sorter), path, **options)
    return sorter


def assert_same(loaded: nn.Module, sorter: nn.Module, n: int) -> None:
    assert type(loaded) is type(sorter)
    assert repr(loaded) == repr(sorter)
    assert loaded.state_dict().keys() == sorter.state_dict().keys()
    for key, value in sorter.state_dict().items():
        assert loaded.state_dict()[key].dtype == value.dtype
        assert torch.equal(loaded.state_dict()[key], value)
    scores = make_scores("normal", (3, n)).requires_grad_()
    ranks = loaded(scores)
    assert torch.equal(ranks, sorter(scores))
    ranks.sum().backward()
    assert scores.grad.isfinite().all()


# --- Round trips ---


@pytest.mark.parametrize("model_type", RELEASED_TYPES)
def test_round_trip_of_the_released_types(model_type: str, tmp_path: Path) -> None:
    path = tmp_path / "sorter.safetensors"
    sorter = released_sorter(model_type, length_of(model_type))
    save_sorter(sorter, path)
    assert_same(load_sorter(path), sorter, length_of(model_type))


@pytest.mark.parametrize("name", SORTERS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    path = tmp_path / "sorter.safetensors"
    sorter = SORTERS[name]()
    save_sorter(sorter, path)
    assert_same(load_sorter(str(path)), sorter, 100)
    assert os.listdir(tmp_path) == ["sorter.safetensors"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("model_type", RELEASED_TYPES)
def test_released_checkpoints(model_type: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "best_model.pth.tar"
    sorter = save_released(path, model_type, _use_new_zipfile_serialization=zipped)
    assert_same(load_sorter(path), sorter, length_of(model_type))
    read_type, length, state = read_released(path)
    assert (read_type, length) == (model_type, length_of(model_type))
    assert state.keys() == sorter.state_dict().keys()
    # The permission to unpickle that class ends with the call, unless it is the caller's own.
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([argparse.Namespace]):
        read_released(path)
        assert argparse.Namespace in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("best", [np.float64(0.0033), np.float32(0.0033)])
def test_released_checkpoints_whose_best_error_is_of_numpy(best: Any, tmp_path: Path) -> None:
    """NumPy 1 and 2 call what makes a scalar by two names; a file may have either."""
    path = tmp_path / "best_model.pth.tar"
    sorter = released_sorter("mlp", 6)
    content = {**released_content("mlp", sorter), "best_rec": best}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    for name in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        path.write_bytes(re.sub(rb"numpy\._?core\.multiarray", name, written))
        assert name in path.read_bytes()
        assert_same(load_sorter(path), sorter, 6)


def test_checkpoints_saved_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best_model.pth.tar"
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    sorter = save_released(path)
    monkeypatch.undo()
    assert b"cuda:0" in path.read_bytes()
    assert_same(load_sorter(path), sorter, 6)


@pytest.mark.parametrize("device", [*DEVICES, "meta"])
def test_map_location(device: str, tmp_path: Path) -> None:
    ours, released = tmp_path / "sorter.safetensors", tmp_path / "best_model.pth.tar"
    save_sorter(save_released(released), ours)
    for path in (ours, released):
        sorter = load_sorter(path, device)
        assert {p.device.type for p in sorter.parameters()} == {device}


@pytest.mark.parametrize("trainable", [False, True])
def test_frozen_or_trainable(trainable: bool, tmp_path: Path) -> None:
    ours, released = tmp_path / "sorter.safetensors", tmp_path / "best_model.pth.tar"
    save_sorter(save_released(released, "cnn"), ours)
    for path in (ours, released):
        sorter = load_sorter(path, trainable=trainable)
        assert sorter.training == trainable
        assert {p.requires_grad for p in sorter.parameters()} == {trainable}


def test_record(tmp_path: Path) -> None:
    path = tmp_path / "sorter.safetensors"
    record = {"seed": 3, "error": {"uniform": 0.003}, "versions": ["2.13"]}
    save_sorter(sodeep_fast.LSTMSorter(2), path, record=record)
    assert read_record(path) == record
    save_sorter(sodeep_fast.LSTMSorter(2), path)
    assert read_record(path) == {}


def test_the_header(tmp_path: Path) -> None:
    path = tmp_path / "sorter.safetensors"
    save_sorter(sodeep_fast.MLPSorter(4, 3), path, record={"seed": 1})
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["sodeep_fast"]) == {
        "format": 1,
        "type": "MLPSorter",
        "arguments": {"length": 4, "hidden_size": 3, "normalize": True},
        "record": {"seed": 1},
    }


# --- Whole files or none ---


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sorter.safetensors"
    save_sorter(sodeep_fast.LSTMSorter(2), path)
    old = path.read_bytes()

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        save_sorter(sodeep_fast.LSTMSorter(3), path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["sorter.safetensors"]


def test_what_cannot_be_saved_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "sorter.safetensors"
    save_sorter(sodeep_fast.LSTMSorter(2), path)
    old = path.read_bytes()
    with pytest.raises(TypeError, match=r"record must be something that JSON can hold: .*Tensor"):
        save_sorter(sodeep_fast.LSTMSorter(2), path, record={"error": torch.ones(1)})
    with pytest.raises(TypeError, match=r"sorter must be one of CNNSorter, .*got Linear"):
        save_sorter(nn.Linear(2, 2), path)
    assert path.read_bytes() == old


@pytest.mark.parametrize(
    ("sorter", "record", "match"),
    [
        (sodeep_fast.LSTMSorter, None, r"sorter must be a module .*the class LSTMSorter"),
        (
            sodeep_fast.OnlineSorter(sodeep_fast.LSTMSorter(2)),
            None,
            r"got OnlineSorter; save its \.sorter, of type LSTMSorter",
        ),
        (sodeep_fast.LSTMSorter(2), [1], "record must be a dict or None, got list"),
    ],
)
def test_what_is_no_sorter_or_record(sorter: Any, record: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=match):
        save_sorter(sorter, tmp_path / "sorter", record=record)
    assert os.listdir(tmp_path) == []


def test_messages_name_the_path_that_was_given(tmp_path: Path) -> None:
    sorter = sodeep_fast.LSTMSorter(2)
    with pytest.raises(ValueError, match=f"path must be a file, got '{tmp_path}'"):
        save_sorter(sorter, str(tmp_path))
    for path in (tmp_path / "none" / "sorter", tmp_path / "file" / "sorter"):
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match=f"'{path}'"):
            save_sorter(sorter, path)
    for path in (None, 3):
        for call in (load_sorter, read_record, read_released, lambda p: save_sorter(sorter, p)):
            with pytest.raises(TypeError, match=r"path must be a str or os\.PathLike, got"):
                call(path)  # type: ignore[operator]


def test_names_of_the_package_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sorter = sodeep_fast.LSTMSorter(2)
    with pytest.raises(ValueError, match=r"path must be a file, got 'lstm', .*'\./lstm' is a file"):
        save_sorter(sorter, "lstm")
    assert os.listdir(tmp_path) == []
    save_sorter(sorter, "./lstm", record={"mine": True})
    for path in ("./lstm", Path("lstm"), tmp_path / "lstm"):
        assert_same(load_sorter(path), sorter, 5)
        assert read_record(path) == {"mine": True}
    for read in (load_sorter, read_record, read_released):
        with pytest.raises(ValueError, match=r"path must be '\./lstm' for the file .*got 'lstm'"):
            read("lstm")
    os.remove("lstm")
    os.mkdir("lstm")
    assert isinstance(load_sorter("lstm"), sodeep_fast.LSTMSorter)


# --- Damaged, foreign and hostile files ---


def test_no_file(tmp_path: Path) -> None:
    for read in (load_sorter, read_record, read_released):
        with pytest.raises(FileNotFoundError, match=r"no sorter checkpoint at .*none"):
            read(tmp_path / "none")


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["safetensors", "zipped", "legacy"])
def test_truncated_files(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / "sorter"
    sorter = save_released(path, "gruc", _use_new_zipfile_serialization=kind == "zipped")
    if kind == "safetensors":
        save_sorter(sorter, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"sorter is damaged"):
        load_sorter(path)


class Hostile:
    """Runs code when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.victim),))


@pytest.mark.parametrize("place", ["whole", "state_dict", "args_dict", "namespace"])
@pytest.mark.parametrize("writer", ["zipped", "legacy", "pickle"])
def test_hostile_files_are_refused(writer: str, place: str, tmp_path: Path) -> None:
    path, victim = tmp_path / "best_model.pth.tar", tmp_path / "victim"
    content: Any = released_content("grus", released_sorter("grus"))
    if place == "whole":
        content = Hostile(victim)
    elif place == "namespace":
        content["args_dict"].dist = Hostile(victim)
    else:
        content[place] = Hostile(victim)
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "zipped")
    with pytest.raises(ValueError, match=r"could run code and was not read"):
        load_sorter(path)
    assert not victim.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("args_dict"),
        lambda content: content.pop("state_dict"),
        lambda content: content["state_dict"].update(extra=3),
        lambda content: delattr(content["args_dict"], "model_type"),
        lambda content: setattr(content["args_dict"], "seq_len", "100"),
    ],
)
def test_checkpoints_of_something_else(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "best_model.pth.tar"
    content = released_content("grus", released_sorter("grus"))
    change(content)
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"is not a sorter's checkpoint: it needs weights under"):
        load_sorter(path)
    torch.save(torch.ones(3), path)
    with pytest.raises(ValueError, match=r"is not a sorter's checkpoint"):
        load_sorter(path)


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "best_model.pth.tar"
    content = released_content("mlp", released_sorter("grus"))
    torch.save(content, path)
    with pytest.raises(
        ValueError, match=r"(?s)does not fit the sorter that it names: .*lin1\.weight"
    ):
        load_sorter(path)
    content["args_dict"].model_type = "bogo"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"does not fit .*model_type must be one of .*'bogo'"):
        load_sorter(path)


def write_header(path: Path, header: Any, tensors: dict[str, Tensor] | None = None) -> None:
    metadata = None if header is None else {"sodeep_fast": json.dumps(header)}
    safetensors.torch.save_file(tensors or {}, path, metadata)


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (None, "was not written by save_sorter"),
        ({"format": 2}, "has format 2 of sorters; this version reads 1"),
        ([], "is damaged"),
        ({"format": 1}, "is damaged"),
        ({"type": "os"}, "sorter of unknown type 'os'"),
        ({"arguments": [3]}, r"is damaged: its sorter's arguments are \[3\]"),
        ({"arguments": {"depth": 3}}, "does not fit .*unexpected keyword argument 'depth'"),
        ({"arguments": {"hidden_size": 10**7}}, "(?s)does not fit .*size mismatch for lstm"),
        ({"arguments": {"hidden_size": -1}}, "does not fit .*hidden_size must be at least 1"),
    ],
)
def test_strange_headers(header: Any, match: str, tmp_path: Path) -> None:
    path = tmp_path / "sorter.safetensors"
    sorter = sodeep_fast.LSTMSorter(2)
    if isinstance(header, dict) and "format" not in header:
        header = {"format": 1, "type": "LSTMSorter", "arguments": {}, "record": {}} | header
    write_header(path, header, sorter.state_dict())
    with pytest.raises(ValueError, match=match):
        load_sorter(path)


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best_model.pth.tar"
    sorter = save_released(path, "grus")
    original = builtins.__import__

    def missing(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("safetensors"):
            raise ImportError(name)
        return original(name, *args, **options)

    for name in [name for name in sys.modules if name.split(".")[0] == "safetensors"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install safetensors, or sodeep-fast\[sorters\]"):
        save_sorter(sorter, tmp_path / "sorter.safetensors")
    # The released program's checkpoints do not need it.
    assert_same(load_sorter(path), sorter, 6)


def test_a_file_of_save_sorter_is_not_of_the_released_program() -> None:
    with pytest.raises(ValueError, match=r"of save_sorter: sodeep_fast\.load_sorter reads it"):
        read_released("lstm")
