"""Registers, stack and shared memory of every GPU kernel, compiled here; no GPU is needed.

Prints one row per compiled variant of the Triton kernels, and per kernel of the CUDA library: as
built, or else compiled here if there is nvcc. A stack means registers were spilled to memory; the
exit status is then 1.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sodeep_fast import _native
from sodeep_fast.kernels import (
    _config,
    bilstm,
    conv_stack,
    rank_counts,
    soft_histogram,
    soft_rank,
)
from sodeep_fast.kernels._products import TRITON_DTYPES

ROOT = Path(__file__).parent.parent
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
PAIRWISE_KERNELS = (
    soft_rank.soft_rank_fwd_kernel,
    soft_rank.soft_rank_bwd_kernel,
    soft_rank.soft_rank_bwd_bwd_kernel,
)
HISTOGRAM_KERNELS = (
    soft_histogram.soft_histogram_fwd_kernel,
    soft_histogram.soft_histogram_bwd_kernel,
)
COUNTS_KERNELS = (
    rank_counts.rank_counts_fwd_kernel,
    rank_counts.rank_counts_bwd_targets_kernel,
    rank_counts.rank_counts_bwd_items_kernel,
)
LSTM_KERNELS = (bilstm.bilstm_fwd_kernel, bilstm.bilstm_bwd_kernel)
# The optional buffers and inputs of each variant of these kernels.
LSTM_VARIANTS: dict[str, dict[str, Any]] = {
    "scores": {"SCALAR": True, "saved_ptr": None},
    "scores saved": {"SCALAR": True},
    "several": {"SCALAR": False, "saved_ptr": None},
    "several saved": {"SCALAR": False},
    "to scores": {"gates_ptr": None},
    "to gates": {"out_ptr": None},
}
# The variants that need the most; only these are compiled for bfloat16, which is much like float16.
LSTM_LARGEST = ("scores saved", "several saved", "to scores", "to gates")
# The passes of the convolution, one per variant.
CONV_VARIANTS: dict[str, dict[str, Any]] = {
    "values": {"REVERSED": False, "DERIVED": False, "signs_ptr": None},
    "values saved": {"REVERSED": False, "DERIVED": False},
    "to inputs": {"REVERSED": True, "DERIVED": True},
    "tangent": {"REVERSED": False, "DERIVED": True},
}
CONV_LARGEST = ("values saved", "to inputs")
CONV_PRODUCTS = ("fp16", "full", "bf16", "tf32")
CONV_SIZES = (
    *("rows", "entering", "leaving", "channels", "taps", "left", "width", "of", "words"),
    "signs_row",
)
# Kinds of comparator: the sigmoid for all levels, and the two soft ones and the step by level.
COMPARATORS = {"sigmoid": (0,), "by level": (1, 2, 0)}


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


def compile_triton(
    kernel: Any,
    variant: str,
    types: dict[str, Any],
    constants: dict[str, Any],
    blocks: Any,
    arch: int,
    warps: int | None = None,
    multiples: tuple[str, ...] = (),
    more: dict[str, int | None] | None = None,
) -> dict[str, Any]:
    """Compiles one variant of a Triton kernel for `arch`, and returns its resources.

    Arguments:
        kernel: to compile.
        variant: what to call it.
        types: of the arguments that are not constants, by name.
        constants: the others, by name; None for a buffer that is absent.
        blocks: its tile, of which the number of warps is used here.
        arch: compute capability, times ten.
        warps: for a kernel whose tile does not give their number, and which may use all registers.
        multiples: names of the numbers that are multiples of 16.
        more: options of the compiler.
    """
    options: dict[str, int | None] = {"num_warps": warps}
    if warps is None:
        options = {"num_warps": blocks.warps, "maxnreg": _config.MAX_REGISTERS}
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    aligned = {
        (position,): [["tt.divisibility", 16]]
        for position, name in enumerate(kernel.arg_names)
        if signature[name][0] == "*" or name in multiples
    }
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget("cuda", arch, 32),
        options=options | (more or {}),
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        (row,) = resources(cubin.name)
    variant = f"{variant} {tuple(blocks)}"
    # Memory allocated at the launch, which is not in the file.
    row["shared"] = compiled.metadata.shared
    return {**row, "kernel": kernel.__name__, "variant": variant, "arch": arch}


def pairwise_rows(float64: bool, arch: int, every: bool) -> list[dict[str, Any]]:
    """Compiles the soft rank's kernels, with and without a mask."""
    entries = _config.pairwise_entries(float64, arch)
    tiles = dict.fromkeys(
        entry.blocks for entry in entries if every or entry.n == _config.UNLIMITED
    )
    rows = []
    for kernel, blocks, masked in itertools.product(PAIRWISE_KERNELS, tiles, (False, True)):
        dtype = "fp64" if float64 else "fp32"
        types = {name: f"*{dtype}" for name in kernel.arg_names if name.endswith("_ptr")}
        types |= {"mask_ptr": "*i1", "rows": "i32", "n": "i32", "lam": "fp64"}
        constants = {"NORMALIZE": True, "DTYPE": tl.float64 if float64 else tl.float32}
        constants |= {"BLOCK_R": blocks.rows, "BLOCK_I": blocks.targets, "BLOCK_J": blocks.sources}
        if not masked:
            del types["mask_ptr"]
            constants["mask_ptr"] = None
        variant = f"float{64 if float64 else 32}{' mask' if masked else ''}"
        rows.append(compile_triton(kernel, variant, types, constants, blocks, arch))
    return rows


