"""Rough costs of providers by (rows, n), of the right order on one core or two.

They only decide what a run skips as too slow or too large.
"""

from collections.abc import Callable

Cost = Callable[[int, int], float]


def per_element(amount: float) -> Cost:
    """Returns a cost of `amount` per element."""
    return lambda rows, n: amount * rows * n


def per_pair(amount: float) -> Cost:
    """Returns a cost of `amount` per pair of elements of a row."""
    return lambda rows, n: amount * rows * n * n
