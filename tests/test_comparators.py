"""The comparators: their equations at points, their arguments, and what they refuse."""

import math

import pytest
import torch

from sodeep_fast import ByLevel, Ramp, Sigmoid, Step, Sup
from sodeep_fast.reference.rank_counts import compare


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("comparator", "x", "expected"),
    [
        (Sigmoid(0.5), -1.0, sigmoid(-2)),
        (Sigmoid(0.5), 0.0, 0.5),
        (Step(), 0.0, 1.0),
        (Step(0.5), 0.0, 0.5),
        (Step(), 1e-300, 1.0),
        (Step(), -1e-300, 0.0),
        # The paper's: a jump of 1/2 at 0, continuous at delta, slope rho beyond.
        (Sup(), -0.01, sigmoid(-1)),
        (Sup(), 0.0, 0.5),
        (Sup(), 0.01, 0.5 + sigmoid(1)),
        (Sup(), 0.05, 0.5 + sigmoid(5)),
        (Sup(), 0.15, 0.5 + sigmoid(5) + 10),
        (Sup(offset=1.44), 0.15, 11.44),
        (Sup(start=0.0, offset=1.0), 0.01, sigmoid(1)),
        (Sup(start=0.0, offset=1.0), 0.06, 2.0),
        (Sup(offset=6.44), 0.15, 100 * 0.15 + 1.44),
        (Sup(delta=None, offset=1.44), 0.01, 2.44),
        (Sup(delta=None), 0.01, 2.0),
        # HAPPIER's: a leak left of 0, a jump to gamma, 1 from (1 - gamma) / beta = 0.02 on.
        (Ramp(), -0.3, -3.0),
        (Ramp(), 0.0, 0.0),
        (Ramp(), 0.01, 0.75),
        (Ramp(), 0.02, 1.0),
        (Ramp(), 0.5, 1.0),
        (Ramp(leak=0.0, beta=2.0, gamma=-1.0), 0.25, -0.5),
        (Ramp(gamma=1.0), 1e-300, 1.0),
        (Sup(tau=1.0, rho=2.0, delta=3.0, start=0.25), 5.0, 0.25 + sigmoid(3) + 4),
    ],
)
def test_values(comparator: Sigmoid | Sup | Step | Ramp, x: float, expected: float) -> None:
    value = compare(comparator, torch.tensor(x, dtype=torch.float64))
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_sup_is_continuous_at_delta_unless_told_otherwise() -> None:
    delta = torch.tensor([0.05, 0.05 + 1e-12], dtype=torch.float64)
    left, right = compare(Sup(), delta)
    assert right.item() == pytest.approx(left.item(), abs=1e-9)
    left, right = compare(Sup(offset=1.44), delta)
    assert (right - left).item() == pytest.approx(-0.0533, abs=1e-4)


def test_they_are_values() -> None:
    assert Sup(offset=1.44) == Sup(offset=1.44)
    assert len({Sigmoid(), Sigmoid(0.01), Step(), ByLevel(), ByLevel(Sup())}) == 3
    with pytest.raises(AttributeError):
        Sigmoid().tau = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Sigmoid(0), ValueError, "tau must be positive and finite, got 0"),
        (lambda: Sigmoid("1"), TypeError, "tau must be a number, got str"),
        (lambda: Sup(tau=-1.0), ValueError, "tau must be positive and finite, got -1.0"),
        (lambda: Sup(rho=-1.0), ValueError, "rho must be at least 0 and finite, got -1.0"),
        (lambda: Sup(delta=0.0), ValueError, "delta must be positive and finite, got 0.0"),
        (lambda: Sup(start=math.nan), ValueError, "start must be finite, got nan"),
        (lambda: Sup(offset=True), TypeError, "offset must be a number, got bool"),
        (lambda: Step(math.inf), ValueError, "at_zero must be finite, got inf"),
        (lambda: Ramp(leak=-1.0), ValueError, "leak must be at least 0 and finite, got -1.0"),
        (lambda: Ramp(beta=0.0), ValueError, "beta must be positive and finite, got 0.0"),
        (lambda: Ramp(gamma=1.5), ValueError, "gamma must be at most 1, got 1.5"),
        (lambda: Ramp(gamma="1"), TypeError, "gamma must be a number, got str"),
        (
            lambda: ByLevel(same=1.0),
            TypeError,
            "same must be a Sigmoid, Sup, Step or Ramp, got float",
        ),
        (lambda: ByLevel(ByLevel()), TypeError, "lower must be .*, got ByLevel"),
    ],
)
def test_bad_input(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()
