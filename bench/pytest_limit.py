"""A pytest plugin for bench/gpu_check.sh: a little of every test first, until time is up.

`-p bench.pytest_limit --until SECONDS`, since 1970. The first parameters of all tests come before
the second ones, so that even a short run covers a little of everything. Tests without time are
skipped, counted and named in a line of their own. A test that compiles is not started in the last
seconds: pytest is killed soon after the deadline, and must print its failures before.
"""

import itertools
import math
from collections import defaultdict
from typing import Any

import pytest

from bench.gpu_budget import LEFT_OUT, Budget

COMPILATION = 25  # seconds that torch.compile may take


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --until."""
    parser.addoption("--until", type=float, default=math.inf)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts tests by their position among those of the same function."""
    counts: dict[str, Any] = defaultdict(itertools.count)
    items.sort(key=lambda item: next(counts[item.nodeid.split("[")[0]]))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test for which no time is left."""
    needed = COMPILATION if "compile" in item.name else 0
    if Budget(item.config.getoption("--until")).left() <= needed:
        pytest.skip(LEFT_OUT)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints how many tests were left out, and of which functions."""
    names = [
        report.nodeid.split("::")[-1].split("[")[0]
        for report in terminalreporter.stats.get("skipped", [])
        if LEFT_OUT in str(report.longrepr)
    ]
    if names:
        functions = "; ".join(dict.fromkeys(names))
        terminalreporter.write_line(f"{LEFT_OUT}: {len(names)} tests ({functions})")
