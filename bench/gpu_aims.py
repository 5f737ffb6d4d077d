"""The aims of the kernels on one H200, and what bench/gpu_check.sh measured of each."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.gpu_rows import GRAPH_NOTE
from sodeep_fast.benchmark.model import Row
from sodeep_fast.benchmark.report import bytes_text


@dataclass(frozen=True)
class Aim:
    """An aim: what it is about, its bound, the measured value (or None), and its format."""

    what: str
    measured: float | None
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "x"

    def cells(self) -> tuple[str, str, str, str]:
        """Returns what, bound, measured value and verdict."""
        bound = (
            f">= {self._text(self.at_least)}"
            if self.at_least is not None
            else f"<= {self._text(self.at_most or 0.0)}"
        )
        if self.measured is None:
            return self.what, bound, "", "not measured"
        met = (self.at_least is None or self.measured >= self.at_least) and (
            self.at_most is None or self.measured <= self.at_most
        )
        return self.what, bound, self._text(self.measured), "met" if met else "MISSED"

    def _text(self, value: float) -> str:
        return bytes_text(value) if self.unit == "B" else f"{value:.3g}{self.unit}"


def aims(
    operators: Iterable[Row], losses: Iterable[Row], networks: Iterable[dict[str, Any]]
) -> list[Aim]:
    """Returns every aim with what was measured.

    Arguments:
        operators: rows of `bench.gpu_bench`.
        losses: rows of `bench.gpu_losses`.
        networks: results of `bench.gpu_networks`.
    """
    operators, losses, networks = list(operators), list(losses), list(networks)

    def rank(provider: str, shape: tuple[int, int], graph: bool = False) -> Row | None:
        return _find(operators, "soft_rank", provider, shape, graph)

    short, long = (512, 100), (8, 100_000)
    ours = rank("ours", short)
    found = [
        Aim(
            "soft_rank (512, 100), both passes: launches",
            _get(ours, "launches"),
            at_most=2,
            unit="",
        )
    ]
    for title, graph in (("", False), (", CUDA graph", True)):
        name = "triton-direct" if graph else "ours"
        ratio = _ratio(rank("compile", short, graph), rank(name, short, graph))
        found.append(Aim(f"soft_rank (512, 100){title}: over torch.compile", ratio, at_least=10))
    ratio = _ratio(rank("torch.sort", long), rank("ours", long))
    found.append(Aim("soft_rank (8, 100000): over torch.sort", ratio, at_least=1))
    batch = (4096, 4096)
    smooth = [
        _find(losses, "SmoothAPLoss", provider, batch, False) for provider in ("ours", "products")
    ]
    found.append(Aim("Smooth-AP, batch 4096: time over products", _ratio(*smooth), at_most=3))
    large = _find(losses, "SmoothAPLoss", "ours", (65536, 65536), False)
    peak = _get(large, "peak_bytes")
    found.append(Aim("Smooth-AP, batch 65536: memory", peak, at_most=8e9, unit="B"))
    for name, hidden, batch_size, least in (
        ("LSTM", 128, 512, 3),
        ("LSTM", 512, 64, 1.5),
        ("CNN", 0, 512, 1.5),
    ):
        ratios = [
            over_cudnn(result)
            for result in networks
            if (result["case"]["name"], result["case"]["hidden"]) == (name, hidden)
            and result["case"]["batch"] == batch_size
            and result["case"]["mode"] in ("scores", "training")
        ]
        known = [ratio for ratio in ratios if ratio is not None]
        title = f"{name}{f' hidden {hidden}' if hidden else ''}, batch {batch_size}: over cuDNN"
        found.append(Aim(title, min(known, default=None), at_least=least))
    return found


def over_cudnn(result: dict[str, Any]) -> float | None:
    """Returns how many times faster ours is than the fastest of cuDNN in float32 or autocast.

    Replays of CUDA graphs are left out.
    """
    seconds = {n: t for n, t in result["seconds"].items() if not n.endswith(", graph")}
    rivals = [time for name, time in seconds.items() if name.startswith("cuDNN")]
    ours = [time for name, time in seconds.items() if name.startswith("ours")]
    return min(rivals) / min(ours) if rivals and ours else None


def _find(
    rows: list[Row], operator: str, provider: str, shape: tuple[int, int], graph: bool
) -> Row | None:
    for row in rows:
        key = row.operator, row.provider, tuple(row.shape), row.mode
        if key == (operator, provider, shape, "both") and (row.note == GRAPH_NOTE) == graph:
            return row
    return None


def _get(row: Row | None, field: str) -> float | None:
    value: float | None = None if row is None else getattr(row, field)
    return value


def _ratio(above: Row | None, below: Row | None) -> float | None:
    if above is None or below is None or above.median is None or below.median is None:
        return None
    return above.median / below.median
