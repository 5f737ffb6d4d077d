"""Loads the compiled libraries, and says which exist.

Both libraries only register operators with PyTorch's dispatcher; they export no Python symbol, so
one file serves every Python and every torch from 2.10 on.
"""

import re
import warnings
from pathlib import Path

import torch

from sodeep_fast._compiler import constant_in_graphs


def find_library(stem: str) -> Path | None:
    """Returns where a compiled library of the package is, if it was built."""
    found = sorted(Path(__file__).parent.glob(f"{stem}.*so")) or sorted(
        Path(__file__).parent.glob(f"{stem}.*pyd")
    )
    return found[0] if found else None


def _load(stem: str) -> bool:
    path = find_library(stem)
    if path is None:
        return False
    try:
        torch.ops.load_library(path)
    except OSError as error:
        warnings.warn(
            f"sodeep_fast: {path.name} is there but cannot be loaded ({error}); "
            "falling back to what else is available.",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


HAS_CPU = _load("_C")
# Its stream symbol lives in libtorch_cuda, and its launches need a CUDA build of torch.
HAS_CUDA = HAS_CPU and torch.version.cuda is not None and _load("_C_cuda")

if find_library("_C") is None:
    warnings.warn(
        "sodeep_fast was installed without its compiled kernels (no C++ compiler was found, or the "
        "build was skipped); every operator runs on the plain PyTorch reference, which is slow and "
        "quadratic in memory. Reinstall with a C++ compiler to get the kernels.",
        RuntimeWarning,
        stacklevel=2,
    )


def cpu_capability() -> str:
    """Returns the instruction set that the CPU kernels use here, or "none" without kernels."""
    return str(torch.ops.sodeep_fast.cpu_capability()) if HAS_CPU else "none"


@constant_in_graphs
def cpu_has_bf16() -> bool:
    """Returns whether the CPU kernels multiply bfloat16 here, in the operators that can."""
    return HAS_CPU and bool(torch.ops.sodeep_fast.cpu_has_bf16())


def cuda_architectures() -> tuple[str, ...]:
    """Returns what the CUDA library was compiled for, such as "sm_90", oldest first; () if not
    built.

    Read from the file, so it is known even if this torch cannot load the library.
    """
    path = find_library("_C_cuda")
    if path is None:
        return ()
    found = set(re.findall(rb"sm_(\d+)([a-z]?)", path.read_bytes()))
    ordered = sorted((int(number), variant.decode()) for number, variant in found)
    return tuple(f"sm_{number}{variant}" for number, variant in ordered)
