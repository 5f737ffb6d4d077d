"""What bench/gpu_check.sh collects at its end: the aims, and files named by GPU and date."""

import json
import sys
from dataclasses import replace

import pytest

from sodeep_fast.benchmark import Row
from sodeep_fast.benchmark.report import write_json
from sodeep_fast.ops import _backend

if not _backend.has_triton():
    pytest.skip("Triton is not installed", allow_module_level=True)

from bench import gpu_report
from bench.gpu_aims import aims
from bench.gpu_rows import GRAPH_NOTE

ENVIRONMENT = {"gpu": "NVIDIA H200", "date": "2026-11-21T12:00:00+00:00", "commit": "abc"}


def timed(operator, provider, shape, median, **more):
    times = {"median": median, "q20": median, "q80": median}
    return Row(operator, provider, "both", *shape, **times, **more)


def rows():
    short, long, batch = (512, 100), (8, 100_000), (4096, 4096)
    operators = [
        timed("soft_rank", "ours", short, 1e-5, launches=2, expected=9e-6),
        timed("soft_rank", "compile", short, 2e-4),
        timed("soft_rank", "triton-direct", short, 1e-5, note=GRAPH_NOTE, expected=9e-6),
        timed("soft_rank", "compile", short, 5e-5, note=GRAPH_NOTE),
        timed("soft_rank", "ours", long, 1e-4, launches=10, expected=9e-5),
        timed("soft_rank", "torch.sort", long, 3e-4),
    ]
    losses = [
        timed("SmoothAPLoss", "ours", batch, 4e-4),
        timed("SmoothAPLoss", "products", batch, 1e-4),
        timed("SmoothAPLoss", "ours", (65536, 65536), 0.1, peak_bytes=3 * 10**9),
    ]
    case = {"name": "LSTM", "hidden": 128, "batch": 512, "mode": "scores"}
    seconds = {"ours": 1.0, "cuDNN": 4.0, "cuDNN, autocast": 3.5, "cuDNN, graph": 1.0}
    networks = [
        {"case": case, "seconds": seconds},
        {"case": {**case, "hidden": 512, "batch": 64}, "seconds": {**seconds, "ours": 4.0}},
    ]
    return operators, losses, networks


def test_every_aim_has_a_line_with_its_value_and_verdict():
    lines = [aim.cells() for aim in aims(*rows())]
    values = [(measured, verdict) for _, _, measured, verdict in lines]
    assert values == [
        ("2", "met"),
        ("20x", "met"),
        ("5x", "MISSED"),
        ("3x", "met"),
        ("4x", "MISSED"),
        ("3.00 GB", "met"),
        ("3.5x", "met"),
        ("0.875x", "MISSED"),
        ("", "not measured"),
    ]
    assert [bound for _, bound, _, _ in lines] == [
        *("<= 2", ">= 10x", ">= 10x", ">= 1x", "<= 3x", "<= 8.00 GB", ">= 3x", ">= 1.5x", ">= 1.5x")
    ]


def test_without_rows_nothing_was_measured():
    assert {aim.cells()[3] for aim in aims([], [], [])} == {"not measured"}


def test_a_row_that_came_to_nothing_is_not_measured():
    operators, losses, networks = rows()
    refused = [replace(row, median=None, launches=None, status="refused") for row in operators]
    assert all(aim.measured is None for aim in aims(refused, losses, networks)[:4])


def test_files_are_named_by_gpu_and_date(tmp_path, monkeypatch, capsys):
    operators, losses, _ = rows()
    write_json(tmp_path / "bench.json", ENVIRONMENT, operators)
    write_json(tmp_path / "losses.json", ENVIRONMENT, losses)
    (tmp_path / "sweep.json").write_text('{"blocks": []}')
    monkeypatch.setattr(sys, "argv", ["gpu_report", str(tmp_path)])
    assert gpu_report.main() == 0
    assert "aim on one H200" in capsys.readouterr().out
    stem = "nvidia-h200-2026-11-21"
    content = json.loads((tmp_path / f"{stem}.json").read_text())
    assert content["environment"] == ENVIRONMENT
    assert len(content["operators"]) == 6
    assert "samples" not in content["operators"][0]
    assert content["sweep"] == {"blocks": []}
    text = (tmp_path / f"{stem}.txt").read_text()
    assert "NVIDIA H200" in text
    assert "soft_rank (8, 100000), forward + backward" in text
    pytest.importorskip("matplotlib")
    assert (tmp_path / f"{stem}.png").read_bytes()[:4] == b"\x89PNG"


def test_nothing_measured_still_makes_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_report", str(tmp_path)])
    assert gpu_report.main() == 0
    assert capsys.readouterr().out.count("not measured") == 9
    assert "nothing was measured" in next(tmp_path.glob("no-gpu-*.txt")).read_text()
