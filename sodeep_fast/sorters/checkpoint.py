"""Sorters on disk: our safetensors files, and checkpoints of SoDeep's released program.

Neither kind is unpickled into arbitrary objects, so no file can run code.
"""

import argparse
import io
import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from sodeep_fast._checks import check_sorter
from sodeep_fast._files import (
    FilePath,
    check_file,
    check_path,
    import_safetensors,
    write_atomically,
)
from sodeep_fast.sorters.cnn import CNNSorter, ReleasedCNNSorter
from sodeep_fast.sorters.equivariant import EquivariantSorter
from sodeep_fast.sorters.exact import ExactSorter
from sodeep_fast.sorters.gru import GRUSorter, RepeatedGRUSorter
from sodeep_fast.sorters.handcrafted import HandcraftedSorter
from sodeep_fast.sorters.lstm import LSTMSorter
from sodeep_fast.sorters.mlp import MLPSorter
from sodeep_fast.sorters.released import released_sorter

_TYPES: dict[str, Any] = {
    sorter.__name__: sorter
    for sorter in (
        CNNSorter,
        EquivariantSorter,
        ExactSorter,
        GRUSorter,
        HandcraftedSorter,
        LSTMSorter,
        MLPSorter,
        ReleasedCNNSorter,
        RepeatedGRUSorter,
    )
}

# The key of the JSON header in the metadata of a safetensors file.
_KEY = "sodeep_fast"

_FORMAT = 1

_WEIGHTS = Path(__file__).parent / "weights"

# The names of the trained sorters that come with the package.
SHIPPED = tuple(sorted(path.stem for path in _WEIGHTS.glob("*.safetensors")))


def save_sorter(
    sorter: nn.Module, path: FilePath, *, record: Mapping[str, Any] | None = None
) -> None:
    """Writes a sorter to a safetensors file, whole or not at all.

    The file is written under another name in the same folder and then renamed to `path`, so a
    failure leaves an old file intact. Needs the package safetensors.

    Arguments:
        sorter: any sorter of this library.
        path: the file. The names in `sodeep_fast.sorters.checkpoint.SHIPPED` refer to sorters in
            the package; to write a file of such a name, include its folder: "./lstm".
        record: a JSON-serializable dict about its training, which `read_record` returns. Default:
            empty.

    Raises:
        ImportError: safetensors is not installed.
        OSError: the file cannot be written.
        TypeError: not a sorter of this library, not a path, or a record that is not a
            JSON-serializable dict.
        ValueError: a path that is a folder, or the name of a sorter in the package.

    Example:
        >>> import os, tempfile, sodeep_fast
        >>> path = os.path.join(tempfile.mkdtemp(), "sorter.safetensors")
        >>> sodeep_fast.save_sorter(sodeep_fast.LSTMSorter(4), path, record={"seed": 0})
        >>> sodeep_fast.load_sorter(path).arguments()["hidden_size"]
        4
    """
    safetensors = import_safetensors()
    check_sorter(sorter)
    name = type(sorter).__name__
    if not _is_known(sorter):
        inner = getattr(sorter, "sorter", None)
        hint = f"; save its .sorter, of type {type(inner).__name__}" if _is_known(inner) else ""
        raise TypeError(f"sorter must be one of {', '.join(_TYPES)}, got {name}{hint}")
    if record is not None and not isinstance(record, Mapping):
        raise TypeError(f"record must be a dict or None, got {type(record).__name__}")
    target = check_destination(path)
    header = {
        "format": _FORMAT,
        "type": name,
        "arguments": described(sorter),
        "record": dict(record or {}),
    }
    try:
        metadata = {_KEY: json.dumps(header)}
    except (TypeError, ValueError) as error:
        raise TypeError(f"record must be something that JSON can hold: {error}") from None
    tensors = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in sorter.state_dict().items()
    }
    write_atomically(target, safetensors.torch.save(tensors, metadata))


