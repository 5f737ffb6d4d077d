"""Names of other programs, for code that changes nothing but its imports.

`sodeep_fast.compat.sodeep` is SoDeep's; `sodeep_fast.compat.metric_learning`, which is imported by
that name, is for programs that have pytorch-metric-learning.
"""

from sodeep_fast.compat import sodeep as sodeep
