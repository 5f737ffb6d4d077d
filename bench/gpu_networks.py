"""Times the learned sorters on a GPU against cuDNN and torch.compile, the floor beside each row.

The rows of `bench/bilstm.py`, and the released convolutional network. cuDNN is timed as PyTorch
calls it: in float32 (by default, products of TF32), under autocast to float16, and, for the LSTM,
on a packed sequence, for which PyTorch takes another of cuDNN's algorithms; the fastest counts.
The floor is the largest of what the products, the exponentials and the bytes that must move take
at this machine's own rates, measured here; the steps of an LSTM follow one another. Without a GPU
it says so and measures nothing; --dry runs its logic on the CPU at tiny sizes.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import bilstm
from bench.gpu_ceilings import ceilings, ceilings_text
from sodeep_fast import LSTMSorter, hard_rank
from sodeep_fast.benchmark.conv_stack import WORK, in_turn, make_blocks, make_images
from sodeep_fast.benchmark.environment import environment
from sodeep_fast.benchmark.measure import Call, interleave, quantiles
from sodeep_fast.benchmark.report import align, time_text
from sodeep_fast.ops.conv_stack import conv_stack
from sodeep_fast.testing import capture_graph

Network = Callable[[Tensor], Tensor]
GRAPH_BATCH = 16  # up to which replays of a CUDA graph are timed too
RELEASED_LENGTH = 100


@dataclass(frozen=True)
class Case:
    """A network, a batch and what is computed; `hidden` is 0 for the convolutional one."""

    name: str
    hidden: int
    layers: int
    head: str
    batch: int
    n: int
    mode: str

    def work(self) -> dict[str, float]:
        """Returns the FLOP, exponentials and bytes of one call, as any implementation has them."""
        passes = {"inference": 1, "scores": 2, "training": 3}[self.mode]
        if not self.hidden:
            # Bytes on their way from layer to layer need not leave the chip.
            return {"FLOP": 2.0 * WORK * self.batch * passes, "exponentials": 0.0, "bytes": 0.0}
        numbers = float(self.batch * self.n * 2 * self.hidden)  # hidden units of a layer
        flop = self.layers * 8 * numbers * self.hidden
        flop += (self.layers - 1) * 16 * numbers * self.hidden
        flop += 2 * numbers * (self.n if self.head == "dense" else 1)
        per_number = 4 if passes == 1 else 4 + 2 * 10  # float32 states; 5 in float16, twice
        return {
            "FLOP": flop * passes,
            "exponentials": self.layers * numbers * (7 if passes == 1 else 9),
            "bytes": self.layers * numbers * per_number,
        }


def cases() -> list[Case]:
    """Returns the rows of the table."""
    lstms = [
        Case("LSTM", case.hidden, case.layers, case.head, case.batch, bilstm.N, case.mode)
        for case in bilstm.CASES
    ]
    cnns = [
        Case("CNN", 0, 0, "", batch, RELEASED_LENGTH, mode)
        for batch in (1, 16, 512)
        for mode in ("inference", "scores")
    ]
    return lstms + cnns


def tiny_cases() -> list[Case]:
    """Returns a row of every kind, for a processor."""
    lstms = [replace(case, hidden=4, batch=2, n=5) for case in cases()[:1] + cases()[6:8]]
    trained = replace(lstms[-1], mode="training")
    return [*lstms, trained, Case("CNN", 0, 0, "", 1, RELEASED_LENGTH, "scores")]


def lstm_networks(case: Case, device: str) -> tuple[dict[str, Network], list[Tensor]]:
    """Returns the ways to compute an LSTM sorter, by name, and its weights."""
    torch.manual_seed(0)
    length = case.n if case.head == "dense" else None
    trained = case.mode == "training"
    sorter = LSTMSorter(case.hidden, case.layers, case.head, length, trainable=trained).to(device)
    kept = torch.float16 if device == "cuda" else torch.bfloat16

    def by_torch(rows: Tensor) -> Tensor:
        return sorter.project(sorter.lstm(rows.unsqueeze(-1))[0])

    def packed(rows: Tensor) -> Tensor:
        sequence = nn.utils.rnn.pack_padded_sequence(
            rows.unsqueeze(-1), torch.full((len(rows),), rows.shape[1]), batch_first=True
        )
        hidden, _ = nn.utils.rnn.pad_packed_sequence(sorter.lstm(sequence)[0], batch_first=True)
        return sorter.project(hidden)

    def half(network: Network, rows: Tensor) -> Tensor:
        with torch.autocast(device, kept):
            return network(rows).float()

    networks: dict[str, Network] = {
        "ours": sorter.relative_ranks,
        "ours, autocast": partial(half, sorter.relative_ranks),
        "cuDNN": by_torch,
        "cuDNN, autocast": partial(half, by_torch),
        "cuDNN, packed": packed,
        "cuDNN, packed, autocast": partial(half, packed),
    }
    return networks, list(sorter.parameters()) if trained else []


def cnn_networks(case: Case, device: str) -> tuple[dict[str, Network], list[Tensor]]:
    """Returns the ways to compute the released convolutional network, by name."""
    blocks = [block.to(device) for block in make_blocks(case.n)]
    images = [layer.to(device) for layer in make_images(make_blocks(case.n))]
    kept = torch.float16 if device == "cuda" else torch.bfloat16

    def ours(rows: Tensor) -> Tensor:
        return conv_stack(rows.unsqueeze(1), blocks).flatten(1)

    def by_torch(rows: Tensor) -> Tensor:
        return in_turn(rows.unsqueeze(1), blocks).flatten(1)

    def as_images(rows: Tensor) -> Tensor:
        return in_turn(rows.view(len(rows), 1, 1, -1), images).flatten(1)

    def half(network: Network, rows: Tensor) -> Tensor:
        with torch.autocast(device, kept):
            return network(rows).float()

    networks: dict[str, Network] = {"ours": ours, "cuDNN": by_torch, "cuDNN, as images": as_images}
    # Compiling takes seconds for each of them, and on a processor a minute.
    if device == "cuda" and case.batch > GRAPH_BATCH:
        networks["compile"] = torch.compile(by_torch)
        networks["compile, as images"] = torch.compile(as_images)
    networks |= {f"{name}, autocast": partial(half, call) for name, call in networks.items()}
    return networks, []


def calls_of(case: Case, device: str) -> tuple[dict[str, Call], dict[str, float]]:
    """Returns what to time, by name, and how far the values are from float32's, relatively."""
    networks, wanted = (lstm_networks if case.hidden else cnn_networks)(case, device)
    scores = torch.rand(case.batch, case.n, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scores = scores.to(device).requires_grad_(case.mode != "inference")
    ranks = hard_rank(scores.detach(), normalize=True)

    def run(network: Network) -> Any:
        with torch.set_grad_enabled(case.mode != "inference"):
            values = network(scores)
            if case.mode == "inference":
                return values
            # Without its head the convolutional network ranks nothing.
            target = ranks if values.shape == ranks.shape else torch.zeros_like(values)
            loss = (values - target).square().mean()
        return torch.autograd.grad(loss, [scores, *wanted])

    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        exact = networks["cuDNN"](scores)
    calls: dict[str, Call] = {}
    errors = {}
    for name, network in networks.items():
        try:
            run(network)
            with torch.no_grad():
                errors[name] = float((network(scores) - exact).abs().max() / exact.abs().max())
        except RuntimeError as reason:  # such as an algorithm that cuDNN has not
            print(f"{case}: {name}: {str(reason).splitlines()[0]}", file=sys.stderr)
            continue
        calls[name] = partial(run, network)
    return calls, errors


def as_graphs(calls: dict[str, Call]) -> dict[str, Call]:
    """Returns replays of the calls as CUDA graphs, of those that can be captured."""
    graphs: dict[str, Call] = {}
    for name, call in calls.items():
        if "packed" in name:  # whose lengths the host reads
            continue
        try:
            graph, _ = capture_graph(call, warm_up=3)
        except RuntimeError as reason:
            print(f"no graph of {name}: {str(reason).splitlines()[0]}", file=sys.stderr)
            torch.cuda.synchronize()
            continue
        graphs[f"{name}, graph"] = graph.replay
    return graphs


def floor(case: Case, rates: dict[str, int]) -> dict[str, float]:
    """Returns the seconds that the work must take here, by what it is spent on."""
    work = case.work()
    copied = rates.get("copy, bytes read and written per second", 0)
    return {
        "products": work["FLOP"] / rates["bfloat16 matrix product, FLOP/s"],
        "exponentials": work["exponentials"] / rates["exponentials per second"],
        "memory": work["bytes"] / copied if copied else 0.0,
    }


def measure(case: Case, device: str, seconds: float, rates: dict[str, int]) -> dict[str, Any]:
    """Times a case; returns it with the median of every way, in seconds, errors and its floor."""
    calls, errors = calls_of(case, device)
    if device == "cuda" and case.batch <= GRAPH_BATCH and case.mode != "training":
        calls |= as_graphs(calls)
    rounds = {"min_rounds": 1, "max_rounds": 1 if device == "cpu" else 50}
    samples = interleave(calls, seconds=seconds, device=device, **rounds)
    medians = {name: quantiles(times)[1] for name, times in samples.items()}
    return {"case": asdict(case), "seconds": medians, "errors": errors, "floor": floor(case, rates)}


def report(result: dict[str, Any]) -> str:
    """Lays out the ways to compute a case: time, ratio to the fastest of PyTorch's, and error."""
    case, seconds = Case(**result["case"]), result["seconds"]
    size = f"{case.hidden} x {case.layers}, {case.head}, " if case.hidden else ""
    title = f"{case.name} {size}batch {case.batch}, n {case.n}, {case.mode}"
    known = {name: value for name, value in result["floor"].items() if value}
    parts = ", ".join(f"{name} {time_text(value)}" for name, value in known.items())
    steps = f"; {case.layers * case.n * (1 if case.mode == 'inference' else 2)} steps in turn"
    lines = [f"{title}: floor {time_text(max(result['floor'].values()))} ({parts})"]
    lines[0] += steps if case.hidden else ""
    cells = []
    for name, time in sorted(seconds.items(), key=lambda item: item[1]):
        graph = name.endswith(", graph")
        rivals = [
            value
            for other, value in seconds.items()
            if not other.startswith("ours") and other.endswith(", graph") == graph
        ]
        ratio = f"{min(rivals) / time:.2f}x" if rivals and name.startswith("ours") else ""
        error = result["errors"].get(name.removesuffix(", graph"))
        cells.append((name, time_text(time), ratio, "" if error is None else f"{error:.1e}"))
    header = ("", "median", "PyTorch's / it", "off by")
    return "\n".join([*lines, *align([header, *cells], right=range(1, 4))])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="where to write every measurement")
    parser.add_argument("--seconds", type=float, default=0.1, help="for each way of each row")
    parser.add_argument("--dry", action="store_true", help="on the CPU, at a tiny size")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.dry:
        print("no GPU: measured nothing")
        return 0
    device = "cpu" if options.dry else "cuda"
    rates = ceilings(device)
    print(ceilings_text(rates), flush=True)
    results, far = [], []
    for case in tiny_cases() if options.dry else cases():
        result = measure(case, device, 0.0 if options.dry else options.seconds, rates)
        results.append(result)
        print(f"\n{report(result)}", flush=True)
        if options.json:  # after every row: the time may run out
            content = {"environment": {**environment(), **rates}, "rows": results}
            options.json.write_text(json.dumps(content, indent=1))
        # Far above what rounding does to a half type, far below what a wrong network would.
        far += [name for name, error in result["errors"].items() if not error < 0.3]
    print(f"\n{len(results)} rows, {len(far)} ways that are wrong: {', '.join(far) or 'none'}")
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
