"""Retrieval judged by rank: embeddings of digits, trained by each of the retrieval losses.

Handwritten digits of 8 x 8 pixels, with 20 training examples of each. Every test image is a query
for the others of its digit, among test images that training never saw.
"""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm

import sodeep_fast
from demo.training import Results, fit, one_thread, report
from sodeep_fast import metrics

TRAIN_SIZE, VALIDATION_SIZE, DIMENSIONS = 200, 100, 32
RATES = (1e-3, 3e-3)  # validation selects one

BASELINE, UNTRAINED = "cross entropy", "pixels, untrained"
# Labels are (digit, parity); losses of a single level use the digit.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    BASELINE: lambda outputs, labels: nn.functional.cross_entropy(outputs[:, :10], labels[:, 0]),
    "Smooth-AP": sodeep_fast.SmoothAPLoss(temperature=0.05),
    "SupAP": sodeep_fast.SupAPLoss(),
    "ROADMAP": sodeep_fast.RoadmapLoss(),
    "AP_Q": sodeep_fast.QuantizedAPLoss(),
    "Recall@k": sodeep_fast.RecallAtKLoss(),
    "H-AP, digit and parity": sodeep_fast.HierarchicalAPLoss(),
}

TITLE = "Test mAP@R on digits, 200 training images, mean +- standard deviation over seeds"
RECALL_TITLE = "Test R@1 of the same networks"
NOTE = (
    "  All use the same network, steps and learning rates, and are selected by validation mAP@R.\n"
    "  Cross entropy trains the first ten of the 32 outputs as logits; the embedding is all 32."
)


def train(seeds: int = 5, epochs: int = 60) -> tuple[Results, Results]:
    """Trains every loss on the same splits.

    Arguments:
        seeds: repetitions; a seed draws the digits, the images and the initial weights. Default: 5.
        epochs: steps of training; the one that validates best is kept. Default: 60.

    Returns:
        for each loss, a test mAP@R per seed, and a test R@1 per seed.
    """
    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32)
    mean_ap: Results = {name: [] for name in (BASELINE, UNTRAINED, *LOSSES)}
    recall: Results = {name: [] for name in mean_ap}
    with one_thread(), tqdm(total=seeds * len(LOSSES), desc="retrieval", unit="fit") as bar:
        for seed in range(seeds):
            learn, rest = train_test_split(
                np.arange(len(digits)), train_size=TRAIN_SIZE, stratify=digits, random_state=seed
            )
            held, test = train_test_split(
                rest, train_size=VALIDATION_SIZE, stratify=digits[rest], random_state=seed
            )
            test_images, test_labels = images[test], torch.tensor(digits[test])

            def judge(name: str, embeddings: Tensor, labels: Tensor = test_labels) -> None:
                for results, value in zip(
                    (mean_ap, recall), retrieval_metrics(embeddings, labels), strict=True
                ):
                    results[name].append(value)

            judge(UNTRAINED, test_images)
            for name, loss in LOSSES.items():
                fits = [
                    _fit(images, torch.tensor(digits), learn, held, loss, seed, epochs, rate)
                    for rate in RATES
                ]
                _, best = max(fits, key=lambda pair: pair[0])
                with torch.no_grad():
                    judge(name, best(test_images))
                bar.update()
    return mean_ap, recall


def retrieval_metrics(embeddings: Tensor, labels: Tensor) -> tuple[float, float]:
    """Returns mAP@R and R@1 by cosine, each image a query for the others."""
    unit = normalize(embeddings, dim=-1)
    others = ~torch.eye(len(unit), dtype=torch.bool)
    scores, same = unit @ unit.T, labels[:, None] == labels
    return (
        float(metrics.map_at_r(scores, same, mask=others).nanmean()),
        float(_hits(scores.masked_fill(~others, -torch.inf), same).mean()),
    )


def _hits(scores: Tensor, same: Tensor) -> Tensor:
    """Returns 1 where the best item is of the query's class, else 0."""
    return same.gather(-1, scores.argmax(-1, keepdim=True)).float()


def _fit(
    images: Tensor,
    digits: Tensor,
    learn: np.ndarray,
    held: np.ndarray,
    loss: Callable[[Tensor, Tensor], Tensor],
    seed: int,
    epochs: int,
    learning_rate: float,
) -> tuple[float, nn.Module]:
    """Returns the best validation mAP@R and its network."""
    labels = torch.stack([digits, digits % 2], dim=-1)

    def validate(model: nn.Module) -> float:
        return retrieval_metrics(model(images[held]), digits[held])[0]

    return fit(
        images[learn],
        DIMENSIONS,
        lambda outputs: loss(outputs, labels[learn]),
        validate,
        seed=seed,
        epochs=epochs,
        learning_rate=learning_rate,
    )


if __name__ == "__main__":
    mean_ap, recall = train()
    print(report(TITLE, mean_ap, NOTE))
    print(report(RECALL_TITLE, recall))
