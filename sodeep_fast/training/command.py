"""`sodeep-fast train`: trains a sorter, writes it with its record, and reports how good it is."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sodeep_fast._environment import environment
from sodeep_fast._files import check_output, write_atomically
from sodeep_fast._options import add_threads, device, positive, set_threads
from sodeep_fast.sorters.checkpoint import (
    check_destination,
    load_sorter,
    read_record,
    save_sorter,
)
from sodeep_fast.sorters.cnn import CNNSorter
from sodeep_fast.sorters.equivariant import EquivariantSorter
from sodeep_fast.sorters.gru import GRUSorter
from sodeep_fast.sorters.learned import LearnedSorter
from sodeep_fast.sorters.lstm import LSTMSorter
from sodeep_fast.sorters.mlp import MLPSorter
from sodeep_fast.training.loop import train_sorter
from sodeep_fast.training.record import make_record, report
from sodeep_fast.training.settings import OPTIMIZERS, PRECISIONS, PRESETS, SCHEDULES

_ANY_LENGTH: dict[str, Callable[..., LearnedSorter]] = {
    "equivariant": EquivariantSorter,
    "gru": GRUSorter,
    "lstm": LSTMSorter,
}
_ONE_LENGTH: dict[str, Callable[..., LearnedSorter]] = {"cnn": CNNSorter, "mlp": MLPSorter}


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `sodeep-fast`."""
    parser = commands.add_parser(
        "train",
        help="train a sorter on synthetic scores",
        description="Trains a sorter and writes it to a file, with its training record in it and "
        "beside it. A run that was stopped in any way resumes when the same command is run again. "
        "Under torchrun the batch is divided among the processes.",
    )
    parser.add_argument("--sorter", required=True, choices=sorted({**_ANY_LENGTH, **_ONE_LENGTH}))
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="where to write the sorter, as safetensors with its record in it. The record is also "
        "written to the same name with .json instead of .safetensors, or appended to any other "
        "ending: run.v1 and run.v1.json. Existing files are replaced; a FILE that "
        "ends in .json, or is the name of a sorter of the package, is refused",
    )
    parser.add_argument("--steps", required=True, type=int, help="number of optimizer steps")
    parser.add_argument(
        "--until",
        type=int,
        metavar="STEP",
        help="end at this step, without finishing the run, and write the sorter",
    )
    parser.add_argument(
        "--length",
        type=_length,
        default=100,
        metavar="N or A:B",
        help="scores per vector, or the range that their number is drawn from; default: 100",
    )
    parser.add_argument(
        "--option",
        type=_option,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the sorter, e.g. hidden_size=64 or 'sharpness=[1, 2]'",
    )
    parser.add_argument("--standardize", action="store_true", help="make it invariant to scale")
    parser.add_argument(
        "--initial",
        metavar="FILE",
        help="a sorter of that type to start from, by its file or its name in the package; use a "
        "different seed than its own, or it sees the same vectors again",
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="paper",
        help="defaults for the settings below: the paper's training (the default), or a faster "
        "one with warm-up, cosine schedule, averaged weights and clipped gradients",
    )
    parser.add_argument("--dist", help="distribution of sodeep_fast.synthetic; default: released")
    parser.add_argument("--batch-size", type=int, help="vectors per step; default: 512")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, help="default: adam")
    parser.add_argument("--lr", type=float, help="the highest learning rate; default: the preset's")
    parser.add_argument("--schedule", choices=SCHEDULES, help="default: the preset's")
    parser.add_argument("--warm-up", type=int, metavar="STEPS", help="default: the preset's")
    parser.add_argument(
        "--average", type=float, metavar="DECAY", help="of the weights' running average"
    )
    parser.add_argument("--clip", type=float, metavar="NORM", help="largest norm of the gradient")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: float32")
    parser.add_argument(
        "--gradient-weight",
        type=float,
        metavar="WEIGHT",
        help="for the gradient's cosine with the direction that corrects the ranks; default: 0",
    )
    parser.add_argument("--seed", type=int, default=0, help="for weights and vectors; default: 0")
    parser.add_argument("--device", type=device, default="cpu", help="default: cpu")
    add_threads(parser)
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="where to keep the state of the run, to resume from; default: OUTPUT.training",
    )
    parser.add_argument("--tensorboard", metavar="DIR")
    parser.add_argument(
        "--vectors",
        type=positive,
        default=10_000,
        help="vectors to measure the final error on, which may take minutes; default: 10000",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


_SETTINGS = (
    "dist",
    "batch_size",
    "optimizer",
    "lr",
    "schedule",
    "warm_up",
    "average",
    "clip",
    "precision",
    "gradient_weight",
)


def run(options: argparse.Namespace) -> int:
    """Runs the command, and returns the exit status."""
    set_threads(options)
    settings = {
        name: getattr(options, name) for name in _SETTINGS if getattr(options, name) is not None
    }
    checkpoint = options.checkpoint or f"{options.output}.training"
    try:
        output, beside = _check_outputs(options.output, checkpoint)
        sorter = _make(options)
        initial = read_record(options.initial) if options.initial else None
        training = train_sorter(
            sorter,
            options.steps,
            preset=options.preset,
            until=options.until,
            checkpoint=checkpoint,
            device=options.device,
            progress=not options.quiet,
            tensorboard=options.tensorboard,
            length=options.length,
            seed=options.seed,
            **settings,
        )
        if training.process > 0:
            return 0
        if not options.quiet:
            print(f"Measuring the sorter on {options.vectors} vectors ...", file=sys.stderr)
        record = make_record(
            sorter,
            training,
            command=shlex.join(["sodeep-fast", *options.command_line]),
            facts=environment(),
            initial=initial,
            vectors=options.vectors,
            device=options.device,
        )
        save_sorter(sorter, output, record=record)
        text = json.dumps(record, indent=1) + "\n"
        write_atomically(beside, text.encode())
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"sodeep-fast train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sodeep-fast train: stopped; given again, it goes on where it was", file=sys.stderr)
        return 130
    print(report(record))
    return 0


