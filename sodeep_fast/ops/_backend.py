"""Which implementation of an operator serves a call: the one place that knows the order.

CPU tensors go to the C++ kernels; CUDA tensors to Triton, or to CUDA C++ where that has been
measured faster or Triton has no kernel for the method. The reference serves where nothing is built.
"""

import functools
import importlib.util
import os

from torch import Tensor

from sodeep_fast import _native
from sodeep_fast._checks import check_choice

BACKENDS = ("auto", "cpp", "triton", "cuda", "reference")
# Which kernels exist; an operator that is not named has all of them.
KERNELS = {"rank_counts": ("cpp",)}


@functools.cache
def has_triton() -> bool:
    """Returns whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def _missing(backend: str, device: str, operator: str) -> str | None:
    """Says why `backend` cannot serve a tensor on `device`, or returns None if it can."""
    if backend == "reference":
        return None
    if backend not in KERNELS.get(operator, BACKENDS):
        return f"{operator} has no {backend} kernels yet"
    if not _native.HAS_CPU:
        return "sodeep_fast was installed without its compiled library"
    if backend == "cpp":
        return None if device == "cpu" else f"it serves CPU tensors, and this one is on {device}"
    if backend == "cuda":
        if device != "cuda":
            return f"it serves CUDA tensors, and this one is on {device}"
        return None if _native.HAS_CUDA else "the CUDA library was not built, or torch has no CUDA"
    if not has_triton():
        return "Triton is not installed"
    if device == "cuda" or (device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return None
    return f"it serves CUDA tensors (or CPU tensors under TRITON_INTERPRET=1), not {device}"


def choose(device: str, operator: str = "soft_rank") -> tuple[str, str]:
    """Returns the backend that "auto" takes for tensors on `device`, and why."""
    preferred = {"cpu": ("cpp",), "cuda": ("triton", "cuda")}.get(device, ())
    reasons: list[str] = []
    for candidate in preferred:
        reason = _missing(candidate, device, operator)
        if reason is None:
            return candidate, "; ".join(reasons) or f"the preferred kernels for {device} tensors"
        reasons.append(f"{candidate}: {reason}")
    return "reference", "; ".join(reasons) or f"there are no kernels for {device} tensors"


def resolve(backend: str, tensor: Tensor, operator: str = "soft_rank") -> str:
    """Returns the backend that will serve `tensor`, or raises ValueError saying what is missing."""
    device = tensor.device.type
    if backend == "auto":
        return choose(device, operator)[0]
    check_choice(backend, BACKENDS, "backend")
    reason = _missing(backend, device, operator)
    if reason is not None:
        raise ValueError(f"backend={backend!r} is not available here: {reason}")
    return backend
