"""CUDA graphs of measured calls, or why a call cannot be captured: the host waits for the GPU."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sodeep_fast.benchmark import Unavailable
from sodeep_fast.benchmark.measure import Call
from sodeep_fast.testing import capture_graph

# Operators whose results, or their sizes, the host has to read before it can continue.
WAITS = {
    "aten::nonzero",
    "aten::_local_scalar_dense",
    "aten::masked_select",
    "aten::equal",
    "aten::bincount",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    # For these, CPU tensors have their own kernel, and GPU tensors use `aten::nonzero`.
    "sodeep_fast::find_marked",
    "sodeep_fast::margin_excess",
    "sodeep_fast::graded_precision",
    "sodeep_fast::counted_recall",
    "sodeep_fast::counted_ndcg",
}


class _Watch(TorchDispatchMode):
    """Records which operators of `WAITS` run, in the backward too."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, None] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        indices = args[1] if name in ("aten::index", "aten::index_put_") else ()
        by_mask = any(index is not None and index.dtype == torch.bool for index in indices)
        to_host = name == "aten::_to_copy" and args[0].is_cuda and _goes_to_cpu(kwargs or {})
        if name in WAITS or by_mask or to_host:
            self.found[f"{name} by a mask" if by_mask else name] = None
        return func(*args, **(kwargs or {}))


def _goes_to_cpu(options: dict[str, Any]) -> bool:
    device = options.get("device")
    return device is not None and torch.device(device).type == "cpu"


def host_waits(call: Call) -> list[str]:
    """Returns the operators of a call that make the host wait for a GPU, each once.

    Run on a CPU, it shows where a capture on a GPU would fail, and also where a CPU-only path reads
    a value.
    """
    with _Watch() as watch:
        call()
    return list(watch.found)


def as_graph(call: Call, device: str, *, compiled: bool = False) -> Call:
    """Returns what replays a CUDA graph of a call.

    Arguments:
        call: what to capture.
        device: "cuda"; for "cpu", which has no graphs, the call itself is returned.
        compiled: whether torch.compile made it, which leaves no operators to check.

    Raises:
        Unavailable: it cannot be captured; the message names what waits for the GPU.
    """
    waits = [] if compiled else host_waits(call)
    if waits:
        raise Unavailable(f"no CUDA graph: the host waits for {', '.join(waits)}")
    if device != "cuda":
        return call
    try:
        # A capture that fails may leave its own stream behind as the current one.
        with torch.cuda.stream(torch.cuda.current_stream()):
            return capture_graph(call, warm_up=3)[0].replay
    except RuntimeError as error:
        torch.cuda.synchronize()
        raise Unavailable(f"no CUDA graph: {str(error).splitlines()[0]}") from error
