"""Every Triton kernel compiles for sm_80, sm_90 and sm_100, without a GPU and without spills."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sodeep_fast.ops import _backend

pytestmark = pytest.mark.skipif(not _backend.has_triton(), reason="Triton is not installed")

SCRIPT = Path(__file__).parent.parent / "bench/kernel_resources.py"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compiles in a process of its own: in this one Triton may be interpreting."""
    out = tmp_path_factory.mktemp("resources") / "resources.json"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), "--quick", "--json", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert out.exists(), done.stdout + done.stderr
    return json.loads(out.read_text())


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize(
    "kernel", ["soft_rank_fwd_kernel", "soft_rank_bwd_kernel", "soft_rank_bwd_bwd_kernel"]
)
def test_compiles_without_spills(compiled, kernel, arch):
    rows = [row for row in compiled if row["kernel"] == kernel and row["arch"] == arch]
    variants = {row["variant"].rsplit(" (", 1)[0] for row in rows}
    assert variants == {"float32", "float32 mask", "float64", "float64 mask"}
    assert [row for row in rows if row["stack"]] == []
    assert max(row["registers"] for row in rows) <= 128
