"""Every Triton kernel compiles for sm_80, sm_90 and sm_100, without a GPU and without spills."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sodeep_fast.kernels._layouts import lstm_shared_bytes
from sodeep_fast.ops import _backend

pytestmark = pytest.mark.skipif(not _backend.has_triton(), reason="Triton is not installed")


BY_LEVEL = {" by level", " by level tangent"}
SIGMOID = {" sigmoid", " sigmoid tangent"}
# Per kernel, the variants compiled for each dtype on every architecture, and those for sm_90 only.
VARIANTS = {
    "soft_rank_fwd_kernel": ({"", " mask"}, set()),
    "soft_rank_bwd_kernel": ({"", " mask"}, set()),
    "soft_rank_bwd_bwd_kernel": ({"", " mask"}, set()),
    "soft_histogram_fwd_kernel": ({"", " levels", " tangent"}, set()),
    "soft_histogram_bwd_kernel": ({"", " levels"}, set()),
    "rank_counts_fwd_kernel": (BY_LEVEL, SIGMOID),
    "rank_counts_bwd_targets_kernel": (BY_LEVEL, SIGMOID),
    "rank_counts_bwd_items_kernel": (BY_LEVEL, SIGMOID),
}


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("kernel", VARIANTS)
def test_compiles_without_spills(kernel_resources, kernel, arch):
    rows = [row for row in kernel_resources if row["kernel"] == kernel and row["arch"] == arch]
    everywhere, here = VARIANTS[kernel]
    variants = everywhere | here if arch == 90 else everywhere
    assert {row["variant"].rsplit(" (", 1)[0] for row in rows} == {
        dtype + variant for dtype in ("float32", "float64") for variant in variants
    }
    assert [row for row in rows if row["stack"]] == []
    assert max(row["registers"] for row in rows) <= 128


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize(
    ("kernel", "largest", "others"),
    [
        ("bilstm_fwd_kernel", {"scores saved", "several saved"}, {"scores", "several"}),
        ("bilstm_bwd_kernel", {"to scores", "to gates"}, set()),
    ],
)
def test_lstm_compiles_without_spills(kernel_resources, kernel, largest, others, arch):
    rows = [row for row in kernel_resources if row["kernel"] == kernel and row["arch"] == arch]
    expected = {("full", variant) for variant in largest} | {("fp16", name) for name in largest}
    if arch == 90:
        expected |= {("bf16", name) for name in largest}
        expected |= {(products, name) for products in ("full", "fp16") for name in others}
    assert {row["variant"].rsplit(" (", 1)[0] for row in rows} == {
        f"{products} {hidden} {name}"
        for products, name in expected
        for hidden in ((64, 63) if products == "full" else (128, 127))
    }
    assert [row for row in rows if row["stack"]] == []
    # This decides which weights the kernels can take.
    for row in rows:
        products, hidden = row["variant"].split()[:2]
        assert row["shared"] <= lstm_shared_bytes(int(hidden), products == "full")


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_conv_stack_compiles_without_spills(kernel_resources, arch):
    rows = [row for row in kernel_resources if row["arch"] == arch]
    rows = [row for row in rows if row["kernel"].startswith("conv_stack")]
    largest = {("fp16", "values saved"), ("fp16", "to inputs")}
    largest |= {("full", variant) for _, variant in largest}
    variants = {(*names, 8) for names in largest}
    if arch == 90:
        others = {("fp16", "values"), ("fp16", "tangent")}
        others |= {(name, variant) for name in ("bf16", "tf32") for _, variant in largest}
        variants = {(*names, align) for names in largest | others for align in (8, 4, 1)}
    expected = {f"{products} {variant}, by {align}" for products, variant, align in variants}
    assert {row["variant"].rsplit(" (", 1)[0] for row in rows} == expected | {"fp16", "fp32"}
    assert [row for row in rows if row["stack"]] == []
    # The shared memory of an RTX, for which fewer stages would be compiled.
    assert max(row["shared"] for row in rows) <= 99 << 10


def test_ceiling_is_made_of_exponentials():
    """The benchmark's kernel compiles, to nothing but exponentials between a load and a store."""
    program = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from bench.gpu_ceilings import CHAIN, exponentials_kernel
signature = {"x_ptr": "*fp32", "BLOCK": "constexpr", "CHAIN": "constexpr"}
source = ASTSource(exponentials_kernel, signature, {"BLOCK": 256, "CHAIN": CHAIN})
compiled = compile(source, target=GPUTarget("cuda", 90, 32))
assert compiled.asm["ptx"].count("ex2.approx") >= CHAIN
"""
    # Triton interprets in this process, and compiles in another.
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, check=True)
