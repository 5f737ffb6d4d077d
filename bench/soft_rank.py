"""Checks the speed and memory targets of `soft_rank`, and writes what was measured.

Run it on a quiet machine: `make bench`, or `python -m bench.soft_rank`. The ratios of one run are
the result; absolute times are context.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from sodeep_fast._columns import align
from sodeep_fast._environment import environment
from sodeep_fast.benchmark import Case, Plan, Row, measure_cases
from sodeep_fast.benchmark.memory import peak_bytes
from sodeep_fast.benchmark.report import table, write_csv, write_json
from sodeep_fast.benchmark.soft_rank import OPERATOR

RESULTS = Path(__file__).parent / "results"

SMALL, MIDDLE, LARGE = (512, 100), (64, 1000), (8, 10_000)
LONG, LONGEST, TINY = (1, 100_000), (1, 1_000_000), (1, 8)
ELEMENT_BYTES = 4

# No limit on memory but the machine's: the eager form takes 6 GB at (8, 10000).
PLAN = Plan(seconds=3.0, min_rounds=5, max_rounds=300, max_seconds=60, max_bytes=16e9)


@dataclass(frozen=True)
class Target:
    """A line of the table of targets: time of `slow` over time of `fast`, bounded on one side.

    `at_least` is the required gain over a rival; `at_most` limits the cost of something of ours.
    """

    what: str
    slow: Case
    fast: Case
    at_least: float | None = None
    at_most: float | None = None

    def passes(self, ratio: float) -> bool:
        """Returns whether a measured ratio meets the target."""
        if self.at_least is not None:
            return ratio >= self.at_least
        return self.at_most is not None and ratio <= self.at_most


def _against(rival: str, what: str, bounds: dict[tuple[int, int], float]) -> list[Target]:
    return [
        Target(
            f"forward + backward vs {what}, {shape}",
            Case(rival, "both", shape),
            Case("ours", "both", shape),
            at_least=bound,
        )
        for shape, bound in bounds.items()
    ]


TARGETS = [
    *_against("eager", "eager PyTorch", {SMALL: 16, MIDDLE: 400, LARGE: 4000}),
    *_against("compile_sym", "compile_sym", {SMALL: 5, MIDDLE: 25, LARGE: 150}),
    *_against("torchsort", "torchsort l2", {SMALL: 3, MIDDLE: 3, LARGE: 4, LONG: 5}),
    Target(
        f"forward vs torch.sort, {LONGEST}",
        Case("torch.sort", "forward", LONGEST),
        Case("ours", "forward", LONGEST),
        at_least=12,
    ),
    Target(
        f"forward + backward vs torch.sort, {LONGEST}",
        Case("torch.sort", "forward", LONGEST),
        Case("ours", "both", LONGEST),
        at_least=5,
    ),
    Target(
        f"cost of {LONGEST} over {LONG}, forward + backward",
        Case("ours", "both", LONGEST),
        Case("ours", "both", LONG),
        at_most=14,
    ),
    Target(
        f"overhead over eager PyTorch, {TINY}",
        Case("ours", "both", TINY),
        Case("eager", "both", TINY),
        at_most=1.5,
    ),
]
PEAK_CASE, PEAK_AT_MOST = Case("ours", "both", LONGEST), 8.0  # times the input's bytes


def measure(progress: Callable[..., tqdm] = tqdm) -> dict[Case, Row]:
    """Times every case of the targets, all cases of a shape in the same rounds."""
    groups: dict[tuple[int, int], dict[Case, None]] = {}
    for target in TARGETS:
        # The long row is compared with the longest, so both belong to one group.
        group = groups.setdefault(LONGEST if target.slow.shape == LONG else target.slow.shape, {})
        group.update({target.slow: None, target.fast: None})
    measured: dict[Case, Row] = {}
    for cases in progress(groups.values(), desc="soft_rank targets", unit="shape"):
        rows = measure_cases(OPERATOR, list(cases), PLAN)
        measured.update(zip(cases, rows, strict=True))
    return measured


def judge(measured: dict[Case, Row], peak: int | None) -> tuple[list[tuple[str, ...]], bool]:
    """Compares the measurements with the targets.

    Arguments:
        measured: a row per case, as `measure` returns.
        peak: peak extra bytes of `PEAK_CASE`, or None if unknown.

    Returns:
        cells (what, target, measured, verdict) of each line; whether no line failed. A line that
        could not be measured says why and is no failure.
    """
    lines: list[tuple[str, ...]] = []
    passed = True
    for target in TARGETS:
        slow, fast = measured[target.slow], measured[target.fast]
        bound = f">= {target.at_least:g}x" if target.at_least else f"<= {target.at_most:g}x"
        if slow.median is None or fast.median is None:
            row = slow if slow.median is None else fast
            lines.append((target.what, bound, "", f"not measured: {row.provider} {row.note}"))
            passed &= row.status != "refused"
            continue
        ratio = slow.median / fast.median
        met = target.passes(ratio)
        passed &= met
        lines.append((target.what, bound, f"{ratio:.3g}x", "pass" if met else "FAIL"))
    what = f"peak extra memory over the input's bytes, {PEAK_CASE.shape}"
    if peak is None:
        lines.append((what, f"<= {PEAK_AT_MOST:g}x", "", "not measured"))
    else:
        ratio = peak / (PEAK_CASE.shape[0] * PEAK_CASE.shape[1] * ELEMENT_BYTES)
        met = ratio <= PEAK_AT_MOST
        passed &= met
        lines.append((what, f"<= {PEAK_AT_MOST:g}x", f"{ratio:.3g}x", "pass" if met else "FAIL"))
    return lines, passed


def main() -> int:
    """Measures, prints every row and every target, writes JSON and CSV; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for JSON and CSV")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measured = measure()
    peak = peak_bytes(OPERATOR.name, PEAK_CASE, "cpu", options.threads)
    measured[PEAK_CASE].peak_bytes = peak

    facts, rows = environment(), list(measured.values())
    write_json(options.out / "soft_rank.json", facts, rows)
    write_csv(options.out / "soft_rank.csv", facts, rows)
    lines, passed = judge(measured, peak)
    report = "\n".join(align([("what", "target", "measured", ""), *lines]))
    (options.out / "soft_rank.txt").write_text(
        ", ".join(f"{key} {value}" for key, value in facts.items()) + "\n\n" + report + "\n"
    )
    print(f"\n{table(rows)}\n\n{report}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
