"""Rows as a table for people, and as JSON and CSV for programs."""

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from itertools import groupby
from pathlib import Path

from sodeep_fast._columns import align
from sodeep_fast.benchmark.model import Row

MODE_TITLES = {"forward": "forward", "backward": "backward", "both": "forward + backward"}
TIMES = ("median", "20-80 %", "/ ours", "expected")
RATES = ("pairs/s", "bytes/s", "copy limit", "FLOP/s", "FLOP limit")
NUMBERS = (*TIMES, "peak", "launches", *RATES)
HEADER = ("provider", *NUMBERS, "")


def table(rows: Iterable[Row]) -> str:
    """Lays out rows by shape and mode: times, ratio to ours, memory and the share of a limit.

    Arguments:
        rows: as `run` returns them.

    Returns:
        text, a block per shape and mode; columns that no row fills are left out.

    Example:
        >>> row = Row("soft_rank", "eager", "both", 8, 64, median=0.1, q20=0.09, q80=0.2)
        >>> print(table([row]))
        soft_rank (8, 64), forward + backward
          provider  median           20-80 %
          eager     100 ms  90.0 ms - 200 ms
    """
    rows = list(rows)
    filled = [
        index for index, column in enumerate(zip(*map(_cells, rows), strict=True)) if any(column)
    ]
    blocks = []
    for (operator, shape, mode), group in groupby(
        rows, key=lambda row: (row.operator, row.shape, row.mode)
    ):
        title = f"{operator} {shape}, {MODE_TITLES[mode]}"
        lines = [tuple(cells[index] for index in filled) for cells in [HEADER, *map(_cells, group)]]
        numbers = range(1, sum(index < len(HEADER) - 1 for index in filled))
        blocks.append("\n".join([title, *align(lines, right=numbers)]))
    return "\n\n".join(blocks)


def time_text(seconds: float) -> str:
    """Writes a time with three digits and the unit that suits it.

    Example:
        >>> time_text(0.0123), time_text(4.56e-6)
        ('12.3 ms', '4.56 us')
    """
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale or unit == "us":
            break
    return f"{_digits(seconds / scale)} {unit}"


def bytes_text(amount: float) -> str:
    """Writes an amount of memory.

    Example:
        >>> bytes_text(8_400_000)
        '8.40 MB'
    """
    return f"{_digits(amount / 1e6)} MB" if amount < 1e9 else f"{_digits(amount / 1e9)} GB"


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _cells(row: Row) -> tuple[str, ...]:
    if row.median is None or row.q20 is None or row.q80 is None:
        return row.provider, *[""] * len(NUMBERS), f"{row.status}: {row.note}"
    return (
        row.provider,
        time_text(row.median),
        f"{time_text(row.q20)} - {time_text(row.q80)}",
        "" if row.slowdown is None else f"{_digits(row.slowdown)} x",
        "" if row.expected is None else time_text(row.expected),
        "" if row.peak_bytes is None else bytes_text(row.peak_bytes),
        "" if row.launches is None else str(row.launches),
        "" if row.pairs is None else f"{_digits(row.pairs / 1e9)} G",
        "" if row.bandwidth is None else f"{_digits(row.bandwidth / 1e9)} G",
        "" if row.share is None else f"{100 * row.share:.2f} %",
        "" if row.flops is None else f"{_digits(row.flops / 1e12)} T",
        "" if row.flop_share is None else f"{100 * row.flop_share:.2f} %",
        row.note,
    )


def write_json(path: str | Path, environment: dict[str, str | int], rows: Iterable[Row]) -> None:
    """Writes {"environment": ..., "rows": [...]}, a line per row; creates the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(asdict(row)) for row in rows)
    path.write_text(f'{{"environment": {json.dumps(environment)},\n"rows": [\n{lines}\n]}}\n')


def read_json(path: str | Path) -> tuple[dict[str, str | int], list[Row]]:
    """Reads what `write_json` wrote."""
    content = json.loads(Path(path).read_text())
    return content["environment"], [Row(**row) for row in content["rows"]]


def write_csv(path: str | Path, environment: dict[str, str | int], rows: Iterable[Row]) -> None:
    """Writes a line per row, each with the whole environment; creates the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [field.name for field in fields(Row) if field.name != "samples"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, *environment], extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            writer.writerow({**asdict(row), **environment})
