"""How many labels queries and items share: the kernel and the plain formula."""

from collections.abc import Callable

import pytest
import torch

from sodeep_fast.ops.shared_labels import shared_labels
from sodeep_fast.reference.shared_labels import shared_labels as reference_shared_labels

DTYPES = [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 2, 5])
@pytest.mark.parametrize(("queries", "items"), [(0, 3), (3, 0), (1, 1), (7, 63), (5, 64), (3, 201)])
def test_it_is_the_formula(queries: int, items: int, columns: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(items)
    labels = torch.randint(3, (queries, columns), generator=generator).to(dtype)
    others = torch.randint(3, (items, columns), generator=generator).to(dtype)
    found, expected = shared_labels(labels, others), reference_shared_labels(labels, others)
    assert found.dtype == (torch.bool if columns == 1 else torch.uint8)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_large_labels_and_strides() -> None:
    labels = torch.tensor([[2**62, -(2**62)], [2**62 + 1, 0]])
    assert shared_labels(labels, labels).tolist() == [[2, 0], [0, 2]]
    assert shared_labels(labels.T, labels).tolist() == [[1, 0], [0, 1]]
    assert shared_labels(labels[:, 1:], labels[:, 1:]).tolist() == [[True, False], [False, True]]


def test_labels_that_are_not_numbers_are_nobodys() -> None:
    labels = torch.tensor([[torch.nan], [1.0]])
    assert shared_labels(labels, labels).tolist() == [[False, False], [False, True]]


@pytest.mark.kernels
def test_the_operator(set_threads: Callable[[int], None]) -> None:
    op = torch.ops.sodeep_fast.shared_labels
    labels = torch.randint(9, (400, 3), generator=torch.Generator().manual_seed(0))
    torch.library.opcheck(op.default, (labels[:4], labels[:9]))
    set_threads(1)
    alone = op(labels, labels)
    set_threads(2)
    assert torch.equal(op(labels, labels), alone)
    for wrong in (labels[:, :2], labels.int(), labels[0]):
        with pytest.raises(RuntimeError, match="equally many columns"):
            op(labels, wrong)