def _check_outputs(output: str, checkpoint: str) -> tuple[Path, Path]:
    """Returns the files of the sorter and of its record; raises unless both can be written."""
    sorter = check_destination(output, "--output")
    if sorter.suffix.lower() == ".json":
        raise ValueError(
            f"--output must not end in .json, as the record beside a sorter does, got {output!r}"
        )
    record = sorter.with_name(f"{sorter.name.removesuffix('.safetensors')}.json")
    check_output(sorter, "--output")
    check_output(record, "the record of --output")
    for path, whose in ((sorter, "the sorter"), (record, "its record")):
        if Path(checkpoint).resolve() == path.resolve():
            raise ValueError(
                f"--checkpoint must be a file of its own, got {checkpoint!r}, where {whose} goes"
            )
    return sorter, record


def _make(options: argparse.Namespace) -> LearnedSorter:
    """Returns the sorter that the options describe, untrained unless --initial is given."""
    arguments = dict(options.option)
    make = {**_ANY_LENGTH, **_ONE_LENGTH}[options.sorter]
    if options.initial:
        return _load_initial(options, make, arguments)
    is_dense = arguments.get("head") == "dense"
    if options.sorter in _ONE_LENGTH or is_dense:
        if isinstance(options.length, tuple):
            head = " with head=dense" if is_dense else ""
            raise ValueError(f"--length must be one number for --sorter {options.sorter}{head}")
        arguments.setdefault("length", options.length)
    torch.manual_seed(options.seed)
    sorter = make(**arguments)
    sorter.standardize |= options.standardize
    return sorter


def _load_initial(
    options: argparse.Namespace, make: Callable[..., LearnedSorter], arguments: dict[str, Any]
) -> LearnedSorter:
    if arguments or options.standardize:
        raise ValueError("the sorter given by --initial has its own --option and --standardize")
    sorter = load_sorter(options.initial)
    if isinstance(sorter, LearnedSorter) and type(sorter) is make:
        return sorter
    raise ValueError(
        f"--initial must be of --sorter {options.sorter}, got a {type(sorter).__name__}"
    )


def _length(text: str) -> int | tuple[int, int]:
    shortest, colon, longest = text.partition(":")
    if not shortest.isdecimal() or (colon and not longest.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected N or A:B such as 100 or 10:200, got {text!r}")
    return (int(shortest), int(longest)) if colon else int(shortest)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        if not equals or not value:
            raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}") from None
        return name, value
