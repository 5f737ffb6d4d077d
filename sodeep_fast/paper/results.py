"""Shared by the reproductions: the sorters they compare, and the writing of results."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from sodeep_fast._colours import (
    BLUE,
    DARK_GREY,
    GREEN,
    OLIVE,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
)
from sodeep_fast._columns import align
from sodeep_fast._environment import environment
from sodeep_fast.sorters.checkpoint import SHIPPED, load_sorter
from sodeep_fast.sorters.exact import ExactSorter
from sodeep_fast.sorters.handcrafted import HandcraftedSorter

# Colours of curves, in drawing order.
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, DARK_GREY, OLIVE)


def sorters(length: int | None = None) -> dict[str, nn.Module]:
    """Returns the sorters that need no training, and the trained ones of the package, by name.

    Those made for rows of one length are among them only if it is `length`.
    """
    trained = {name: load_sorter(name) for name in SHIPPED}
    return {
        "handcrafted": HandcraftedSorter(lam=10),
        "exa": ExactSorter(),
        **{name: each for name, each in trained.items() if each.length in (None, length)},
    }


def write(folder: Path, name: str, settings: Mapping[str, Any], results: Any, text: str) -> None:
    """Writes results as NAME.json, with the machine and versions, and as NAME.txt; prints them."""
    facts = environment()
    folder.mkdir(parents=True, exist_ok=True)
    content = {"environment": facts, "settings": dict(settings), "results": results}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    header = ", ".join(f"{key} {value}" for key, value in facts.items())
    (folder / f"{name}.txt").write_text(f"{text}\n\n{header}\n")
    print(text)


def draw(path: Path, plot: Callable[[Any], None], *, title: str, x: str, y: str) -> None:
    """Writes a picture: `plot` draws the curves, each with a label, on the axes it is given.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise ImportError(
            "pictures need matplotlib: pip install matplotlib, or sodeep-fast[paper]"
        ) from None
    figure, axes = pyplot.subplots(figsize=(7.5, 5), layout="constrained")
    plot(axes)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def spread(values: list[float], digits: int = 4) -> str:
    """Writes the mean and the standard deviation over seeds.

    Example:
        >>> spread([0.5, 0.7], 3)
        '0.600 +- 0.141'
    """
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.{digits}f} +- {deviation:.{digits}f}"


def table(rows: list[list[str]]) -> str:
    """Writes rows of equal length as columns, the first one flush left.

    Example:
        >>> print(table([["sorter", "L1"], ["lstm", "0.0033"]]))
        sorter      L1
        lstm    0.0033
    """
    return "\n".join(align(rows, right=range(1, len(rows[0])), indent=""))
