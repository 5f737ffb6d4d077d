"""Sums over queries, a chunk at a time: the core of a loss of embeddings."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sodeep_fast._checks import check_count
from sodeep_fast._compiler import are_transforming
from sodeep_fast.ops._pullback import value_and_pullback
from sodeep_fast.retrieval.distributed import sum_over_processes

Similarity = Callable[[Tensor, Tensor], Tensor]


class Terms(Protocol):
    """K sums over queries and K divisors; the loss is the sum of the quotients."""

    @property
    def num_terms(self) -> int:
        """K."""

    @property
    def gather(self) -> bool:
        """Whether to add up the sums of all processes."""

    def sums(self, scores: Tensor, rows: slice) -> Tensor:
        """Returns the sums (K,) of some queries, whose scores are (b, M)."""

    def counts(self, scores: Tensor, rows: slice) -> Tensor:
        """Returns their part of the divisors (K,)."""


# Scores in a chunk: 4 MiB on the CPU, which stay in cache (Sapphire Rapids, 2026-11); a GPU needs
# more rows at a time. Below 128 rows the gradient of the items is written too often.
AUTO_SCORES = {"cpu": 1 << 20, "cuda": 1 << 26}
AUTO_ROWS = 128
# With embeddings of this size, adding a gradient's transpose to it takes less time than a second
# product with them.
WIDE = 256

ChunkSize = int | str | None


def check_chunk_size(chunk_size: ChunkSize) -> None:
    """Raises unless `chunk_size` is "auto", None or an integer of at least one."""
    if isinstance(chunk_size, str) and chunk_size != "auto":
        raise ValueError(f"chunk_size must be 'auto', None or a number, got {chunk_size!r}")
    if chunk_size is not None and not isinstance(chunk_size, str):
        check_count(chunk_size, "chunk_size")


def chunk_rows(chunk_size: ChunkSize, queries: int, items: int, device: str) -> int:
    """Returns how many queries to score at a time: all for None, never more than a given number.

    A number asks for little memory. On a CPU, it gets at most an eighth of "auto", which is up to
    twice as slow (`bench/results/retrieval.txt`).
    """
    if chunk_size is None:
        return max(1, queries)
    scores = AUTO_SCORES.get(device, AUTO_SCORES["cuda"])
    rows = max(AUTO_ROWS, scores // max(1, items))
    if isinstance(chunk_size, str):
        return rows
    return min(chunk_size, rows // 8) if device == "cpu" else chunk_size


def chunks(queries: int, size: int) -> list[slice]:
    """Returns the ranges of queries, of `size` each but the last."""
    return [slice(start, min(start + size, queries)) for start in range(0, queries, size)]


def _inner_products(queries: Tensor, items: Tensor) -> Tensor:
    return queries @ items.T


def _everywhere(value: Tensor, terms: Terms) -> Tensor:
    return sum_over_processes(value) if terms.gather else value


def evaluate(
    queries: Tensor,
    items: Tensor | None,
    terms: Terms,
    chunk_size: ChunkSize,
    similarity: Similarity | None = None,
) -> Tensor:
    """Returns the loss of queries that rank items.

    Arguments:
        queries: (B, D) embeddings.
        items: (M, D) embeddings. None: the queries.
        terms: what to sum.
        chunk_size: the most queries to score at a time, "auto", or None for all.
        similarity: (b, D), (M, D) -> (b, M). Default: the inner product.
    """
    pool = queries if items is None else items
    # The transforms of `torch.func` support neither gradients computed in forward nor checkpoints.
    if are_transforming():
        chunk_size = None
    size = chunk_rows(chunk_size, len(queries), len(pool), queries.device.type)
    if similarity is None and chunk_size is not None:
        return _streamed(queries, items, terms, size)
    return _recomputed(queries, pool, similarity or _inner_products, terms, size)


def _recomputed(
    queries: Tensor, items: Tensor, similarity: Similarity, terms: Terms, size: int
) -> Tensor:
    """The loss by plain autograd; with several chunks, backward recomputes the scores.

    Supports any similarity, and any number of derivatives.
    """

    def score(some: Tensor, items: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        scores = similarity(some, items)
        return terms.sums(scores, rows), terms.counts(scores.detach(), rows)

    ranges = chunks(len(queries), size)
    if len(ranges) <= 1:
        sums, counts = score(queries, items, slice(0, len(queries)))
    else:
        parts = [
            checkpoint(score, queries[rows], items, rows, use_reentrant=False) for rows in ranges
        ]
        sums, counts = (torch.stack(column).sum(0) for column in zip(*parts, strict=True))
    divisors = _everywhere(counts, terms).clamp(min=1)
    return _everywhere((sums / divisors).sum(), terms)


def _streamed(queries: Tensor, items: Tensor | None, terms: Terms, size: int) -> Tensor:
    """The loss of inner products; forward computes its gradient too, chunk by chunk.

    Takes memory for a chunk of scores and the gradient of the embeddings, whatever the number of
    queries. The order of summation is fixed, so the same call gives the same bits.
    """
    # Several sums have to be divided before they are added, so their divisors are computed first; a
    # single chunk finds its own. A process without queries also takes part in summing them.
    divisors = None
    if terms.num_terms > 1 and not 0 < len(queries) <= size:
        divisors = _divisors(queries.detach(), items, terms, size)
    total: Tensor = _Sweep.apply(queries, items, terms, size, divisors)
    return _everywhere(total, terms)


@torch.no_grad()
def _divisors(queries: Tensor, items: Tensor | None, terms: Terms, size: int) -> Tensor:
    found = torch.zeros(terms.num_terms, dtype=torch.int64, device=queries.device)
    for rows, scores in _scores(queries, items, size):
        found += terms.counts(scores, rows)
    return _everywhere(found, terms).clamp(min=1)


def _scores(queries: Tensor, items: Tensor | None, size: int) -> Any:
    """Yields the chunks and their scores, which last until the next one."""
    pool, count = queries if items is None else items, len(queries)
    if 0 < count <= size:
        yield slice(0, count), torch.mm(queries, pool.T)
        return
    buffer = queries.new_empty(min(size, count), len(pool))
    for rows in chunks(count, size):
        scores = buffer[: rows.stop - rows.start]
        yield rows, torch.mm(queries[rows], pool.T, out=scores)


class _Gradients:
    """The gradients of queries and items, from those of their scores, chunk by chunk."""

    def __init__(self, queries: Tensor, items: Tensor | None, wanted: Sequence[bool]) -> None:
        self.queries, self.items = queries, items
        self.wanted = wanted
        self.of_queries: Tensor | None = None
        self.of_items: Tensor | None = None

    def add(self, grad: Tensor, rows: slice) -> None:
        """Adds what the gradient (b, M) of the scores of some queries contributes."""
        some = self.queries[rows]
        if self.items is None:
            self._add_of_both(grad, rows, some)
            return
        if self.wanted[0]:
            if self.of_queries is None:
                self.of_queries = torch.zeros_like(self.queries)
            torch.mm(grad, self.items, out=self.of_queries[rows])
        if self.wanted[1]:
            self.of_items = _add_product(self.of_items, grad.T, some)

    def found(self) -> tuple[Tensor | None, Tensor | None]:
        """Returns those that are wanted; 0 if no score had a gradient."""
        of_queries, of_items = self.of_queries, self.of_items
        if self.wanted[0] and of_queries is None:
            of_queries = torch.zeros_like(self.queries)
        if self.wanted[1] and of_items is None and self.items is not None:
            of_items = torch.zeros_like(self.items)
        return of_queries, of_items

    def _add_of_both(self, grad: Tensor, rows: slice, some: Tensor) -> None:
        """The same for queries that rank each other."""
        pool = self.queries
        if len(some) < len(pool):
            self.of_queries = _add_product(self.of_queries, grad.T, some)
            self.of_queries[rows].addmm_(grad, pool)
        elif pool.shape[1] >= WIDE and grad.numel() <= AUTO_SCORES["cpu"]:
            self.of_queries = torch.mm(grad + grad.T, pool)
        else:
            self.of_queries = torch.mm(grad, pool).addmm_(grad.T, pool)


def _add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    return torch.mm(left, right) if total is None else total.addmm_(left, right)


class _Sweep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        items: Tensor | None,
        terms: Terms,
        size: int,
        divisors: Tensor | None,
    ) -> Tensor:
        given = queries, items
        queries, items = queries.detach(), None if items is None else items.detach()
        wanted = ctx.needs_input_grad[:2]
        gradients = _Gradients(queries, items, wanted)

        # The divisors are known now, or after the only chunk, or else divide the single sum late.
        is_late = divisors is None and not 0 < len(queries) <= size
        total = queries.new_zeros(())
        found = torch.zeros(terms.num_terms, dtype=torch.int64, device=queries.device)
        for rows, scores in _scores(queries, items, size):
            if divisors is None:
                counts = terms.counts(scores, rows)
                if is_late:
                    found += counts
                else:
                    divisors = _everywhere(counts, terms).clamp(min=1)
            if not any(wanted):
                sums = terms.sums(scores, rows)
                total = total + (sums if divisors is None else sums / divisors).sum()
                continue
            sums, pull = value_and_pullback(partial(terms.sums, rows=rows), scores)
            weights = torch.ones_like(sums)
            if divisors is not None:
                weights /= divisors
            total = total + sums @ weights
            grad = pull(weights)
            if grad is not None:
                gradients.add(grad, rows)
            del grad, pull  # before the next ones are made
        scale = None
        if is_late:
            scale = torch.ones_like(total) / _everywhere(found, terms)[0].clamp(min=1)
            total = total * scale
        ctx.save_for_backward(scale, *gradients.found(), *given)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale, grad_queries, grad_items, *given = ctx.saved_tensors
        if scale is not None:
            grad = grad * scale
        # A gradient that depends on queries and items can be asked for its own.
        scaled = (
            None
            if each is None
            else _Scaled.apply(grad, each, *given)
            if torch.is_grad_enabled()
            else grad * each
            for each in (grad_queries, grad_items)
        )
        return (*scaled, None, None, None)


class _Scaled(torch.autograd.Function):
    """A gradient that was computed in forward, times the incoming one."""

    @staticmethod
    def forward(
        ctx: Any, factor: Tensor, gradient: Tensor, queries: Tensor, items: Tensor | None
    ) -> Tensor:
        # The gradient depends on queries and items, so autograd asks for its derivative.
        return factor * gradient

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        raise RuntimeError(
            "a loss that is computed in chunks can be differentiated once; "
            "second derivatives need chunk_size=None"
        )
