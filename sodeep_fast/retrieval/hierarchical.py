"""Losses with graded relevance: the number of labels that an item shares with the query."""

from torch import Tensor

from sodeep_fast.ops.shared_labels import shared_labels
from sodeep_fast.retrieval.loss import RetrievalLoss


class HierarchicalLoss(RetrievalLoss):
    """A loss whose `values` takes levels, from 0 (nothing shared) to L (everything).

    Labels (B, L) are those of a hierarchy, finest first; labels (B,) are a hierarchy of one level.
    """

    def relation(self, labels: Tensor, item_labels: Tensor) -> Tensor:
        """Returns (B, M) how many labels are equal: bool for one, uint8 for several."""
        if labels.shape[1] == 1:
            return super().relation(labels, item_labels)
        if labels.shape[1] > 254:
            raise ValueError(f"labels must have at most 254 levels, got {labels.shape[1]}")
        return shared_labels(labels, item_labels)
