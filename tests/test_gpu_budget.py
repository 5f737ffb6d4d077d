"""The time budget of steps of bench/gpu_check.sh: what is left out, and that it is reported."""

import subprocess
import sys
import time
from pathlib import Path

from bench.gpu_budget import LEFT_OUT, Budget
from bench.pytest_limit import COMPILATION

ROOT = Path(__file__).parent.parent


def test_without_an_end_nothing_is_left_out():
    budget = Budget()
    assert list(budget.share(0.1).each(range(3), str)) == [0, 1, 2]
    assert budget.report() == ""


def test_parts_share_the_time_and_the_notes():
    budget = Budget(time.time() + 100)
    part = budget.share(0.25)
    assert 24 < part.left() <= 25
    part.until = 0
    assert list(part.each(["a", "b"], str.upper)) == []
    assert budget.has_time("c")
    assert budget.report() == f"{LEFT_OUT}: 2 (A; B)"


def pytest_on(tmp_path, *options):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('k', range(3))\ndef test_many(k): pass\n"
        "def test_last(): pass\n"
        "def test_compile(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--rootdir"]
    command += [str(tmp_path), "-p", "bench.pytest_limit", *options, str(tmp_path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_tests_come_breadth_first(tmp_path):
    out = pytest_on(tmp_path)
    order = [line.split("::")[1].split()[0] for line in out.splitlines() if "PASSED" in line]
    assert " ".join(order) == "test_many[0] test_last test_compile test_many[1] test_many[2]"
    assert LEFT_OUT not in out


def test_tests_without_time_are_skipped_and_counted(tmp_path):
    out = pytest_on(tmp_path, "--until", "1")
    assert "5 skipped" in out
    assert f"{LEFT_OUT}: 5 tests (test_many; test_last; test_compile)" in out


def test_the_compiler_is_not_begun_with_in_the_last_seconds(tmp_path):
    out = pytest_on(tmp_path, "--until", str(time.time() + COMPILATION - 1))
    assert "4 passed, 1 skipped" in out
    assert f"{LEFT_OUT}: 1 tests (test_compile)" in out
