"""The log-log plot of time against the length of a row. Needs matplotlib (the `bench` extra)."""

from collections.abc import Iterable
from pathlib import Path

from sodeep_fast._colours import BLACK, BLUE, GREY, ORANGE, PALE_GREY, PURPLE, SKY, VERMILION
from sodeep_fast.benchmark.model import Row

# Other implementations have thinner lines.
STYLES: dict[str, tuple[str, str, str, float]] = {
    "ours-linear": ("sodeep_fast, linear", BLUE, "o", 2.4),
    "ours-direct": ("sodeep_fast, direct", SKY, "s", 2.4),
    "torch.sort": ("torch.sort (exact order, forward)", BLACK, "x", 1.4),
    "torchsort": ("torchsort (another relaxation)", PURPLE, "^", 1.4),
    "compile_sym": ("torch.compile, hand-written backward", ORANGE, "v", 1.4),
    "eager": ("eager PyTorch", VERMILION, "D", 1.4),
}


def plot_time(rows: Iterable[Row], path: str | Path, machine: str) -> None:
    """Draws time against n, a line per provider, and saves a PNG.

    Arguments:
        rows: measured rows of one operator and one batch size; others than "ok" leave a gap. Takes
            forward + backward, and the forward of a provider that has nothing else.
        path: where to write; the folder is created.
        machine: shown below the title, so that the picture is self-contained.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    timed = [row for row in rows if row.median is not None]
    figure, axes = plt.subplots(figsize=(8, 5.2), layout="constrained")
    for name, (label, colour, marker, width) in STYLES.items():
        mine = [row for row in timed if row.provider == name]
        both = [row for row in mine if row.mode == "both"] or mine
        points = sorted((row.n, 1e3 * (row.median or 0)) for row in both)
        if points:
            sizes, times = zip(*points, strict=True)
            axes.loglog(
                sizes,
                times,
                color=colour,
                marker=marker,
                markersize=5,
                linewidth=width,
                label=label,
            )
    axes.set_xlabel("length of the row, n")
    axes.set_ylabel("time, forward + backward (ms)")
    axes.set_title("Soft rank of one row of n scores\n", fontsize=13)
    axes.text(0.5, 1.02, machine, transform=axes.transAxes, ha="center", fontsize=9, color=GREY)
    axes.grid(True, which="major", color=PALE_GREY, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
