"""The command line: `sodeep-fast doctor`, `bench`, `train` and `paper`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from sodeep_fast import doctor
from sodeep_fast._environment import environment
from sodeep_fast._files import prepare_file
from sodeep_fast._options import add_threads, device, set_threads
from sodeep_fast._version import __version__
from sodeep_fast.benchmark import Plan, quick_plan, run
from sodeep_fast.benchmark.model import MODES, Operator, Shape
from sodeep_fast.benchmark.registry import OPERATORS
from sodeep_fast.benchmark.report import table, write_csv, write_json
from sodeep_fast.benchmark.run import chosen_providers
from sodeep_fast.paper import command as paper_command
from sodeep_fast.training import command as train_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Arguments:
        arguments: without the program's name. Default: `sys.argv[1:]`.

    Returns:
        the exit status: 0; 1 if a provider was refused for a wrong result; 2 for bad input.

    Example:
        >>> main(["doctor"])
        sodeep_fast ...
        0
    """
    options = _parser().parse_args(arguments)
    options.command_line = list(sys.argv[1:] if arguments is None else arguments)
    run_command: Callable[[argparse.Namespace], int] = options.run
    return run_command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sodeep-fast", description="Differentiable ranking for PyTorch."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    doctor_parser = commands.add_parser(
        "doctor", help="show what is built, and which backend each operator will use"
    )
    doctor_parser.set_defaults(run=_doctor)

    bench = commands.add_parser(
        "bench",
        help="measure the operators against other implementations",
        description="Checks the values and gradients of every provider of an operator against the "
        "float64 equation, then times all of them in interleaved rounds. '/ ours' is a provider's "
        "time over that of sodeep_fast with method='auto'. 'pairs/s' counts all pairs of a row, "
        "whether or not the provider visits them. 'copy limit' is the bandwidth of moving each "
        "input and output once in this time, as a share of the machine's copy bandwidth, measured "
        "in the same run.",
    )
    bench.add_argument("--operator", choices=OPERATORS, nargs="+", default=list(OPERATORS))
    bench.add_argument("--shape", type=_shape, nargs="+", metavar="ROWSxN", help="e.g. 64x1000")
    bench.add_argument("--mode", choices=MODES, nargs="+")
    bench.add_argument("--provider", nargs="+", metavar="NAME", help="default: all")
    bench.add_argument("--device", type=device, choices=("cpu", "cuda"), default="cpu")
    add_threads(bench)
    bench.add_argument("--quick", action="store_true", help="a minute: few shapes, short rounds")
    bench.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    bench.add_argument("--json", metavar="FILE", help="write rows and samples; creates the folder")
    bench.add_argument("--csv", metavar="FILE", help="write rows; creates the folder")
    bench.set_defaults(run=_bench)

    train_command.add_parser(commands)
    paper_command.add_parser(commands)
    return parser


def _doctor(options: argparse.Namespace) -> int:
    print(doctor.report())
    return 0


def _shape(text: str) -> Shape:
    rows, _, n = text.partition("x")
    if not (rows.isdecimal() and n.isdecimal() and int(rows) > 0 and int(n) > 0):
        raise argparse.ArgumentTypeError(f"expected ROWSxN such as 64x1000, got {text!r}")
    return int(rows), int(n)


def _bench(options: argparse.Namespace) -> int:
    set_threads(options)
    try:
        for path, name in ((options.json, "--json"), (options.csv, "--csv")):
            if path is not None:
                prepare_file(path, name)
        rows = [row for operator, plan in _plans(options) for row in run(operator, plan)]
        facts = environment()
        print(", ".join(f"{key} {value}" for key, value in facts.items()), end="\n\n")
        print(table(rows))
        if options.json is not None:
            write_json(options.json, facts, rows)
        if options.csv is not None:
            write_csv(options.csv, facts, rows)
    except (OSError, ValueError) as error:
        print(f"sodeep-fast bench: {error}", file=sys.stderr)
        return 2
    return int(any(row.status == "refused" for row in rows))


def _plans(options: argparse.Namespace) -> list[tuple[Operator, Plan]]:
    """Returns the plans of all operators that have something to measure.

    Raises:
        ValueError: a provider that an operator does not have, or nothing to measure.
    """
    chosen = {
        "shapes": options.shape and tuple(options.shape),
        "modes": options.mode and tuple(options.mode),
        "providers": options.provider and tuple(options.provider),
        "memory_shapes": () if options.no_memory else None,
        "device": options.device,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    plans, left_out = [], []
    for name in options.operator:
        operator = OPERATORS[name]
        plan = quick_plan(operator) if options.quick else Plan(shapes=operator.shapes)
        plan = replace(plan, **given)
        modes = {
            mode
            for provider in chosen_providers(operator, plan)
            for mode in operator.providers[provider].modes
        }
        if modes.intersection(plan.modes):
            plans.append((operator, plan))
        else:
            known = " or ".join(mode for mode in MODES if mode in modes)
            left_out.append(f"mode must be {known} for {name}, got {', '.join(plan.modes)}")
    if not plans:
        raise ValueError("; ".join(left_out))
    for reason in left_out:
        print(f"sodeep-fast bench: left out: {reason}", file=sys.stderr)
    return plans


if __name__ == "__main__":
    sys.exit(main())
