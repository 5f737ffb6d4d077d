"""A weighted sum of losses that share one pass over the similarities."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sodeep_fast._checks import check_numbers
from sodeep_fast._compiler import outside_of_graphs
from sodeep_fast.ops._pullback import extend, follows, value_and_pullback
from sodeep_fast.retrieval.gallery import Gallery
from sodeep_fast.retrieval.loss import RetrievalLoss


class CombinedLoss(RetrievalLoss):
    """A weighted sum of losses of embeddings that computes the similarities once.

    Arguments:
        losses: the losses. Of a `RetrievalLoss`, only the metric and `exclude_query` matter: this
            loss decides how similarities are computed. Any other module is called with the
            embeddings and their labels.
        weights: a number for each. Default: 1 each.
        normalize, similarity, chunk_size, gather: as in `RetrievalLoss`.

    Raises:
        TypeError: losses or weights that are not a sequence, a loss that is not a module, or a
            weight that is not a number.
        ValueError: no `RetrievalLoss`, one with `simix=True`, a wrong number of weights, or a
            weight that is not finite.

    Example:
        >>> import sodeep_fast
        >>> loss = sodeep_fast.CombinedLoss(
        ...     [sodeep_fast.SmoothAPLoss(), sodeep_fast.RecallAtKLoss()], weights=[1.0, 0.5]
        ... )
    """

    def __init__(
        self,
        losses: Sequence[nn.Module] | nn.ModuleList,
        weights: Sequence[float] | None = None,
        *,
        normalize: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(normalize, **options)
        if not isinstance(losses, (Sequence, nn.ModuleList)):
            raise TypeError(
                f"losses must be a sequence of modules, such as a list, got {type(losses).__name__}"
            )
        weights = [1.0] * len(losses) if weights is None else weights
        check_numbers(weights, "weights", count=len(losses))
        flat: list[tuple[nn.Module, float]] = []
        for loss, weight in zip(losses, weights, strict=True):
            flat += _parts(loss, weight)
        self.losses = nn.ModuleList(loss for loss, _ in flat)
        self.weights = [weight for _, weight in flat]
        if len(self._ranking()) == 0:
            raise ValueError("losses must hold at least one RetrievalLoss, got none")
        self.num_terms = sum(loss.num_terms for loss, _ in self._ranking())

    def _ranking(self) -> list[tuple[RetrievalLoss, float]]:
        pairs = zip(self.losses, self.weights, strict=True)
        return [(loss, weight) for loss, weight in pairs if isinstance(loss, RetrievalLoss)]

    @outside_of_graphs
    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Returns the loss; arguments as in `RetrievalLoss.forward`."""
        total = super().forward(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        for loss, weight in zip(self.losses, self.weights, strict=True):
            if not isinstance(loss, RetrievalLoss) and not self._shares_vectors(loss):
                total = total + weight * loss(embeddings, labels)
        return total

    def _loss_of_vectors(
        self, vectors: Tensor, embeddings: Tensor, labels: Tensor, *others: Any
    ) -> Tensor:
        total = super()._loss_of_vectors(vectors, embeddings, labels, *others)
        # A similarity allows second derivatives, for which such a loss needs a single chunk.
        chunk_size = self.chunk_size if self.similarity is None else None
        for loss, weight in zip(self.losses, self.weights, strict=True):
            if self._shares_vectors(loss):
                value = loss.of_vectors(vectors, labels, chunk_size)  # type: ignore[operator]
                total = total + weight * value
        return total

    def _shares_vectors(self, loss: nn.Module) -> bool:
        """Returns whether a loss without pairs starts from the same normalized embeddings."""
        return hasattr(loss, "of_vectors") and bool(loss.normalize) == self.normalize

    def wants_query(self) -> bool:
        """Returns whether any of the losses needs to know which item is the query itself."""
        return any(loss.wants_query() for loss, _ in self._ranking())

    def block_sums(self, scores: Tensor, gallery: Gallery, rows: slice) -> Tensor:
        """Returns the weighted sums of all losses."""
        parts = [
            (partial(loss.block_sums, gallery=gallery, rows=rows), weight)
            for loss, weight in self._ranking()
        ]
        if follows(scores):
            return _sums_and_pullback(parts, scores)
        return torch.cat([weight * sums(scores) for sums, weight in parts])

    def block_counts(self, scores: Tensor, gallery: Gallery, rows: slice) -> Tensor:
        """Returns the counts of all losses."""
        return torch.cat([loss.block_counts(scores, gallery, rows) for loss, _ in self._ranking()])

    def extra_repr(self) -> str:
        """Returns weights and options."""
        return f"weights={self.weights}, {super().extra_repr()}"


def _sums_and_pullback(
    parts: Sequence[tuple[Callable[[Tensor], Tensor], float]], scores: Tensor
) -> Tensor:
    """Returns the weighted sums, each with its own way back to the scores."""
    found = [(*value_and_pullback(function, scores), weight) for function, weight in parts]
    sums = [weight * value for value, _, weight in found]

    def pull(grad: Tensor) -> Tensor:
        grads = grad.split([len(each) for each in sums])
        total = None
        for (_, pull_one, weight), own in zip(found, grads, strict=True):
            part = pull_one(weight * own)
            if part is not None:
                total = part if total is None else total + part
        return torch.zeros_like(scores) if total is None else total

    return extend(torch.cat(sums), pull)


def _parts(loss: nn.Module, weight: float) -> list[tuple[nn.Module, float]]:
    """Returns the losses that a loss consists of, and their weights."""
    if not isinstance(loss, nn.Module):
        raise TypeError(f"losses must be modules, got {type(loss).__name__}")
    if isinstance(loss, CombinedLoss):
        return [(each, weight * w) for each, w in zip(loss.losses, loss.weights, strict=True)]
    if getattr(loss, "simix", False):
        raise ValueError("losses must see one batch, and a loss with simix=True has its own")
    return [(loss, weight)]
