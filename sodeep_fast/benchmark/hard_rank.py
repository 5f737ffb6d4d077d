"""The benchmark of `hard_rank`: the exact rank against sorting, which has only a forward."""

from collections.abc import Callable

from torch import Tensor

from sodeep_fast._checks import check_choice
from sodeep_fast.benchmark.checks import some_elements, some_rows
from sodeep_fast.benchmark.costs import Cost, per_element, per_pair
from sodeep_fast.benchmark.model import Function, Operator, Provider, Shape, WrongResult
from sodeep_fast.benchmark.soft_rank import build_sort, check_sort, make_scores
from sodeep_fast.ops.hard_rank import hard_rank
from sodeep_fast.reference.hard_rank import hard_rank as reference_hard_rank

SHAPES: tuple[Shape, ...] = ((512, 100), (64, 1000), (8, 10_000), (1, 1_000_000))


def min_bytes(mode: str, shape: Shape) -> float:
    """Returns the bytes that must move: scores are read and ranks written."""
    return 8 * shape[0] * shape[1]


def check(scores: Tensor, ranks: Tensor, grad: Tensor | None, grad_scores: Tensor | None) -> None:
    """Raises `WrongResult` unless a sample of ranks is exact, up to the order of equal scores."""
    index = some_elements(scores)
    for row in some_rows(len(scores)):
        own = scores[row, index, None]
        above, equal = (scores[row] > own).sum(-1), (scores[row] == own).sum(-1)
        off = (ranks[row, index].double() - (above + (equal + 1) / 2)).abs()
        if not bool((off <= (equal - 1) / 2).all()):  # nor where it is NaN
            raise WrongResult(f"a rank is off by {float(off.max()):.3g}")


def route(backend: str, method: str) -> Function:
    """Ours, which has one backend and one method."""
    check_choice(backend, ("auto",), "backend")
    check_choice(method, ("auto",), "method")
    return hard_rank


def build_argsort(device: str) -> Function:
    """The rank as it is usually written: the places of the sorted order, sorted."""
    return lambda scores: (scores.argsort(-1, descending=True).argsort(-1) + 1).float()


MEMORY = per_element(64)


def _provider(
    name: str,
    build: Callable[[str], Function],
    check: Callable[..., None] = check,
    memory: Cost = MEMORY,
    note: str = "",
) -> Provider:
    return Provider(
        name,
        build,
        check,
        seconds=per_element(4e-7),
        memory=memory,
        modes=("forward", "both"),
        differentiable=False,
        note=note,
    )


PROVIDERS = (
    _provider("ours", lambda device: hard_rank),
    _provider(
        "pairs",
        lambda device: reference_hard_rank,
        memory=per_pair(8),
        note="the equation",
    ),
    _provider("eager", build_argsort, note="argsort twice: ties by position"),
    _provider("torch.sort", build_sort, check_sort, note="the sorted scores alone"),
)

OPERATOR = Operator(
    name="hard_rank",
    providers={provider.name: provider for provider in PROVIDERS},
    ours="ours",
    shapes=SHAPES,
    quick_shapes=SHAPES[:2],
    quick_memory_shapes=(),
    make_scores=make_scores,
    min_bytes=min_bytes,
    route=route,
)
