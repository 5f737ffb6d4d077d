"""Figure 5: the predicted rank of one score as it moves among others, which are fixed."""

from pathlib import Path
from typing import Any

import torch

from sodeep_fast._checks import check_count, check_positive
from sodeep_fast._files import make_folder
from sodeep_fast.ops.hard_rank import hard_rank
from sodeep_fast.paper.results import COLOURS, draw, sorters, table, write
from sodeep_fast.sorters.protocol import relative_ranks


def run(folder: Path, *, length: int = 100, step: float = 1e-3, seed: int = 0) -> dict[str, Any]:
    """Sweeps the first of `length` uniform scores from -1 to 1 with every sorter.

    Arguments:
        folder: for fig5.json, fig5.txt and fig5.png.
        length: the scores. Default: 100, as in the paper.
        step: of the moving score. Default: 0.001, as in the paper.
        seed: of the others. Default: 0.

    Returns:
        the moving score, its exact rank and that of every sorter, each (2 / step + 1,).

    Raises:
        OSError: the folder cannot be written to.
        TypeError: a length or step of a wrong type.
        ValueError: a length below 1, or a step that is not positive.
    """
    check_count(length, "length")
    check_positive(step, "step")
    make_folder(folder, "folder")
    others = torch.rand(length, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    moving = torch.linspace(-1, 1, round(2 / step) + 1)
    scores = others.repeat(len(moving), 1)
    scores[:, 0] = moving
    exact = hard_rank(scores)[:, 0]
    curves = {}
    rows = [["sorter", "mean error", "largest", "monotone"]]
    with torch.no_grad():
        for name, sorter in sorters(length).items():
            curve = length * relative_ranks(sorter, scores)[:, 0]
            error = (curve - exact).abs()
            # The larger a score, the smaller its rank.
            monotone = bool((curve.diff() <= 1e-4).all())
            rows.append([name, f"{error.mean():.2f}", f"{error.max():.2f}", str(monotone)])
            curves[name] = [round(float(rank), 4) for rank in curve]

    def plot(axes: Any) -> None:
        axes.step(moving, exact, where="post", color="black", linewidth=1, label="exact")
        for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
            axes.plot(moving, curve, color=colour, linewidth=1.2, label=name)
        window = axes.inset_axes((0.06, 0.08, 0.4, 0.4), xlim=(-0.1, 0.1))
        near = exact[moving.abs() <= 0.1]
        window.set_ylim(float(near.min()) - 2, float(near.max()) + 2)
        window.step(moving, exact, where="post", color="black", linewidth=1)
        for curve, colour in zip(curves.values(), COLOURS, strict=False):
            window.plot(moving, curve, color=colour, linewidth=1.2)
        window.set_xticks((-0.1, 0, 0.1))
        window.tick_params(labelsize=8)
        axes.indicate_inset_zoom(window, edgecolor="#555555")

    title = (
        f"Rank of one score swept from -1 to 1 by {step:g} among {length} uniform ones: "
        "difference from the\nexact rank, and whether a growing score's rank ever grows"
    )
    results = {"score": moving.tolist(), "exact": exact.tolist(), **curves}
    settings = {"length": length, "step": step, "seed": seed}
    write(folder, "fig5", settings, results, f"{title}\n\n{table(rows)}")
    draw(
        folder / "fig5.png",
        plot,
        title="Rank of one score as it sweeps from -1 to 1 (SoDeep, Fig. 5)",
        x="value of the moving score",
        y=f"its rank among {length} (1 = largest)",
    )
    return results