def histogram_rows(float64: bool, arch: int) -> list[dict[str, Any]]:
    """Compiles the histogram's kernels, with and without levels and a tangent."""
    rows = []
    optional = {"": ("levels_ptr", "tangent_ptr"), " levels": ("tangent_ptr",), " tangent": ()}
    for kernel, (name, absent) in itertools.product(HISTOGRAM_KERNELS, optional.items()):
        if name == " tangent" and "tangent_ptr" not in kernel.arg_names:
            continue
        dtype = "fp64" if float64 else "fp32"
        types = {name: f"*{dtype}" for name in kernel.arg_names if name.endswith("_ptr")}
        types |= {"levels_ptr": "*u8", "low": "fp64", "scale": "fp64"}
        types |= dict.fromkeys(("n", "num_levels", "bins"), "i32")
        blocks = _config.histogram_blocks(float64, _config.UNLIMITED, 20, arch)
        items = blocks.items
        if "BLOCK_B" not in kernel.arg_names:
            items = _config.histogram_items(_config.UNLIMITED)
        constants = {"SLICE": _config.HISTOGRAM_SLICE, "BLOCK_N": items, "BLOCK_B": blocks.bins}
        constants["DTYPE"] = tl.float64 if float64 else tl.float32
        for pointer in absent:
            types.pop(pointer, None)
            constants[pointer] = None
        variant = f"float{64 if float64 else 32}{name}"
        rows.append(compile_triton(kernel, variant, types, constants, blocks, arch))
    return rows


def counts_rows(float64: bool, arch: int, every: bool) -> list[dict[str, Any]]:
    """Compiles the kernels of the rank counts, with and without a tangent."""
    rows = []
    most = 1 << 20
    names = list(COMPARATORS) if every else ["by level"]
    for kernel, name, derived in itertools.product(COUNTS_KERNELS, names, (False, True)):
        # Only the counts have separate sums for levels.
        levels = (1, 2, 255) if kernel is rank_counts.rank_counts_fwd_kernel else (1,)
        tiles = [_config.counts_blocks(float64, most, most, some, arch) for some in levels]
        tiles.append(_config.counts_blocks(float64, 1, most, 1, arch))
        dtype = "fp64" if float64 else "fp32"
        types: dict[str, Any] = {
            name: f"*{dtype}" for name in kernel.arg_names if name.endswith("_ptr")
        }
        types |= {"levels_ptr": "*u8", "columns_ptr": "*i64", "offsets_ptr": "*i64"}
        types |= {"spoilt_ptr": "*i32", "comparators": (("i64",) * 5,) * len(COMPARATORS[name])}
        types |= dict.fromkeys(("rows", "items", "num_levels", "stride", "tiles"), "i32")
        constants = {"KINDS": COMPARATORS[name], "DTYPE": tl.float64 if float64 else tl.float32}
        if not derived:
            del types["tangent_ptr"]
            constants["tangent_ptr"] = None
        variant = f"float{64 if float64 else 32} {name}{' tangent' if derived else ''}"
        for blocks in tiles if every else tiles[:1]:
            tile = {"TARGETS": blocks.targets, "LEVELS": blocks.levels, "ITEMS": blocks.items}
            rows.append(compile_triton(kernel, variant, types, constants | tile, blocks, arch))
    return rows


def lstm_rows(arch: int, every: bool) -> list[dict[str, Any]]:
    """Compiles the LSTM's kernels for as many hidden units as fit, and for an odd number."""
    rows = []
    precisions = tuple(TRITON_DTYPES) if every else ("full", "fp16")
    for products, name in itertools.product(precisions, LSTM_VARIANTS):
        if name not in LSTM_LARGEST and (products == "bf16" or not every):
            continue
        full, backward = products == "full", name.startswith("to ")
        kernel = LSTM_KERNELS[backward]
        dtype = TRITON_DTYPES[products]
        constants = {"DTYPE": dtype, "OPERAND": dtype, **LSTM_VARIANTS[name]}
        constants |= {} if products == "fp16" else {"largest_ptr": None, "scale_ptr": None}
        types = {argument: "*fp32" for argument in kernel.arg_names if argument.endswith("_ptr")}
        types |= dict.fromkeys(("steps", "batch", "hidden", "per_step", "per_row"), "i32")
        types |= {"gates_ptr": f"*{dtype}", "saved_ptr": "*fp32" if full else "*fp16"}
        types = {argument: kind for argument, kind in types.items() if argument not in constants}
        table = _config.lstm_table(backward, full, bool(constants.get("SCALAR", True)))
        tiles = dict.fromkeys(entry.blocks for entry in _config.entries_of(table, arch))
        padded = 64 if full else 128
        for blocks, hidden in itertools.product(tiles, (padded, padded - 1)):
            row = compile_triton(
                kernel,
                f"{products} {hidden} {name}",
                types,
                constants | {"HIDDEN": padded, "ROWS": blocks.rows},
                blocks,
                arch,
                warps=blocks.warps(padded),
                multiples=("hidden",) if hidden == padded else (),
            )
            rows.append(row)
    return rows


