"""Classification judged by mean average precision: cross entropy with and without the mAP loss.

Handwritten digits of 8 x 8 pixels, with 10 training examples of each, so that there is something to
gain. Each class ranks all test images by its output; average precision judges this ranking.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm import tqdm

from demo.training import Results, fit, one_thread, report
from sodeep_fast import HandcraftedSorter, MeanAveragePrecisionLoss, metrics

CLASSES = 10
TRAIN_SIZE = VALIDATION_SIZE = 100

# (learning rate, weight of the mAP loss): four candidates each; validation selects one.
CANDIDATES: dict[str, list[tuple[float, float]]] = {
    "cross entropy": [(1e-3, 0.0), (3e-3, 0.0), (1e-2, 0.0), (3e-2, 0.0)],
    "cross entropy + mAP loss": [(1e-3, 1.0), (1e-2, 1.0), (1e-3, 10.0), (1e-2, 10.0)],
}

TITLE = "Test mAP on digits, 100 training images, mean +- standard deviation over seeds"
NOTE = (
    "  Both use the same network, steps and number of candidate settings, and are selected by\n"
    "  validation mAP; scikit-learn computes the mAP."
)


def train(seeds: int = 10, epochs: int = 150) -> Results:
    """Trains both losses on the same splits.

    Arguments:
        seeds: repetitions; a seed draws the splits and the initial weights. Default: 10.
        epochs: steps of training; the one that validates best is kept. Default: 150.

    Returns:
        for each loss, a test mAP per seed: the mean over classes of the average precision.
    """
    pixels, digits = load_digits(return_X_y=True)
    images, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(digits)
    one_hot = nn.functional.one_hot(labels, CLASSES)
    results: Results = {name: [] for name in CANDIDATES}
    with one_thread(), tqdm(total=seeds * len(CANDIDATES), desc="digits", unit="fit") as bar:
        for seed in range(seeds):
            learn, rest = train_test_split(
                np.arange(len(digits)), train_size=TRAIN_SIZE, stratify=digits, random_state=seed
            )
            held, test = train_test_split(
                rest, train_size=VALIDATION_SIZE, stratify=digits[rest], random_state=seed
            )
            for name, candidates in CANDIDATES.items():
                fits = [
                    _fit(images, labels, one_hot, learn, held, seed, epochs, rate, weight)
                    for rate, weight in candidates
                ]
                _, best = max(fits, key=lambda pair: pair[0])
                with torch.no_grad():
                    scores = best(images[test]).numpy()
                score = average_precision_score(one_hot[test].numpy(), scores, average="macro")
                results[name].append(float(score))
                bar.update()
    return results


def _fit(
    images: Tensor,
    labels: Tensor,
    one_hot: Tensor,
    learn: np.ndarray,
    held: np.ndarray,
    seed: int,
    epochs: int,
    learning_rate: float,
    weight: float,
) -> tuple[float, nn.Module]:
    """Returns the best validation mAP and its network."""
    mean_ap = MeanAveragePrecisionLoss(HandcraftedSorter(), reduction="mean")

    def loss(outputs: Tensor) -> Tensor:
        value = nn.functional.cross_entropy(outputs, labels[learn])
        return value + weight * mean_ap(outputs, one_hot[learn]) if weight else value

    def validate(model: nn.Module) -> float:
        return float(metrics.average_precision(model(images[held]).T, one_hot[held].T).mean())

    return fit(
        images[learn],
        CLASSES,
        loss,
        validate,
        seed=seed,
        epochs=epochs,
        learning_rate=learning_rate,
    )


if __name__ == "__main__":
    print(report(TITLE, train(), NOTE))
