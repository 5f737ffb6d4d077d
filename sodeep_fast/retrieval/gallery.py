"""Which items each query ranks, and where the query itself is among them."""

from collections.abc import Callable, Hashable
from typing import TypeVar, cast

import torch
from torch import Tensor

Made = TypeVar("Made", Tensor, Tensor | None)


class Gallery:
    """The labels of queries and items, and the pairs that take part, for a few rows at a time.

    Arguments:
        labels: (B, L) labels of the queries.
        item_labels: (M, L) labels of the items.
        itself: (B,) the index of each query among the items, -1 if it is not there; None if not
            needed.
        listed: the pairs that take part; None: all do.
    """

    def __init__(
        self,
        labels: Tensor,
        item_labels: Tensor,
        itself: Tensor | None = None,
        listed: "Pairs | None" = None,
    ) -> None:
        self.labels = labels
        self.item_labels = item_labels
        self.itself = itself
        self.listed = listed
        self._rows = slice(0, 0)
        self._known: dict[Hashable, Tensor | None] = {}

    def once(self, key: Hashable, rows: slice, make: Callable[[], Made]) -> Made:
        """Returns `make()` for `rows`, called once for all callers that use this key.

        Losses of a combination, sums and counts share the result, until other rows are asked for.
        """
        if rows != self._rows:
            self._rows, self._known = rows, {}
        if key not in self._known:
            self._known[key] = make()
        return cast(Made, self._known[key])

    def mask(self, rows: slice, *, without_query: bool) -> Tensor | None:
        """Returns (b, M) bool, True where the item is in the query's gallery; None: everywhere."""
        size = (len(self.labels[rows]), len(self.item_labels))
        mask = None if self.listed is None else self.listed.mask(rows, size)
        if without_query and self.itself is not None:
            if mask is None:
                mask = torch.ones(size, dtype=torch.bool, device=self.labels.device)
            self.clear_query(mask, rows)
        return mask

    def clear_query(self, matrix: Tensor, rows: slice) -> None:
        """Writes zero where a query meets itself in the (b, M) `matrix`."""
        if self.itself is not None:
            itself = self.itself[rows]
            column = itself.clamp(min=0).unsqueeze(-1)
            kept = matrix.gather(-1, column).masked_fill((itself >= 0).unsqueeze(-1), 0)
            matrix.scatter_(-1, column, kept)


class Pairs:
    """The pairs of an indices_tuple, as pytorch-metric-learning's miners return it.

    Arguments:
        indices: triplets (a, p, n) or pairs (a1, p, a2, n), as three or four integer vectors;
            anchors are queries, the others items.
        queries: B.
        items: M.

    Raises:
        TypeError: not a tuple of integer tensors.
        ValueError: a wrong number of tensors, different lengths, or indices out of range.
    """

    def __init__(self, indices: tuple[Tensor, ...], queries: int, items: int) -> None:
        _check_indices(indices, queries, items)
        indices = tuple(index.long().contiguous() for index in indices)
        positive_anchors, positives, negative_anchors, negatives = (
            (indices[0], indices[1], indices[0], indices[2]) if len(indices) == 3 else indices
        )
        self.lists = [
            _by_anchor(positive_anchors, positives, queries),
            _by_anchor(negative_anchors, negatives, queries),
        ]

    def mask(self, rows: slice, size: tuple[int, int]) -> Tensor:
        """Returns a (b, M) mask, True for the listed pairs."""
        mask = torch.zeros(size, dtype=torch.bool, device=self.lists[0][0].device)
        for anchors, others, offsets in self.lists:
            some = slice(offsets[rows.start], offsets[rows.stop])
            mask[anchors[some] - rows.start, others[some]] = True
        return mask


def _by_anchor(anchors: Tensor, others: Tensor, queries: int) -> tuple[Tensor, Tensor, list[int]]:
    """Returns the pairs sorted by anchor, and where each anchor's begin."""
    if not (anchors[1:] >= anchors[:-1]).all():
        anchors, order = anchors.sort(stable=True)
        others = others[order]
    offsets = torch.searchsorted(anchors, torch.arange(queries + 1, device=anchors.device))
    return anchors, others, offsets.tolist()


def _check_indices(indices: object, queries: int, items: int) -> None:
    if not isinstance(indices, (tuple, list)):
        raise TypeError(
            f"indices_tuple must be a tuple of tensors or None, got {type(indices).__name__}"
        )
    if len(indices) not in (3, 4):
        raise ValueError(
            "indices_tuple must hold triplets (a, p, n) or pairs (a1, p, a2, n), "
            f"got {len(indices)} tensors"
        )
    for index in indices:
        if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
            what = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(f"indices_tuple must hold tensors of integers, got {what}")
    groups = ((0, 1, 2),) if len(indices) == 3 else ((0, 1), (2, 3))
    for group in groups:
        for place in group:
            index = indices[place]
            if index.shape != indices[group[0]].shape or index.dim() != 1:
                raise ValueError(
                    "indices_tuple must hold vectors of one length, got "
                    f"{[tuple(each.shape) for each in indices]}"
                )
            limit = queries if place in (0, group[0]) else items
            low, high = index.aminmax() if len(index) > 0 else (0, 0)
            if low < 0 or high >= max(limit, 1):
                wrong = int(low if low < 0 else high)
                raise ValueError(
                    f"indices_tuple must be between 0 and {limit - 1}, got {wrong} "
                    f"in its tensor {place}"
                )
