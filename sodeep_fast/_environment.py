"""What a measurement depends on: the machine, the versions, the commit, the threads."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import torch

from sodeep_fast import _native
from sodeep_fast._version import __version__


def version_of(package: str) -> str:
    """Returns the installed version of a package, or "none"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def cpu_model() -> str:
    """Returns the name of the processor, as reported by the system."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> str:
    """Returns the commit of the clone that this package runs from, or "none" when installed."""
    clone = Path(__file__).parents[1]
    if not (clone / ".git").exists():
        return "none"
    command = ["git", "-C", str(clone), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def environment() -> dict[str, str | int]:
    """Returns the facts that are recorded with every result.

    Example:
        >>> environment()["version"] == __version__
        True
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "version": __version__,
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "kernels": _native.cpu_capability(),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version_of("triton"),
        "torchsort": version_of("torchsort"),
    }
