"""Files that are written whole or not at all, and the format that tensors are stored in."""

import os
import types
from pathlib import Path

FilePath = str | os.PathLike[str]


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file under another name, and moves it over `path` once it is safely on the disk.

    Whatever fails, an old file at `path` is left as it was.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def import_safetensors() -> types.ModuleType:
    """Returns the module safetensors, which only files need."""
    try:
        import safetensors
        import safetensors.torch
    except ImportError:
        raise ImportError(
            "sorters are stored as safetensors: pip install safetensors, or sodeep-fast[sorters]"
        ) from None
    return safetensors
