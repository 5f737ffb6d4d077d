"""HAPPIER's clustering loss: it pulls embeddings to the proxy of their finest class."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sodeep_fast._checks import check_count, check_positive
from sodeep_fast._compiler import are_transforming
from sodeep_fast.ops._autograd import take
from sodeep_fast.retrieval._checks import check_batch
from sodeep_fast.retrieval.sweep import ChunkSize, check_chunk_size, evaluate
from sodeep_fast.retrieval.unit_length import unit_length


class ClusterLoss(nn.Module):
    """Cross entropy of the cosines with one learned proxy per class, divided by a temperature.

    Ramzi et al., HAPPIER, ECCV 2022, whose network has embeddings of unit length. The proxies are
    parameters: pass them to an optimizer (HAPPIER gives them a separate learning rate).
    The programs of HAPPIER and SupRank name them `weight`.

    Arguments:
        embedding_size: D.
        num_classes: C, at the finest level.
        temperature: positive. Default: 0.05, as in both programs.
        normalize, chunk_size, gather: as in `RetrievalLoss`; the proxies are the items.

    Raises:
        TypeError: sizes that are not integers, a temperature that is not a number.
        ValueError: sizes below 1, or a temperature that is not positive.

    Example:
        >>> import torch, sodeep_fast
        >>> loss = sodeep_fast.ClusterLoss(embedding_size=2, num_classes=2)
        >>> _ = loss.proxies.data.copy_(torch.eye(2))
        >>> loss(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([0, 0]))
        tensor(2.0091, grad_fn=<...>)
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        temperature: float = 0.05,
        normalize: bool = True,
        chunk_size: ChunkSize = "auto",
        gather: bool = False,
    ) -> None:
        super().__init__()
        check_count(embedding_size, "embedding_size")
        check_count(num_classes, "num_classes")
        check_positive(temperature, "temperature")
        bound = embedding_size**-0.5
        proxies = torch.empty(num_classes, embedding_size).uniform_(-bound, bound)
        self.proxies = nn.Parameter(proxies)
        self.temperature = temperature
        check_chunk_size(chunk_size)
        self.normalize = normalize
        self.chunk_size = chunk_size
        self.gather = gather

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: object = None,
        ref_emb: object = None,
        ref_labels: object = None,
    ) -> Tensor:
        """Returns the loss.

        Arguments:
            embeddings: (B, D) floating-point embeddings; half precision is compared in float32.
            labels: (B,) integer classes from 0 to C - 1, or (B, L), finest first: class indices,
                not one-hot.
            indices_tuple, ref_emb, ref_labels: not used; proxies take the place of other items.

        Returns:
            A scalar; 0, still with a graph, for an empty batch.

        Raises:
            TypeError: embeddings that are not floating point, or labels that are not integers.
            ValueError: tensors whose shapes or devices do not match, or labels out of range.
        """
        check_batch(embeddings, labels, "embeddings", "labels")
        finest = self._finest(embeddings, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            vectors = embeddings.to(self._common_dtype(embeddings))
            vectors = unit_length(vectors) if self.normalize else vectors
            return self._evaluate(vectors, finest, self.chunk_size)

    def of_vectors(self, vectors: Tensor, labels: Tensor, chunk_size: ChunkSize) -> Tensor:
        """Returns the loss of embeddings that are already normalized, if this loss normalizes."""
        return self._evaluate(vectors, self._finest(vectors, labels), chunk_size)

    def _finest(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Returns the classes, or raises unless they and the embeddings fit the proxies."""
        classes, size = self.proxies.shape
        if embeddings.shape[1] != size:
            raise ValueError(
                f"embeddings must have shape (B, {size}), got {tuple(embeddings.shape)}"
            )
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be integers, got {labels.dtype}")
        finest = (labels if labels.dim() == 1 else labels[:, 0]).long()
        low, high = finest.aminmax() if len(finest) > 0 else (0, 0)
        if low < 0 or high >= classes:
            wrong = int(low if low < 0 else high)
            raise ValueError(f"labels must be between 0 and {classes - 1}, got {wrong}")
        return finest

    def _evaluate(self, vectors: Tensor, finest: Tensor, chunk_size: ChunkSize) -> Tensor:
        wide = self._common_dtype(vectors)
        items = unit_length(self.proxies.to(wide)) / self.temperature
        return evaluate(vectors.to(wide), items, _Terms(finest, self.gather), chunk_size)

    def _common_dtype(self, vectors: Tensor) -> torch.dtype:
        """Returns the dtype in which vectors are compared with the proxies."""
        wide = torch.promote_types(vectors.dtype, self.proxies.dtype)
        return torch.promote_types(wide, torch.float32)

    def extra_repr(self) -> str:
        """Returns the sizes and options."""
        classes, size = self.proxies.shape
        return (
            f"embedding_size={size}, num_classes={classes}, temperature={self.temperature}, "
            f"normalize={self.normalize}"
        )


@dataclass(frozen=True)
class _Terms:
    """The cross entropies of one call: what `sweep` sums."""

    labels: Tensor
    gather: bool
    num_terms: int = 1

    def sums(self, logits: Tensor, rows: slice) -> Tensor:
        labels = self.labels[rows]
        if are_transforming():
            return functional.cross_entropy(logits, labels, reduction="sum").view(1)
        total: Tensor = _CrossEntropy.apply(logits, labels.unsqueeze(1))
        return total.view(1)

    def counts(self, logits: Tensor, rows: slice) -> Tensor:
        return torch.tensor([len(logits)], device=logits.device)


class _CrossEntropy(torch.autograd.Function):
    """The sum of cross entropies; the matrix it saves becomes the gradient in place."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        log_shares = logits.log_softmax(-1)
        ctx.save_for_backward(logits, labels, log_shares)
        return -log_shares.gather(-1, labels).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, labels, log_shares = ctx.saved_tensors
        missing = torch.full_like(labels, -1, dtype=logits.dtype)
        shares = None if torch.is_grad_enabled() else take(ctx, log_shares)
        if shares is None:  # a second derivative, or backward
            return logits.softmax(-1).scatter_add(-1, labels, missing) * grad, None
        return shares.exp_().scatter_add_(-1, labels, missing).mul_(grad), None
