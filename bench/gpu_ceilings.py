"""What this GPU does at most: copying, multiplying matrices, exponentials. Measured, not quoted."""

import torch
import triton
import triton.language as tl

from sodeep_fast.benchmark.measure import Call, copy_bandwidth, interleave, quantiles

COPY = "copy, bytes read and written per second"
FLOAT32, BFLOAT16 = (f"{name} matrix product, FLOP/s" for name in ("float32", "bfloat16"))
EXPONENTIALS = "exponentials per second"

CHAIN = 64  # exponentials of every element, one after another, between a load and a store


@triton.jit
def exponentials_kernel(x_ptr, BLOCK: tl.constexpr, CHAIN: tl.constexpr):  # type: ignore[no-untyped-def]
    """x = 2^-x, `CHAIN` times over: bound by the special-function units, not by memory."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets)
    for _ in tl.static_range(CHAIN):
        x = tl.exp2(-x)
    tl.store(x_ptr + offsets, x)


def ceilings(device: str) -> dict[str, int]:
    """Measures the rates that bound kernels here.

    Arguments:
        device: "cuda"; "cpu" runs the same code at a size that measures nothing.

    Returns:
        name -> bytes, floating-point operations or exponentials per second.
    """
    tiny = device == "cpu"
    size, elements = (16, 256) if tiny else (8192, 1 << 26)
    values = torch.rand(elements, device=device)

    def exponentials() -> None:
        exponentials_kernel[(elements // 256,)](values, BLOCK=256, CHAIN=CHAIN)

    def product(dtype: torch.dtype) -> Call:
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        return lambda: left @ right

    calls: dict[str, tuple[Call, int]] = {
        FLOAT32: (product(torch.float32), 2 * size**3),
        BFLOAT16: (product(torch.bfloat16), 2 * size**3),
        EXPONENTIALS: (exponentials, CHAIN * elements),
    }
    for call, _ in calls.values():
        call()
    samples = interleave(
        {name: call for name, (call, _) in calls.items()},
        seconds=0 if tiny else 0.2,
        min_rounds=1 if tiny else 5,
        max_rounds=1 if tiny else 20,
        device=device,
    )
    rates = {name: round(calls[name][1] / quantiles(times)[1]) for name, times in samples.items()}
    if not tiny:
        rates = {COPY: round(copy_bandwidth(device)), **rates}
    return rates


def ceilings_text(rates: dict[str, int]) -> str:
    """Lays out what `ceilings` returned, a line each."""
    return "\n".join(f"  {rate:9.2e}  {name}" for name, rate in rates.items())
