"""RecallAtKLoss: both conventions by loops over the definition, and similarity mixup."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sodeep_fast import ByLevel, RecallAtKLoss, Sigmoid, simix, sup_recall
from sodeep_fast.testing import make_scores

LABELS = torch.tensor([3, 1, 3, 2, 1, 3, 1, 0, 3])


def batch() -> Tensor:
    return make_scores("normal", (9, 4), dtype=torch.float64).requires_grad_()


def by_loop(scores: Tensor, labels: Tensor, ks: tuple[int, ...], with_query: bool) -> Tensor:
    """Patel's program (with the query in the ranks), or the paper's equation (without)."""
    losses = []
    for q in range(len(labels)):
        positives = [p for p in range(len(labels)) if p != q and labels[p] == labels[q]]
        if not positives:
            continue
        recalls = []
        for k in ks:
            found = torch.zeros((), dtype=scores.dtype)
            for p in positives:
                rank = 1 + sum(
                    torch.sigmoid((scores[q, j] - scores[q, p]) / 0.05)
                    for j in range(len(labels))
                    if j != p and (with_query or j != q)
                )
                found = found + torch.sigmoid((k - rank) / 0.8)
            recalls.append(found.clamp(max=k) / min(k, len(positives)))
        losses.append(1 - torch.stack(recalls).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("exclude_query", [False, True])
def test_both_conventions(exclude_query: bool) -> None:
    embeddings = batch()
    loss = RecallAtKLoss(
        (1, 2, 4), Sigmoid(0.05), temperature=0.8, exclude_query=exclude_query, chunk_size=4
    )
    value = loss(embeddings, LABELS)
    units = normalize(embeddings, dim=-1)
    expected = by_loop(units @ units.T, LABELS, (1, 2, 4), not exclude_query)
    torch.testing.assert_close(value, expected)
    (grad,) = torch.autograd.grad(value, embeddings)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, embeddings)[0])


def test_cutoffs_beyond_the_items_count_as_all() -> None:
    loss, few = RecallAtKLoss((2, 100)), RecallAtKLoss((2, 9))
    assert torch.equal(loss(batch(), LABELS), few(batch(), LABELS))
    # Not for SupRank.
    unit = normalize(batch(), dim=-1)
    same = LABELS[:, None] == LABELS
    loss = RecallAtKLoss((2, 100), ByLevel(), clip=False, query_is_positive=True)
    expected = 1 - sup_recall(unit @ unit.T, same, (2, 100)).mean()
    torch.testing.assert_close(loss(batch(), LABELS), expected)


def test_simix_mixes_every_pair_of_a_class_once() -> None:
    embeddings = torch.eye(9, dtype=torch.float64)
    virtual, labels = simix(embeddings, LABELS)
    assert len(virtual) == 6 + 3  # from the classes of four and three members
    pairs = set()
    for row, label in zip(virtual, labels, strict=True):
        first, second = row.nonzero()[:, 0].tolist()
        assert LABELS[first] == LABELS[second] == label
        assert row.sum() == pytest.approx(1)
        assert (row >= 0).all()
        pairs.add((first, second))
    assert len(pairs) == 9
    hierarchy = torch.stack([LABELS, LABELS // 2], -1)
    assert torch.equal(simix(embeddings, hierarchy)[1], torch.stack([labels, labels // 2], -1))
    nothing, none = simix(embeddings[:2], LABELS[:2])
    assert nothing.shape == (0, 9)
    assert none.shape == (0,)
    assert simix(embeddings[:0], LABELS[:0])[0].shape == (0, 9)


def test_simix_extends_queries_and_items() -> None:
    embeddings = batch()
    loss = RecallAtKLoss((1, 2), Sigmoid(0.05), temperature=0.8, simix=True)
    torch.manual_seed(3)
    value = loss(embeddings, LABELS)
    torch.manual_seed(3)
    units = normalize(embeddings, dim=-1)
    virtual, labels = simix(units, LABELS)
    everything = torch.cat([units, virtual])
    expected = by_loop(everything @ everything.T, torch.cat([LABELS, labels]), (1, 2), True)
    torch.testing.assert_close(value, expected)
    (grad,) = torch.autograd.grad(value, embeddings)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, embeddings)[0])
    with pytest.raises(ValueError, match="simix=True mixes the batch with itself"):
        loss(embeddings, LABELS, None, embeddings.detach(), LABELS)


@pytest.mark.parametrize(
    ("labels", "error", "match"),
    [
        (LABELS[:3], ValueError, r"labels must have shape \(9,\) or \(9, L\), .* got \(3,\)"),
        (LABELS.tolist(), TypeError, "labels must be a torch.Tensor, got list"),
        (LABELS * torch.nan, ValueError, "labels must be numbers, got NaN"),
        (torch.tensor(1), ValueError, "labels must have at least one dimension"),
    ],
)
def test_simix_checks_its_input(labels: Tensor, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        simix(batch(), labels)
    with pytest.raises(ValueError, match=r"embeddings must have shape \(B, D\), got \(9,\)"):
        simix(batch()[:, 0], LABELS)
    with pytest.raises(TypeError, match="embeddings must be float16"):
        simix(batch().long(), LABELS)
