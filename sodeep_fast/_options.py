"""What the commands of the command line share."""

import argparse

import torch

from sodeep_fast._devices import why_unusable


def add_threads(parser: argparse.ArgumentParser, default: int | None = None) -> None:
    """Adds the option `--threads`."""
    meaning = "its own choice" if default is None else str(default)
    parser.add_argument(
        "--threads",
        type=positive,
        default=default,
        metavar="N",
        help=f"PyTorch's threads; default: {meaning}",
    )


def set_threads(options: argparse.Namespace) -> None:
    """Sets the threads that were asked for, if any were."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)


def positive(text: str) -> int:
    """Returns the number of at least 1 that an option is given."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


def device(text: str) -> str:
    """Returns the device that an option is given, if PyTorch can use it here."""
    reason = why_unusable(text)
    if reason is not None:
        raise argparse.ArgumentTypeError(f"PyTorch cannot use {text!r} here: {reason}")
    return text
