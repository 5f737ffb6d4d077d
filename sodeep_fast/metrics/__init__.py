"""The exact metrics that the losses approximate, one value per row.

Rows are queries (or groups); transpose the tensors of a (d, C) multi-label problem. Where a metric
is undefined, such as the average precision of a query without a positive, it is NaN;
`torch.nanmean` of the result leaves those rows out. All sums are in float64, on the device of the
scores, without a gradient.
"""

from sodeep_fast.metrics.binary import average_precision, map_at_r, r_precision, recall_at_k
from sodeep_fast.metrics.correlation import spearman
from sodeep_fast.metrics.graded import h_ap, ndcg

__all__ = [
    "average_precision",
    "h_ap",
    "map_at_r",
    "ndcg",
    "r_precision",
    "recall_at_k",
    "spearman",
]
