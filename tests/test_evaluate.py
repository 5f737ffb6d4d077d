"""Judging a sorter: its error, by distribution too, and what its gradient is worth."""

import pytest

import sodeep_fast
from sodeep_fast import HandcraftedSorter
from sodeep_fast.training import (
    UNSEEN,
    error_by_distribution,
    gradient_use,
    mean_error,
)

pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")


def test_the_error_of_the_papers_table() -> None:
    # SoDeep's Table 1 has 0.0350.
    assert 0.034 <= mean_error(HandcraftedSorter(lam=10), 100) <= 0.036


def test_errors_by_distribution() -> None:
    errors = error_by_distribution(sodeep_fast.hard_rank, 20, vectors=50)
    assert {"released", "paper", "uniform", *UNSEEN} <= errors.keys()
    assert all(error < 1e-6 for name, error in errors.items())
    assert mean_error(sodeep_fast.hard_rank, 20, "cauchy", vectors=50) == errors["cauchy"]
    with pytest.raises(ValueError, match="dist must be None"):
        mean_error(sodeep_fast.hard_rank, 20, "gamma")


def test_the_use_of_gradients() -> None:
    smooth, sharp, flat = (
        gradient_use(sorter, 20, vectors=8)
        for sorter in (HandcraftedSorter(2), HandcraftedSorter(1e4), lambda s: s * 0 + 0.5)
    )
    assert smooth.share > 0.95
    assert smooth.cosine > 0.5
    assert smooth.reached > 0.99
    assert sharp.share < 0.5
    assert sharp.cosine < 0.3
    assert sharp.reached < 0.9
    assert (flat.share, flat.cosine) == (0, 0)


def test_bad_input() -> None:
    for measure in (mean_error, gradient_use):
        with pytest.raises(TypeError, match=r"got the class HandcraftedSorter"):
            measure(HandcraftedSorter, 10)
        with pytest.raises(ValueError, match="vectors must be at least 1, got 0"):
            measure(HandcraftedSorter(), 10, vectors=0)
        with pytest.raises(ValueError, match="length must be at least 1, got 0"):
            measure(HandcraftedSorter(), 0)
        with pytest.raises(TypeError, match="vectors must be an integer, got float"):
            measure(HandcraftedSorter(), 10, vectors=2.5)
    with pytest.raises(ValueError, match="have a gradient in the scores, got hard_rank, whose"):
        gradient_use(sodeep_fast.hard_rank, 10, vectors=2)
