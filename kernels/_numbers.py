"""Numbers that several kernels compute with."""

import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
# sigmoid(-60 log 2) = 2^-60 is 0 to rounding, and products of two denominators stay finite.
SATURATED = tl.constexpr(60.0)
