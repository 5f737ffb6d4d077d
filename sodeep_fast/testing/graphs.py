"""Capturing CUDA graphs."""

from collections.abc import Callable
from typing import Any

import torch


def capture_graph(call: Callable[[], Any], warm_up: int = 1) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Returns a CUDA graph of `call`, and the results that its replays overwrite.

    First it is called `warm_up` times, which compiles kernels, on a side stream, as PyTorch
    requires before a capture.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    return graph, captured
