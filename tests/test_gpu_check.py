"""bench/gpu_check.sh and what it runs, as far as they go without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sodeep_fast.ops import _backend

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="the script itself runs here"),
    pytest.mark.skipif(not _backend.has_triton(), reason="Triton is not installed"),
    pytest.mark.skipif(sys.version_info < (3, 11), reason="the script needs python3 -P"),
]

ROOT = Path(__file__).parent.parent


def run(*command):
    """Runs a command of the clone with this very Python first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )


def test_measures_nothing_and_says_so(tmp_path):
    done = run("bench/gpu_check.sh", str(tmp_path), "--only", "bench,sweep,profile")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("no GPU here: measured nothing")
    for part in ("bench", "sweep", "profile"):
        assert "no GPU: measured nothing" in (tmp_path / f"{part}.log").read_text()
    summary = (tmp_path / "summary.txt").read_text()
    assert summary.count(" ok\n") == 5
    assert "memcheck and racecheck did not run" in summary
    assert "FAILED" not in summary


def test_reports_a_failure_and_goes_on(tmp_path):
    """A python3 that fails at everything but saying that there is no GPU."""
    (tmp_path / "python3").write_text(
        '#!/bin/sh\ncase "$*" in *-c*) echo none ;; *) exit 3 ;; esac\n'
    )
    (tmp_path / "python3").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = ["bench/gpu_check.sh", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    summary = (tmp_path / "out/summary.txt").read_text()
    assert summary.count("FAILED: exit status 3") == 9


@pytest.mark.parametrize(
    "arguments", [[], ["OUT", "--only"], ["OUT", "--only", "tests"], ["OUT", "x"]]
)
def test_bad_usage(tmp_path, arguments):
    arguments = [str(tmp_path) if argument == "OUT" else argument for argument in arguments]
    done = run("bench/gpu_check.sh", *arguments)
    assert done.returncode not in (0, None)
    assert "usage:" in done.stderr


def test_benchmark_runs_dry(tmp_path):
    done = run("python3", "-m", "bench.gpu_bench", "--dry", "--json", str(tmp_path / "bench.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    measured = {row["provider"] for row in rows if row["status"] == "ok"}
    assert {
        "triton-direct",
        "triton-fp16",
        "eager",
        "compile",
        "compile_sym",
        "torch.sort",
        "nn.LSTM",
    } <= measured
    missing = {row["provider"] for row in rows if row["status"] == "missing"}
    assert missing - {"torchsort"} == {"cuda-direct", "cuda-linear"}


def test_networks_run_dry(tmp_path):
    out = tmp_path / "networks.json"
    done = run("python3", "-m", "bench.gpu_networks", "--dry", "--json", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row["case"]["mode"] for row in rows] == [
        *("inference", "inference", "scores", "training", "scores"),
    ]
    assert {row["case"]["name"] for row in rows} == {"LSTM", "CNN"}
    for row in rows:
        assert {"ours", "cuDNN", "ours, autocast", "cuDNN, autocast"} <= row["seconds"].keys()
        assert max(row["floor"].values()) > 0
    assert "floor" in done.stdout
    assert "0 ways that are wrong" in done.stdout


def test_sweep_runs_dry(tmp_path):
    done = run("python3", "-m", "bench.gpu_sweep", "--dry", "--json", str(tmp_path / "sweep.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads((tmp_path / "sweep.json").read_text())["blocks"]) == 10
    for tile in ("Blocks", "CountsBlocks", "HistogramBlocks", "LstmBlocks"):
        assert f"Entry(0, UNLIMITED, {tile}(" in done.stdout


def test_profile_runs_dry():
    done = run("python3", "-m", "bench.gpu_profile", "--dry")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ran soft_rank triton-direct (2, 20)" in done.stdout
    assert "ran bilstm triton-fp16 (2, 20)" in done.stdout
    assert "soft_rank cuda-linear: " in done.stdout
