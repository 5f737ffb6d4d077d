"""Operators check their own arguments, as exported graphs call them directly."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.kernels

SCORES = torch.linspace(-1, 1, 600).view(2, 300)
NAN, INF = float("nan"), float("inf")
# Of Sigmoid(0.1) and Step(): kinds, and five parameters of each.
KINDS, PARAMETERS = [0, 2, 2], [0.1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("method", ["auto", "direct", "linear"])
@pytest.mark.parametrize("lam", [0.0, -1.0, NAN, INF])
def test_soft_rank_needs_a_positive_lam(lam: float, method: str) -> None:
    with pytest.raises(RuntimeError, match="lam must be positive and finite"):
        torch.ops.sodeep_fast.soft_rank(SCORES, None, lam, False, method)


@pytest.mark.parametrize("mask", [torch.full((2, 300), 255, dtype=torch.uint8), SCORES * 255])
def test_masks_are_bool(mask: torch.Tensor) -> None:
    for method in ("direct", "linear"):
        with pytest.raises(RuntimeError, match="mask must be bool"):
            torch.ops.sodeep_fast.soft_rank(SCORES, mask, 10.0, False, method)
        with pytest.raises(RuntimeError, match="mask must be bool"):
            torch.ops.sodeep_fast.soft_rank_backward(SCORES, SCORES, mask, 10.0, False, method)
    with pytest.raises(RuntimeError, match="mask must be bool"):
        torch.ops.sodeep_fast.hard_rank(SCORES, mask, False, "average")


def test_sizes_are_those_of_the_scores() -> None:
    mask = torch.ones(2, 299, dtype=torch.bool)
    with pytest.raises(RuntimeError, match="mask and scores differ in size"):
        torch.ops.sodeep_fast.soft_rank(SCORES, mask, 10.0, False, "auto")
    with pytest.raises(RuntimeError, match="mask and scores differ in size"):
        torch.ops.sodeep_fast.hard_rank(SCORES, mask, False, "average")
    with pytest.raises(RuntimeError, match="gradient and scores differ in size"):
        torch.ops.sodeep_fast.soft_rank_backward(SCORES[:, 1:], SCORES, None, 10.0, False, "linear")


def test_scores_have_a_dimension() -> None:
    with pytest.raises(RuntimeError, match="scores must have a dimension"):
        torch.ops.sodeep_fast.soft_rank(torch.tensor(1.0), None, 10.0, False, "auto")
    with pytest.raises(RuntimeError, match="scores must have a dimension"):
        torch.ops.sodeep_fast.hard_rank(torch.tensor(1.0), None, False, "average")


def count(kinds: Sequence[int], parameters: Sequence[float], method: str) -> Any:
    levels = torch.zeros(2, 300, dtype=torch.uint8)
    levels[:, :40] = 1
    columns, offsets = torch.arange(40).repeat(2), torch.tensor([0, 40, 80])
    return torch.ops.sodeep_fast.rank_counts(
        SCORES, levels, columns, offsets, 2, kinds, parameters, method
    )


@pytest.mark.parametrize("method", ["auto", "direct", "linear"])
@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        *((kind, [NAN, 0, 0, 0, 0], "must be finite") for kind in range(4)),
        *((kind, [tau, 0, 0, 0, 0], "tau must be") for kind in (0, 1) for tau in (0.0, -1.0)),
        (1, [0.1, 1.0, -0.5, 0.5, 1.5], "delta not negative"),
        (1, [0.1, INF, 0.5, 0.5, 1.5], "must be finite"),
        (3, [1.0, -1.0, 0.5, 0, 0], "must rise"),
        (3, [1.0, 1.0, 1.5, 0, 0], "must rise"),
    ],
    ids=str,
)
def test_comparators_have_their_parameters(
    kind: int, parameters: list[float], message: str, method: str
) -> None:
    assert count(KINDS, PARAMETERS, method).shape == (80, 2)
    with pytest.raises(RuntimeError, match=message):
        count([kind, *KINDS[1:]], [*parameters, *PARAMETERS[5:]], method)
