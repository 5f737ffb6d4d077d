"""The classes of `compat.metric_learning`, where pytorch-metric-learning is installed."""

from pytorch_metric_learning.losses import BaseMetricLossFunction, CrossBatchMemory
from torch import Tensor, nn


class MetricLoss(BaseMetricLossFunction):
    """A loss of embeddings as one of that library's, without reducer, distance or regularizer."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Returns the loss."""
        value: Tensor = self.loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        return value


class AnyLossMemory(CrossBatchMemory):
    """The memory around a loss that is not on that library's list."""

    @classmethod
    def check_loss_support(cls, loss_name: str) -> None:
        """Accepts every loss: ours rank references of any number."""
