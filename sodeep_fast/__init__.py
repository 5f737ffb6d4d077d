"""Fast differentiable ranking for PyTorch."""

from sodeep_fast import _native as _native
from sodeep_fast._version import __version__
from sodeep_fast.ops.hard_rank import hard_rank
from sodeep_fast.ops.soft_rank import soft_rank

__all__ = [
    "__version__",
    "hard_rank",
    "soft_rank",
]
