"""Figure 4: the error of the convolutional sorter, in its padded form, against its depth."""

from pathlib import Path
from typing import Any

import torch

from sodeep_fast._checks import check_counts
from sodeep_fast._files import make_folder
from sodeep_fast.paper.results import COLOURS, draw, table, write
from sodeep_fast.sorters.cnn import CNNSorter
from sodeep_fast.training.evaluate import mean_error
from sodeep_fast.training.loop import train_sorter


def run(
    folder: Path,
    *,
    depths: tuple[int, ...] = tuple(range(2, 11)),
    steps: int = 500,
    batch_size: int = 64,
    length: int = 100,
    vectors: int = 2000,
    device: str = "cpu",
) -> dict[int, float]:
    """Trains a sorter of every depth, all in the same way, and measures it.

    The paper trains until the loss is stable. This training is shorter: its numbers compare depths,
    and none is the best possible.

    Arguments:
        folder: for fig4.json, fig4.txt and fig4.png, and the states of trainings, `.fig4-*`, which
            a repeated command resumes.
        depths: numbers of blocks. Default: 2 to 10.
        steps, batch_size: of each training. Default: 500 of 64.
        length: the scores in a vector. Default: 100.
        vectors: to measure the error on. Default: 2000.
        device: where to train. Default: the CPU.

    Returns:
        for each depth, the mean L1 difference of rank / n.

    Raises:
        OSError: the folder cannot be written to.
        TypeError: a number that is not an integer.
        ValueError: a number below 1.
    """
    check_counts(steps=steps, batch_size=batch_size, length=length, vectors=vectors)
    make_folder(folder, "folder")
    results = {}
    for depth in depths:
        torch.manual_seed(0)
        sorter = CNNSorter(length, depth, padding="same")
        sorter.standardize = True
        train_sorter(
            sorter,
            steps,
            preset="fast",
            batch_size=batch_size,
            length=length,
            warm_up=steps // 20,
            device=device,
            checkpoint=folder / f".fig4-{depth}",
        )
        results[depth] = mean_error(sorter, length, vectors=vectors, seed=1, device=device)
    for depth in depths:
        (folder / f".fig4-{depth}").unlink()

    def plot(axes: Any) -> None:
        axes.plot(
            depths, list(results.values()), "o-", color=COLOURS[0], label="CNN, trained alike"
        )
        axes.axhline(0.0120, color="#777777", linestyle=":", label="the paper's CNN, depth 8")
        axes.set_ylim(bottom=0)

    rows = [["depth", "mean L1"], *([str(d), f"{e:.4f}"] for d, e in results.items())]
    title = (
        f"Mean L1 of rank / n by CNN depth, after {steps:,} steps of {batch_size} vectors of "
        f"length {length}\n(a shorter training than the paper's)"
    )
    settings = {"steps": steps, "batch_size": batch_size, "length": length, "vectors": vectors}
    write(folder, "fig4", settings, results, f"{title}\n\n{table(rows)}")
    draw(
        folder / "fig4.png",
        plot,
        title="Error of the CNN sorter against its depth (SoDeep, Fig. 4)",
        x="blocks",
        y="mean L1 of rank / n",
    )
    return results
