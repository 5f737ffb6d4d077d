"""Batches of score vectors that sorters are trained on, with their exact ranks, on any device.

Distributions are chosen by name, or by their number in the released program:

| number | name | scores of a row |
|---|---|---|
| 0, 1 | `"uniform"` | uniform on [-1, 1] |
| 2 | `"normal"` | standard normal |
| 3 | `"spaced"` | evenly spaced from a towards b, both uniform on [0, 1]; rising or falling |
| 4 | `"shuffled"` | the same in random order |
| 5, 6 | `"uniform-normal"` | uniform up to a random place, normal from there on |
| 7 | `"uniform-uniform"` | two uniform parts, which is `"uniform"` |
| 8 | `"shuffled-uniform"` | a shuffled evenly spaced part, then a uniform one |
| 9 | `"ramp"` | evenly spaced from -1 towards 1, the same row every time |
| 10 | `"scaled"` | uniform on [-v, u - v], with u and v uniform on [0, 1] |
| | `"paper-spaced"` | as `"spaced"`, with a and b uniform on [-1, 1] |
| | `"paper-mixture"` | two parts of different kinds among uniform, normal and `"paper-spaced"` |
| | `"released"` | for every row one of the types 0 to 9, as the released program |
| | `"paper"` | for every row one of the four of the paper |

SoDeep (Engilberge et al., CVPR 2019), section 3.1.2, and its released program, whose evenly spaced
numbers are in [0, 1] instead of the paper's [-1, 1]. Two parts meet at a position uniform on 1 .. n
- 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sodeep_fast._checks import FLOATING, check_choice, check_count
from sodeep_fast.ops.hard_rank import TIES, hard_rank

__all__ = ["DISTRIBUTIONS", "PAPER", "RELEASED", "generate_batch", "generate_scores"]

UNIFORM, NORMAL, SPACED, RAMP, SCALED = range(5)


@dataclass(frozen=True)
class _Recipe:
    """The recipe of a row: one kind of scores up to a random position, another from there on."""

    first: int
    second: int | None = None
    shuffled: bool = False
    low: float = 0.0
    """The ends of evenly spaced numbers are uniform on [low, 1]."""


_RECIPES = {
    "uniform": [_Recipe(UNIFORM)],
    "normal": [_Recipe(NORMAL)],
    "spaced": [_Recipe(SPACED)],
    "shuffled": [_Recipe(SPACED, shuffled=True)],
    "uniform-normal": [_Recipe(UNIFORM, NORMAL)],
    "uniform-uniform": [_Recipe(UNIFORM, UNIFORM)],
    "shuffled-uniform": [_Recipe(SPACED, UNIFORM, shuffled=True)],
    "ramp": [_Recipe(RAMP)],
    "scaled": [_Recipe(SCALED)],
    "paper-spaced": [_Recipe(SPACED, low=-1.0)],
    "paper-mixture": [
        _Recipe(first, second, low=-1.0)
        for first in (UNIFORM, NORMAL, SPACED)
        for second in (UNIFORM, NORMAL, SPACED)
        if first != second
    ],
}

# The released program's types by number; the last one is drawn only when asked for.
RELEASED = (
    "uniform",
    "uniform",
    "normal",
    "spaced",
    "shuffled",
    "uniform-normal",
    "uniform-normal",
    "uniform-uniform",
    "shuffled-uniform",
    "ramp",
    "scaled",
)

# The distributions of section 3.1.2.
PAPER = ("uniform", "normal", "paper-spaced", "paper-mixture")

# Recipes are drawn with equal weight. For "paper", each distribution is repeated to as many recipes
# as the mixture has.
_RECIPES["released"] = [recipe for name in RELEASED[:10] for recipe in _RECIPES[name]]
_RECIPES["paper"] = [
    recipe
    for name in PAPER
    for recipe in _RECIPES[name] * (len(_RECIPES["paper-mixture"]) // len(_RECIPES[name]))
]

DISTRIBUTIONS = tuple(_RECIPES)


def generate_scores(
    rows: int,
    length: int,
    dist: str | int | None = None,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Returns random scores of a distribution, one vector per row.

    Arguments:
        rows: number of vectors.
        length: number of scores in each. dist: a name or number of the module's table. Default:
            None, for `"released"`.
        generator: the random generator, on the device; the same seed gives the same scores.
            Default: PyTorch's own.
        device: where to generate them. Default: the generator's device, or the CPU.
        dtype: dtype of the scores. Half-precision scores are rounded from float32, so they have
            ties. Default: float32.

    Returns:
        (rows, length) scores.

    Raises:
        TypeError: rows or length that are not integers, an invalid generator, or a dtype that is
            not floating point.
        ValueError: rows or length below 1, or an unknown distribution.

    Example:
        >>> import torch
        >>> from sodeep_fast.synthetic import generate_scores
        >>> generate_scores(1, 4, "ramp")
        tensor([[-1.0000, -0.5000,  0.0000,  0.5000]])
        >>> generate_scores(512, 100, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([512, 100])
    """
    check_count(rows, "rows")
    check_count(length, "length")
    if dtype not in FLOATING:
        raise TypeError(f"dtype must be float16, bfloat16, float32 or float64, got {dtype}")
    _check_generator(generator)
    recipes = _RECIPES[distribution_name(dist)]
    if device is None:
        device = "cpu" if generator is None else generator.device
    working = torch.promote_types(dtype, torch.float32)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device, dtype=working)

    def integers(high: int) -> Tensor:
        return torch.randint(high, (rows, 1), generator=generator, device=device)

    which = integers(len(recipes))

    def per_row(values: list[float] | list[int] | list[bool]) -> Tensor:
        return torch.tensor(values, device=device)[which]

    kinds = {kind for recipe in recipes for kind in (recipe.first, recipe.second)}
    position = torch.arange(length, device=device).expand(rows, length)
    # If a row has one part, the second begins beyond its end.
    divided = per_row([recipe.second is not None for recipe in recipes])
    split = torch.where(divided, 1 + integers(max(length - 1, 1)), length)
    is_first = position < split
    kind = torch.where(
        is_first,
        per_row([recipe.first for recipe in recipes]),
        per_row([recipe.first if recipe.second is None else recipe.second for recipe in recipes]),
    )

    scores = uniform(rows, length)
    if SCALED in kinds:
        scaled = scores * uniform(rows, 1) - uniform(rows, 1)
        scores = torch.where(kind == SCALED, scaled, 2 * scores - 1)
    else:
        scores = 2 * scores - 1
    if NORMAL in kinds:
        normal = torch.randn((rows, length), generator=generator, device=device, dtype=working)
        scores = torch.where(kind == NORMAL, normal, scores)
    if kinds & {SPACED, RAMP}:
        index = torch.where(is_first, position, position - split)
        if any(recipe.shuffled for recipe in recipes):
            # Random keys below 1 shuffle the first part; the rest keeps its order.
            keys = torch.where(is_first, uniform(rows, length), 1 + position.to(working))
            shuffled = per_row([recipe.shuffled for recipe in recipes])
            index = torch.where(shuffled & is_first, keys.argsort(-1), index)
        low = per_row([recipe.low for recipe in recipes]).to(working)
        ends = low + (1 - low) * uniform(rows, 2)
        is_ramp = kind == RAMP
        start = torch.where(is_ramp, -1, ends[:, :1])
        stop = torch.where(is_ramp, 1, ends[:, 1:])
        count = torch.where(is_first, split, length - split)
        spaced = start + (stop - start) * (index.to(working) / count)
        scores = torch.where(is_ramp | (kind == SPACED), spaced, scores)
    return scores.to(dtype)