def check_destination(path: FilePath, name: str = "path") -> Path:
    """Returns `path` as a Path; raises unless `load_sorter` would find a file there again.

    Raises:
        TypeError: not a path.
        ValueError: a folder, or the name of a sorter of the package.
    """
    file = check_file(path, name)
    if path in SHIPPED:
        raise ValueError(
            f"{name} must be a file, got {path!r}, a sorter of the package; './{path}' is a file"
        )
    return file


def load_sorter(
    path: FilePath,
    map_location: torch.device | str = "cpu",
    *,
    trainable: bool = False,
) -> nn.Module:
    """Loads a trained sorter of the package, or a sorter from a file.

    A file is one of `save_sorter`, or a checkpoint of the released program. The latter is made by
    torch.save, `best_model.pth.tar`, and is read without running any code from it. Sorters saved on
    a GPU load everywhere.

    Arguments:
        path: the name of a sorter of the package, one of `sodeep_fast.sorters.checkpoint.SHIPPED`;
            or a file. Write "./lstm" or `Path("lstm")` for a file with such a name; "lstm" alone is
            refused if that file exists.
        map_location: the device to put the sorter on. Default: the CPU.
        trainable: whether its weights require gradients; see `LSTMSorter`. Default: False.

    Returns:
        The sorter, with weights in the dtype they were saved in; frozen and in evaluation mode
        unless trainable.

    Raises:
        FileNotFoundError: no such file, and no sorter of that name.
        ImportError: a safetensors file, but safetensors is not installed.
        TypeError: not a path.
        ValueError: a file that is damaged, that holds something else or another architecture's
            weights, or that would run code if unpickled; or a name of both a file and a sorter of
            the package.

    Example:
        >>> import torch, sodeep_fast
        >>> sorter = sodeep_fast.load_sorter("equivariant")
        >>> sorter(torch.tensor([0.3, 0.9, -1.0, 0.5])).shape
        torch.Size([4])
    """
    path = _existing(path)
    if not _is_safetensors(path):
        model_type, length, state = read_released(path, map_location)
        return _assemble(
            lambda: released_sorter(model_type, length, trainable=trainable), state, path
        )
    header = _read_header(path)
    make = _TYPES.get(header["type"])
    if make is None:
        raise ValueError(f"{path} holds a sorter of unknown type {header['type']!r}")
    options = {"trainable": trainable} if "trainable" in make.__init__.__annotations__ else {}
    safetensors = import_safetensors()
    with safetensors.safe_open(path, "pt", device="cpu") as file:
        state = {key: file.get_tensor(key).to(map_location) for key in file.keys()}  # noqa: SIM118
    arguments = dict(header["arguments"])
    standardize = arguments.pop("standardize", False)

    def made() -> nn.Module:
        sorter = make(**arguments, **options)
        if standardize:
            sorter.standardize = True
        return cast(nn.Module, sorter)

    return _assemble(made, state, path)


def described(sorter: nn.Module) -> dict[str, Any]:
    """Returns the arguments that make a sorter, with `standardize` where it was set later."""
    arguments: dict[str, Any] = sorter.arguments()  # type: ignore[operator]
    return arguments | {"standardize": True} if getattr(sorter, "standardize", False) else arguments


def read_record(path: FilePath) -> dict[str, Any]:
    """Returns the training record of a sorter in a safetensors file, without reading the weights.

    Arguments:
        path: the name of a sorter of the package, or a file; as in `load_sorter`.

    Raises:
        FileNotFoundError: no such file.
        ImportError: safetensors is not installed.
        TypeError: not a path.
        ValueError: not a file of `save_sorter`, or a name that `load_sorter` refuses.
    """
    record: dict[str, Any] = _read_header(_existing(path))["record"]
    return record


