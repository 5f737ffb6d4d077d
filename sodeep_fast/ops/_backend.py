"""Chooses the implementation of an operator for a call; the order of preference is defined here.

CPU tensors go to the C++ kernels; CUDA tensors to Triton, or to CUDA C++ where that has been
measured faster or Triton has no kernel for the method. Where nothing is built, the reference is
used.
"""

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sodeep_fast import _native
from sodeep_fast._checks import check_choice

BACKENDS = ("auto", "cpp", "triton", "cuda", "reference")
# Of soft_rank and rank_counts.
METHODS = ("auto", "direct", "linear")
# Which kernels exist; operators not listed have all of them.
KERNELS = {
    "rank_counts": ("cpp", "triton"),
    "hard_rank": ("cpp",),
    "margin_excess": ("cpp",),
    "graded_precision": ("cpp",),
    "counted_recall": ("cpp",),
    "counted_ndcg": ("cpp",),
    "shared_labels": ("cpp",),
    "soft_histogram": ("cpp", "triton"),
    "conv_stack": ("triton",),
}


# Evaluated at import, as the compiler of torch 2.11 cannot trace it.
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def has_triton() -> bool:
    """Returns whether Triton can be imported."""
    return _HAS_TRITON


def has_kernels(operator: str, backend: str) -> bool:
    """Returns whether an operator has kernels of this backend, built here or not."""
    return backend in KERNELS.get(operator, BACKENDS)


def missing(backend: str, device: str, operator: str, method: str) -> str | None:
    """Says why `backend` cannot serve a tensor on `device`, or returns None if it can."""
    if backend == "reference":
        return None
    if not has_kernels(operator, backend):
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
    if method == "linear":
        return (
            "the Triton kernels have the methods 'auto' and 'direct'; method='linear' is in the "
            "backends 'cuda' (CUDA tensors) and 'cpp' (CPU tensors)"
        )
    if device == "cuda" or (device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return None
    return f"it serves CUDA tensors (or CPU tensors under TRITON_INTERPRET=1), not {device}"


def choose(
    device: str,
    operator: str,
    method: str = "auto",
    prefers_cuda: Callable[[], bool] = lambda: False,
) -> tuple[str, str]:
    """Returns the backend that "auto" picks for tensors on `device`, and why.

    `prefers_cuda` says whether this call is expected to run faster in CUDA C++ than in Triton; it
    is only called if both are available.
    """
    preferred = {"cpu": ("cpp",), "cuda": ("triton", "cuda")}.get(device, ())
    if device == "cuda" and missing("cuda", device, operator, method) is None and prefers_cuda():
        preferred = ("cuda", "triton")
    reasons: list[str] = []
    for candidate in preferred:
        reason = missing(candidate, device, operator, method)
        if reason is None:
            return candidate, "; ".join(reasons) or f"the preferred kernels for {device} tensors"
        reasons.append(f"{candidate}: {reason}")
    return "reference", "; ".join(reasons) or f"there are no kernels for {device} tensors"


def prefers_cpp(tensor: Tensor, operator: str) -> bool:
    """Returns whether "auto" picks "cpp" for `tensor`; takes less time than `choose`."""
    return tensor.is_cpu and _native.HAS_CPU and has_kernels(operator, "cpp")


def resolve(
    backend: str,
    tensor: Tensor,
    operator: str,
    method: str = "auto",
    prefers_cuda: Callable[[], bool] = lambda: False,
) -> str:
    """Returns the backend for `tensor`, or raises a ValueError that says what is missing.

    See `choose` for `prefers_cuda`.
    """
    device = tensor.device.type
    if backend == "auto":
        return choose(device, operator, method, prefers_cuda)[0]
    check_choice(backend, BACKENDS, "backend")
    reason = missing(backend, device, operator, method)
    if reason is not None:
        raise ValueError(f"backend={backend!r} is not available here: {reason}")
    return backend


def register_lazily(operator: str, module: str, function: str) -> None:
    """Makes `sodeep_fast.kernels.<module>.<function>` serve `operator`, imported when called.

    Importing Triton takes longer than importing the rest of the package. The kernels are also
    registered for CPU tensors: the Triton ones serve them under TRITON_INTERPRET=1, the CUDA C++
    ones in tests.
    """

    @functools.cache
    def load() -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(
            importlib.import_module(f"sodeep_fast.kernels.{module}"), function
        )
        return found

    @torch.library.impl(f"sodeep_fast::{operator}", ("cuda", "cpu"))
    def _(*args: Any) -> Any:
        return load()(*args)
