"""The picture of a GPU's results: ours, the fastest rival, the expected time. Needs matplotlib."""

from pathlib import Path

from sodeep_fast._colours import BLUE, GREY, PALE_GREY, VERMILION
from sodeep_fast.benchmark.model import Row

OURS, RIVAL, EXPECTED = BLUE, VERMILION, GREY
# Shown for comparison, although they compute something else.
YARDSTICKS = ("products", "torch.sort")


def plot(rows: list[Row], path: Path, machine: str) -> None:
    """Draws forward + backward of every operator and shape, a line each, and saves a PNG.

    Arguments:
        rows: of `bench.gpu_bench` and `bench.gpu_losses`.
        path: where to write.
        machine: named below the title, so that the picture is self-contained.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    timed = [row for row in rows if row.median and row.mode == "both"]
    names = list(dict.fromkeys((row.operator, row.shape) for row in timed))
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.28 * len(names)), layout="constrained")
    for place, name in enumerate(names):
        group = [row for row in timed if (row.operator, row.shape) == name]
        ours = [row for row in group if row.expected is not None]
        rivals = [row for row in group if row.expected is None and row.provider[:4] != "ours"]
        others = [row.median or 0.0 for row in rivals if row.provider not in YARDSTICKS]
        marks = [row.median or 0.0 for row in rivals if row.provider in YARDSTICKS]
        if ours:
            median, expected = min((row.median or 0.0, row.expected or 0.0) for row in ours)
            axes.plot(median, place, "o", color=OURS, label="ours, the fastest way")
            axes.plot(expected, place, "|", color=EXPECTED, ms=14, label="expected on an H200")
        if others:
            axes.plot(min(others), place, "x", color=RIVAL, label="the fastest other way")
        if marks:
            axes.plot(
                min(marks), place, "2", color=EXPECTED, ms=9, label="sorting, or the products"
            )
    axes.set_yticks(range(len(names)), [f"{operator} {shape}" for operator, shape in names])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("seconds, forward + backward")
    axes.set_title(f"{machine}", fontsize=9, color=GREY)
    axes.grid(True, axis="x", color=PALE_GREY)
    axes.set_axisbelow(True)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
