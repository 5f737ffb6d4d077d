"""Every Triton kernel compiles for sm_80, sm_90 and sm_100, without a GPU and without spills."""

import pytest

from sodeep_fast.ops import _backend

pytestmark = pytest.mark.skipif(not _backend.has_triton(), reason="Triton is not installed")


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize(
    "kernel", ["soft_rank_fwd_kernel", "soft_rank_bwd_kernel", "soft_rank_bwd_bwd_kernel"]
)
def test_compiles_without_spills(kernel_resources, kernel, arch):
    rows = [row for row in kernel_resources if row["kernel"] == kernel and row["arch"] == arch]
    variants = {row["variant"].rsplit(" (", 1)[0] for row in rows}
    assert variants == {"float32", "float32 mask", "float64", "float64 mask"}
    assert [row for row in rows if row["stack"]] == []
    assert max(row["registers"] for row in rows) <= 128
