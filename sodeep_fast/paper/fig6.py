"""Figure 6: optimising average precision on synthetic data.

The paper follows a protocol of Song et al. (Training Deep Neural Networks via Direct Loss
Minimization, ICML 2016) and gives no numbers. This is the protocol here:

- Items have 20 standard normal features. A teacher, a perceptron with hidden layers of 32 and 32
  tanh units and weights drawn from a normal distribution of variance 1 / inputs, scores them;
  normal noise of half the standard deviation of these scores is added; the best fifth of the items
  are positive. 4000 items are for training, 2000 for validation and 4000 for the test. A seed draws
  the teacher, the items and the student's first weights.
- The student is a perceptron with one hidden layer of 32 ReLU units. A step of Adam takes 8
  queries, each with 100 training items drawn at random. It takes 300 steps, with learning rates of
  0.001, 0.003 and 0.01. The rate and step (every 10th is evaluated) with the best average precision
  on the validation items are selected.
- Every loss sees the student's outputs as scores. AP_Q, which needs scores in [-1, 1], sees their
  hyperbolic tangents. "Hinge-AP" is the hinge on all pairs of a positive and a negative,
  max(0, 1 - (s_p - s_n)), the objective of the ranking machine of Joachims, which the paper cites
  as its baseline. Cross entropy takes items one by one.
- What is reported is the exact average precision of all test items in one list.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sodeep_fast import metrics
from sodeep_fast._checks import check_count
from sodeep_fast._files import make_folder
from sodeep_fast.losses.mean_average_precision import mean_average_precision_loss
from sodeep_fast.losses.quantized_ap import quantized_ap
from sodeep_fast.losses.smooth_ap import smooth_ap
from sodeep_fast.losses.sup_ap import sup_ap
from sodeep_fast.paper.results import COLOURS, draw, sorters, spread, table, write

# Scores (queries, items) and binary labels of that shape -> a scalar.
Loss = Callable[[Tensor, Tensor], Tensor]

FEATURES, HIDDEN, POSITIVE = 20, 32, 0.2
TRAIN, VALIDATION, TEST = 4000, 2000, 4000
QUERIES, ITEMS = 8, 100
RATES = (1e-3, 3e-3, 1e-2)
EVERY = 10


def losses() -> dict[str, Loss]:
    """Returns every loss that is compared, by name."""

    def of_sorter(sorter: nn.Module) -> Loss:
        return lambda scores, labels: mean_average_precision_loss(
            scores.T, labels.T, sorter, reduction="mean"
        )

    return {
        **{f"L_mAP, {name}": of_sorter(sorter) for name, sorter in sorters(ITEMS).items()},
        "Smooth-AP": lambda scores, labels: 1 - smooth_ap(scores, labels).nanmean(),
        "SupAP": lambda scores, labels: 1 - sup_ap(scores, labels).nanmean(),
        "AP_Q": lambda scores, labels: 1 - quantized_ap(scores.tanh(), labels, bins=25).nanmean(),
        "Hinge-AP": pairwise_hinge,
        "cross entropy": lambda scores, labels: F.binary_cross_entropy_with_logits(
            scores, labels.float()
        ),
    }


def pairwise_hinge(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean over pairs of a positive and a negative of a query of max(0, 1 - s_p + s_n).

    Joachims, Optimizing Search Engines using Clickthrough Data, KDD 2002.
    """
    margins = 1 - scores.unsqueeze(2) + scores.unsqueeze(1)
    pairs = labels.bool().unsqueeze(2) & ~labels.bool().unsqueeze(1)
    return margins.clamp(min=0).masked_select(pairs).mean()


def run(folder: Path, *, seeds: int = 5, steps: int = 300) -> dict[str, dict[str, Any]]:
    """Trains the student with every loss, by the protocol above.

    Arguments:
        folder: for fig6.json, fig6.txt and fig6.png.
        seeds: repetitions. Default: 5.
        steps: of training, at least 10. Default: 300.

    Returns:
        for each loss, "test", the average precision of every seed, and "curve", that on the test
        items at every 10th step, the mean over seeds.

    Raises:
        OSError: the folder cannot be written to.
        TypeError: a number that is not an integer.
        ValueError: a number below 1, or fewer than 10 steps.
    """
    check_count(seeds, "seeds")
    check_count(steps, "steps", least=EVERY)
    make_folder(folder, "folder")
    results: dict[str, dict[str, Any]] = {}
    for name, loss in losses().items():
        runs = [_train(loss, seed, steps) for seed in range(seeds)]
        curve = np.mean([curve for _, curve in runs], 0)
        results[name] = {
            "test": [test for test, _ in runs],
            "curve": [round(float(value), 5) for value in curve],
        }
        print(f"  {name}: {spread(results[name]['test'])}", flush=True)
    ordered = sorted(results, key=lambda name: -float(np.mean(results[name]["test"])))
    rows = [["loss", "average precision"]]
    rows += [[name, spread(results[name]["test"])] for name in ordered]
    title = f"Average precision on the test items, mean and deviation over {seeds} seeds"

    def plot(axes: Any) -> None:
        at = range(EVERY, steps + 1, EVERY)
        for i, (name, result) in enumerate(results.items()):
            axes.plot(
                at,
                result["curve"],
                "-" if i < len(COLOURS) else "--",
                color=COLOURS[i % len(COLOURS)],
                linewidth=1.4,
                label=name,
            )

    write(folder, "fig6", {"seeds": seeds, "steps": steps}, results, f"{title}\n\n{table(rows)}")
    draw(
        folder / "fig6.png",
        plot,
        title="Optimising average precision on synthetic data (after SoDeep, Fig. 6)",
        x="step",
        y="average precision on the test items",
    )
    return results


def _train(loss: Loss, seed: int, steps: int) -> tuple[float, list[float]]:
    """Returns the test result and curve at the learning rate that validates best."""
    best: tuple[float, float, list[float]] = (-1.0, 0.0, [])
    for rate in RATES:
        generator = torch.Generator().manual_seed(seed)
        inputs, labels = _items(generator)
        torch.manual_seed(seed)
        student = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
        optimizer = torch.optim.Adam(student.parameters(), lr=rate)
        validated, tested = [], []
        for step in range(1, steps + 1):
            chosen = torch.randint(TRAIN, (QUERIES, ITEMS), generator=generator)
            value = loss(student(inputs[chosen]).squeeze(-1), labels[chosen])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            if step % EVERY == 0:
                with torch.no_grad():
                    scores = student(inputs[TRAIN:]).squeeze(-1)
                held, final = scores.split([VALIDATION, TEST])
                held_labels, final_labels = labels[TRAIN:].split([VALIDATION, TEST])
                validated.append(float(metrics.average_precision(held, held_labels)))
                tested.append(float(metrics.average_precision(final, final_labels)))
        at = int(np.argmax(validated))
        best = max(best, (validated[at], tested[at], tested), key=lambda result: result[0])
    return best[1], best[2]


def _items(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns the features and labels of all items."""
    inputs = torch.randn(TRAIN + VALIDATION + TEST, FEATURES, generator=generator)
    hidden = inputs
    for width in (32, 32, 1):
        weights = torch.randn(hidden.shape[1], width, generator=generator) / hidden.shape[1] ** 0.5
        hidden = hidden @ weights
        if width > 1:
            hidden = hidden.tanh()
    scores = hidden.squeeze(-1)
    noise = torch.randn(len(scores), generator=generator) * scores.std() / 2
    threshold = (scores + noise).quantile(1 - POSITIVE)
    return inputs, scores + noise > threshold
