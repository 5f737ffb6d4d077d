"""csrc/cuda compiles for every architecture without spills, and its library loads and registers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sodeep_fast import _native

NVCC = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin/nvcc"
LIBRARY = _native._find("_C_cuda")
DIRECT = {
    f"<{t}, {d}, {group}>" for t in ("float", "double") for d in range(3) for group in (32, 128)
}
LINEAR = {f"<{t}, {d}>" for t in ("float", "double") for d in range(3)}


@pytest.mark.skipif(LIBRARY is None and not NVCC.exists(), reason=f"no CUDA library and no {NVCC}")
@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize(
    ("kernel", "variants"),
    [
        ("soft_rank_direct_kernel", DIRECT),
        ("survey_kernel", LINEAR),
        ("plan_kernel", LINEAR),
        ("accumulate_kernel", LINEAR),
        ("combine_kernel", LINEAR),
        ("evaluate_kernel", LINEAR),
    ],
)
def test_compiles_without_spills(kernel_resources, kernel, variants, arch):
    if LIBRARY is not None and f"sm_{arch}" not in _native.cuda_architectures():
        pytest.skip(f"SODEEP_FAST_CUDA_ARCHS left sm_{arch} out of the library")
    rows = [row for row in kernel_resources if row["kernel"] == kernel and row["arch"] == arch]
    assert {row["variant"] for row in rows} == variants
    assert [row for row in rows if row["stack"]] == []
    assert max(row["registers"] for row in rows) <= 128
    assert max(row["shared"] for row in rows) <= 48 << 10


@pytest.mark.skipif(LIBRARY is None, reason="the CUDA library is not built")
def test_registers_its_operators(tmp_path):
    """Loaded lazily, because its stream symbol is missing in a torch without CUDA."""
    program = f"""
import ctypes, os, sys, torch, sodeep_fast
ctypes.CDLL({str(LIBRARY)!r}, mode=os.RTLD_LAZY)
names = ["soft_rank", "soft_rank_backward", "soft_rank_double_backward"]
has = torch._C._dispatch_has_kernel_for_dispatch_key
sys.exit(not all(has("sodeep_fast::" + name, "CUDA") for name in names))
"""
    # From elsewhere: a clone's own folder would come before the built package.
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
