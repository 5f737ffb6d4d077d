"""Timing in interleaved rounds, and the yardstick: how fast the machine copies memory."""

import ctypes
import gc
import math
import platform
from collections.abc import Callable, Hashable, Mapping
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch

Key = TypeVar("Key", bound=Hashable)
Call = Callable[[], object]

# Seconds. A shorter call is repeated within a sample, so that cold caches matter less.
SHORTEST_SAMPLE = 1e-2
COPY_BYTES = 256 * 2**20  # beyond the caches of the machines this runs on


def time_call(call: Call, repeats: int, device: str) -> float:
    """Returns seconds per call over `repeats` calls, by wall clock or, on a GPU, CUDA events."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / repeats
    begin = perf_counter()
    for _ in range(repeats):
        call()
    return (perf_counter() - begin) / repeats


def keep_freed_memory() -> None:
    """Tells glibc to keep memory that this process frees for its next allocations.

    By default it returns tensors to the system above sizes that depend on what ran before. Fresh
    pages for the next tensor cost more than many operators, especially in a virtual machine, and
    which provider pays for them is chance.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # as malloc.h numbers them
    library = ctypes.CDLL(None)
    library.mallopt(trim_threshold, 2**31 - 1)
    library.mallopt(mmap_threshold, 2**25)  # the largest that glibc takes


def interleave(
    calls: Mapping[Key, Call],
    *,
    seconds: float,
    min_rounds: int,
    max_rounds: int,
    device: str = "cpu",
) -> dict[Key, list[float]]:
    """Times calls in rounds A B C, B C A, ..., so that disturbances affect all of them.

    The order rotates because a call may leave caches and the allocator in a state that slows down
    the next one. On the CPU, freed memory stays with the process.

    Arguments:
        calls: what to time.
        seconds: time to spend on each call; a slow one drops out of the rounds when it is spent.
        min_rounds: rounds that every call gets, however slow.
        max_rounds: rounds after which even a fast one stops.
        device: "cpu" or "cuda".

    Returns:
        the samples of each call, in seconds per call.

    Example:
        >>> calls = {"a": lambda: sum(range(100))}
        >>> samples = interleave(calls, seconds=0.01, min_rounds=3, max_rounds=3)
        >>> len(samples["a"])
        3
    """
    if device == "cpu":
        keep_freed_memory()
    for call in calls.values():
        call()  # compiles again what building the next provider may have dropped
    repeats = {
        key: max(1, min(1000, math.ceil(SHORTEST_SAMPLE / max(time_call(call, 1, device), 1e-9))))
        for key, call in calls.items()
    }
    samples: dict[Key, list[float]] = {key: [] for key in calls}
    spent = dict.fromkeys(calls, 0.0)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for round_ in range(max_rounds):
            running = [key for key in calls if round_ < min_rounds or spent[key] < seconds]
            if not running:
                break
            turn = round_ % len(running)
            for key in running[turn:] + running[:turn]:
                samples[key].append(time_call(calls[key], repeats[key], device))
                spent[key] += samples[key][-1] * repeats[key]
    finally:
        if collecting:
            gc.enable()
    return samples


def quantiles(samples: list[float]) -> tuple[float, float, float]:
    """Returns the 20 %, 50 % and 80 % quantiles of samples."""
    low, middle, high = np.quantile(samples, (0.2, 0.5, 0.8))
    return float(low), float(middle), float(high)


def copy_bandwidth(device: str = "cpu") -> float:
    """Returns the bytes per second, read and written, of a large copy: the machine's limit."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    samples = interleave(
        {"copy": lambda: target.copy_(source)},
        seconds=0.5,
        min_rounds=3,
        max_rounds=20,
        device=device,
    )
    return 2 * COPY_BYTES / quantiles(samples["copy"])[1]
