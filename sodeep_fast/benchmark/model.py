"""The parts of a benchmark: operators, the providers that compute them, cases and rows."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

Shape = tuple[int, int]
Function = Callable[[Tensor], Tensor]

MODES = ("forward", "backward", "both")


class Unavailable(Exception):
    """A provider cannot run here; the message says why and what would help."""


class WrongResult(Exception):
    """A provider does not compute the operator; its speed is meaningless."""


@dataclass(frozen=True)
class Provider:
    """One way to compute an operator.

    Arguments:
        name: what rows and the command line call it.
        build: takes a device name and returns the function to time; raises `Unavailable`.
        check: takes scores, value, incoming gradient and gradient of the scores (the last two None
            for one that is not differentiable); raises `WrongResult` unless they are right.
        seconds: rough time of forward + backward at (rows, n), only to skip what would take long.
        memory: rough peak bytes of forward + backward at (rows, n), only to skip what is too large.
        modes: the modes it appears in. Default: all.
        differentiable: False for one that has only a forward, which is then shown in every mode.
        note: what a reader of its rows should know.
    """

    name: str
    build: Callable[[str], Function]
    check: Callable[[Tensor, Tensor, Tensor | None, Tensor | None], None]
    seconds: Callable[[int, int], float]
    memory: Callable[[int, int], float]
    modes: tuple[str, ...] = MODES
    differentiable: bool = True
    note: str = ""


@dataclass(frozen=True)
class Operator:
    """An operator's benchmark: its inputs, its shapes and its providers.

    Arguments:
        name: the operator.
        providers: the ways to compute it, in the order of a table.
        ours: the provider that ratios are taken against.
        shapes: (rows, n) of the full run.
        quick_shapes: (rows, n) of the quick run.
        quick_memory_shapes: (rows, n) at which the quick run measures memory.
        make_scores: takes a shape and a device, returns the float32 input.
        min_bytes: takes a mode and a shape; what any implementation must read and write.
        route: takes a backend and a method, returns our function by these two.
        value_shape: takes (rows, n), returns the shape of the value. Default: the same.
    """

    name: str
    providers: dict[str, Provider]
    ours: str
    shapes: tuple[Shape, ...]
    quick_shapes: tuple[Shape, ...]
    quick_memory_shapes: tuple[Shape, ...]
    make_scores: Callable[[Shape, str], Tensor]
    min_bytes: Callable[[str, Shape], float]
    route: Callable[[str, str], Function]
    value_shape: Callable[[Shape], tuple[int, ...]] = lambda shape: shape


@dataclass(frozen=True)
class Case:
    """One thing to time: a provider, a mode ("forward", "backward" or "both") and a shape."""

    provider: str
    mode: str
    shape: Shape


@dataclass
class Row:
    """The result of a case. Times are in seconds per call, memory in bytes.

    `status` is "ok", "missing" (the provider cannot run here), "skipped" (too long or too large),
    "refused" (its result is wrong) or "failed" (it raised); only "ok" rows carry numbers.
    `slowdown` is its median over that of our default provider in the same rounds. `launches` is the
    number of GPU kernels per call. `bandwidth` is the bytes that must move over the time, and
    `share` its part of the machine's copy bandwidth. `pairs` is all pairs of a row over the time,
    whether or not the provider visits them. `flops` is the floating-point operations of the
    equations over the time, and `flop_share` their part of the machine's. `expected` is the time
    expected from counts of both.
    """

    operator: str
    provider: str
    mode: str
    rows: int
    n: int
    status: str = "ok"
    note: str = ""
    median: float | None = None
    q20: float | None = None
    q80: float | None = None
    rounds: int = 0
    slowdown: float | None = None
    peak_bytes: int | None = None
    launches: int | None = None
    pairs: float | None = None
    share: float | None = None
    bandwidth: float | None = None
    flops: float | None = None
    flop_share: float | None = None
    expected: float | None = None
    samples: list[float] = field(default_factory=list, repr=False)

    @property
    def shape(self) -> Shape:
        """The (rows, n) of the input."""
        return self.rows, self.n