def read_released(
    path: FilePath, map_location: torch.device | str = "cpu"
) -> tuple[str, int, dict[str, Tensor]]:
    """Returns (model_type, seq_len, state_dict) of a checkpoint of the released program.

    Such a file is made by torch.save and holds a dict with the weights under "state_dict" and an
    argparse.Namespace under "args_dict". Only tensors, plain Python values, NumPy's floating-point
    scalars and that class are unpickled.

    Arguments:
        path: the file.
        map_location: the device to put the weights on. Default: the CPU.

    Raises:
        FileNotFoundError: no such file.
        TypeError: not a path.
        ValueError: a file that is damaged, that holds something else, or that would run code if it
            were unpickled.
    """
    path = _existing(path)
    if _is_safetensors(path):
        raise ValueError(
            f"{path} is not of the released program but of save_sorter: sodeep_fast.load_sorter "
            "reads it"
        )
    data = io.BytesIO(path.read_bytes())
    # On leaving, torch forgets all that it was given, what the caller has declared safe too.
    known = torch.serialization.get_safe_globals()
    released = [name for name in _released_globals() if name not in known]
    try:
        with torch.serialization.safe_globals(released), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(data, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # The rest of torch's message says how to load the file anyway.
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
        raise ValueError(
            f"{path} is damaged, or holds objects that could run code and was not read: {reason}"
        ) from None
    except Exception as error:
        # A damaged file may raise anything in the unpickler.
        raise ValueError(f"{path} is damaged, or not a checkpoint: {error}") from None
    arguments = content.get("args_dict") if isinstance(content, dict) else None
    state = content.get("state_dict") if isinstance(content, dict) else None
    model_type = getattr(arguments, "model_type", None)
    length = getattr(arguments, "seq_len", None)
    if (
        not isinstance(state, dict)
        or not all(isinstance(value, Tensor) for value in state.values())
        or not isinstance(model_type, str)
        or not isinstance(length, int)
    ):
        raise ValueError(
            f"{path} is not a sorter's checkpoint: it needs weights under 'state_dict', and "
            "model_type and seq_len in the namespace under 'args_dict'"
        )
    return model_type, length, {key: value.to(map_location) for key, value in state.items()}


def _released_globals() -> list[Any]:
    """Returns the globals in the released program's files that torch does not allow by default.

    The best error of a training may be a NumPy scalar, and NumPy 1 and 2 have different names for
    the function that makes it.
    """
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = [type(np.dtype(kind)) for kind in (np.float32, np.float64)]
    return [argparse.Namespace, np.dtype, *kinds, *((scalar, name) for name in names)]


def _assemble(make: Any, state: dict[str, Tensor], path: Path) -> nn.Module:
    """Returns the sorter that `make` makes, with the weights of the file."""
    try:
        # On "meta", so that it takes no memory before it is given the weights.
        with torch.device("meta"):
            sorter: nn.Module = make()
        sorter.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit the sorter that it names: {error}") from None
    return sorter


def _existing(path: FilePath) -> Path:
    """Returns the path of a file or of a sorter in the package, or raises if there is none."""
    file = check_path(path, "path")
    if path in SHIPPED:
        if file.is_file():
            raise ValueError(
                f"path must be './{path}' for the file of that name, got {path!r}, which is a "
                "sorter of the package too, and means it where there is no such file"
            )
        return _WEIGHTS / f"{path}.safetensors"
    if not file.is_file():
        raise FileNotFoundError(
            f"no sorter checkpoint at {path}; the package has {', '.join(SHIPPED) or 'none'}"
        )
    return file


def _is_known(sorter: object) -> bool:
    return _TYPES.get(type(sorter).__name__) is type(sorter)


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a JSON header in 8 bytes, and it."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _read_header(path: Path) -> dict[str, Any]:
    """Returns the JSON header of a file of `save_sorter`."""
    safetensors = import_safetensors()
    try:
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_KEY)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged, or not a safetensors file: {error}") from None
    if text is None:
        raise ValueError(f"{path} is a safetensors file, but was not written by save_sorter")
    try:
        header = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path} is damaged: its header is {header!r}")
    if header.get("format") != _FORMAT:
        raise ValueError(
            f"{path} has format {header.get('format')!r} of sorters; this version reads {_FORMAT}"
        )
    if not {"type", "arguments", "record"} <= header.keys():
        raise ValueError(f"{path} is damaged: its header has {', '.join(header)} only")
    if not isinstance(header["arguments"], dict):
        raise ValueError(f"{path} is damaged: its sorter's arguments are {header['arguments']!r}")
    return header
