"""Fixtures of the whole suite, and what must happen before any test module is imported."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sodeep_fast import _native
from sodeep_fast.ops import _backend

if not torch.cuda.is_available():
    # Without a GPU the Triton kernels run in Triton's interpreter, which has to be chosen before
    # Triton is first imported. Tests that compile kernels do so in a process of their own.
    os.environ["TRITON_INTERPRET"] = "1"
# Without this, cuBLAS refuses to multiply if PyTorch must be deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


# Marks of the files that run kernels in Triton's interpreter, test_*_triton.py.
INTERPRETED = [
    pytest.mark.kernels,  # their library has the operators' schemas
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="Triton compiles for the GPU here; see the gpu tests"
    ),
    pytest.mark.skipif(not _backend.has_triton(), reason="Triton is not installed"),
    # The interpreter's NumPy warns where kernels rely on exp(large) = inf, or compute values that
    # they then discard.
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),
    # Triton 3.6's interpreter turns arrays of one element into numbers.
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks interpreted tests, and skips tests whose marks name something that is not here."""
    for item in items:
        if item.path.stem.endswith("_triton"):
            for mark in INTERPRETED:
                item.add_marker(mark)
        if item.get_closest_marker("kernels") and not _native.HAS_CPU:
            item.add_marker(pytest.mark.skip(reason="the C++ kernels are not built"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and there is none here"))


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fills what torch.empty returns with NaN, in C++ too, so that unwritten outputs show."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before, warn_only=warn_only)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of PyTorch's threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def same_weights() -> None:
    """Seeds the random weights of networks."""
    torch.manual_seed(0)


@pytest.fixture
def same_weights_and_one_thread(same_weights: None, set_threads: Callable[[int], None]) -> None:
    """Also sets one thread, as small networks only wait for a second one."""
    set_threads(1)


@pytest.fixture
def needs_gpu_memory() -> Callable[[int], None]:
    """Skips a test unless that many GB of the GPU are free, after PyTorch's cache is emptied."""

    def check(gigabytes: int) -> None:
        torch.cuda.empty_cache()
        if torch.cuda.mem_get_info()[0] < gigabytes * 1e9:
            pytest.skip(f"needs {gigabytes} GB of free GPU memory")

    return check


@pytest.fixture(scope="session")
def kernel_resources(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Compiles every GPU kernel, in a process of its own: here Triton may be interpreting."""
    script = Path(__file__).parent.parent / "bench/kernel_resources.py"
    out = tmp_path_factory.mktemp("resources") / "resources.json"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(script), "--quick", "--json", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert out.exists(), done.stdout + done.stderr
    rows: list[dict[str, Any]] = json.loads(out.read_text())
    return rows


@pytest.fixture
def run_tests() -> Callable[..., str]:
    """Runs selected tests of files in their own process, and returns what it printed.

    A least number must pass, as a renamed test would no longer be selected.
    """

    def run(
        command: list[str], files: list[str], selected: str, least: int, **environment: str
    ) -> str:
        done = subprocess.run(
            [*command, "-q", "-p", "no:cacheprovider", *files, "-k", selected],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        out = done.stdout + done.stderr
        if "SODEEP_FAST_CPU must be" in out:
            pytest.skip("this processor has no such instruction set")
        assert done.returncode == 0, out
        (passed,) = re.findall(r"(\d+) passed", done.stdout)
        assert int(passed) >= least, out
        return out

    return run


@pytest.fixture
def rerun_on(run_tests: Callable[..., str]) -> Callable[[str, str, int, str], None]:
    """Runs selected tests of a file in a process that is limited to another instruction set."""

    def rerun(file: str, selected: str, least: int, instruction_set: str) -> None:
        if instruction_set == _native.cpu_capability():
            pytest.skip(f"{instruction_set} is what the others ran")
        command = [sys.executable, "-m", "pytest"]
        run_tests(command, [file], selected, least, SODEEP_FAST_CPU=instruction_set)

    return rerun
