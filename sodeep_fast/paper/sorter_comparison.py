"""A small version of the comparison of sorters of section 4.2.1, on data from scikit-learn.

The paper's data are videos and their memorability. Here they are `diabetes` (the progression of 442
patients from 10 measurements) and `wine` (the colour intensity of 178 wines from their 12 other
measurements). A seed shuffles 5 folds and draws the first weights; in each fold a quarter of the
training part is used to select among 300 steps (every 10th is evaluated) and the learning rates
0.001 and 0.01. Everything else is the same for every loss: the network is a perceptron with 64
hidden units, and a step of AdamW takes 100 random training examples. Targets are standardised. The
result is Spearman's correlation on the test part.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sodeep_fast import metrics
from sodeep_fast._checks import check_count
from sodeep_fast._files import make_folder
from sodeep_fast.losses.spearman import spearman_loss
from sodeep_fast.paper.results import sorters, spread, table, write

Loss = Callable[[Tensor, Tensor], Tensor]

EXAMPLES = 100
RATES = (1e-3, 1e-2)
EVERY = 10


def losses() -> dict[str, Loss]:
    """Returns every loss that is compared, by name."""

    def of_sorter(sorter: nn.Module) -> Loss:
        return lambda predictions, targets: spearman_loss(predictions, targets, sorter)

    return {
        "L1": F.l1_loss,
        "MSE": F.mse_loss,
        **{f"Spearman, {name}": of_sorter(sorter) for name, sorter in sorters().items()},
    }


def run(
    folder: Path, *, seeds: int = 5, folds: int = 5, steps: int = 300
) -> dict[str, dict[str, list[float]]]:
    """Cross-validates the same network with every loss.

    Arguments:
        folder: for sorters.json and sorters.txt.
        seeds: repetitions. Default: 5.
        folds: parts of the data, each the test part once. Default: 5.
        steps: of training, at least 10. Default: 300.

    Returns:
        for each data set and loss, a correlation per seed, the mean over its folds.

    Raises:
        ImportError: scikit-learn is not installed.
        OSError: the folder cannot be written to.
        TypeError: a number that is not an integer.
        ValueError: a number below 1, fewer than 2 folds or 10 steps, or folds of fewer than two
            examples.
    """
    check_count(seeds, "seeds")
    check_count(folds, "folds", least=2)
    check_count(steps, "steps", least=EVERY)
    data_sets = _data_sets()
    # A correlation needs at least two examples.
    most = min(len(targets) for _, targets in data_sets.values()) // 2
    if folds > most:
        raise ValueError(f"folds must be at most {most}, of two examples each, got {folds}")
    make_folder(folder, "folder")
    results: dict[str, dict[str, list[float]]] = {}
    texts = []
    for data, (features, targets) in data_sets.items():
        results[data] = {
            name: [
                _cross_validate(loss, features, targets, seed, folds, steps)
                for seed in range(seeds)
            ]
            for name, loss in losses().items()
        }
        rows = [[data, "Spearman"]]
        rows += [[name, spread(values)] for name, values in results[data].items()]
        texts.append(table(rows))
    title = f"Spearman's correlation on the test part, mean and deviation over {seeds} seeds"
    settings = {"seeds": seeds, "folds": folds, "steps": steps}
    write(folder, "sorters", settings, results, "\n\n".join([title, *texts]))
    return results


def _data_sets() -> dict[str, tuple[Tensor, Tensor]]:
    try:
        from sklearn.datasets import load_diabetes, load_wine
    except ImportError:
        raise ImportError(
            "the data come with scikit-learn: pip install scikit-learn, or sodeep-fast[paper]"
        ) from None
    diabetes, wine = load_diabetes(), load_wine()
    colour = wine.feature_names.index("color_intensity")
    return {
        "diabetes": _tensors(diabetes.data, diabetes.target),
        "wine": _tensors(np.delete(wine.data, colour, 1), wine.data[:, colour]),
    }


def _tensors(features: np.ndarray, targets: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.tensor(features).float(), torch.tensor(targets).float()


def _cross_validate(
    loss: Loss, features: Tensor, targets: Tensor, seed: int, folds: int, steps: int
) -> float:
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    parts = order.tensor_split(folds)
    found = []
    for i, test in enumerate(parts):
        train = torch.cat([part for j, part in enumerate(parts) if j != i])
        held, fitted = train.split([len(train) // 4, len(train) - len(train) // 4])
        mean, std = features[fitted].mean(0), features[fitted].std(0)
        inputs = (features - mean) / std
        wanted = (targets - targets[fitted].mean()) / targets[fitted].std()
        found.append(_fit(loss, inputs, wanted, fitted, held, test, seed, steps))
    return float(np.mean(found))


def _fit(
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    fitted: Tensor,
    held: Tensor,
    test: Tensor,
    seed: int,
    steps: int,
) -> float:
    """Returns the test correlation of the step and learning rate that validate best."""
    best = (-1.0, 0.0)
    for rate in RATES:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(inputs.shape[1], 64), nn.ReLU(), nn.Linear(64, 1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2)
        for step in range(1, steps + 1):
            rows = fitted[torch.randperm(len(fitted))[:EXAMPLES]]
            optimizer.zero_grad()
            loss(model(inputs[rows])[:, 0], targets[rows]).backward()
            optimizer.step()
            if step % EVERY == 0:
                with torch.no_grad():
                    predictions = model(inputs)[:, 0]
                validated, tested = (
                    float(metrics.spearman(predictions[part], targets[part]))
                    for part in (held, test)
                )
                best = max(best, (validated, tested), key=lambda result: result[0])
    return best[1]
