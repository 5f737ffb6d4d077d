"""The command line, and the description of an installation."""

import json
import subprocess
import sys
from importlib import import_module

import pytest
import torch

import sodeep_fast
from sodeep_fast import _native, cli, doctor
from sodeep_fast.benchmark.registry import OPERATORS
from sodeep_fast.ops import _backend

QUICK = [
    "bench",
    "--operator",
    "soft_rank",
    "--quick",
    "--shape",
    "2x16",
    "--provider",
    "eager",
    "torch.sort",
    "--no-memory",
]


def test_doctor_names_versions_backends_and_operators(capsys):
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in (sodeep_fast.__version__, torch.__version__, "CPU capability", "Triton"):
        assert word in text
    for backend in _backend.BACKENDS[1:]:
        assert f"\n  {backend} " in text
    for operator in doctor.OPERATORS:
        assert callable(getattr(import_module(f"sodeep_fast.ops.{operator}"), operator))
        backend = "cpp" if _native.HAS_CPU else "reference"
        if operator == "conv_stack":
            backend = "torch"
        assert any(line.split()[:3] == [operator, "cpu", backend] for line in text.splitlines())


def test_doctor_says_why_there_is_no_kernel(monkeypatch):
    monkeypatch.setattr(_native, "HAS_CPU", False)
    text = doctor.report()
    assert "built where there is a C++ compiler" in text
    assert "cpp: sodeep_fast was installed without its compiled library" in text


def test_every_operator_is_in_the_doctor():
    measured = set(OPERATORS) - {"soft_rank_steep"}  # the same operator, of other scores
    assert set(_backend.KERNELS) | measured <= set(doctor.OPERATORS)
    assert {operator for operator, _ in doctor.BY_TORCH} <= set(doctor.OPERATORS)


@pytest.mark.kernels
def test_doctor_says_what_serves_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(_native, "HAS_CPU", True)
    monkeypatch.setattr(_backend, "has_triton", lambda: True)
    lines = [line.split(maxsplit=3) for line in doctor.report().splitlines()]
    served = {line[0]: line[2:] for line in lines if line[1:2] == ["cuda"]}
    by_triton = {"bilstm", "rank_counts", "soft_histogram", "soft_rank"}
    assert served.keys() >= set(doctor.OPERATORS)
    for operator in doctor.OPERATORS:
        assert served[operator][0] == ("triton" if operator in by_triton else "torch")
    assert served["margin_excess"][1] == served["shared_labels"][1] == "PyTorch's own operations"
    assert served["hard_rank"][1] == "PyTorch's own sort"


def test_cuda_architectures_are_read_from_the_library(monkeypatch, tmp_path):
    library = tmp_path / "_C_cuda.abi3.so"
    library.write_bytes(b"\0.target sm_90a\0sm_80\0sm_100 sm_80")
    monkeypatch.setattr(
        _native, "find_library", lambda stem: library if stem == "_C_cuda" else None
    )
    assert _native.cuda_architectures() == ("sm_80", "sm_90a", "sm_100")
    assert "compiled for sm_80, sm_90a, sm_100" in doctor.report()


def test_choosing_a_backend_says_why(monkeypatch):
    monkeypatch.setattr(_native, "HAS_CPU", True)
    assert _backend.choose("cpu", "soft_rank") == ("cpp", "the preferred kernels for cpu tensors")
    assert _backend.choose("meta", "soft_rank") == (
        "reference",
        "there are no kernels for meta tensors",
    )
    monkeypatch.setattr(_backend, "has_triton", lambda: False)
    monkeypatch.setattr(_native, "HAS_CUDA", True)
    assert _backend.choose("cuda", "soft_rank") == ("cuda", "triton: Triton is not installed")
    monkeypatch.setattr(_native, "HAS_CPU", False)
    backend, reason = _backend.choose("cpu", "soft_rank")
    assert backend == "reference"
    assert "without its compiled library" in reason


@pytest.mark.kernels  # ratios are to their times
def test_bench_prints_a_table_and_writes_json_and_csv(capsys, tmp_path):
    files = ["--json", str(tmp_path / "rows.json"), "--csv", str(tmp_path / "rows.csv")]
    assert cli.main([*QUICK, *files]) == 0
    text = capsys.readouterr().out
    assert "soft_rank (2, 16), forward + backward" in text
    assert "1.00 x" in text
    content = json.loads((tmp_path / "rows.json").read_text())
    assert [row["provider"] for row in content["rows"]] == ["ours", "eager", "torch.sort"]
    assert content["environment"]["version"] == sodeep_fast.__version__
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 4


