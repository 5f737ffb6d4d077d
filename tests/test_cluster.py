"""ClusterLoss and HappierLoss: formulas, proxies, bad input."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torch.utils.checkpoint import checkpoint

from sodeep_fast import (
    ByLevel,
    ClusterLoss,
    HappierLoss,
    HierarchicalAPLoss,
    Ramp,
    RoadmapLoss,
    Sup,
    SupRankLoss,
)
from sodeep_fast.testing import make_scores

LABELS = torch.tensor([[3, 1], [1, 0], [3, 1], [2, 1], [1, 0], [0, 0]])


def batch() -> Tensor:
    return make_scores("normal", (6, 5), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("chunk_size", [None, "auto", 2])
@pytest.mark.parametrize("unit", [True, False])
def test_it_is_the_cross_entropy_of_cosines(unit: bool, chunk_size: int | str | None) -> None:
    loss = ClusterLoss(5, 4, temperature=0.3, normalize=unit, chunk_size=chunk_size).double()
    embeddings = batch()
    value = loss(embeddings, LABELS)
    vectors = normalize(embeddings, dim=-1) if unit else embeddings
    expected = cross_entropy(vectors @ normalize(loss.proxies, dim=-1).T / 0.3, LABELS[:, 0])
    torch.testing.assert_close(value, expected)
    leaves = (embeddings, loss.proxies)
    exact = torch.autograd.grad(expected, leaves)
    for _ in range(2):  # a retained graph gives the same result again
        grads = torch.autograd.grad(value, leaves, retain_graph=True)
        torch.testing.assert_close(grads, exact)
    recomputed = checkpoint(loss, embeddings, LABELS, use_reentrant=False)
    for _ in range(2):
        grads = torch.autograd.grad(recomputed, leaves, retain_graph=True)
        torch.testing.assert_close(grads, exact)
    assert torch.equal(loss(embeddings, LABELS[:, 0]), value)
    assert torch.equal(loss(embeddings, LABELS, None, embeddings, LABELS), value)


def test_twice_differentiable_in_one_piece() -> None:
    loss = ClusterLoss(5, 4, temperature=0.3, chunk_size=None).double()
    embeddings = batch()
    assert torch.autograd.gradgradcheck(lambda given: loss(given, LABELS), embeddings)


@pytest.mark.parametrize(
    "options", [{"chunk_size": None}, {"similarity": lambda q, i: q @ i.T}], ids=str
)
def test_a_combination_is_twice_differentiable(options: dict) -> None:
    loss = SupRankLoss("ap", ClusterLoss(5, 4), **options).double()
    embeddings = batch()
    (grad,) = torch.autograd.grad(loss(embeddings, LABELS), embeddings, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), embeddings)
    assert second.isfinite().all()
    assert (second != 0).any()


def test_the_proxies_are_drawn_as_published_and_learned() -> None:
    loss = ClusterLoss(400, 30)
    assert loss.proxies.shape == (30, 400)
    assert loss.proxies.abs().max().item() == pytest.approx(1 / 20, rel=1e-3)
    assert loss.proxies.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=0.05)
    assert list(loss.state_dict()) == ["proxies"]


def test_no_embeddings_give_zero_with_a_graph() -> None:
    loss = ClusterLoss(5, 4)
    value = loss(torch.zeros(0, 5), LABELS[:0])
    value.backward()
    assert value == 0
    assert (loss.proxies.grad == 0).all()


@pytest.mark.parametrize("exclude_query", [False, True])
def test_happier_is_the_weighted_sum(exclude_query: bool) -> None:
    comparator = ByLevel(Sup(offset=1.44))
    loss = HappierLoss(
        *(5, 4, 0.3, comparator),
        alpha=2.0, h_rank=Ramp(), temperature=0.1, exclude_query=exclude_query,
    ).double()  # fmt: skip
    hierarchical = HierarchicalAPLoss(
        comparator, alpha=2.0, h_rank=Ramp(), exclude_query=exclude_query
    )
    cluster = ClusterLoss(5, 4, 0.1).double()
    cluster.load_state_dict({"proxies": loss.losses[1].proxies})
    embeddings = batch()
    value = loss(embeddings, LABELS)
    expected = 0.7 * hierarchical(embeddings, LABELS) + 0.3 * cluster(embeddings, LABELS)
    torch.testing.assert_close(value, expected)
    (grad,) = torch.autograd.grad(value, embeddings)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, embeddings)[0])
    assert [name for name, _ in loss.named_parameters()] == ["losses.1.proxies"]

    # References are ranked, not clustered.
    items, labels = batch().detach().flip(0) + 0.1, LABELS.flip(0)
    ranked = hierarchical(embeddings, LABELS, None, items, labels)
    expected = 0.7 * ranked + 0.3 * cluster(embeddings, LABELS)
    torch.testing.assert_close(loss(embeddings, LABELS, None, items, labels), expected)


def test_suprank_with_clusters() -> None:
    cluster = ClusterLoss(5, 4, 0.1).double()
    embeddings = batch()
    expected = 0.9 * HierarchicalAPLoss()(embeddings, LABELS) + 0.1 * cluster(embeddings, LABELS)
    torch.testing.assert_close(SupRankLoss("h_ap", cluster)(embeddings, LABELS), expected)


def test_options_reach_both_parts() -> None:
    loss = HappierLoss(5, 4, normalize=False, chunk_size=3)
    assert (loss.normalize, loss.chunk_size) == (False, 3)
    assert (loss.losses[1].normalize, loss.losses[1].chunk_size) == (False, 3)
    assert "weights=[0.9, 0.1]" in repr(HappierLoss(5, 4))
    assert "pos_margin=0.9" in repr(RoadmapLoss())
    assert "h_rank=Ramp(" in repr(HappierLoss(5, 4, h_rank=Ramp()))
    assert "h_rank" not in repr(HappierLoss(5, 4))


X = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: ClusterLoss(0, 3), ValueError, "embedding_size must be at least 1, got 0"),
        (lambda: ClusterLoss(3, 1.5), TypeError, "num_classes must be an integer, got float"),
        (lambda: ClusterLoss(3, 2, 0), ValueError, "temperature must be positive"),
        (lambda: ClusterLoss(3, 2, chunk_size=0), ValueError, "chunk_size must be at least 1"),
        (lambda: ClusterLoss(2, 2)(X, torch.zeros(4).long()), ValueError, r"shape \(B, 2\), got"),
        (lambda: ClusterLoss(3, 2)(X, torch.zeros(4)), TypeError, "labels must be integers, got"),
        (lambda: ClusterLoss(3, 2)(X, torch.arange(4)), ValueError, "between 0 and 1, got 3"),
        (lambda: ClusterLoss(3, 2)(X, -torch.ones(4).long()), ValueError, "and 1, got -1"),
        (lambda: ClusterLoss(3, 2)(X, torch.zeros(3).long()), ValueError, r"labels must have"),
        (lambda: HappierLoss(3, 2, 1.5), ValueError, "weight must be between 0 and 1, got 1.5"),
        (lambda: HappierLoss(3, 2, -1), ValueError, "weight must be at least 0"),
        (lambda: HappierLoss(3, 2, h_rank=True), TypeError, "h_rank must be a Ramp or None, got"),
    ],
)
def test_bad_input(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