def conv_rows(arch: int, every: bool) -> list[dict[str, Any]]:
    """Compiles the convolution's kernel for channels divisible by 8 and, if `every`, odd ones.

    Blocks have normalization and slopes, which need the most registers.
    """
    rows = []
    kernel = conv_stack.conv_stack_kernel
    for products, variant in itertools.product(CONV_PRODUCTS, CONV_VARIANTS):
        largest = variant in CONV_LARGEST and products in ("fp16", "full")
        if not (largest or (every and (variant in CONV_LARGEST or products == "fp16"))):
            continue
        full = products in ("full", "tf32")
        dtype = tl.float32 if full else TRITON_DTYPES[products]
        precision = "tf32" if products == "tf32" else "tf32x3"
        constants = {"RELU": False, "OPERAND": dtype, "PRECISION": precision}
        constants |= CONV_VARIANTS[variant]
        types = {argument: "*fp32" for argument in kernel.arg_names if argument.endswith("_ptr")}
        types |= dict.fromkeys(("input_ptr", "weight_ptr", "output_ptr"), f"*{dtype}")
        types |= dict.fromkeys(CONV_SIZES, "i32") | {"signs_ptr": "*u8", "eps": "fp32"}
        types = {argument: kind for argument, kind in types.items() if argument not in constants}
        table = _config.CONV_FULL if full else _config.CONV_HALF
        sizes = [entry.n for entry in _config.entries_of(table, arch)]
        for size, align in itertools.product(sizes, (8, 4, 1) if every else (8,)):
            blocks = _config.conv_blocks(full, size, 1024, 1024, align, arch)
            tile = {"BLOCK_M": blocks.positions, "BLOCK_N": blocks.channels, "ALIGN": align}
            row = compile_triton(
                kernel,
                f"{products} {variant}, by {align}",
                types,
                constants | tile | {"BLOCK_K": blocks.depth},
                blocks,
                arch,
                warps=blocks.warps,
                more={"num_stages": blocks.stages, "maxnreg": blocks.registers},
            )
            rows.append(row)
    kernel = conv_stack.conv_stack_slopes_kernel
    for dtype in (tl.float16, tl.float32):
        tile = _config.ConvBlocks(*conv_stack.SLOPES_TILE, depth=0, warps=4, stages=3)
        types = {argument: "*fp32" for argument in kernel.arg_names if argument.endswith("_ptr")}
        types |= dict.fromkeys(("input_ptr", "output_ptr"), f"*{dtype}")
        types |= dict.fromkeys(("rows", "positions", "channels", "words", "signs_row"), "i32")
        types |= {"signs_ptr": "*u8", "eps": "fp32"}
        constants = {"BLOCK_M": tile.positions, "BLOCK_N": tile.channels}
        rows.append(compile_triton(kernel, str(dtype), types, constants, tile, arch))
    return rows


def triton_rows(arch: int, every: bool = True) -> list[dict[str, Any]]:
    """Compiles the Triton kernels with every tile of the tables, or only those of the largest rows.

    Uses one process per processor.
    """
    spawn = multiprocessing.get_context("spawn")
    groups = [(name, float64, arch, every) for name in GROUPS for float64 in (True, False)]
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(groups)), mp_context=spawn) as pool:
        return [row for rows in pool.map(group_rows, groups) for row in rows]


GROUPS = ("counts", "lstm", "conv", "pairwise", "histogram")


def group_rows(group: tuple[str, bool, int, bool]) -> list[dict[str, Any]]:
    """Compiles the kernels of one operator for float64 scores, or for float32."""
    name, float64, arch, every = group
    if name == "counts":
        return counts_rows(float64, arch, every)
    if name == "lstm":
        return [] if float64 else lstm_rows(arch, every)
    if name == "conv":
        return [] if float64 else conv_rows(arch, every)
    return (
        pairwise_rows(float64, arch, every) if name == "pairwise" else histogram_rows(float64, arch)
    )


def cuda_rows(archs: list[int]) -> list[dict[str, Any]]:
    """Returns the resources of every CUDA C++ kernel: as built, or else compiled here."""
    library = _native.find_library("_C_cuda")
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
