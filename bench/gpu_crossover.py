"""From how many pairs on a GPU ranks faster by the linear method than by all pairs."""

from typing import Any

import torch

from bench.gpu_budget import Budget
from sodeep_fast.benchmark.measure import interleave, quantiles
from sodeep_fast.benchmark.soft_rank import LAM
from sodeep_fast.kernels import _config
from sodeep_fast.ops.soft_rank import soft_rank

CROSSOVER = [(rows, n) for rows in (1, 8, 64, 512) for n in (1024, 4096, 16384, 65536)]


def crossover(seconds: float, budget: Budget) -> list[dict[str, Any]]:
    """Times all pairs (Triton) against the linear method (CUDA C++), forward and backward."""
    results = []
    for shape in budget.each(CROSSOVER, lambda shape: f"crossover {shape}"):
        if shape[0] * shape[1] ** 2 > 1e12:
            continue
        scores = (torch.rand(shape) * 2 - 1).cuda().requires_grad_()

        def both(backend: str, method: str, scores: torch.Tensor = scores) -> object:
            ranks = soft_rank(scores, LAM, backend=backend, method=method)
            return torch.autograd.grad(ranks, scores, scores.detach())

        calls = {
            "direct": lambda both=both: both("triton", "direct"),
            "linear": lambda both=both: both("cuda", "linear"),
        }
        for call in calls.values():
            call()
        samples = interleave(calls, seconds=seconds, min_rounds=3, max_rounds=20, device="cuda")
        times = {name: quantiles(values)[1] for name, values in samples.items()}
        chosen = "linear" if _config.prefers_linear(*shape) else "direct"
        results.append({"shape": shape, **times, "chosen": chosen})
    return results


def best_threshold(results: list[dict[str, Any]]) -> int:
    """Returns the number of pairs, a power of two, from which "auto" should be linear.

    It minimizes the sum over shapes of the chosen method's time divided by the faster method's.
    Rows of fewer than 1024 scores play no part, as in `_config.prefers_linear`.
    """

    def cost(threshold: int) -> float:
        total = 0.0
        for row in results:
            rows, n = row["shape"]
            taken = row["linear" if rows * n * n >= threshold else "direct"]
            total += taken / min(row["direct"], row["linear"])
        return total

    return min((1 << power for power in range(16, 42)), key=cost)
