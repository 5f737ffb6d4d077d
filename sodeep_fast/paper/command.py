"""`sodeep-fast paper`: reproduces a table or figure of SoDeep."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sodeep_fast._options import add_threads, device, positive, set_threads
from sodeep_fast.paper import fig4, fig5, fig6, sorter_comparison, table1

# For every part, what runs it, what it is, and its options.
_PARTS: dict[str, tuple[Callable[..., Any], str, tuple[str, ...]]] = {
    "table1": (table1.run, "the error of every sorter", ("vectors", "seeds")),
    "fig4": (fig4.run, "the error of the CNN against its depth", ("steps", "batch_size", "device")),
    "fig5": (fig5.run, "the rank of one score as it moves", ()),
    "fig6": (fig6.run, "optimising average precision on synthetic data", ("seeds", "steps")),
    "sorters": (
        sorter_comparison.run,
        "regression judged by Spearman's correlation (section 4.2.1)",
        ("seeds", "folds", "steps"),
    ),
}


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `sodeep-fast`."""
    parser = commands.add_parser("paper", help="reproduce SoDeep's tables and figures")
    parts = parser.add_subparsers(dest="part", required=True)
    for name, (_, description, options) in _PARTS.items():
        part = parts.add_parser(name, help=description)
        part.add_argument(
            "--output",
            type=Path,
            default=Path("bench/results/paper"),
            metavar="DIR",
            help="default: bench/results/paper",
        )
        add_threads(part, default=1)
        for option in options:
            kind = device if option == "device" else positive
            part.add_argument(f"--{option.replace('_', '-')}", type=kind)
        part.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the command, and returns the exit status."""
    set_threads(options)
    function, _, names = _PARTS[options.part]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    try:
        function(options.output, **given)
    except (ImportError, OSError, ValueError) as error:
        print(f"sodeep-fast paper: {error}", file=sys.stderr)
        return 2
    return 0
