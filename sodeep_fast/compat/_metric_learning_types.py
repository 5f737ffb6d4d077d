"""The classes of `compat.metric_learning`; needs pytorch-metric-learning."""

from typing import Any

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction, CrossBatchMemory
from torch import Tensor, nn

from sodeep_fast._checks import check_real, check_scores


class MetricLoss(BaseMetricLossFunction):
    """A loss of embeddings as a loss of that library, without reducer, distance or regularizer."""

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
    """The memory around a loss that is not on that library's list, for hierarchies too."""

    def __init__(
        self,
        loss: nn.Module,
        embedding_size: int,
        memory_size: int,
        miner: nn.Module | None,
        levels: int | None,
        **options: Any,
    ) -> None:
        self.levels = levels
        super().__init__(loss, embedding_size, memory_size, miner, **options)

    @classmethod
    def check_loss_support(cls, loss_name: str) -> None:
        """Accepts every loss: ours rank any number of references."""

    def reset_queue(self) -> None:
        """Empties the memory."""
        super().reset_queue()
        if self.levels is not None:
            size = self.memory_size, self.levels
            self.register_buffer("label_memory", torch.zeros(size, dtype=torch.int64))

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None = None,
        enqueue_mask: Tensor | None = None,
    ) -> Tensor:
        """Returns the loss of a batch, and adds the batch to the memory."""
        self._check(embeddings, labels)
        if enqueue_mask is None and len(embeddings) > self.memory_size:
            raise ValueError(
                f"embeddings must be at most {self.memory_size}, the memory_size, "
                f"got {len(embeddings)}"
            )
        value: Tensor = super().forward(embeddings, labels, indices_tuple, enqueue_mask)
        return value

    def _check(self, embeddings: Tensor, labels: Tensor) -> None:
        check_scores(embeddings, "embeddings")
        if embeddings.dim() != 2 or embeddings.shape[1] != self.embedding_size:
            raise ValueError(
                f"embeddings must have shape (B, {self.embedding_size}), "
                f"got {tuple(embeddings.shape)}"
            )
        check_real(labels, "labels")
        shape = (len(embeddings),) if self.levels is None else (len(embeddings), self.levels)
        if labels.shape != shape:
            raise ValueError(
                f"labels must have shape {shape} with levels={self.levels}, "
                f"got {tuple(labels.shape)}"
            )

    def create_indices_tuple(
        self, embeddings: Tensor, labels: Tensor, items: Tensor, item_labels: Tensor, *rest: Any
    ) -> Any:
        """Returns the pairs that take part; positives are those of the finest label."""
        if self.levels is not None:
            labels, item_labels = labels[:, 0], item_labels[:, 0]
        return super().create_indices_tuple(embeddings, labels, items, item_labels, *rest)
