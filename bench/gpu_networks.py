"""Times the learned sorters on a GPU against cuDNN and torch.compile, with a floor for each row.

The rows of `bench/bilstm.py`, and the released convolutional network. cuDNN is timed as PyTorch
calls it: in float32 (by default, products of TF32), under autocast to float16, and, for the LSTM,
on a packed sequence, for which PyTorch uses a different algorithm of cuDNN; the fastest counts. The
floor is the largest of the times that products, exponentials and memory traffic take at this
machine's rates, measured here; the steps of an LSTM are sequential. Every time is shown with the
achieved FLOP/s and bytes/s and their shares of these rates, and that of our LSTM with the time that
an H200 should take according to `bench/gpu_work.py`. Without a GPU it says so and measures nothing;
--dry runs its logic on the CPU at tiny sizes.
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

from bench import bilstm, gpu_budget
from bench.gpu_budget import Budget
from bench.gpu_ceilings import BFLOAT16, COPY, EXPONENTIALS, ceilings, ceilings_text
from bench.gpu_graphs import as_graph
from bench.gpu_rows import peak_and_launches
from bench.gpu_work import RATES, lstm, lstm_products
from bench.gpu_work import conv_stack as conv_stack_work
from sodeep_fast import LSTMSorter, _native, hard_rank
from sodeep_fast._columns import align
from sodeep_fast._environment import environment
from sodeep_fast.benchmark import Unavailable
from sodeep_fast.benchmark.conv_stack import WORK, in_turn, make_blocks, make_images
from sodeep_fast.benchmark.measure import Call, interleave, quantiles
from sodeep_fast.benchmark.report import bytes_text, time_text
from sodeep_fast.kernels import _layouts
from sodeep_fast.ops.bilstm import CUDA_HIDDEN, INTERPRETED_SHARED
from sodeep_fast.ops.bilstm import bilstm as lstm_states
from sodeep_fast.ops.conv_stack import conv_stack

Network = Callable[[Tensor], Tensor]
GRAPH_BATCH = 16  # up to which replays of a CUDA graph are timed too
RELEASED_LENGTH = 100
BY_CUDA = "ours, cuda"


@dataclass(frozen=True)
class Case:
    """A network, a batch and what is computed; `hidden` is 0 for the convolutional network."""

    name: str
    hidden: int
    layers: int
    head: str
    batch: int
    n: int
    mode: str

    def work(self) -> dict[str, float]:
        """Returns the FLOP, exponentials and bytes that any implementation needs for one call."""
        passes = {"inference": 1, "scores": 2, "training": 3}[self.mode]
        if not self.hidden:
            # Values passed from layer to layer need not leave the chip.
            return {"FLOP": 2.0 * WORK * self.batch * passes, "exponentials": 0.0, "bytes": 0.0}
        numbers = float(self.batch * self.n * 2 * self.hidden)  # hidden units of a layer
        flop = lstm_products(self.hidden, self.layers, self.batch, self.n)
        flop += 2 * numbers * (self.n if self.head == "dense" else 1)
        per_number = 4 if passes == 1 else 4 + 2 * 10  # float32 states; 5 in float16, twice
        return {
            "FLOP": flop * passes,
            "exponentials": self.layers * numbers * (7 if passes == 1 else 9),
            "bytes": self.layers * numbers * per_number,
        }

    def expected(self) -> dict[str, float]:
        """Returns the seconds that our kernels should take on an H200; empty if cuDNN is used."""
        passes = (False,) if self.mode == "inference" else (False, True)
        if not self.hidden:
            works = [conv_stack_work(self.batch, backward) for backward in passes]
            return {"ours, triton, autocast": sum(work.seconds() for work in works)}
        # The interpreter is assumed to have as much shared memory as an H200.
        if _layouts.lstm_shared_bytes(self.hidden, False) > INTERPRETED_SHARED:
            return {}
        saves = self.mode != "inference"
        size = (self.hidden, self.layers, (self.batch, self.n))
        # Gradients of the weights take one more product per layer.
        extra = self.work()["FLOP"] / 3 if self.mode == "training" else 0.0
        return {
            name: sum(lstm(*size, backward, saves, route).seconds() for backward in passes)
            + extra / RATES["tensor"]
            for name, route in (("ours", "triton"), (BY_CUDA, "cuda"))
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
    # The largest, which have aims, come first, as time may run out.
    return sorted(lstms + cnns, key=lambda case: -max(case.batch, case.hidden))


def tiny_cases() -> list[Case]:
    """Returns a row of every kind, for a processor."""
    lstms = [
        Case("LSTM", 4, layers, head, 2, 5, mode)
        for layers, head, mode in (
            (1, "position", "inference"),
            (2, "dense", "inference"),
            (2, "dense", "scores"),
        )
    ]
    trained = replace(lstms[-1], mode="training")
    return [*lstms, trained, Case("CNN", 0, 0, "", 1, RELEASED_LENGTH, "scores")]


def lstm_networks(case: Case, device: str) -> tuple[dict[str, Network], list[Tensor]]:
    """Returns the ways to compute an LSTM sorter, by name, and its weights."""
    torch.manual_seed(0)
    length = case.n if case.head == "dense" else None
    trained = case.mode == "training"
    sorter = LSTMSorter(case.hidden, case.layers, case.head, length, trainable=trained).to(device)
    lstm = sorter.lstm.as_torch()
    kept = torch.float16 if device == "cuda" else torch.bfloat16

    def by_torch(rows: Tensor) -> Tensor:
        return sorter.project(lstm(rows.unsqueeze(-1))[0])

    def packed(rows: Tensor) -> Tensor:
        sequence = nn.utils.rnn.pack_padded_sequence(
            rows.unsqueeze(-1), torch.full((len(rows),), rows.shape[1]), batch_first=True
        )
        hidden, _ = nn.utils.rnn.pad_packed_sequence(lstm(sequence)[0], batch_first=True)
        return sorter.project(hidden)

    def half(network: Network, rows: Tensor) -> Tensor:
        with torch.autocast(device, kept):
            return network(rows).float()

    def by_cuda(rows: Tensor) -> Tensor:
        weights = sorter.lstm()
        if case.head == "dense":
            return sorter.project(lstm_states(rows, weights, backend="cuda"))
        ranks = lstm_states(rows, weights, sorter.linear.weight[0], backend="cuda")
        return ranks + sorter.linear.bias

    networks: dict[str, Network] = {
        "ours": sorter.relative_ranks,
        "ours, autocast": partial(half, sorter.relative_ranks),
        "cuDNN": by_torch,
        "cuDNN, autocast": partial(half, by_torch),
        "cuDNN, packed": packed,
        "cuDNN, packed, autocast": partial(half, packed),
    }
    if device == "cuda" and _native.HAS_CUDA and case.hidden <= CUDA_HIDDEN:
        networks[BY_CUDA] = by_cuda
    return networks, list(sorter.parameters()) if trained else []


def cnn_networks(case: Case, device: str) -> tuple[dict[str, Network], list[Tensor]]:
    """Returns the ways to compute the released convolutional network, by name."""
    blocks = [block.to(device) for block in make_blocks(case.n)]
    images = [layer.to(device) for layer in make_images(make_blocks(case.n))]
    kept = torch.float16 if device == "cuda" else torch.bfloat16

    def ours(rows: Tensor) -> Tensor:
        return conv_stack(rows.unsqueeze(1), blocks).flatten(1)

    def by_triton(rows: Tensor) -> Tensor:
        return conv_stack(rows.unsqueeze(1), blocks, backend="triton").flatten(1)

    def by_torch(rows: Tensor) -> Tensor:
        return in_turn(rows.unsqueeze(1), blocks).flatten(1)

    def as_images(rows: Tensor) -> Tensor:
        return in_turn(rows.view(len(rows), 1, 1, -1), images).flatten(1)

    def half(network: Network, rows: Tensor) -> Tensor:
        with torch.autocast(device, kept):
            return network(rows).float()

    networks: dict[str, Network] = {"ours": ours, "cuDNN": by_torch, "cuDNN, as images": as_images}
    # Triton's interpreter would take minutes.
    if device == "cuda":
        networks["ours, triton"] = by_triton
    # Compiling takes seconds per case, and a minute on a processor.
    if device == "cuda" and case.batch > GRAPH_BATCH:
        networks["compile"] = torch.compile(by_torch)
        networks["compile, as images"] = torch.compile(as_images)
    networks |= {f"{name}, autocast": partial(half, call) for name, call in networks.items()}
    return networks, []


def calls_of(case: Case, device: str) -> tuple[dict[str, Call], dict[str, float]]:
    """Returns the calls to time, by name, and their values' relative errors against float32."""
    networks, wanted = (lstm_networks if case.hidden else cnn_networks)(case, device)
    scores = torch.rand(case.batch, case.n, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scores = scores.to(device).requires_grad_(case.mode != "inference")
    ranks = hard_rank(scores.detach(), normalize=True)

    def run(network: Network) -> Any:
        with torch.set_grad_enabled(case.mode != "inference"):
            values = network(scores)
            if case.mode == "inference":
                return values
            # Without its head, the convolutional network returns no ranks.
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


def as_graphs(calls: dict[str, Call], device: str) -> tuple[dict[str, Call], dict[str, str]]:
    """Returns replays of the calls as CUDA graphs, and why the others cannot be captured."""
    graphs: dict[str, Call] = {}
    reasons: dict[str, str] = {}
    for name, call in calls.items():
        try:
            graphs[f"{name}, graph"] = as_graph(call, device, compiled="compile" in name)
        except Unavailable as reason:
            reasons[name] = str(reason)
    return graphs, reasons


def usage_of(calls: dict[str, Call], device: str) -> dict[str, dict[str, int]]:
    """Returns the peak memory beyond weights and input, and the launches, of every call on a GPU.

    Calls that do not fit in memory are left out.
    """
    found = {}
    for name, call in calls.items() if device == "cuda" else ():
        try:
            peak, launches = peak_and_launches(call)
        except RuntimeError as reason:
            print(f"{name}: {(str(reason).splitlines() or [''])[0]}", file=sys.stderr)
            continue
        found[name] = {"peak bytes": peak, "launches": launches}
    return found


def floor(case: Case, rates: dict[str, int]) -> dict[str, float]:
    """Returns the least seconds that the work must take here, for each of the machine's limits."""
    work = case.work()
    return {
        "products": work["FLOP"] / rates[BFLOAT16],
        "exponentials": work["exponentials"] / rates[EXPONENTIALS],
        "memory": work["bytes"] / rates[COPY] if COPY in rates else 0.0,
    }


def achieved(case: Case, seconds: float, rates: dict[str, int]) -> dict[str, float]:
    """Returns the rates achieved by a call that takes `seconds`, and their shares of the limits."""
    work = case.work()
    flops, bandwidth = work["FLOP"] / seconds, work["bytes"] / seconds
    return {
        "FLOP/s": flops,
        "FLOP share": flops / rates[BFLOAT16],
        "bytes/s": bandwidth,
        "bytes share": bandwidth / rates[COPY] if COPY in rates else 0.0,
    }


def measure(case: Case, device: str, seconds: float, rates: dict[str, int]) -> dict[str, Any]:
    """Times a case.

    Returns:
        the case, the median seconds of every way, the rates that it achieves, its memory and
        launches, errors, the floor, the expected times of ours, and why some have no graphs.
    """
    calls, errors = calls_of(case, device)
    usage = usage_of(calls, device)  # before graphs hold memory of their own
    reasons: dict[str, str] = {}
    if case.batch <= GRAPH_BATCH and case.mode != "training":
        graphs, reasons = as_graphs(calls, device)
        calls |= graphs
    rounds = {"min_rounds": 1, "max_rounds": 1 if device == "cpu" else 50}
    samples = interleave(calls, seconds=seconds, device=device, **rounds)
    spread = {name: quantiles(times) for name, times in samples.items()}
    medians = {name: middle for name, (_, middle, _) in spread.items()}
    return {
        "case": asdict(case),
        "seconds": medians,
        "quantiles": spread,
        "achieved": {name: achieved(case, time, rates) for name, time in medians.items()},
        "usage": usage,
        "errors": errors,
        "floor": floor(case, rates),
        "expected": case.expected(),
        "no graph": reasons,
    }


def title(case: Case) -> str:
    """Names a case."""
    size = f"{case.hidden} x {case.layers}, {case.head}, " if case.hidden else ""
    return f"{case.name} {size}batch {case.batch}, n {case.n}, {case.mode}"


def report(result: dict[str, Any]) -> str:
    """Formats the ways to compute a case: time, ratio to PyTorch's fastest, and error."""
    case, seconds = Case(**result["case"]), result["seconds"]
    known = {name: value for name, value in result["floor"].items() if value}
    parts = ", ".join(f"{name} {time_text(value)}" for name, value in known.items())
    steps = f"; {case.layers * case.n * (1 if case.mode == 'inference' else 2)} steps in turn"
    lines = [f"{title(case)}: floor {time_text(max(result['floor'].values()))} ({parts})"]
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
        cells.append(
            (
                name,
                time_text(time),
                time_text(result["expected"][name]) if name in result["expected"] else "",
                ratio,
                "" if error is None else f"{error:.1e}",
                *usage_cells(result["usage"].get(name)),
                *rate_cells(result["achieved"][name]),
            )
        )
    rates = ("FLOP/s", "FLOP limit", "bytes/s", "copy limit")
    header = ("", "median", "expected", "PyTorch's / it", "off by", "memory", "launches", *rates)
    notes = [f"  {name}: {reason}" for name, reason in result["no graph"].items()]
    return "\n".join([*lines, *align([header, *cells], right=range(1, len(header))), *notes])


def usage_cells(usage: dict[str, int] | None) -> tuple[str, str]:
    """Formats what `usage_of` found for one way, if anything."""
    return (bytes_text(usage["peak bytes"]), str(usage["launches"])) if usage else ("", "")


def rate_cells(rates: dict[str, float]) -> tuple[str, str, str, str]:
    """Formats what `achieved` returned."""
    return (
        f"{rates['FLOP/s'] / 1e12:.3g} T",
        f"{100 * rates['FLOP share']:.2f} %",
        f"{rates['bytes/s'] / 1e9:.3g} G" if rates["bytes/s"] else "",
        f"{100 * rates['bytes share']:.2f} %" if rates["bytes share"] else "",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="where to write every measurement")
    parser.add_argument("--seconds", type=float, default=0.1, help="for each way of each row")
    parser.add_argument("--dry", action="store_true", help="on the CPU, at a tiny size")
    gpu_budget.add_argument(parser)
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.dry:
        print("no GPU: measured nothing")
        return 0
    device = "cpu" if options.dry else "cuda"
    if options.dry:  # not every processor has oneDNN's LSTM in bfloat16
        torch.backends.mkldnn.set_flags(False)
    rates = ceilings(device)
    print(ceilings_text(rates), flush=True)
    results, far = [], []
    budget = Budget(options.until)
    for case in budget.each(tiny_cases() if options.dry else cases(), title):
        result = measure(case, device, 0.0 if options.dry else options.seconds, rates)
        results.append(result)
        print(f"\n{report(result)}", flush=True)
        if options.json:  # after every row: the time may run out
            content = {"environment": {**environment(), **rates}, "rows": results}
            options.json.write_text(json.dumps(content, indent=1))
        # Far above the rounding of a half type, far below the error of a wrong network.
        far += [name for name, error in result["errors"].items() if not error < 0.3]
    print(f"\n{len(results)} rows, {len(far)} ways that are wrong: {', '.join(far) or 'none'}")
    print(budget.report())
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
