"""Regression judged by Spearman correlation: mean squared error against `SpearmanLoss`.

442 patients, 10 measurements, the progression of their diabetes a year later (Efron et al., 2004).
The third fit shows what a loss of ranks is for. With the progression on an exponential scale, the
order is the same, and so is `SpearmanLoss`, but squared errors follow the few largest values.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_diabetes
from sklearn.model_selection import KFold, train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from tqdm import tqdm

from demo.training import Results, fit, one_thread, report
from sodeep_fast import HandcraftedSorter, SpearmanLoss, metrics

LEARNING_RATES = (1e-3, 1e-2)  # the validation set chooses, for every loss

TITLE = (
    "Test Spearman on diabetes, mean +- standard deviation over seeds (each the mean of 5 folds)"
)
NOTE = (
    "  The gain is over the first line. All use the same network, steps and learning rates, and\n"
    "  are selected by validation Spearman; SciPy computes the correlation. On the exponential\n"
    "  scale, the targets have the same order, but squared errors follow the largest few."
)


def _exponential_scale(targets: np.ndarray) -> np.ndarray:
    return np.exp(2 * (targets - targets.mean()) / targets.std())


# For each line of the report: the loss, and the scale of the targets.
FITS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[np.ndarray], np.ndarray]]] = {
    "mean squared error": (nn.MSELoss(), np.asarray),
    "SpearmanLoss (any scale of the target)": (SpearmanLoss(HandcraftedSorter()), np.asarray),
    "mean squared error, exponential scale": (nn.MSELoss(), _exponential_scale),
}


def train(seeds: int = 5, folds: int = 5, epochs: int = 150) -> Results:
    """Cross-validates each fit on the same folds.

    Arguments:
        seeds: repetitions; a seed shuffles the folds and draws the initial weights. Default: 5.
        folds: parts of the data, each the test set once. Default: 5.
        epochs: steps of training; the one that validates best is kept. Default: 150.

    Returns:
        for each fit, a test Spearman correlation per seed, the mean over its folds.
    """
    features, targets = load_diabetes(return_X_y=True)
    results: Results = {name: [] for name in FITS}
    total = seeds * folds * len(FITS)
    with one_thread(), tqdm(total=total, desc="diabetes", unit="fit") as bar:
        for seed in range(seeds):
            parts = list(KFold(folds, shuffle=True, random_state=seed).split(features))
            for name, (loss, scale) in FITS.items():
                scores = []
                for train_part, test_part in parts:
                    scaled = scale(targets)
                    model = _fit_fold(loss, features[train_part], scaled[train_part], seed, epochs)
                    predictions = model(features[test_part])
                    scores.append(float(spearmanr(predictions, targets[test_part]).statistic))
                    bar.update()
                results[name].append(float(np.mean(scores)))
    return results


def _fit_fold(
    loss: Callable[[Tensor, Tensor], Tensor],
    features: np.ndarray,
    targets: np.ndarray,
    seed: int,
    epochs: int,
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the predictor that validates best, of all learning rates and epochs."""
    fit_x, held_x, fit_y, held_y = train_test_split(
        features, targets, test_size=0.25, random_state=seed
    )
    scaler = StandardScaler().fit(fit_x)
    centred = (fit_y - fit_y.mean()) / fit_y.std()
    inputs, wanted = _tensor(scaler.transform(fit_x)), _tensor(centred)
    held_inputs, held_targets = _tensor(scaler.transform(held_x)), _tensor(held_y)

    def validate(model: nn.Module) -> float:
        return float(metrics.spearman(model(held_inputs)[:, 0], held_targets))

    fits = [
        fit(
            inputs,
            1,
            lambda outputs: loss(outputs[:, 0], wanted),
            validate,
            seed=seed,
            epochs=epochs,
            learning_rate=learning_rate,
        )
        for learning_rate in LEARNING_RATES
    ]
    _, best = max(fits, key=lambda pair: pair[0])

    def predict(values: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return best(_tensor(scaler.transform(values)))[:, 0].numpy()

    return predict


def _tensor(values: np.ndarray) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


if __name__ == "__main__":
    print(report(TITLE, train(), NOTE))
