"""Files that are written whole or not at all, checks of paths, and how tensors are stored."""

import contextlib
import errno
import os
import types
from pathlib import Path

FilePath = str | os.PathLike[str]


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file under another name, and moves it over `path` once it is safely on the disk.

    If anything fails, an old file at `path` is left intact.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    temporary = _beside(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # Users do not know about the temporary file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        _remove(temporary)


def check_path(path: FilePath, name: str) -> Path:
    """Returns `path` as a Path; raises unless it is one, or a string."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} must be a str or os.PathLike, got {type(path).__name__}")
    return Path(path)


def check_file(path: FilePath, name: str) -> Path:
    """Returns `path` as a Path; raises if it exists and is not a file."""
    target = check_path(path, name)
    if not target.name or (target.exists() and not target.is_file()):
        raise ValueError(f"{name} must be a file, got {str(path)!r}")
    return target


def check_output(path: FilePath, name: str) -> None:
    """Raises unless `write_atomically` can write to `path`; to be called before any work."""
    _try_to_write(_beside(check_file(path, name)), path, name)


def make_folder(folder: FilePath, name: str) -> None:
    """Creates a folder unless it exists; raises if no file can be written in it.

    Raises:
        OSError: it cannot be created or written to.
        TypeError: not a path.
        ValueError: a file is there.
    """
    target = check_path(folder, name)
    if target.exists() and not target.is_dir():
        raise ValueError(f"{name} must be no file, got {str(folder)!r}")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(error, folder, name) from None
    _try_to_write(_beside(target / name), folder, name)


def prepare_file(path: FilePath, name: str) -> None:
    """Creates the folder of a file that is written in place; raises if the file cannot be written.

    Raises:
        OSError: it, or its folder, cannot be written to.
        TypeError: not a path.
        ValueError: a folder.
    """
    target = check_path(path, name)
    if not target.name or target.is_dir():
        raise ValueError(f"{name} must be a file, got {str(path)!r}")
    if not target.exists():
        make_folder(target.parent, f"the folder of {name}")
    elif not os.access(target, os.W_OK):
        raise _unwritable(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), path, name)


def _beside(path: Path) -> Path:
    """Returns the temporary file that will become `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _try_to_write(temporary: Path, path: FilePath, name: str) -> None:
    try:
        temporary.touch()
    except OSError as error:
        raise _unwritable(error, path, name) from None
    finally:
        _remove(temporary)


def _unwritable(error: OSError, path: FilePath, name: str) -> OSError:
    return OSError(error.errno, f"{name} cannot be written ({error.strerror})", str(path))


def _remove(temporary: Path) -> None:
    # If it could not be created, removing it may fail, too.
    with contextlib.suppress(OSError):
        temporary.unlink()


def import_safetensors() -> types.ModuleType:
    """Returns the module safetensors, which is only needed for files."""
    try:
        import safetensors
        import safetensors.torch
    except ImportError:
        raise ImportError(
            "sorters are stored as safetensors: pip install safetensors, or sodeep-fast[sorters]"
        ) from None
    return safetensors
