"""Gathers what bench/gpu_check.sh measured into OUT/<gpu>-<date>.json, .txt and .png.

The files are ready for bench/results/. Prints every aim with its measurement; a missed aim does not
fail the check. Parts that did not run are left out.
"""

import argparse
import json
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.gpu_aims import aims
from bench.gpu_plot import plot
from sodeep_fast._columns import align
from sodeep_fast.benchmark.model import Row
from sodeep_fast.benchmark.report import read_json, table

PARTS = ("bench", "losses", "networks", "sweep", "profile", "resources")


def stem_of(environment: dict[str, Any]) -> str:
    """Returns the name of the results: the GPU and the date.

    Example:
        >>> stem_of({"gpu": "NVIDIA H200", "date": "2026-11-21T12:00:00+00:00"})
        'nvidia-h200-2026-11-21'
    """
    gpu = re.sub(r"[^a-z0-9]+", "-", str(environment.get("gpu", "none")).lower()).strip("-")
    now = datetime.now(timezone.utc).isoformat()
    return f"{'no-gpu' if gpu == 'none' else gpu}-{str(environment.get('date', now))[:10]}"


def gather(folder: Path) -> tuple[dict[str, Any], dict[str, list[Row]], dict[str, Any]]:
    """Returns the environment, the rows of operators and losses, and the other parts."""
    environment: dict[str, Any] = {}
    rows: dict[str, list[Row]] = {"bench": [], "losses": []}
    others: dict[str, Any] = {}
    for part in PARTS:
        path = folder / f"{part}.json"
        if not path.exists():
            continue
        if part in rows:
            facts, rows[part] = read_json(path)
            environment |= facts
        else:
            others[part] = json.loads(path.read_text())
    environment |= others.get("networks", {}).get("environment", {})
    return environment, rows, others


def without_samples(row: Row) -> dict[str, Any]:
    """Returns a row for JSON without its samples; their quantiles stay."""
    return {key: value for key, value in vars(row).items() if key != "samples"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the parts wrote their JSON")
    options = parser.parse_args()
    environment, rows, others = gather(options.folder)
    networks = others.get("networks", {}).get("rows", [])
    lines = [aim.cells() for aim in aims(rows["bench"], rows["losses"], networks)]
    stem = options.folder / stem_of(environment)
    # Not with_suffix, which would replace the part after a dot in the name.
    written = {end: Path(f"{stem}.{end}") for end in ("json", "txt", "png")}
    content = {
        "environment": environment,
        "aims": lines,
        "operators": [without_samples(row) for row in rows["bench"]],
        "losses": [without_samples(row) for row in rows["losses"]],
        **others,
    }
    written["json"].write_text(json.dumps(content, indent=1) + "\n")
    text = "\n".join(align([("aim on one H200", "", "measured", ""), *lines]))
    facts = ", ".join(f"{key} {value}" for key, value in environment.items())
    everything = [*rows["bench"], *rows["losses"]]
    tables = table(everything) if everything else "nothing was measured"
    written["txt"].write_text(f"{facts}\n\n{text}\n\n{tables}\n")
    if everything:
        try:
            machine = (
                f"{environment.get('gpu')}, {environment.get('date')}, {environment.get('commit')}"
            )
            plot(everything, written["png"], machine)
        except ImportError as error:
            print(f"no picture: {error}")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
