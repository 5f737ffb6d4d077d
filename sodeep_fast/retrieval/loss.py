"""The base class of the losses of embeddings."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sodeep_fast._compiler import outside_of_graphs
from sodeep_fast.ops._levels import as_bytes
from sodeep_fast.ops._pullback import extend, follows
from sodeep_fast.ops.shared_labels import shared_labels
from sodeep_fast.retrieval._checks import check_batch, check_references
from sodeep_fast.retrieval.distributed import gather, processes
from sodeep_fast.retrieval.find_queries import find_queries, likeness_of
from sodeep_fast.retrieval.gallery import Gallery, Pairs
from sodeep_fast.retrieval.labels import by_level
from sodeep_fast.retrieval.sweep import ChunkSize, Similarity, check_chunk_size, evaluate
from sodeep_fast.retrieval.unit_length import unit_length


class RetrievalLoss(nn.Module):
    """A loss of embeddings: 1 - metric, averaged over queries that all rank the same items.

    The calling convention is that of pytorch-metric-learning. Subclasses define the metric in
    `values` and inherit these options. Under `torch.compile` it runs uncompiled, between two
    graphs.

    Arguments:
        normalize: scale embeddings to unit length, so that scores are cosines. Default: True.
        exclude_query: leave every query out of its own gallery, as the metrics do; the papers'
            programs keep it. Default: False. Among references, the query is found by its embedding
            and labels: see `ref_emb` in `forward`.
        similarity: any function (b, D), (M, D) -> (b, M) to score with, larger for more similar;
            parameters of a module get gradients. Default: the inner product.
        chunk_size: number of queries to score at a time, which sets the memory. "auto" scores as
            many as make a million scores on a CPU and 64 million on a GPU, at least 128. A number
            is a maximum, for less memory; on a CPU at most an eighth of "auto" is used, which may
            take up to twice the time. None scores all at once and keeps a matrix (B, M) of scores,
            and several more for the gradient; transforms of `torch.func` always do. Second
            derivatives need None, or a `similarity`. Default: "auto".
        gather: rank the items of all processes of torch.distributed, and average over all their
            queries, as one process with the whole batch would. Under DistributedDataParallel, which
            averages gradients, the gradients of the parameters are those of one process as well;
            those of the embeddings are larger by the number of processes. Default: False.

    Raises:
        TypeError: a chunk_size that is not an integer, or a similarity that is not callable.
        ValueError: a chunk_size below 1.
    """

    # Whether a query that is in its own gallery is a positive.
    query_is_positive = True
    num_terms = 1

    def __init__(
        self,
        normalize: bool = True,
        exclude_query: bool = False,
        *,
        similarity: Similarity | None = None,
        chunk_size: ChunkSize = "auto",
        gather: bool = False,
    ) -> None:
        super().__init__()
        if similarity is not None and not callable(similarity):
            raise TypeError(
                "similarity must be a function (b, D), (M, D) -> (b, M) or None, "
                f"got {type(similarity).__name__}"
            )
        check_chunk_size(chunk_size)
        self.normalize = normalize
        self.exclude_query = exclude_query
        self.similarity = similarity
        self.chunk_size = chunk_size
        self.gather = gather

    def values(self, scores: Tensor, relation: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the metric (B,) of scores (B, M), `relation` and a mask (B, M) bool."""
        # Abstract: every subclass has its own.
        raise NotImplementedError(
            f"{type(self).__name__} has no metric of its own: take a subclass, such as "
            "SmoothAPLoss, or write one with a method `values`"
        )

    def relation(self, labels: Tensor, item_labels: Tensor) -> Tensor:
        """Returns (B, M) bool, True for items of the same finest label; labels are (B, L)."""
        return shared_labels(labels[:, :1], item_labels[:, :1])

    def augment(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what to use instead; `embeddings` have unit length if normalized."""
        return embeddings, labels

    @outside_of_graphs
    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Returns the loss.

        Arguments:
            embeddings: (B, D) floating-point queries; float16 and bfloat16 are compared in float32,
                also under autocast.
            labels: (B,) class of each query, of any real dtype: class indices, not one-hot. Classes
                may have any sizes and come in any order. Or (B, L) labels of a hierarchy, finest
                first; a loss of one level uses the finest. Labels are only checked for NaN on the
                CPU, and not under transforms of `torch.func`; an unchecked NaN matches no class.
            indices_tuple: pairs (a1, p, a2, n) or triplets (a, p, n) of queries and items. Only
                these take part, so a query that is not paired with itself is left out of its
                gallery. Labels decide which are positives. Default: all pairs.
            ref_emb: (M, D) items to rank. Default: the queries themselves. `exclude_query`, and
                `RecallAtKLoss` by default, need to know which item is the query: the one with the
                same labels and the same unit vector, up to the rounding of the less precise dtype.
                So references may be stored normalized or in half precision. With `normalize=False`,
                embeddings have to be equal, up to such rounding if their dtypes differ. Equal
                queries and equal items are matched in order.
            ref_labels: (M,) or (M, L) labels of the items.

        Returns:
            A scalar. Queries without a positive are left out; if that leaves none, 0, still with a
            graph. NaN if an embedding is not finite.

        Raises:
            TypeError: embeddings that are not floating point, labels that are not real, or an
                indices_tuple that does not hold integer tensors.
            ValueError: tensors whose shapes or devices do not match, labels that are NaN, ref_emb
                without ref_labels or the reverse, no references, indices out of range, or an
                indices_tuple with `gather`.
            NotImplementedError: the base class is called, which has no metric.
        """
        check_batch(embeddings, labels, "embeddings", "labels")
        check_references(embeddings, labels, ref_emb, ref_labels)
        if indices_tuple is not None and self.gather and processes() > 1:
            raise ValueError("indices_tuple must be None with gather=True: it names local items")
        wide = torch.promote_types(embeddings.dtype, torch.float32)
        if ref_emb is not None:
            wide = torch.promote_types(wide, ref_emb.dtype)
        with torch.autocast(embeddings.device.type, enabled=False):
            vectors = self._vectors(embeddings.to(wide))
            return self._loss_of_vectors(
                vectors, embeddings, labels, indices_tuple, ref_emb, ref_labels
            )

    def _loss_of_vectors(
        self,
        vectors: Tensor,
        embeddings: Tensor,
        labels: Tensor,
        indices: tuple[Tensor, ...] | None,
        ref_emb: Tensor | None,
        ref_labels: Tensor | None,
    ) -> Tensor:
        queries, labels = self.augment(vectors, by_level(labels))
        itself = None
        if ref_emb is None or ref_labels is None or ref_emb is embeddings:
            items, offset = None, 0
            item_labels = labels if ref_labels is None else by_level(ref_labels)
            if self.gather and processes() > 1:
                items, offset = gather(queries)
                item_labels = gather(item_labels)[0]
            if self.wants_query():
                itself = torch.arange(offset, offset + len(queries), device=queries.device)
        else:
            raw, item_labels = ref_emb.to(vectors.dtype), by_level(ref_labels)
            if self.gather:
                raw, item_labels = gather(raw)[0], gather(item_labels)[0]
            if self.wants_query():
                stored = embeddings.dtype, ref_emb.dtype
                likeness = likeness_of(*stored, normalize=self.normalize)
                itself = find_queries(embeddings, labels, raw, item_labels, likeness)
            items = self._vectors(raw)

        size = (len(queries), len(item_labels))
        listed = None if indices is None else Pairs(indices, *size)
        terms = _Terms(self, Gallery(labels, item_labels, itself, listed))
        return evaluate(queries, items, terms, self.chunk_size, self.similarity)

    def _vectors(self, embeddings: Tensor) -> Tensor:
        return unit_length(embeddings) if self.normalize else embeddings

    def wants_query(self) -> bool:
        """Returns whether the loss needs to know which item is the query itself."""
        return self.exclude_query or not self.query_is_positive

    def block_sums(self, scores: Tensor, gallery: Gallery, rows: slice) -> Tensor:
        """Returns the sums (K,) of the losses of some queries, whose scores are (b, M).

        Here, the sum over the queries with a positive.
        """
        values = self.values(scores, *self.pairs(gallery, rows))
        return _sum_losses(values, self._have_positive(gallery, rows))

    def block_counts(self, scores: Tensor, gallery: Gallery, rows: slice) -> Tensor:
        """Returns the number (K,) of losses in `block_sums`."""
        return self._have_positive(gallery, rows).sum(0, keepdim=True)

    def _have_positive(self, gallery: Gallery, rows: slice) -> Tensor:
        how = "positive", self._relation_key(), self.query_is_positive, self.exclude_query
        return gallery.once(how, rows, lambda: _has_positive(*self.pairs(gallery, rows)))

    def pairs(self, gallery: Gallery, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Returns relation and mask (b, M) of some queries."""

        def relate() -> Tensor:
            relation = self.relation(gallery.labels[rows], gallery.item_labels)
            if not self.query_is_positive:
                gallery.clear_query(relation, rows)
            return relation

        def mask() -> Tensor | None:
            return gallery.mask(rows, without_query=self.exclude_query)

        how = self._relation_key(), self.query_is_positive
        return gallery.once(how, rows, relate), gallery.once(self.exclude_query, rows, mask)

    def _relation_key(self) -> Hashable:
        """The key to share a relation by; an overridden `relation` may read the instance."""
        relation = type(self).relation
        return relation if relation.__module__.startswith(f"{__package__}.") else self

    def extra_repr(self) -> str:
        """Returns the first two options, and the others where they differ from their defaults."""
        options: dict[str, Any] = {"normalize": self.normalize, "exclude_query": self.exclude_query}
        if self.similarity is not None and not isinstance(self.similarity, nn.Module):
            options["similarity"] = getattr(self.similarity, "__name__", self.similarity)
        if self.chunk_size != "auto":
            options["chunk_size"] = self.chunk_size
        if self.gather:
            options["gather"] = True
        return ", ".join(f"{name}={value}" for name, value in options.items())


def _has_positive(relation: Tensor, mask: Tensor | None) -> Tensor:
    levels = as_bytes(relation) if relation.dtype == torch.bool else relation
    levels = levels if mask is None else levels * mask
    # The largest byte, if there is one: on a CPU, `any` of a row takes fifty times as long.
    return levels.amax(-1) > 0 if levels.shape[-1] > 0 else levels.bool().any(-1)


def _sum_losses(values: Tensor, counted: Tensor) -> Tensor:
    """Returns (1,): the sum of 1 - value over the rows that are counted."""
    total = torch.where(counted, 1 - values, 0).sum(0, keepdim=True)
    return extend(total, lambda grad: torch.where(counted, -grad, 0)) if follows(values) else total


@dataclass(frozen=True)
class _Terms:
    """A loss and the gallery of one call: what `sweep` sums."""

    loss: RetrievalLoss
    gallery: Gallery

    @property
    def num_terms(self) -> int:
        return self.loss.num_terms

    @property
    def gather(self) -> bool:
        return self.loss.gather

    def sums(self, scores: Tensor, rows: slice) -> Tensor:
        return self.loss.block_sums(scores, self.gallery, rows)

    def counts(self, scores: Tensor, rows: slice) -> Tensor:
        return self.loss.block_counts(scores, self.gallery, rows)
