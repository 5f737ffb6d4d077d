"""csrc/cuda compiles for every architecture without spills, and its library loads and registers."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sodeep_fast import _native

NVCC = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin/nvcc"
TRITON = importlib.util.find_spec("triton")
CUOBJDUMP = Path(TRITON.origin if TRITON else "").parent / "backends/nvidia/bin/cuobjdump"
LIBRARY = _native.find_library("_C_cuda")
DIRECT = {
    f"<{t}, {d}, {group}>" for t in ("float", "double") for d in range(3) for group in (32, 128)
}
LINEAR = {f"<{t}, {d}>" for t in ("float", "double") for d in range(3)}
LSTM = {
    f"<sodeep_fast::{half}, {hidden}, {flag}>"
    for half in ("Float16", "Bfloat16")
    for hidden in (16, 32, 64, 128)
    for flag in ("false", "true")
}


@pytest.mark.skipif(LIBRARY is None and not NVCC.exists(), reason=f"no CUDA library and no {NVCC}")
@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize(
    ("kernel", "variants", "registers"),
    [
        ("soft_rank_direct_kernel", DIRECT, 128),
        ("survey_kernel", LINEAR, 128),
        ("plan_kernel", LINEAR, 128),
        ("accumulate_kernel", LINEAR, 128),
        ("combine_kernel", LINEAR, 128),
        ("evaluate_kernel", LINEAR, 128),
        # Half of them hold recurrent weights; 256 threads can have this many.
        ("bilstm_forward_kernel", LSTM, 255),
        ("bilstm_backward_kernel", LSTM, 255),
    ],
)
def test_compiles_without_spills(kernel_resources, kernel, variants, registers, arch):
    if LIBRARY is not None and f"sm_{arch}" not in _native.cuda_architectures():
        pytest.skip(f"SODEEP_FAST_CUDA_ARCHS left sm_{arch} out of the library")
    rows = [row for row in kernel_resources if row["kernel"] == kernel and row["arch"] == arch]
    assert {row["variant"] for row in rows} == variants
    assert [row for row in rows if row["stack"]] == []
    assert max(row["registers"] for row in rows) <= registers
    assert max(row["shared"] for row in rows) <= 48 << 10


@pytest.mark.skipif(
    "sm_90" not in _native.cuda_architectures() or not CUOBJDUMP.exists(),
    reason="no CUDA library for sm_90, or no cuobjdump, which comes with Triton",
)
@pytest.mark.parametrize(("kernel", "matrices"), [("forward", 4), ("backward", 16)])
def test_recurrent_weights_stay_in_registers(kernel, matrices):
    """A step of 128 hidden units multiplies 32 fragments of weights and loads none of them."""
    command = [str(CUOBJDUMP), "-sass", "-arch", "sm_90", str(LIBRARY)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions = [
        part
        for part in text.split("Function : ")[1:]
        if f"bilstm_{kernel}_kernel" in part[:80] and "ELi128E" in part[:99]
    ]
    assert len(functions) == 4
    for function in functions:
        found = re.findall(
            r"/\*([0-9a-f]{4,})\*/ +(?:@!?U?P\w+ +)?(\w+)[^;]*?(0x[0-9a-f]+)? ;", function
        )
        code = [(int(address, 16), name, target) for address, name, target in found]
        # A jump back to where a loop begins; the steps are the last and longest loop.
        end, begin = max(
            (address, int(target, 16))
            for address, name, target in code
            if name == "BRA" and target and int(target, 16) < address
        )
        loop = [name for address, name, _ in code if begin <= address <= end]
        assert loop.count("HMMA") == [name for _, name, _ in code].count("HMMA") == 32
        assert loop.count("LDSM") == matrices
        # The parts of a sum that 8 warps have.
        assert loop.count("LDS") <= 8
        # Products by gate, in pairs or one by one; 128 registers of weights are more.
        assert loop.count("LDG") <= 24
        assert not {"LDL", "STL"} & {name for _, name, _ in code}


@pytest.mark.skipif(LIBRARY is None, reason="the CUDA library is not built")
def test_registers_its_operators(tmp_path):
    """Loaded lazily, because its stream symbol is missing in a torch without CUDA."""
    program = f"""
import ctypes, os, sys, torch, sodeep_fast
ctypes.CDLL({str(LIBRARY)!r}, mode=os.RTLD_LAZY)
names = ["soft_rank", "soft_rank_backward", "soft_rank_double_backward"]
names += ["cuda_bilstm_steps", "cuda_bilstm_steps_backward"]
has = torch._C._dispatch_has_kernel_for_dispatch_key
sys.exit(not all(has("sodeep_fast::" + name, "CUDA") for name in names))
"""
    # From another folder: in a clone, its own folder would come before the built package.
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
