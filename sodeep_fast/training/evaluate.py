"""How good a sorter is: its error on many distributions, and how useful its gradient is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sodeep_fast import metrics
from sodeep_fast._checks import check_count, check_sorter
from sodeep_fast._distributions import DISTRIBUTIONS as STRANGE
from sodeep_fast.ops.hard_rank import hard_rank
from sodeep_fast.sorters.protocol import Sorter, relative_ranks
from sodeep_fast.synthetic import DISTRIBUTIONS, generate_batch, generate_scores
from sodeep_fast.training.objective import gradient_cosine, spearman_gradient

Maker = Callable[[torch.Generator, tuple[int, int]], Tensor]

# Distributions that no sorter is trained on; tied scores share their average rank.
UNSEEN: dict[str, Maker] = {
    "cauchy": STRANGE["cauchy"],
    "exponential": lambda g, shape: -torch.rand(shape, generator=g, dtype=torch.float64).log(),
    "clustered": STRANGE["clustered"],
    "ties": STRANGE["tied"],
    "uniform, range 0.001": lambda g, shape: 5e-4 * STRANGE["uniform"](g, shape),
    "uniform, range 1000": lambda g, shape: 500 * STRANGE["uniform"](g, shape),
}

# The step sizes that `gradient_use` tries.
RATES = tuple(10.0**k for k in range(5))

# How many vectors are sorted at a time.
_ROWS = 1000


def mean_error(
    sorter: Sorter,
    length: int = 100,
    dist: str | int | None = None,
    *,
    vectors: int = 10_000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> float:
    """Returns the mean L1 difference between a sorter's ranks / n and the exact ones.

    The number of SoDeep's Table 1 (Engilberge et al., CVPR 2019).

    Arguments:
        sorter: takes scores (b, n); see `sodeep_fast.sorters.protocol.Sorter`.
        length: the scores in a vector.
        dist: a distribution of `sodeep_fast.synthetic`, by name or number, or a name of `UNSEEN`.
            Default: "released".
        vectors: number of vectors. Default: 10,000, as in the paper.
        seed: of the vectors. Default: 0.
        device: where to sort. Default: the CPU.

    Raises:
        TypeError: a sorter that is not callable, or a number that is not an integer.
        ValueError: an unknown distribution, a number below 1, or a length that the sorter does not
            accept.

    Example:
        >>> from sodeep_fast import HandcraftedSorter
        >>> round(mean_error(HandcraftedSorter(lam=10), vectors=1000), 2)
        0.04
    """
    check_sorter(sorter)
    check_count(length, "length")
    check_count(vectors, "vectors")
    total = 0.0
    for scores, ranks in _vectors(length, dist, vectors, seed):
        with torch.no_grad():
            output = relative_ranks(sorter, scores.to(device)).cpu()
        total += float((output.double() - ranks).abs().sum())
    return total / (vectors * length)


def error_by_distribution(
    sorter: Sorter,
    length: int = 100,
    *,
    vectors: int = 10_000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Returns `mean_error` for every distribution, the training distributions first.

    Example:
        >>> from sodeep_fast import HandcraftedSorter
        >>> errors = error_by_distribution(HandcraftedSorter(), 20, vectors=10)
        >>> errors["uniform, range 0.001"] > errors["uniform, range 1000"]
        True
    """
    return {
        name: mean_error(sorter, length, name, vectors=vectors, seed=seed, device=device)
        for name in ("released", *(d for d in DISTRIBUTIONS if d != "released"), *UNSEEN)
    }


@dataclass(frozen=True)
class GradientUse:
    """How useful a sorter's gradient is. All but `rate` are at most 1, and larger is better.

    Arguments:
        share: of scores with a useful gradient: at least a hundredth of the root mean square of
            their row's, where that is finite and not 0.
        cosine: cosine of the descent direction with the direction that corrects the ranks, whose
            entries are the errors of the ranks; the mean over rows.
        reached: Spearman's correlation with the targets after plain gradient descent on the scores
            themselves; the mean over rows, at the best step size.
        rate: that step size.
    """

    share: float
    cosine: float
    reached: float
    rate: float


def gradient_use(
    sorter: Sorter,
    length: int = 100,
    *,
    dist: str = "released",
    vectors: int = 64,
    steps: int = 200,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> GradientUse:
    """Measures the gradient of the Spearman loss through a sorter, towards random orders.

    Uses the same vectors for every sorter. `share` and `cosine` are measured on vectors of `dist`.
    `reached` is measured from standard normal scores, at the best of the step sizes `RATES`, so
    that the scale of a sorter's gradient does not matter.

    Arguments:
        sorter: as in `mean_error`.
        length, vectors, seed, device: as in `mean_error`, with 64 vectors.
        dist: distribution of the vectors whose gradient is measured. Default: "released".
        steps: of gradient descent. Default: 200.

    Returns:
        the three measures, and the best step size.

    Raises:
        TypeError: as `mean_error`.
        ValueError: as `mean_error`, or a sorter without a gradient.

    Example:
        >>> from sodeep_fast import HandcraftedSorter
        >>> gradient_use(HandcraftedSorter(lam=1), 20, vectors=4).reached > 0.99
        True
    """
    check_sorter(sorter)
    check_count(length, "length")
    check_count(vectors, "vectors")
    check_count(steps, "steps", least=0)
    generator = torch.Generator().manual_seed(seed)
    scores = generate_scores(vectors, length, dist, generator=generator).to(device)
    with torch.device("cpu"):  # which need not be the default device
        start = torch.randn(vectors, length, generator=generator).to(device)
        order = torch.rand(vectors, length, generator=generator).to(device)
    targets = hard_rank(order, normalize=True)

    gradient = _gradient(sorter, scores, targets)
    size = gradient.square().mean(-1, keepdim=True).sqrt()
    useful = (gradient.abs() >= 0.01 * size) & (size > 0) & size.isfinite()
    cosine = gradient_cosine(gradient.nan_to_num(), hard_rank(scores, normalize=True), targets)
    reached, rate = max((_descend(sorter, start, targets, rate, steps), rate) for rate in RATES)
    return GradientUse(useful.double().mean().item(), cosine.item(), reached, rate)


def _descend(sorter: Sorter, start: Tensor, targets: Tensor, rate: float, steps: int) -> float:
    scores = start
    for _ in range(steps):
        scores = scores - rate * _gradient(sorter, scores, targets)
    # A row that has overflowed has reached nothing.
    return float(metrics.spearman(-scores, targets).nan_to_num().mean())


def _gradient(sorter: Sorter, scores: Tensor, targets: Tensor) -> Tensor:
    scores = scores.detach().requires_grad_()
    ranks = relative_ranks(sorter, scores)
    if not ranks.requires_grad:
        name = getattr(sorter, "__name__", type(sorter).__name__)
        raise ValueError(
            f"sorter must return ranks that have a gradient in the scores, got {name}, whose have "
            "none"
        )
    return spearman_gradient(ranks, scores, targets)


def _vectors(
    length: int, dist: str | int | None, vectors: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields scores and exact ranks / n, some at a time."""
    generator = torch.Generator().manual_seed(seed)
    for begin in range(0, vectors, _ROWS):
        shape = (min(_ROWS, vectors - begin), length)
        if isinstance(dist, str) and dist in UNSEEN:
            with torch.device("cpu"):
                scores = UNSEEN[dist](generator, shape).float()
            yield scores, hard_rank(scores, normalize=True)
        else:
            yield generate_batch(*shape, dist, generator=generator)
