"""Sums that carry their own rounding error."""

import triton
import triton.language as tl

# Tiles summed before they are added to the compensated total: what one float32 sum sees is short.
FLUSH = tl.constexpr(8)


@triton.jit
def two_sum(total, error, term):
    """Adds a term to a total and what rounding lost to its error (Knuth's two-sum)."""
    new = total + term
    kept = new - term
    return new, error + ((total - kept) + (term - (new - kept)))


@triton.jit
def collect(total, error, axis: tl.constexpr):
    """Adds totals along an axis, which stays with length 1, and their errors last."""
    return tl.sum(total, axis=axis, keep_dims=True) + tl.sum(error, axis=axis, keep_dims=True)
