"""Average precision from counts; Smooth-AP, SupAP and the exact value count differently."""

from torch import Tensor

from sodeep_fast._by_query import mean_by_query, sum_levels
from sodeep_fast._checks import check_labels, check_matrix
from sodeep_fast.comparators import Comparator
from sodeep_fast.ops._row_values import has_kernel
from sodeep_fast.ops.graded_precision import graded_precision
from sodeep_fast.ops.rank_counts import rank_counts


def counted_precision(
    scores: Tensor, labels: Tensor, comparator: Comparator, mask: Tensor | None
) -> Tensor:
    """Returns the average precision of every query with ranks by `comparator`."""
    check_matrix(scores, "(B, M)")
    check_labels(labels, scores)
    labels = labels.bool()
    if has_kernel(scores, "graded_precision"):
        return graded_precision(scores, labels, comparator, mask=mask, soft=True)
    counts, rows, _ = rank_counts(scores, labels, comparator=comparator, mask=mask)
    precision = (1 + counts[:, 1]) / (1 + sum_levels(counts))
    return mean_by_query(precision, rows, len(scores))
