"""Draws time against n for one row, from 10 to 10^6 scores: `python -m bench.plot`."""

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from sodeep_fast._environment import environment
from sodeep_fast.benchmark import Plan, run
from sodeep_fast.benchmark.plot import plot_time
from sodeep_fast.benchmark.report import read_json, write_json
from sodeep_fast.benchmark.soft_rank import OPERATOR

RESULTS = Path(__file__).parent / "results"
SIZES = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)


def main() -> None:
    """Measures the sweep, or takes it from `--from`, and writes a PNG and the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--from", dest="source", type=Path, help="rows of an earlier sweep (JSON)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.source:
        facts, rows = read_json(options.source)
    else:
        plan = Plan(shapes=tuple((1, n) for n in SIZES), modes=("both",), memory_shapes=())
        rows = run(OPERATOR, plan, lambda groups: tqdm(groups, desc="sweep", unit="size"))
        facts = environment()
        write_json(options.out / "sweep.json", facts, rows)
    machine = f"{facts['cpu']}, threads: {facts['threads']}, float32, lam = 10, {facts['commit']}"
    plot_time(rows, options.out / "time.png", machine)
    print(options.out / "time.png")


if __name__ == "__main__":
    main()
