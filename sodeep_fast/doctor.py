"""What is installed and built, and which backend each operator will use here and why."""

import os
import pkgutil
import platform

import torch

from sodeep_fast import _native, ops
from sodeep_fast._columns import align
from sodeep_fast._environment import cpu_model, version_of
from sodeep_fast._version import __version__
from sodeep_fast.ops import _backend

OPERATORS = tuple(
    module.name for module in pkgutil.iter_modules(ops.__path__) if module.name[0] != "_"
)
KERNELS_FOR = {"cpu": ("cpp",), "cuda": ("triton", "cuda")}
# What serves an operator without kernels, where there is more to say than that.
BY_TORCH = {
    ("conv_stack", "cpu"): "PyTorch's convolutions, channels last",
    ("conv_stack", "cuda"): "PyTorch's convolutions, channels last; backend='triton' by name",
    **{
        (operator, "cuda"): "PyTorch's own operations, over rank_counts"
        for operator in ("counted_ndcg", "counted_recall", "graded_precision")
    },
    ("hard_rank", "cuda"): "PyTorch's own sort",
}


def report() -> str:
    """Describes this installation.

    Returns:
        text: versions, CPU capability, backends, and what each operator will use on each device.

    Example:
        >>> print(report())
        sodeep_fast ...
        ...
        Operators
          operator          device  backend ...
        ...
    """
    sections = [
        ["sodeep_fast " + __version__, *align(_versions())],
        ["Backends", *align([("backend", "built", ""), *_backends()])],
        ["Operators", *align([("operator", "device", "backend", "why"), *_choices()])],
    ]
    return "\n\n".join("\n".join(section) for section in sections)


def _versions() -> list[tuple[str, str]]:
    gpu = (
        f"{torch.cuda.get_device_name()}, capability {torch.cuda.get_device_capability()}"
        if torch.cuda.is_available()
        else "none that torch can use"
    )
    return [
        ("Python", platform.python_version()),
        ("torch", f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})"),
        ("Triton", version_of("triton")),
        ("NumPy", version_of("numpy")),
        ("CPU", f"{cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"),
        (
            "CPU capability",
            f"kernels here: {_native.cpu_capability()}"
            f"{', products of bfloat16' if _native.cpu_has_bf16() else ''}; "
            f"PyTorch: {torch.backends.cpu.get_cpu_capability().lower()}",
        ),
        ("GPU", gpu),
    ]


def _backends() -> list[tuple[str, str, str]]:
    cpp = "C++, for CPU tensors" if _native.HAS_CPU else "built where there is a C++ compiler"
    architectures = _native.cuda_architectures()
    kernels = [name for name in OPERATORS if _backend.has_kernels(name, "cuda")]
    cuda = f"CUDA C++, for CUDA tensors of {' and '.join(kernels)}"
    if architectures:
        cuda += f"; compiled for {', '.join(architectures)}"
        cuda += "" if _native.HAS_CUDA else "; not loaded: this torch has no CUDA"
    else:
        cuda += "; built where there is nvcc"
    triton = "compiles at first use, for CUDA tensors; for CPU tensors under TRITON_INTERPRET=1"
    return [
        ("cpp", _yes(_native.HAS_CPU), cpp),
        ("cuda", _yes(bool(architectures)), cuda),
        ("triton", _yes(_backend.has_triton()), triton),
        ("reference", "yes", "plain PyTorch, for any tensor; slow, quadratic in memory"),
    ]


def _choices() -> list[tuple[str, str, str, str]]:
    devices = {"cpu": ""}
    devices["cuda"] = "" if torch.cuda.is_available() else "no GPU that torch can use"
    lines = []
    for operator in OPERATORS:
        for device, obstacle in devices.items():
            if obstacle:
                backend, reason = "-", obstacle
            elif by_torch := _by_torch(operator, device):
                backend, reason = "torch", by_torch
            else:
                backend, reason = _backend.choose(device, operator)
            lines.append((operator, device, backend, reason))
    return lines


def _by_torch(operator: str, device: str) -> str | None:
    """Says which part of PyTorch serves an operator on a device; returns None if kernels do."""
    found = BY_TORCH.get((operator, device))
    if found or any(_backend.has_kernels(operator, name) for name in KERNELS_FOR[device]):
        return found
    return "PyTorch's own operations"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
