"""From embeddings and labels to the scores that the retrieval losses rank."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit_length

from sodeep_fast._checks import check_real, check_scores


class RetrievalLoss(nn.Module):
    """A loss of embeddings, 1 - metric averaged over queries, each ranking the same items.

    The calling convention is pytorch-metric-learning's. Subclasses say what the metric is.

    Arguments:
        normalize: scale embeddings to unit length, so that scores are cosines. Default: True.
        exclude_query: leave every query out of its own gallery, as the metrics do, instead of
            ranking it as its own positive, as the papers' programs do. Default: False.
    """

    def __init__(self, normalize: bool = True, exclude_query: bool = False) -> None:
        super().__init__()
        self.normalize = normalize
        self.exclude_query = exclude_query

    def values(self, scores: Tensor, same: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the metric (B,) for scores (B, M) and which items are positives, (B, M) bool."""
        raise NotImplementedError  # abstract: every subclass has its own

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Returns the loss.

        Arguments:
            embeddings: (B, D) floating-point queries; float16 and bfloat16 are compared in float32,
                under autocast too.
            labels: (B,) class of each query, of any real dtype; classes may have any sizes and come
                in any order.
            indices_tuple: must be None; there are no pairs to choose, all are ranked.
            ref_emb: (M, D) items to rank. Default: the queries themselves.
            ref_labels: (M,) class of each item.

        Returns:
            A scalar. Queries without a positive are left out; if all are, 0, still with a graph.
            NaN where an embedding is not finite.

        Raises:
            TypeError: embeddings that are not floating point, or labels that are not real.
            ValueError: tensors whose shapes or devices do not fit, ref_emb without ref_labels or
                the reverse, no references, or an indices_tuple.
        """
        if indices_tuple is not None:
            raise ValueError("indices_tuple must be None: every item is ranked, none is mined")
        _check_embeddings(embeddings, labels, "embeddings", "labels")
        if (ref_emb is None) != (ref_labels is None):
            raise ValueError("ref_emb and ref_labels must be given together")
        itself = ref_emb is None or ref_emb is embeddings
        if ref_emb is None or ref_labels is None:
            items, item_labels = embeddings, labels
        else:
            items, item_labels = ref_emb, ref_labels
            _check_embeddings(items, item_labels, "ref_emb", "ref_labels")
            _check_references(items, embeddings)

        scores = self.similarities(embeddings, items)
        same = labels.unsqueeze(-1) == item_labels
        mask = None
        if itself and self.exclude_query:
            mask = ~torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
        losses = 1 - self.values(scores, same, mask)
        counted = (same if mask is None else same & mask).any(-1)
        return losses.masked_fill(~counted, 0).sum() / counted.sum().clamp(min=1)

    def similarities(self, queries: Tensor, items: Tensor) -> Tensor:
        """Returns the scores (B, M): inner products, of unit vectors if `normalize`."""
        wide = torch.promote_types(torch.promote_types(queries.dtype, items.dtype), torch.float32)
        with torch.autocast(queries.device.type, enabled=False):
            pair = [tensor.to(wide) for tensor in (queries, items)]
            if self.normalize:
                pair = [unit_length(tensor, dim=-1) for tensor in pair]
            return pair[0] @ pair[1].T

    def extra_repr(self) -> str:
        """Returns what both options are."""
        return f"normalize={self.normalize}, exclude_query={self.exclude_query}"


def _check_embeddings(embeddings: Tensor, labels: Tensor, name: str, labels_name: str) -> None:
    check_scores(embeddings, name)
    if embeddings.dim() != 2:
        raise ValueError(f"{name} must have shape (B, D), got {tuple(embeddings.shape)}")
    check_real(labels, labels_name)
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"{labels_name} must have shape ({len(embeddings)},), one for each of {name}, "
            f"got {tuple(labels.shape)}"
        )
    if labels.device != embeddings.device:
        raise ValueError(
            f"{labels_name} must be on the device of {name}, {embeddings.device}, "
            f"got {labels.device}"
        )


def _check_references(items: Tensor, embeddings: Tensor) -> None:
    if len(items) == 0:
        raise ValueError("ref_emb must hold at least one item, got none")
    if items.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"ref_emb must have shape (M, {embeddings.shape[1]}), got {tuple(items.shape)}"
        )
    if items.device != embeddings.device:
        raise ValueError(
            f"ref_emb must be on the device of embeddings, {embeddings.device}, got {items.device}"
        )
