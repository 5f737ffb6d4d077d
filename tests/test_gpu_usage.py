"""Peak memory and launches of what bench/gpu_*.py measure, with stand-ins for a GPU."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from sodeep_fast.benchmark import Row
from sodeep_fast.ops import _backend

if not _backend.has_triton():
    pytest.skip("Triton is not installed", allow_module_level=True)

from bench import gpu_networks, gpu_rows
from bench.gpu_ceilings import ceilings


@pytest.fixture
def gpu(monkeypatch):
    """A GPU with 1000 bytes in use; every call takes as many more as its argument."""
    state = SimpleNamespace(peak=0, calls=0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: setattr(state, "peak", 0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1000 + state.peak)

    def take(amount):
        state.calls += 1
        state.peak = max(state.peak, 10**6 if state.calls == 1 else amount)  # compiles at first

    @contextlib.contextmanager
    def profile(activities):
        before, kinds = state.calls, torch.autograd.DeviceType
        found = []
        yield SimpleNamespace(events=lambda: found)
        for _ in range(state.calls - before):
            found += [SimpleNamespace(device_type=kind) for kind in (kinds.CPU, *[kinds.CUDA] * 3)]

    monkeypatch.setattr(torch.profiler, "profile", profile)
    return take


def test_counts_one_call_that_is_not_the_first(gpu):
    assert gpu_rows.peak_and_launches(lambda: gpu(500)) == (500, 3)


def test_operators_and_networks_share_the_count(gpu, monkeypatch):
    monkeypatch.setattr(gpu_rows, "make_call", lambda *rest, **options: lambda: gpu(700))
    row = Row("soft_rank", "ours", "both", 512, 100)
    gpu_rows.add_peak_and_launches(None, row)
    assert (row.peak_bytes, row.launches) == (700, 3)

    def fails():
        raise torch.OutOfMemoryError("too little memory")

    found = gpu_networks.usage_of({"ours": lambda: gpu(800), "cuDNN": fails}, "cuda")
    assert found == {"ours": {"peak bytes": 800, "launches": 3}}
    assert gpu_networks.usage_of({"ours": lambda: gpu(800)}, "cpu") == {}


def test_a_network_has_them_in_its_row():
    result = gpu_networks.measure(gpu_networks.tiny_cases()[0], "cpu", 0.0, ceilings("cpu"))
    assert result["usage"] == {}
    result["usage"]["ours"] = {"peak bytes": 3 * 10**9, "launches": 7}
    header, *lines = gpu_networks.report(result).splitlines()[1:]
    assert header.index("memory") < header.index("launches")
    (ours,) = (line for line in lines if line.split()[0] == "ours" and "3.00 GB" in line)
    assert ours.index("3.00 GB") < header.index("launches")
    assert ours[header.index("launches") : header.index("launches") + 8].strip() == "7"
    assert sum("GB" in line for line in lines) == 1
