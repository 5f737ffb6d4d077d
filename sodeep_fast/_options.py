"""Options shared by the commands of the command line."""

import argparse

import torch

from sodeep_fast._devices import why_unusable


def add_threads(parser: argparse.ArgumentParser, default: int | None = None) -> None:
    """Adds the option `--threads`."""
    meaning = "PyTorch's choice" if default is None else str(default)
    parser.add_argument(
        "--threads",
        type=positive,
        default=default,
        metavar="N",
        help=f"number of PyTorch threads; default: {meaning}",
    )


def set_threads(options: argparse.Namespace) -> None:
    """Sets the number of threads, if the option was given."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)


def positive(text: str) -> int:
    """Parses the value of an option as an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


def device(text: str) -> str:
    """Parses the value of an option as a device that PyTorch can use here."""
    reason = why_unusable(text)
    if reason is not None:
        raise argparse.ArgumentTypeError(f"PyTorch cannot use {text!r} here: {reason}")
    return text
