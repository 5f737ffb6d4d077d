"""The record of a training: how to repeat it, and its result."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from sodeep_fast.sorters.checkpoint import described
from sodeep_fast.sorters.learned import LearnedSorter
from sodeep_fast.training.evaluate import error_by_distribution, gradient_use, mean_error
from sodeep_fast.training.loop import TrainingRun

# The lengths at which a sorter of any length is evaluated.
LENGTHS = (10, 20, 50, 100, 200, 500, 1000)

# Seeds of the vectors that the error is measured on; no training draws these vectors.
_SEEDS = (1, 2, 3)

_GRADIENT_VECTORS = 16


def make_record(
    sorter: LearnedSorter,
    run: TrainingRun,
    *,
    command: str,
    facts: Mapping[str, Any],
    initial: Mapping[str, Any] | None = None,
    vectors: int = 10_000,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Measures a trained sorter, and returns the record of its training.

    Arguments:
        sorter: trained.
        run: what `train_sorter` returned.
        command: the command that trains it again.
        facts: the hardware and versions.
        initial: the record of the sorter that the training started from. Default: random weights.
        vectors: number of vectors that errors are measured on. Default: 10,000.
        device: where to measure. Default: the CPU.

    Returns:
        a JSON-serializable dict: "command", "initial" (if any), "sorter", "settings", "steps",
        "seconds", "processes", "parameters", "environment", "error" (a mean L1 of rank / n for each
        of three seeds), "error_by_length", "error_by_distribution" and "gradient".
    """
    trained = run.settings.length
    length = sorter.length or (trained if isinstance(trained, int) else 100)
    lengths = LENGTHS if sorter.length is None else (length,)
    return {
        "command": command,
        **({"initial": dict(initial)} if initial else {}),
        "sorter": {"type": type(sorter).__name__, **described(sorter)},
        "settings": run.settings.as_json(),
        "steps": run.steps,
        "seconds": round(run.seconds, 1),
        "processes": run.processes,
        "parameters": sum(p.numel() for p in sorter.parameters()),
        "environment": dict(facts),
        "length": length,
        "vectors": vectors,
        "error": [
            mean_error(sorter, length, vectors=vectors, seed=seed, device=device) for seed in _SEEDS
        ],
        "error_by_length": {
            str(n): mean_error(
                sorter, n, vectors=max(vectors * 100 // max(n, 100), 1), seed=1, device=device
            )
            for n in lengths
        },
        "error_by_distribution": error_by_distribution(
            sorter, length, vectors=max(vectors // 4, 1), seed=1, device=device
        ),
        "gradient": asdict(gradient_use(sorter, length, vectors=_GRADIENT_VECTORS, device=device)),
    }


def report(record: Mapping[str, Any]) -> str:
    """Returns a record as text.

    Example:
        >>> import sodeep_fast
        >>> print(report(sodeep_fast.read_record("equivariant")))
        EquivariantSorter...
    """
    errors = record["error"]
    gradient = record["gradient"]
    lines = [
        f"{record['sorter']['type']}, {record['parameters']:,} weights: {record['steps']:,} steps "
        f"in {record['seconds']:,.0f} s",
        f"mean L1 of rank / n over {record['vectors']:,} vectors of length {record['length']}: "
        f"{sum(errors) / len(errors):.5f} ({min(errors):.5f} to {max(errors):.5f} over "
        f"{len(errors)} seeds)",
        "by length:",
        *_lines(record["error_by_length"]),
        f"by distribution, length {record['length']}:",
        *_lines(record["error_by_distribution"]),
        f"gradient: useful at {gradient['share']:.1%} of the scores, cosine "
        f"{gradient['cosine']:.3f}, Spearman {gradient['reached']:.4f} after 200 steps of descent",
    ]
    return "\n".join(lines)


def _lines(errors: Mapping[str, float]) -> list[str]:
    width = max(map(len, errors))
    return [f"  {name:<{width}}  {error:.5f}" for name, error in errors.items()]
