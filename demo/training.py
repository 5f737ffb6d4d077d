"""What the trainings share: a small network, a fit that keeps the epoch that validates best, and
the comparison of losses over seeds."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

Results = dict[str, list[float]]  # a test score per seed, by the name of the loss


def network(inputs: int, outputs: int, hidden: int = 64) -> nn.Sequential:
    """Returns a perceptron with one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def fit(
    inputs: Tensor,
    outputs: int,
    loss: Callable[[Tensor], Tensor],
    validate: Callable[[nn.Module], float],
    *,
    seed: int,
    epochs: int,
    learning_rate: float,
) -> tuple[float, nn.Module]:
    """Trains a new network, with the whole training set in every step.

    Arguments:
        inputs: (b, features) of the training set.
        outputs: number of outputs of the network.
        loss: takes the (b, outputs) outputs for `inputs`, returns a scalar.
        validate: takes the network, returns a score, larger is better.
        seed: of the initial weights.
        epochs: steps of AdamW.
        learning_rate: of AdamW.

    Returns:
        the best validation score of all epochs, and the network with the weights of that epoch.
    """
    torch.manual_seed(seed)
    model = network(inputs.shape[1], outputs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-2)
    best, best_weights = -float("inf"), model.state_dict()
    for _ in range(epochs):
        optimizer.zero_grad()
        loss(model(inputs)).backward()
        optimizer.step()
        with torch.no_grad():
            score = validate(model)
        if score > best:
            best, best_weights = score, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_weights)
    return best, model


@contextmanager
def one_thread() -> Iterator[None]:
    """Trains on one thread: with networks as small as these, more would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def spread(values: list[float]) -> str:
    """Writes the mean and the standard deviation over seeds.

    Example:
        >>> spread([0.5, 0.7])
        '0.600 +- 0.141'
    """
    return f"{np.mean(values):.3f} +- {np.std(values, ddof=1):.3f}"


def report(title: str, results: Results, note: str = "") -> str:
    """Describes results: each loss with its spread, and its gain over the first, seed by seed.

    Arguments:
        title: the line above.
        results: at least two seeds for each loss.
        note: what a reader must know to judge the numbers. Default: nothing.

    Returns:
        text of several lines.
    """
    baseline, *others = results
    width = max(map(len, results))
    lines = [f"  {baseline:<{width}}  {spread(results[baseline])}"]
    for name in others:
        pairs = zip(results[name], results[baseline], strict=True)
        gains = [ours - theirs for ours, theirs in pairs]
        wins = sum(gain > 0 for gain in gains)
        lines.append(
            f"  {name:<{width}}  {spread(results[name])}   gain {np.mean(gains):+.3f} +- "
            f"{np.std(gains, ddof=1):.3f}, ahead in {wins} of {len(gains)} seeds"
        )
    return "\n".join([title, *lines, *filter(None, [note])])