def test_bench_sets_threads_and_modes(capsys):
    before = torch.get_num_threads()
    try:
        assert cli.main([*QUICK, "--mode", "forward", "--threads", "1"]) == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert "soft_rank (2, 16), forward\n" in capsys.readouterr().out


@pytest.mark.parametrize("threads", ["0", "-1", "two"])
def test_threads_must_be_positive(threads, capsys):
    for command in (["bench"], ["train", "--sorter=lstm", "--output=x"], ["paper", "fig5"]):
        with pytest.raises(SystemExit, match="2"):
            cli.main([*command, f"--threads={threads}"])
        assert f"expected a number of at least 1, got '{threads}'" in capsys.readouterr().err


def test_bench_rejects_unknown_providers(capsys):
    assert cli.main(["bench", "--quick", "--shape", "2x16", "--provider", "nobody"]) == 2
    assert "got 'nobody'" in capsys.readouterr().err


@pytest.fixture
def _no_measurements(monkeypatch):
    def never(*_, **__):
        raise AssertionError("something was measured")

    monkeypatch.setattr(cli, "run", never)


@pytest.mark.usefixtures("_no_measurements")
@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_bench_finds_bad_files_before_it_measures(option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for path, message in (
        (str(tmp_path), f"{option} must be a file, got '{tmp_path}'"),
        ("", f"{option} must be a file, got ''"),
        ("file/x", f"the folder of {option} must be no file, got 'file'"),
        ("file/x/y", f"the folder of {option} cannot be written (Not a directory): 'file/x'"),
    ):
        assert cli.main([*QUICK, option, path]) == 2
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""


@pytest.mark.usefixtures("_no_measurements")
def test_bench_does_not_measure_for_a_file_that_is_read_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    path = tmp_path / "rows.csv"
    path.touch()
    assert cli.main([*QUICK, "--csv", str(path)]) == 2
    assert f"--csv cannot be written (Permission denied): '{path}'" in capsys.readouterr().err


def test_bench_says_so_if_a_file_cannot_be_written_in_the_end(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli, "write_csv", full)
    monkeypatch.setattr(cli, "run", lambda operator, plan: [])
    assert cli.main([*QUICK, "--csv", str(tmp_path / "rows.csv")]) == 2
    assert capsys.readouterr().err == "sodeep-fast bench: [Errno 28] No space left on device\n"


@pytest.mark.usefixtures("_no_measurements")
@pytest.mark.parametrize("operators", [["soft_rank", "conv_stack"], ["conv_stack", "soft_rank"]])
def test_bench_says_whose_provider_is_unknown(operators, capsys):
    assert cli.main(["bench", "--operator", *operators, "--provider", "channels_last"]) == 2
    error = capsys.readouterr().err
    assert "providers must be among ours, " in error
    assert "for soft_rank, got 'channels_last'" in error


def test_bench_says_what_has_no_such_mode(monkeypatch, capsys):
    measured = []
    monkeypatch.setattr(cli, "run", lambda operator, plan: measured.append(operator.name) or [])
    message = "mode must be forward or both for hard_rank, got backward"
    assert cli.main(["bench", "--operator", "hard_rank", "--mode", "backward"]) == 2
    assert capsys.readouterr().err == f"sodeep-fast bench: {message}\n"
    assert measured == []
    both = ["--operator", "hard_rank", "soft_rank"]
    assert cli.main(["bench", *both, "--mode", "backward"]) == 0
    assert capsys.readouterr().err == f"sodeep-fast bench: left out: {message}\n"
    assert measured == ["soft_rank"]


@pytest.mark.parametrize("shape", ["8", "0x8", "8x", "axb", "-1x3"])
def test_bench_rejects_malformed_shapes(shape, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["bench", f"--shape={shape}"])
    assert "expected ROWSxN" in capsys.readouterr().err


def test_a_command_is_required(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([])
    assert "doctor" in capsys.readouterr().err


def test_the_package_does_not_import_the_developers_folders():
    program = (
        "import sys, sodeep_fast.cli; "
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('bench', 'demo', 'tests', 'matplotlib', 'sklearn')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
