"""Peak memory of one call, in a process of its own: allocators keep what earlier calls freed."""

import argparse
import ctypes
import gc
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

import sodeep_fast
from sodeep_fast.benchmark.call import make_call
from sodeep_fast.benchmark.measure import Call
from sodeep_fast.benchmark.model import Case, Operator
from sodeep_fast.benchmark.registry import OPERATORS

WARM_UP = (2, 64)  # loads libraries and starts threads; too small to matter itself


def peak_bytes(operator: str, case: Case, device: str, threads: int) -> int | None:
    """Returns the peak memory that one call takes beyond its input, or None if unknown.

    Counts resident memory on the CPU (Linux only) and PyTorch's allocations on a GPU; the output
    and what a provider compiles at its first call are part of it.

    Arguments:
        operator: name in the registry.
        case: what to call.
        device: "cpu" or "cuda".
        threads: PyTorch's threads.

    Returns:
        bytes, or None if the platform does not report it or the process failed.
    """
    command = [sys.executable, "-m", __name__, operator, case.provider, case.mode]
    command += [str(case.shape[0]), str(case.shape[1]), device, str(threads)]
    here = str(Path(sodeep_fast.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    last = done.stdout.strip().splitlines()[-1:] if done.returncode == 0 else []
    return int(last[0]) if last and last[0].isdigit() else None


def _status(field: str) -> int | None:
    """Reads a memory figure of this process, in bytes, from Linux's /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _release_freed_memory() -> None:
    """Returns the allocator's free memory to the system, so that the call cannot reuse it."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def measure_here(operator: Operator, case: Case, device: str) -> int | None:
    """Measures in this process, which should be fresh; see `peak_bytes`."""
    make_call(operator, Case(case.provider, case.mode, WARM_UP), device)()
    return peak_of(make_call(operator, case, device, check=False), device)


def peak_of(call: Call, device: str) -> int | None:
    """Returns the peak memory of a call beyond what is held before it, in a fresh process.

    Arguments:
        call: what to measure; something like it should have run before, at a small size.
        device: "cpu", where resident memory counts (Linux only), or "cuda", where PyTorch's does.

    Returns:
        bytes, or None if the platform does not report it.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before_cuda = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before_cuda
    _release_freed_memory()
    highest, resident = _status("VmHWM"), _status("VmRSS")
    if highest is None or resident is None:
        return None
    # Importing may have peaked higher than now; fill the gap, so that any growth moves the peak.
    ballast = b"\1" * (highest - resident)
    before = _status("VmHWM")
    call()
    after = _status("VmHWM")
    del ballast
    return None if before is None or after is None else after - before


def main() -> None:
    """Prints the peak bytes of the case named on the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in ("operator", "provider", "mode"):
        parser.add_argument(name)
    for name in ("rows", "n"):
        parser.add_argument(name, type=int)
    parser.add_argument("device")
    parser.add_argument("threads", type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    case = Case(args.provider, args.mode, (args.rows, args.n))
    print(measure_here(OPERATORS[args.operator], case, args.device))


if __name__ == "__main__":
    main()
