"""Finding queries among references that contain them, however these were stored."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sodeep_fast import RecallAtKLoss, SmoothAPLoss
from sodeep_fast.retrieval.find_queries import find_queries, likeness_of
from sodeep_fast.testing import make_scores


def vectors(items: int, seed: int = 0) -> Tensor:
    return make_scores("normal", (items, 4), dtype=torch.float64, seed=seed)


STORED: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": lambda units: units.float(),
    "half": lambda units: units.half(),
    "bfloat16": lambda units: units.bfloat16(),
    "normalized in half": lambda units: normalize(units.half(), dim=-1),
    "scaled": lambda units: 3 * units,
}


@pytest.mark.parametrize("store", STORED)
@pytest.mark.parametrize("kept", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_query_is_found_however_it_was_stored(store: str, kept: torch.dtype) -> None:
    """Each query is found at its own place, even if another, of its class or not, is equal."""
    queries, others = vectors(64), vectors(500, seed=1)
    labels, other_labels = torch.arange(64) % 5, torch.arange(500) % 5
    queries[6] = queries[1]  # of one class
    queries[7] = queries[0]  # of two
    order = torch.randperm(564, generator=torch.Generator().manual_seed(0))
    items = STORED[store](normalize(torch.cat([queries, others]), dim=-1))[order]
    item_labels = torch.cat([labels, other_labels])[order]
    given = queries.to(kept)
    likeness = likeness_of(given.dtype, items.dtype, normalize=True)
    itself = find_queries(given, labels[:, None], items, item_labels[:, None], likeness)
    expected = order.argsort()[:64]
    expected[[1, 6]] = expected[[1, 6]].sort().values
    assert torch.equal(itself, expected)
    stranger = find_queries(given, labels[:, None] + 9, items, item_labels[:, None], likeness)
    assert (stranger == -1).all()
    away = find_queries(given + 0.3, labels[:, None], items, item_labels[:, None], likeness)
    assert (away == -1).sum() >= 60

    for loss in (SmoothAPLoss(exclude_query=True), RecallAtKLoss()):
        value = loss(given, labels, None, items, item_labels)
        rest = torch.ones(64, 564, dtype=torch.bool)
        rest[torch.arange(64), expected] = False
        listed = rest.nonzero(as_tuple=True)
        if isinstance(loss, SmoothAPLoss):
            without = SmoothAPLoss()(given, labels, (*listed, *listed), items, item_labels)
            torch.testing.assert_close(value, without)
        else:
            assert value != RecallAtKLoss(query_is_positive=True)(
                given, labels, None, items, item_labels
            )


def test_fewer_equal_items_than_queries() -> None:
    """Of equal queries, the first is in the memory, but not the second; nor is one never stored."""
    queries = torch.tensor([[3.0, 4.0], [3.0, 4.0], [4.0, 3.0], [0.0, 0.0], [torch.nan, 1.0]])
    items = normalize(queries[[3, 0, 4]], dim=-1)
    labels = torch.zeros(5, 1)
    for likeness in (
        likeness_of(torch.float32, torch.float32, normalize=True),
        likeness_of(torch.float32, torch.bfloat16, normalize=True),
    ):
        itself = find_queries(queries, labels, items, labels[:3], likeness)
        assert itself.tolist() == [1, -1, -1, 0, -1]
    exact = likeness_of(torch.float32, torch.float32, normalize=False)
    assert find_queries(queries, labels, items, labels[:3], exact).tolist() == [-1, -1, -1, 0, -1]
    collapsed = torch.ones(300, 2), torch.zeros(300, 1)
    rounded = likeness_of(torch.float32, torch.float16, normalize=True)
    assert torch.equal(find_queries(*collapsed, *collapsed, rounded), torch.arange(300))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_raw_embeddings_of_two_precisions(dtype: torch.dtype) -> None:
    queries = 1000 * vectors(50)
    labels = torch.arange(50)[:, None] % 3
    rounded = queries.to(dtype)
    likeness = likeness_of(queries.dtype, dtype, normalize=False)
    found = find_queries(queries, labels, rounded.flip(0), labels.flip(0), likeness)
    assert torch.equal(found, torch.arange(49, -1, -1))
    assert (find_queries(queries, labels, 1.1 * rounded, labels, likeness) == -1).all()


def test_queries_are_found_under_transforms() -> None:
    queries, loss = vectors(8), SmoothAPLoss(exclude_query=True)
    items, labels = normalize(queries, dim=-1).float(), torch.tensor([3, 1, 3, 2, 1, 3, 1, 0])

    def value(leaf: Tensor) -> Tensor:
        return loss(leaf, labels, None, items, labels)

    leaf = queries.clone().requires_grad_()
    (expected,) = torch.autograd.grad(value(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(value)(queries), expected)
