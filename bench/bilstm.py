"""Measures the LSTM sorters against the fastest `torch.nn.LSTM` in the same precision.

Run `python -m bench.bilstm` on a quiet machine; the ratios of one run are the result. PyTorch is
timed with and without oneDNN, and the faster one counts; inference is timed under
`torch.no_grad()`, where oneDNN has faster kernels. "in parts" is `loss_in_parts`, which the losses
may use.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sodeep_fast import LSTMSorter, hard_rank, loss_in_parts
from sodeep_fast._columns import align
from sodeep_fast._environment import environment
from sodeep_fast.benchmark.measure import interleave
from sodeep_fast.testing.lstm import onednn_has_bf16_lstm

N = 100


@dataclass(frozen=True)
class Case:
    """A network, a batch and what is computed.

    That is "inference", or forward and backward: "scores" to the scores, with frozen weights, or
    "training" to all weights.
    """

    hidden: int
    layers: int
    head: str
    batch: int
    mode: str


CASES = [
    *(Case(128, 1, "position", b, mode) for b in (1, 16, 512) for mode in ("inference", "scores")),
    *(Case(128, 2, "dense", b, mode) for b in (1, 16, 512) for mode in ("inference", "scores")),
    Case(128, 2, "dense", 512, "training"),
    Case(128, 2, "position", 512, "training"),
    Case(512, 2, "dense", 64, "inference"),
    Case(512, 2, "dense", 64, "scores"),
]


def calls_of(case: Case, bf16: bool) -> dict[str, Callable[[], object]]:
    """Returns the calls to time, by name; all of them compute the same."""
    torch.manual_seed(0)
    length = N if case.head == "dense" else None
    training = case.mode == "training"
    sorter = LSTMSorter(case.hidden, case.layers, case.head, length, trainable=training)
    lstm = sorter.lstm.as_torch()
    scores = torch.rand(case.batch, N).mul(2).sub(1).requires_grad_(case.mode == "scores")
    ranks = hard_rank(scores, normalize=True)
    wanted = list(sorter.parameters()) if training else [scores]

    def torchs(rows: Tensor) -> Tensor:
        return sorter.project(lstm(rows.unsqueeze(-1))[0])

    def distance(network: Callable[[Tensor], Tensor], rows: Tensor, exact: Tensor) -> Tensor:
        return (network(rows) - exact).square().mean(-1)

    def run(network: Callable[[Tensor], Tensor], onednn: bool = True, parts: bool = False) -> None:
        with (
            torch.set_grad_enabled(case.mode != "inference"),
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
            torch.backends.mkldnn.flags(enabled=onednn),
        ):
            if case.mode == "inference":
                network(scores)
                return
            loss = partial(distance, network)
            values = loss_in_parts(loss, scores, ranks) if parts else loss(scores, ranks)
        torch.autograd.grad(values.sum(), wanted)

    calls: dict[str, Callable[[], object]] = {
        "torch without oneDNN": partial(run, torchs, onednn=False),
        "ours": partial(run, sorter),
    }
    if not bf16 or onednn_has_bf16_lstm():
        calls["torch"] = partial(run, torchs)
    if case.mode == "scores":
        calls["ours in parts"] = partial(run, sorter, parts=True)
    return calls


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=2.0, help="for each call")
    parser.add_argument("--only", default="", help="cases whose text has this, as in 'batch=16,'")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(", ".join(f"{key} {value}" for key, value in environment().items()), end="\n\n")
    lines = [("network", "batch", "mode", "precision", "torch ms", "ours ms", "ratio", "in parts")]
    for case in CASES:
        for bf16 in (False, True):
            if options.only not in str(case):
                continue
            calls = calls_of(case, bf16)
            for call in calls.values():
                call()
            samples = interleave(calls, seconds=options.seconds, min_rounds=3, max_rounds=50)
            best = {name: min(times) for name, times in samples.items()}
            rival = min(time for name, time in best.items() if name.startswith("torch"))
            parts = best.get("ours in parts")
            lines.append(
                (
                    f"{case.hidden} x {case.layers}, {case.head}",
                    str(case.batch),
                    case.mode,
                    "bfloat16" if bf16 else "float32",
                    f"{1e3 * rival:.2f}",
                    f"{1e3 * best['ours']:.2f}",
                    f"{rival / best['ours']:.2f}",
                    "" if parts is None else f"{rival / parts:.2f}",
                )
            )
    print("\n".join(align(lines)))


if __name__ == "__main__":
    main()
