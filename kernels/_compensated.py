"""Sums that carry their own rounding error."""

import triton
import triton.language as tl

# Tiles summed before they are added to the compensated total, so that float32 sums stay short.
FLUSH = tl.constexpr(8)


@triton.jit
def two_sum(total, error, term):
    """Adds a term to a total, and the rounding error to its error (Knuth's two-sum)."""
    new = total + term
    kept = new - term
    return new, error + ((total - kept) + (term - (new - kept)))


@triton.jit
def collect(total, error, axis: tl.constexpr):
    """Adds totals along an axis, which keeps length 1; their errors are added last."""
    return tl.sum(total, axis=axis, keep_dims=True) + tl.sum(error, axis=axis, keep_dims=True)
