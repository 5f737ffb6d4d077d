"""The LSTM's AMX kernels on any processor with AVX512_BF16, tiles being tests/amx_emulator's."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths, library_paths

CPU = Path("/proc/cpuinfo")
pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.kernels,
    pytest.mark.skipif(
        not CPU.exists() or "avx512_bf16" not in CPU.read_text().split(),
        reason="this processor has no AVX512_BF16",
    ),
]

ROOT = Path(__file__).parent.parent
EMULATOR = ROOT / "tests/amx_emulator"
# Its operators replace those of the installed library; then pytest runs as usual.
CHILD = """
import ctypes, sys
import pytest, torch
from sodeep_fast import _native

torch.ops.load_library(sys.argv[1])
assert _native.cpu_capability() == "amx"
code = pytest.main(sys.argv[2:])
print(ctypes.CDLL(sys.argv[1]).amx_emulator_products(), "products of tiles")
sys.exit(code)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("emulated") / "bilstm.so"
    # Unique symbols would resolve to the installed library's; below -O2, nothing contracts to FMA.
    flags = ["-std=c++17", "-O2", "-shared", "-fPIC", "-fno-gnu-unique", "-ffp-contract=fast"]
    flags += ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    paths = [f"-I{ROOT / 'csrc'}", *(f"-isystem{path}" for path in include_paths())]
    sources = ["-include", EMULATOR / "tiles.h", ROOT / "csrc/cpu/bilstm.cpp", EMULATOR / "isa.cpp"]
    torchs = [*(f"-L{path}" for path in library_paths()), "-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run(["g++", *flags, *paths, *sources, "-o", built, *torchs], check=True)
    return built


FILES = [str(ROOT / f"tests/test_bilstm{part}.py") for part in ("", "_bf16", "_memory")]
SELECTED = "accurate or anew or combination or well_behaved or threads or strided or finite or head"


def test_with_emulated_tiles(library: Path, run_tests: Callable[..., str]) -> None:
    command = [sys.executable, "-c", CHILD, str(library)]
    out = run_tests(command, FILES, SELECTED, 67)
    assert "products of tiles" in out
    assert "\n0 products of tiles" not in out
