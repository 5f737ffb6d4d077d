"""What an item adds to a target's count, for Triton: see `sodeep_fast.comparators`."""

import struct
from collections.abc import Sequence

import triton
import triton.language as tl

from sodeep_fast.kernels._numbers import LOG2_E, SATURATED

# Kinds, as sodeep_fast.comparators.encode numbers them.
SUP = tl.constexpr(1)
STEP = tl.constexpr(2)
RAMP = tl.constexpr(3)


@triton.jit
def _sigmoid(b_odds, TARGETS: tl.constexpr, ITEMS: tl.constexpr):
    """1 / (1 + odds); the two halves of a tile of items share their divisions."""
    b_halves = tl.reshape(1.0 + b_odds, [TARGETS, 1, 2, ITEMS // 2])
    b_a, b_b = tl.split(tl.permute(b_halves, [0, 1, 3, 2]))
    b_inverse = 1.0 / (b_a * b_b)
    b_halves = tl.permute(tl.join(b_b * b_inverse, b_a * b_inverse), [0, 1, 3, 2])
    return tl.reshape(b_halves, [TARGETS, 1, ITEMS])


@triton.jit
def _shape(b_x, b_odds, b_soft, comparator, KIND: tl.constexpr, ORDER: tl.constexpr):
    """H(x) or a derivative, from odds = exp(-x / tau) and soft = sigmoid(x / tau)."""
    inverse, rho, delta, start, offset = comparator
    if KIND == STEP:
        b_h = tl.zeros_like(b_x)
        if ORDER == 0:
            b_h = tl.where(b_x > 0, 1.0, tl.where(b_x < 0, b_h, offset))
        return b_h
    if KIND == RAMP:
        b_h = tl.zeros_like(b_x)
        if ORDER == 0:
            b_h = tl.where(b_x > delta, 1.0, tl.where(b_x > 0, rho * b_x + offset, start * b_x))
        if ORDER == 1:
            b_h = tl.where(b_x > delta, b_h, tl.where(b_x > 0, b_h + rho, start))
        return b_h
    b_h = b_soft
    if ORDER >= 1:
        b_h = inverse * (b_odds * b_soft * b_soft)
    if ORDER == 2:
        b_h = inverse * (b_h * ((b_odds - 1.0) * b_soft))
    if KIND == SUP:
        b_beyond = tl.zeros_like(b_x)
        if ORDER == 0:
            b_h = tl.where(b_x > 0, b_h + start, b_h)
            b_beyond = rho * (b_x - delta) + offset
        if ORDER == 1:
            b_beyond += rho
        b_h = tl.where(b_x > delta, b_beyond, b_h)
    return b_h


@triton.jit
def _numbers(bits, DTYPE: tl.constexpr):
    """One comparator's parameters: 1 / tau, rho, delta, start, offset; see `_parameters`."""
    zeros = tl.zeros([1, 1, 1], tl.int64)
    return (
        (zeros + bits[0]).to(tl.float64, bitcast=True).to(DTYPE),
        (zeros + bits[1]).to(tl.float64, bitcast=True).to(DTYPE),
        (zeros + bits[2]).to(tl.float64, bitcast=True).to(DTYPE),
        (zeros + bits[3]).to(tl.float64, bitcast=True).to(DTYPE),
        (zeros + bits[4]).to(tl.float64, bitcast=True).to(DTYPE),
    )


@triton.jit
def load_comparators(bits, COUNT: tl.constexpr, DTYPE: tl.constexpr):
    """Returns the comparators for items of a lower level than the target, the same, and a higher.

    Parameters are passed as integers with the bits of float64, since Triton passes a float in a
    tuple as float32. A single comparator is for all levels; of two, the second is for the same and
    higher levels.
    """
    second: tl.constexpr = COUNT // 2
    last: tl.constexpr = COUNT - 1
    return _numbers(bits[0], DTYPE), _numbers(bits[second], DTYPE), _numbers(bits[last], DTYPE)


@triton.jit
def _by_level(b_level, b_own, lower, same, higher, COUNT: tl.constexpr):
    """Picks by the levels of item and target, for COUNT different comparators."""
    b_value = higher
    if COUNT == 3:
        b_value = tl.where(b_level == b_own, same, b_value)
    if COUNT > 1:
        b_value = tl.where(b_level < b_own, lower, b_value)
    return b_value


@triton.jit
def compare(
    b_s, b_level, b_t, b_own, comparators, KINDS: tl.constexpr, ORDER: tl.constexpr,
    TARGETS: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """H(s - t), H'(s - t) or H''(s - t), [TARGETS, 1, ITEMS]; comparators from load_comparators."""
    count: tl.constexpr = len(KINDS)
    second: tl.constexpr = count // 2
    last: tl.constexpr = count - 1
    lower, same, higher = comparators
    b_rate = lower[0]
    if KINDS[second] != STEP or KINDS[last] != STEP:
        b_rate = _by_level(b_level, b_own, lower[0], same[0], higher[0], count)
    b_minus_x = (2 * LOG2_E * b_rate) * (0.5 * b_t - 0.5 * b_s)
    b_odds = tl.exp2(tl.minimum(b_minus_x, SATURATED))
    b_soft = _sigmoid(b_odds, TARGETS, ITEMS)
    b_x = b_s - b_t
    b_lower = _shape(b_x, b_odds, b_soft, lower, KINDS[0], ORDER)
    b_same = _shape(b_x, b_odds, b_soft, same, KINDS[second], ORDER)
    b_higher = _shape(b_x, b_odds, b_soft, higher, KINDS[last], ORDER)
    return _by_level(b_level, b_own, b_lower, b_same, b_higher, count)


def encode_comparators(
    kinds: Sequence[int], parameters: Sequence[float], largest: float
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Returns KINDS and comparators of `compare`, as few as possible.

    Arguments:
        kinds: (3,) as passed to the operators.
        parameters: five for each kind, as passed to the operators.
        largest: the largest number of the type that the kernels compute in.
    """
    comparators = []
    for which, kind in enumerate(kinds):
        values = parameters[5 * which : 5 * which + 5]
        tau, rho, delta, start, offset = _parameters(kind, values)
        # The kernels hold 2 / (tau log 2), which must stay finite.
        numbers = (min(1 / tau, largest / 4), rho, delta, start, offset)
        comparators.append((kind, struct.unpack("5q", struct.pack("5d", *numbers))))
    if comparators[1] == comparators[2]:
        comparators = comparators[: 1 if comparators[0] == comparators[1] else 2]
    return tuple(kind for kind, _ in comparators), tuple(bits for _, bits in comparators)


def _parameters(kind: int, values: Sequence[float]) -> Sequence[float]:
    """Returns tau, rho, delta, start and offset; other kinds pass their parameters in these."""
    # Comparators without a temperature may have any.
    if kind == STEP.value:
        return 1.0, 0.0, 0.0, 0.0, values[0]
    if kind == RAMP.value:
        leak, beta, gamma = values[:3]
        return 1.0, beta, (1 - gamma) / beta, leak, gamma
    return values
