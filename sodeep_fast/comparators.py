"""How `rank_counts` compares an item with a target: what the item adds to the target's count.

A comparator is a function H of x = (score of the item) - (score of the target). It is 0 where the
item stays behind and about 1 where it outranks the target; to have a gradient, it takes values in
between or beyond. `ByLevel` uses different comparators for items that are less, equally or more
relevant.
"""

import math
from dataclasses import dataclass, field

from sodeep_fast._checks import check_number, check_positive


@dataclass(frozen=True)
class Sigmoid:
    """H(x) = 1 / (1 + exp(-x / tau)): Smooth-AP's (Brown et al., ECCV 2020) and SoDeep's.

    Arguments:
        tau: positive temperature, in units of score. Smaller values are closer to counting.

    Raises:
        TypeError: tau is not a number.
        ValueError: tau is not positive and finite.

    Example:
        >>> import sodeep_fast
        >>> sodeep_fast.Sigmoid()
        Sigmoid(tau=0.01)
    """

    tau: float = 0.01

    def __post_init__(self) -> None:
        check_positive(self.tau, "tau")


@dataclass(frozen=True)
class Sup:
    """An upper bound on counting whose gradient does not vanish: that of ROADMAP's SupAP.

    H(x) = sigmoid(x / tau) for x <= 0, start + sigmoid(x / tau) for 0 < x <= delta, and
    offset + rho (x - delta) beyond. Ramzi et al., NeurIPS 2021. Variants in circulation:

    - `Sup()`: the paper's, continuous at delta;
    - `Sup(offset=1.44)`: the configuration files of ROADMAP, HAPPIER and SupRank; it drops by 0.053
      at delta;
    - `Sup(start=0.0, offset=1.0)`: the same for iNaturalist; no longer an upper bound;
    - `Sup(offset=6.44)`: the code behind the paper's numbers, rho x + 1.44 beyond delta;
    - `Sup(delta=None, offset=...)`: linear from 0 on, rho x + offset.

    Arguments:
        tau: temperature of the sigmoid, in units of score, positive.
        rho: slope beyond delta, not negative.
        delta: where the linear part begins, positive; None: at 0.
        start: added to the sigmoid right of 0.
        offset: value at delta, from the right. Default: that from the left, start + sigmoid(delta /
            tau).

    Raises:
        TypeError: an argument is not a number.
        ValueError: tau or delta that is not positive, a negative rho, or a value that is not
            finite.

    Example:
        >>> import sodeep_fast
        >>> sodeep_fast.Sup(offset=1.44)
        Sup(tau=0.01, rho=100.0, delta=0.05, start=0.5, offset=1.44)
    """

    tau: float = 0.01
    rho: float = 100.0
    delta: float | None = 0.05
    start: float = 0.5
    offset: float | None = None

    def __post_init__(self) -> None:
        check_positive(self.tau, "tau")
        check_number(self.rho, "rho", least=0)
        if self.delta is not None:
            check_positive(self.delta, "delta")
        check_number(self.start, "start")
        if self.offset is not None:
            check_number(self.offset, "offset")

    def resolved(self) -> tuple[float, float]:
        """Returns delta and offset as numbers."""
        delta = 0.0 if self.delta is None else self.delta
        if self.offset is not None:
            return delta, self.offset
        return delta, self.start + 1 / (1 + math.exp(-delta / self.tau))


@dataclass(frozen=True)
class Step:
    """Exact counting: H(x) is 1 for x > 0, 0 for x < 0 and `at_zero` for a tie; no gradient.

    Arguments:
        at_zero: the value of a tie. Default: 1.

    Raises:
        TypeError: at_zero is not a number.
        ValueError: at_zero is not finite.

    Example:
        >>> import sodeep_fast
        >>> sodeep_fast.Step(at_zero=0.5)
        Step(at_zero=0.5)
    """

    at_zero: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.at_zero, "at_zero")


