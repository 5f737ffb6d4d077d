"""Table 1: the mean L1 difference of rank / n, and how useful each sorter's gradient is."""

from dataclasses import asdict
from pathlib import Path

from sodeep_fast._checks import check_counts
from sodeep_fast._files import make_folder
from sodeep_fast.paper.results import sorters, spread, table, write
from sodeep_fast.training.evaluate import gradient_use, mean_error

PUBLISHED = {"handcrafted": 0.0350, "cnn-100": 0.0120, "lstm": 0.0033}


def run(
    folder: Path,
    *,
    length: int = 100,
    vectors: int = 10_000,
    seeds: int = 3,
    gradient_vectors: int = 16,
) -> dict[str, dict[str, object]]:
    """Measures every sorter on fresh vectors of the released generator.

    Arguments:
        folder: for table1.json and table1.txt.
        length: the scores in a vector. Default: 100, as in the paper.
        vectors: for each seed. Default: 10,000, as in the paper.
        seeds: repetitions. Default: 3.
        gradient_vectors: that the gradient is measured on. Default: 16.

    Returns:
        for each sorter, "error", a number per seed, and "gradient".

    Raises:
        OSError: the folder cannot be written to.
        TypeError: a number that is not an integer.
        ValueError: a number below 1.
    """
    check_counts(length=length, vectors=vectors, seeds=seeds, gradient_vectors=gradient_vectors)
    make_folder(folder, "folder")
    results: dict[str, dict[str, object]] = {}
    rows = [["sorter", "mean L1", "paper", "useful", "cosine", "reached"]]
    for name, sorter in sorters(length).items():
        errors = [
            mean_error(sorter, length, vectors=vectors, seed=seed) for seed in range(1, seeds + 1)
        ]
        use = gradient_use(sorter, length, vectors=gradient_vectors)
        results[name] = {"error": errors, "gradient": asdict(use)}
        published = f"{PUBLISHED[name]:.4f}" if name in PUBLISHED else "-"
        measures = [f"{use.share:.1%}", f"{use.cosine:.3f}", f"{use.reached:.4f}"]
        rows.append([name, spread(errors, 5), published, *measures])
    title = (
        f"Mean L1 of rank / n over {vectors:,} vectors of length {length} of the released "
        f"generator, {seeds} seeds;\nthe share of scores with a gradient that counts, its cosine "
        "with the direction that mends the ranks,\nand the Spearman correlation after 200 plain "
        "gradient steps"
    )
    settings = {"length": length, "vectors": vectors, "seeds": seeds}
    settings["gradient_vectors"] = gradient_vectors
    write(folder, "table1", settings, results, f"{title}\n\n{table(rows)}")
    return results
