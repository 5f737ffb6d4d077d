"""`sodeep-fast paper`: reproduces a table or figure of SoDeep."""

import argparse
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sodeep_fast._options import add_threads, device, positive, set_threads
from sodeep_fast.paper import fig4, fig5, fig6, sorter_comparison, table1

_SEEDS = "repetitions; their mean and deviation are reported"
_READ_STEPS = "steps of each training, 10 or more; every 10th is evaluated"

# For every part: its function, its description, and the help of its options.
_PARTS: dict[str, tuple[Callable[..., Any], str, dict[str, str]]] = {
    "table1": (
        table1.run,
        "the error of every sorter",
        {"vectors": "score vectors for each seed", "seeds": _SEEDS},
    ),
    "fig4": (
        fig4.run,
        "the error of the CNN against its depth",
        {
            "steps": "steps of each training",
            "batch_size": "vectors per step",
            "device": "where to train",
        },
    ),
    "fig5": (fig5.run, "the rank of one score as it moves", {}),
    "fig6": (
        fig6.run,
        "optimising average precision on synthetic data",
        {"seeds": _SEEDS, "steps": _READ_STEPS},
    ),
    "sorters": (
        sorter_comparison.run,
        "regression judged by Spearman's correlation (section 4.2.1)",
        {
            "seeds": _SEEDS,
            "folds": "parts of the data, each the test set once; 2 or more, of 2 examples or more",
            "steps": _READ_STEPS,
        },
    ),
}


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `sodeep-fast`."""
    parser = commands.add_parser("paper", help="reproduce SoDeep's tables and figures")
    parts = parser.add_subparsers(dest="part", required=True)
    for name, (function, description, options) in _PARTS.items():
        part = parts.add_parser(name, help=description)
        part.add_argument(
            "--output",
            type=Path,
            default=Path("bench/results/paper"),
            metavar="DIR",
            help="the folder for the results, created if missing; default: "
            "bench/results/paper in the current folder",
        )
        add_threads(part, default=1)
        for option, meaning in options.items():
            part.add_argument(
                f"--{option.replace('_', '-')}",
                type=device if option == "device" else positive,
                default=inspect.signature(function).parameters[option].default,
                help=f"{meaning}; default: %(default)s",
            )
        part.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the command, and returns the exit status."""
    set_threads(options)
    function, _, names = _PARTS[options.part]
    try:
        function(options.output, **{name: getattr(options, name) for name in names})
    except (ImportError, OSError, ValueError) as error:
        print(f"sodeep-fast paper: {error}", file=sys.stderr)
        return 2
    return 0
