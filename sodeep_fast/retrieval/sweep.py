"""Sums over queries, a chunk at a time: the core of a loss of embeddings."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sodeep_fast._checks import check_count
from sodeep_fast._compiler import are_transforming
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
    pool = queries if items is None else items
    buffer = queries.new_empty(min(size, len(queries)), len(pool))
    for rows in chunks(len(queries), size):
        scores = buffer[: rows.stop - rows.start]
        yield rows, torch.mm(queries[rows], pool.T, out=scores)


def _with_gradient(
    scores: Tensor, rows: slice, terms: Terms, divisors: Tensor | None, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Returns the quotients of a chunk, summed, and their gradient for its scores if wanted."""
    leaf = scores.detach().requires_grad_(wanted)
    with torch.enable_grad():
        sums = terms.sums(leaf, rows)
        partial = (sums if divisors is None else sums / divisors).sum()
    if not partial.requires_grad:
        return partial, None
    (grad,) = torch.autograd.grad(partial, leaf, allow_unused=True)
    return partial.detach(), grad


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
        queries = queries.detach()
        pool = queries if items is None else items.detach()
        for_queries, for_items = ctx.needs_input_grad[:2]
        grad_queries = torch.zeros_like(queries) if for_queries else None
        grad_items = torch.zeros_like(pool) if for_items else None
        if items is None:
            grad_items = grad_queries

        # A single sum is divided at the end.
        late = terms.num_terms == 1
        total = queries.new_zeros(())
        found = torch.zeros(terms.num_terms, dtype=torch.int64, device=queries.device)
        for rows, scores in _scores(queries, pool, size):
            if divisors is None:
                found += terms.counts(scores, rows)
            if divisors is None and not late:  # this is all
                divisors = _everywhere(found, terms).clamp(min=1)
            wanted = for_queries or for_items
            partial, grad = _with_gradient(scores, rows, terms, divisors, wanted)
            total += partial
            if grad is None:
                continue
            if grad_queries is not None:
                grad_queries[rows].addmm_(grad, pool)
            if grad_items is not None:
                grad_items.addmm_(grad.T, queries[rows])
            del grad  # before the next one is made
        scale = torch.ones_like(total)
        if late:
            scale /= _everywhere(found[0], terms).clamp(min=1)
        ctx.save_for_backward(scale, grad_queries, None if items is None else grad_items, *given)
        return total * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale, grad_queries, grad_items, *given = ctx.saved_tensors
        scaled = (
            None if each is None else _Scaled.apply(grad * scale, each, *given)
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
