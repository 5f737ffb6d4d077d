"""The time budget of a step of bench/gpu_check.sh; what does not fit is skipped and listed."""

import argparse
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
LEFT_OUT = "left out for lack of time"  # how the script finds the line in a step's output


class Budget:
    """A time to stop at, and what was left out because of it.

    Arguments:
        until: seconds since 1970. Default: never.

    Example:
        >>> budget = Budget(until=0)
        >>> list(budget.each(["a", "b"], str)), budget.report()
        ([], 'left out for lack of time: 2 (a; b)')
    """

    def __init__(self, until: float = math.inf) -> None:
        self.until = until
        self.left_out: list[str] = []

    def left(self) -> float:
        """Returns the seconds that are left, which may be negative."""
        return self.until - time.time()

    def share(self, part_of_rest: float) -> "Budget":
        """Returns a budget of a part (at most 1) of the remaining time, with the same notes."""
        endless = math.isinf(self.until)
        part = Budget(self.until if endless else time.time() + self.left() * part_of_rest)
        part.left_out = self.left_out
        return part

    def has_time(self, what: str) -> bool:
        """Returns whether time is left; if not, `what` is noted as left out."""
        if self.left() > 0:
            return True
        self.left_out.append(what)
        return False

    def each(self, items: Iterable[Item], name: Callable[[Item], str]) -> Iterator[Item]:
        """Yields items as long as time is left, and notes the names of the others."""
        return (item for item in items if self.has_time(name(item)))

    def report(self) -> str:
        """Returns a line that says what was left out, or an empty string."""
        names = "; ".join(dict.fromkeys(self.left_out))
        return f"{LEFT_OUT}: {len(set(self.left_out))} ({names})" if names else ""


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --until, from which a `Budget` is made."""
    parser.add_argument(
        "--until",
        type=float,
        default=math.inf,
        metavar="SECONDS",
        help="since 1970, when to stop and name what was left out. Default: never",
    )
