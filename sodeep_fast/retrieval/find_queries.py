"""Finds queries among references that contain them, as a memory that holds the batch does."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sodeep_fast.retrieval.unit_length import SHORTEST, unit_length

AT_A_TIME = 1 << 20  # numbers, so that finding queries takes a few megabytes
# In bfloat16 one projection leaves a fifteenth of the items of a label, three a few thousandths.
PROJECTIONS = 3


@dataclass(frozen=True)
class Likeness:
    """When two embeddings are taken to be the same: by default, if they are equal.

    Arguments:
        normalize: compare unit vectors.
        tolerance: the largest difference of two numbers, in units of the vector's largest.
    """

    normalize: bool = False
    tolerance: float = 0.0

    def vectors(self, embeddings: Tensor) -> Tensor:
        """Returns what is compared, in float64."""
        vectors = embeddings.double()
        return unit_length(vectors) if self.normalize else vectors

    def places(self, embeddings: Tensor, directions: Tensor) -> Tensor:
        """Returns the inner products of what is compared with the (D, K) directions."""
        numbers = embeddings.double()
        places = numbers @ directions
        if self.normalize:
            places /= torch.linalg.vector_norm(numbers, dim=-1, keepdim=True).clamp(SHORTEST)
        return places

    def distances(self, embeddings: Tensor, others: Tensor) -> Tensor:
        """Returns the distances (n,) of pairs of embeddings, infinity where they are not alike."""
        vectors = self.vectors(embeddings)
        # A largest difference, unlike a sum, does not depend on the order of the computation.
        distances = (vectors - self.vectors(others)).abs().amax(-1)
        alike = distances <= self.tolerance * vectors.abs().amax(-1)
        return distances.masked_fill(~alike, torch.inf)


def likeness_of(one: torch.dtype, other: torch.dtype, *, normalize: bool) -> Likeness:
    """Returns the likeness of a vector to itself when stored in one dtype and in the other."""
    if one == other and not normalize:
        return Likeness()
    # Each time, rounding moves the numbers by half an eps, and the length with them. The last term
    # is for the error of a length in float64, whatever the number of terms.
    tolerance = 2 * max(torch.finfo(one).eps, torch.finfo(other).eps) + 2.0**-42
    return Likeness(normalize, tolerance)


@torch.no_grad()
def find_queries(
    queries: Tensor, labels: Tensor, items: Tensor, item_labels: Tensor, likeness: Likeness
) -> Tensor:
    """Returns (B,) the index of each query among the items, -1 if it is not there.

    A query's item has the same labels and an embedding like its own; the nearest if there are
    several. Equal queries and equal items are matched in order.

    Arguments:
        queries: (B, D) embeddings.
        labels: (B, L) labels.
        items: (M, D) embeddings.
        item_labels: (M, L) labels.
        likeness: of embeddings.
    """
    itself = torch.full((len(queries),), -1, device=queries.device)
    # Only items with the labels of a query matter: a small part of a large memory.
    known = torch.isin(_hashes([item_labels]), _hashes([labels]))
    (rows,) = known.nonzero(as_tuple=True)
    if len(rows) == 0:
        return itself

    if likeness.tolerance > 0:
        rows = rows[_near(queries, labels, items, item_labels, rows, likeness).items()]
        if len(rows) == 0:
            return itself
    keys, order = _hashes([items, item_labels], rows).sort(stable=True)
    wanted, from_order = _hashes([queries, labels]).sort(stable=True)
    # The j-th of equal queries takes the j-th of the items that have the same hash.
    number = torch.arange(len(wanted), device=wanted.device)
    number = number - torch.searchsorted(wanted, wanted)
    if likeness.tolerance > 0:
        first = torch.ones_like(keys, dtype=torch.bool)
        first[1:] = keys[1:] != keys[:-1]
        different = rows[order[first]]
        near = _near(queries, labels, items, item_labels, different, likeness)
        nearest = _nearest(queries, items, different, near, likeness)
        wanted = _hashes([items, item_labels], nearest)[from_order]
    place = torch.searchsorted(keys, wanted) + number
    found = place < torch.searchsorted(keys, wanted, right=True)
    item = rows[order[place.clamp(max=len(keys) - 1)]]
    itself[from_order] = torch.where(found, item, -1)

    # Different rows may have the same hash.
    alike = likeness.distances(queries, items[itself]).isfinite() & (
        item_labels[itself] == labels
    ).all(-1)
    return itself.masked_fill(~alike, -1)


def _hashes(columns: list[Tensor], rows: Tensor | None = None) -> Tensor:
    """Returns (n,) int64 hashes, equal for equal rows and hardly ever otherwise."""
    generator = torch.Generator().manual_seed(0)
    width, device = sum(each.shape[1] for each in columns), columns[0].device
    largest = torch.iinfo(torch.int64).max
    factors = torch.randint(largest, (width,), generator=generator, device="cpu").to(device)
    parts = []
    for some in _chunks(len(columns[0]) if rows is None else len(rows), width):
        chosen = some if rows is None else rows[some]
        numbers = torch.cat([each[chosen].double() for each in columns], -1)
        bits = numbers.contiguous().view(torch.int64)
        parts.append(((bits ^ (bits >> 32)) * factors).sum(-1))
    return torch.cat(parts)


def _chunks(count: int, width: int) -> list[slice]:
    """Returns ranges of rows of some width, few enough to be worked on at a time; at least one."""
    step = max(1, AT_A_TIME // max(1, width))
    return [slice(start, min(start + step, count)) for start in range(0, max(1, count), step)]


@dataclass(frozen=True)
class _Near:
    """Which items are near which queries: similar vectors are close along every direction.

    Items are sorted by label, then along one direction, so those near a query form a range.

    Arguments:
        places, item_places: (B, K) and (M, K) coordinates of the vectors along K directions.
        reach: (B,) how far along a direction a vector like the query's may be.
        start, count: (B,) the range of items near each query, in that order.
        order: (M,) the items in that order.
    """

    places: Tensor
    item_places: Tensor
    reach: Tensor
    start: Tensor
    count: Tensor
    order: Tensor

    def items(self) -> Tensor:
        """Returns the items that are near any query, in ascending order."""
        changes = torch.zeros(len(self.order) + 1, dtype=torch.int64, device=self.order.device)
        changes = changes.index_add(0, self.start, torch.ones_like(self.start))
        changes = changes.index_add(0, self.start + self.count, -torch.ones_like(self.start))
        return self.order[changes.cumsum(0)[:-1] > 0].sort().values

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Returns queries and items that are near in every direction."""
        ends = self.count.cumsum(0)
        found = []
        for some in _chunks(int(ends[-1]), PROJECTIONS):
            pair = torch.arange(some.start, some.stop, device=ends.device)
            query = torch.searchsorted(ends, pair, right=True)
            item = self.order[self.start[query] + pair - (ends - self.count)[query]]
            apart = (self.places[query] - self.item_places[item]).abs()
            near = (apart <= self.reach[query, None]).all(-1)
            found.append(torch.stack([query[near], item[near]]))
        query, item = torch.cat(found, -1)
        return query, item


