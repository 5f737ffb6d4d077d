"""The pictures of the demo."""

from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from demo.training import Results
from sodeep_fast import hard_rank, soft_rank

EXACT, SOFT = "#0072B2", "#D55E00"
COLOURS = ("#999999", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def sweep(n: int = 100, lam: float = 10.0, step: float = 1e-3) -> tuple[np.ndarray, ...]:
    """Ranks one score while it moves from -1 to 1 among others, which are fixed: Fig. 5 of SoDeep.

    Arguments:
        n: scores in all, uniform on [-1, 1]. Default: 100.
        lam: steepness of the soft rank. Default: 10.
        step: of the moving score. Default: 0.001.

    Returns:
        the moving score, its exact rank and its soft rank, each (2 / step + 1,).
    """
    others = torch.rand(n, generator=torch.Generator().manual_seed(0)) * 2 - 1
    moving = torch.linspace(-1, 1, round(2 / step) + 1)
    scores = others.repeat(len(moving), 1)
    scores[:, 0] = moving
    exact, soft = hard_rank(scores)[:, 0], soft_rank(scores, lam)[:, 0]
    return moving.numpy(), exact.numpy(), soft.numpy()


def plot_sweep(path: Path) -> None:
    """Draws `sweep`, with an inset of the steps that the soft rank smooths."""
    moving, exact, soft = sweep()
    figure, axes = plt.subplots(figsize=(7.5, 5), layout="constrained")
    near = abs(moving) <= 0.1
    window = axes.inset_axes(
        (0.05, 0.08, 0.4, 0.4),
        xlim=(-0.1, 0.1),
        ylim=(exact[near].min() - 2, exact[near].max() + 2),
    )
    for target in (axes, window):
        target.step(moving, exact, where="post", color=EXACT, linewidth=1.4, label="exact rank")
        target.plot(moving, soft, color=SOFT, linewidth=1.8, label="soft rank, lam = 10")
        _tidy(target)
    window.set_xticks((-0.1, 0, 0.1))
    window.tick_params(labelsize=8)
    window.yaxis.tick_right()
    axes.indicate_inset_zoom(window, edgecolor="#555555")
    axes.set_xlabel("value of the moving score")
    axes.set_ylabel("its rank among 100 scores (1 = largest)")
    axes.set_title("Rank of one score as it sweeps from -1 to 1 (SoDeep, Fig. 5)")
    axes.legend(frameon=False, loc="upper right")
    _save(figure, path)


def plot_comparison(results: Results, path: Path, *, title: str, label: str) -> None:
    """Draws the test score of every seed, a column per loss, and a bar at their mean.

    Arguments:
        results: a score per seed for each loss; a seed's scores are joined by a thin line.
        path: where to write.
        title: above the picture.
        label: of the score's axis.
    """
    names, scores = list(results), np.array(list(results.values()))
    figure, axes = plt.subplots(figsize=(max(7.5, 1.4 * len(names)), 4.6), layout="constrained")
    columns = np.arange(len(names))
    axes.plot(columns, scores, color="#cccccc", linewidth=0.8, zorder=1)
    for column, values, colour in zip(columns, scores, cycle(COLOURS), strict=False):
        axes.scatter([column] * len(values), values, color=colour, s=36, zorder=2)
        axes.hlines(values.mean(), column - 0.2, column + 0.2, color=colour, linewidth=3, zorder=3)
        axes.annotate(
            f"{values.mean():.3f}",
            (column + 0.23, values.mean()),
            va="center",
            fontsize=11,
            color=colour,
        )
    axes.set_xticks(columns, [name.replace(", ", ",\n").replace(" (", "\n(") for name in names])
    axes.set_xlim(-0.5, len(names) - 0.3)
    axes.set_ylabel(label)
    axes.set_title(title, fontsize=12)
    _tidy(axes)
    axes.grid(False, axis="x")
    _save(figure, path)


def _tidy(axes: Axes) -> None:
    axes.grid(True, color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