@dataclass(frozen=True)
class Ramp:
    """Counting with linear slopes for a gradient: that of HAPPIER's H-rank.

    H(x) = leak x for x <= 0, min(1, beta x + gamma) for x > 0: for items more relevant than the
    target, which the loss should move ahead of it. Ramzi et al., ECCV 2022.

    Arguments:
        leak: slope left of 0, not negative.
        beta: slope right of 0, positive.
        gamma: value right of 0, at most 1.

    Raises:
        TypeError: an argument is not a number.
        ValueError: a negative leak, beta that is not positive, gamma above 1, or a value that is
            not finite.

    Example:
        >>> import sodeep_fast
        >>> sodeep_fast.Ramp()
        Ramp(leak=10.0, beta=25.0, gamma=0.5)
    """

    leak: float = 10.0
    beta: float = 25.0
    gamma: float = 0.5

    def __post_init__(self) -> None:
        check_number(self.leak, "leak", least=0)
        check_positive(self.beta, "beta")
        check_number(self.gamma, "gamma")
        if self.gamma > 1:
            raise ValueError(f"gamma must be at most 1, got {self.gamma}")


Simple = Sigmoid | Sup | Step | Ramp
# For isinstance: the compiler of torch 2.10 does not support it with unions.
SIMPLE = (Sigmoid, Sup, Step, Ramp)


@dataclass(frozen=True)
class ByLevel:
    """Different comparators for items of a lower, the same and a higher level than the target.

    The default is SupAP's: irrelevant items are counted by `Sup`, and positives exactly.

    Arguments:
        lower: for items less relevant than the target. Default: `Sup()`.
        same: for equally relevant items. Default: `Step()`.
        higher: for items more relevant. Default: `Step()`.

    Raises:
        TypeError: an argument is not a `Sigmoid`, `Sup`, `Step` or `Ramp`.

    Example:
        >>> import sodeep_fast
        >>> sodeep_fast.ByLevel(lower=sodeep_fast.Sigmoid(0.1)).same
        Step(at_zero=1.0)
    """

    lower: Simple = field(default_factory=Sup)
    same: Simple = field(default_factory=Step)
    higher: Simple = field(default_factory=Step)

    def __post_init__(self) -> None:
        for name in ("lower", "same", "higher"):
            value = getattr(self, name)
            if not isinstance(value, SIMPLE):
                raise TypeError(
                    f"{name} must be a Sigmoid, Sup, Step or Ramp, got {type(value).__name__}"
                )


Comparator = Simple | ByLevel
# Made here, as the compiler cannot trace the factories of its defaults.
SUP_AP = ByLevel()


def check_comparator(comparator: object) -> None:
    """Raises unless `comparator` is one."""
    if not isinstance(comparator, (*SIMPLE, ByLevel)):
        raise TypeError(
            "comparator must be a Sigmoid, Sup, Step, Ramp or ByLevel, "
            f"got {type(comparator).__name__}"
        )


def bounded_by(comparator: Simple | None) -> ByLevel:
    """Returns SupAP's comparator, with `comparator` instead of `Sup()` for less relevant items if
    given.

    Raises:
        TypeError: `comparator` is not a comparator, or is a `ByLevel`.
    """
    if not (comparator is None or isinstance(comparator, SIMPLE)):
        raise TypeError(
            f"comparator must be a Sigmoid, Sup, Step or Ramp, got {type(comparator).__name__}"
        )
    return SUP_AP if comparator is None else ByLevel(comparator, SUP_AP.same, SUP_AP.higher)


def by_level(comparator: Comparator) -> tuple[Simple, Simple, Simple]:
    """Returns the comparators for items of a lower, the same and a higher level."""
    if isinstance(comparator, ByLevel):
        return comparator.lower, comparator.same, comparator.higher
    return comparator, comparator, comparator


def encode(comparator: Comparator) -> tuple[list[int], list[float]]:
    """Returns the arguments for the operators: three kinds, and five parameters for each."""
    kinds: list[int] = []
    parameters: list[float] = []
    for simple in by_level(comparator):
        if isinstance(simple, Sigmoid):
            kinds.append(0)
            values = [simple.tau]
        elif isinstance(simple, Sup):
            kinds.append(1)
            delta, offset = simple.resolved()
            values = [simple.tau, simple.rho, delta, simple.start, offset]
        elif isinstance(simple, Step):
            kinds.append(2)
            values = [simple.at_zero]
        else:
            kinds.append(3)
            values = [simple.leak, simple.beta, simple.gamma]
        parameters += [float(value) for value in values] + [0.0] * (5 - len(values))
    return kinds, parameters