def _near(
    queries: Tensor,
    labels: Tensor,
    items: Tensor,
    item_labels: Tensor,
    rows: Tensor,
    likeness: Likeness,
) -> _Near:
    """Finds which of the item `rows`, all with labels of queries, are near which queries."""
    size = queries.shape[1]
    generator = torch.Generator().manual_seed(1)
    with torch.device("cpu"):  # which need not be the default device
        directions = torch.randn(size, PROJECTIONS, dtype=torch.float64, generator=generator)
    directions = functional.normalize(directions, dim=0).to(queries.device)
    places = likeness.places(queries, directions)
    item_places = torch.cat(
        [likeness.places(items[rows[some]], directions) for some in _chunks(len(rows), size)]
    )
    hashes, item_hashes = _hashes([labels]), _hashes([item_labels], rows)
    names = hashes.unique()
    label, item_label = (torch.searchsorted(names, each) for each in (hashes, item_hashes))

    # Each label gets an interval of the line wider than all places; non-finite items get none.
    width = 4 * max(float(each.nan_to_num(0, 0, 0).abs().max()) for each in (places, item_places))
    width += torch.finfo(torch.float64).tiny
    keys, order = (item_label * width + item_places[:, 0]).nan_to_num(torch.inf, torch.inf).sort()
    key = label * width + places[:, 0]
    reach = likeness.tolerance * torch.linalg.vector_norm(likeness.vectors(queries), dim=-1)
    reach += 4 * torch.finfo(torch.float64).eps * len(names) * width
    start = torch.searchsorted(keys, key - reach)
    count = torch.searchsorted(keys, key + reach, right=True) - start
    count = count.masked_fill(~key.isfinite(), 0)
    return _Near(places, item_places, reach, start, count, order)


def _nearest(
    queries: Tensor, items: Tensor, rows: Tensor, near: _Near, likeness: Likeness
) -> Tensor:
    """Returns (B,) the item among `rows` most like each query, -1 if none is like it."""
    query, item = near.pairs()
    item = rows[item]
    distance = torch.cat(
        [
            likeness.distances(queries[query[some]], items[item[some]])
            for some in _chunks(len(query), queries.shape[1])
        ]
    )
    least = distance.new_full((len(queries),), torch.inf)
    least = least.scatter_reduce(0, query, distance, "amin")
    closest = (distance == least[query]) & distance.isfinite()
    nobody = torch.full_like(least, len(items), dtype=torch.int64)
    found = nobody.scatter_reduce(0, query[closest], item[closest], "amin")
    return found.masked_fill(found == nobody, -1)