def generate_batch(
    rows: int,
    length: int | tuple[int, int],
    dist: str | int | None = None,
    *,
    ties: str = "ordinal",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Returns random scores and their exact ranks / n: one training batch for a sorter.

    Arguments:
        rows, dist, generator, device, dtype: as in `generate_scores`.
        length: number of scores in each vector, or (shortest, longest), drawn once for the batch,
            which makes the host wait for a GPU.
        ties: the rank of equal scores, as in `hard_rank`: "ordinal", by position, so that the ranks
            are always 1 to n; or "average". Default: "ordinal".

    Returns:
        Scores (rows, n) and ranks / n (rows, n), 1 / n for the largest; the ranks float64 for
        float64 scores and float32 otherwise.

    Raises:
        TypeError: as `generate_scores`.
        ValueError: as `generate_scores`, lengths out of order, or unknown `ties`.

    Example:
        >>> from sodeep_fast.synthetic import generate_batch
        >>> scores, ranks = generate_batch(1, 4, "ramp")
        >>> ranks
        tensor([[1.0000, 0.7500, 0.5000, 0.2500]])
    """
    check_choice(ties, TIES, "ties")
    _check_generator(generator)
    if isinstance(length, tuple):
        if len(length) != 2:
            raise ValueError(f"length must be (shortest, longest), got {length}")
        shortest, longest = length
        check_count(shortest, "length[0]")
        check_count(longest, "length[1]")
        if shortest > longest:
            raise ValueError(f"length must be (shortest, longest), got {length}")
        on = device if generator is None else generator.device
        drawn = torch.randint(shortest, longest + 1, (), generator=generator, device=on)
        length = int(drawn)
    scores = generate_scores(rows, length, dist, generator=generator, device=device, dtype=dtype)
    return scores, hard_rank(scores, normalize=True, ties=ties)


def _check_generator(generator: torch.Generator | None) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator or None, got {type(generator).__name__}"
        )


def distribution_name(dist: str | int | None) -> str:
    """Returns the name of a distribution given by name, by released number or as None.

    Raises:
        ValueError: an unknown one.
    """
    if dist is None:
        return "released"
    if isinstance(dist, int) and not isinstance(dist, bool) and 0 <= dist < len(RELEASED):
        return RELEASED[dist]
    if dist not in DISTRIBUTIONS:
        raise ValueError(
            f"dist must be None, a number from 0 to {len(RELEASED) - 1} or one of "
            f"{', '.join(map(repr, DISTRIBUTIONS))}, got {dist!r}"
        )
    return str(dist)
