"""Runs the whole demo: what is installed, three trainings on real data, speed, pictures."""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from demo import diabetes, digits, retrieval
from demo.plots import plot_comparison, plot_sweep
from demo.training import report
from sodeep_fast import doctor
from sodeep_fast._environment import environment
from sodeep_fast.benchmark import quick_plan, run
from sodeep_fast.benchmark.plot import plot_time
from sodeep_fast.benchmark.report import table, write_json
from sodeep_fast.benchmark.soft_rank import OPERATOR

TABLE_SHAPES = ((512, 100), (64, 1000), (1, 100_000), (1, 1_000_000))
SWEEP_SIZES = (10, 100, 1000, 10_000, 100_000, 1_000_000)


def measure_speed(out: Path) -> str:
    """Times every provider at the shapes of the table and of the plot, and draws the plot."""
    shapes = dict.fromkeys([*TABLE_SHAPES, *((1, n) for n in SWEEP_SIZES)])
    plan = replace(quick_plan(OPERATOR), shapes=tuple(shapes))
    rows = run(OPERATOR, plan, lambda groups: tqdm(groups, desc="speed", unit="shape"))
    facts = environment()
    write_json(out / "speed.json", facts, rows)
    machine = f"{facts['cpu']}, threads: {facts['threads']}, float32, lam = 10"
    plot_time([row for row in rows if row.rows == 1], out / "speed.png", machine)
    return table(row for row in rows if row.shape in TABLE_SHAPES)


def main() -> None:
    """Prints every number and writes the pictures."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="folder of pictures")
    out = parser.parse_args().out
    begin = time.perf_counter()

    _section("1. What is installed", doctor.report())
    spearman = diabetes.train()
    _section("2. A regression judged by rank", report(diabetes.TITLE, spearman, diabetes.NOTE))
    mean_ap = digits.train()
    _section("3. A classification judged by mAP", report(digits.TITLE, mean_ap, digits.NOTE))
    mean_ap_at_r, recall = retrieval.train()
    text = "\n\n".join(
        (
            report(retrieval.TITLE, mean_ap_at_r, retrieval.NOTE),
            report(retrieval.RECALL_TITLE, recall),
        )
    )
    _section("4. Retrieval by embeddings, judged by mAP@R", text)
    _section("5. Speed of soft_rank: time, and ratio to ours", measure_speed(out))

    plot_sweep(out / "rank_sweep.png")
    plot_comparison(
        spearman,
        out / "spearman.png",
        title="Test Spearman on diabetes, 5-fold cross-validation, a dot per seed",
        label="Spearman correlation",
    )
    plot_comparison(
        mean_ap,
        out / "mean_ap.png",
        title="Test mAP on digits, 100 training images, a dot per seed",
        label="mean average precision",
    )
    plot_comparison(
        mean_ap_at_r,
        out / "retrieval.png",
        title="Test mAP@R on digits, 200 training images, a dot per seed",
        label="mean average precision at R",
    )
    pictures = "\n".join(f"  {path}" for path in sorted(out.glob("*.png")))
    _section(f"6. Pictures (the demo took {time.perf_counter() - begin:.0f} seconds)", pictures)


def _section(title: str, text: str) -> None:
    print(f"\n{title}\n{'=' * len(title)}\n{text}\n", flush=True)


if __name__ == "__main__":
    main()
