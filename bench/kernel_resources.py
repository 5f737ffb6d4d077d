"""Registers, stack and shared memory of every GPU kernel, compiled here; no GPU is needed.

Prints one row per compiled variant of the Triton kernels, and per kernel of the CUDA library: as
built, or else compiled here if there is nvcc. A stack means registers were spilled to memory; the
exit status is then 1.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sodeep_fast import _native
from sodeep_fast.kernels import _config
from sodeep_fast.kernels import soft_rank as kernels

ROOT = Path(__file__).parent.parent
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
KERNELS = (
    kernels.soft_rank_fwd_kernel,
    kernels.soft_rank_bwd_kernel,
    kernels.soft_rank_bwd_bwd_kernel,
)


def resources(path: str) -> list[dict[str, Any]]:
    """Returns what cuobjdump says of every kernel in a cubin or a library."""
    text = subprocess.run(
        [CUOBJDUMP, "-res-usage", path], capture_output=True, text=True, check=True
    ).stdout
    rows = []
    for chunk in re.split(r"(?=arch = sm_)", text):
        arch = re.search(r"arch = sm_(\d+)", chunk)
        found = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", chunk)
        for name, registers, stack, shared in found:
            rows.append(
                {
                    "kernel": name,
                    "arch": int(arch.group(1)) if arch else 0,
                    "registers": int(registers),
                    "stack": int(stack),
                    "shared": int(shared),
                }
            )
    return rows


def compile_triton(kernel: Any, blocks: Any, float64: bool, masked: bool, arch: int) -> dict:
    """Compiles one variant of a Triton kernel for `arch`, and returns its resources."""
    signature, constants = {}, {"NORMALIZE": True, "DTYPE": tl.float64 if float64 else tl.float32}
    constants.update(BLOCK_R=blocks.rows, BLOCK_I=blocks.targets, BLOCK_J=blocks.sources)
    for name in kernel.arg_names:
        if name.endswith("_ptr"):
            signature[name] = "*fp64" if float64 else "*fp32"
        else:
            signature[name] = {"rows": "i32", "n": "i32", "lam": "fp64"}.get(name, "constexpr")
    signature["mask_ptr"] = "*i1" if masked else "constexpr"
    if not masked:
        constants["mask_ptr"] = None
    aligned = {
        (position,): [["tt.divisibility", 16]]
        for position, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*")
    }
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": blocks.warps, "maxnreg": _config.MAX_REGISTERS},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        (row,) = resources(cubin.name)
    dtype = "float64" if float64 else "float32"
    variant = f"{dtype}{' mask' if masked else ''} {tuple(blocks)}"
    return {**row, "kernel": kernel.__name__, "variant": variant, "arch": arch}


def triton_rows(arch: int, every: bool = True) -> list[dict[str, Any]]:
    """Compiles the Triton kernels with every tile of the table, or with the largest row's only."""
    rows = []
    for float64 in (False, True):
        entries = _config.pairwise_entries(float64, arch)
        tiles = dict.fromkeys(
            entry.blocks for entry in entries if every or entry.n == _config.UNLIMITED
        )
        for kernel, blocks, masked in itertools.product(KERNELS, tiles, (False, True)):
            rows.append(compile_triton(kernel, blocks, float64, masked, arch))
    return rows


def cuda_rows(archs: list[int]) -> list[dict[str, Any]]:
    """Returns the resources of every CUDA C++ kernel: as built, or else compiled here."""
    library = _native._find("_C_cuda")
    nvcc = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin/nvcc"
    rows = resources(str(library)) if library is not None else []
    if library is None and nvcc.exists():
        codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
        flags = ["-O3", "-std=c++17", "--threads=0", f"-I{ROOT / 'csrc'}", *codes]
        with tempfile.TemporaryDirectory() as folder:
            for source in sorted((ROOT / "csrc/cuda").glob("*.cu")):
                target = f"{folder}/{source.stem}.o"
                subprocess.run([nvcc, *flags, "-c", source, "-o", target], check=True)
                rows += resources(target)
    names = "\n".join(row["kernel"] for row in rows)
    plain = subprocess.run(["c++filt"], input=names, capture_output=True, text=True, check=True)
    for row, name in zip(rows, plain.stdout.splitlines(), strict=True):
        found = re.search(r"(\w+)(<.*?>)\(", name)
        row["kernel"], row["variant"] = found.groups() if found else (name, "")
    return [row for row in rows if row["arch"] in archs]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 100])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one tile per kernel but for sm_90")
    args = parser.parse_args()
    rows = cuda_rows(args.arch)
    for arch in args.arch:
        rows += triton_rows(arch, every=arch == 90 or not args.quick)
    for row in rows:
        print(
            f"sm_{row['arch']:<4}{row['registers']:4} registers {row['stack']:4} stack "
            f"{row['shared']:6} shared  {row['kernel']} {row['variant']}"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    spilled = [row for row in rows if row["stack"]]
    print(f"{len(rows)} kernels, {len(spilled)} with spills")
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main())
