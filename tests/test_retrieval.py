"""The losses on embeddings: golden values, galleries, references, queries left out, bad input."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sodeep_fast import SmoothAPLoss, Sup, SupAPLoss, smooth_ap, sup_ap
from sodeep_fast.retrieval import RetrievalLoss
from sodeep_fast.testing import make_scores

GOLDEN = json.loads((Path(__file__).parent / "data" / "seed-golden.json").read_text())
LOSSES = {"smooth_ap": (SmoothAPLoss, smooth_ap), "sup_ap": (SupAPLoss, sup_ap)}
LABELS = torch.tensor([3, 1, 3, 2, 1, 3, 1, 0])  # unequal classes, unsorted, one of one member


def batch(seed: int = 0, items: int = 8) -> Tensor:
    return make_scores("normal", (items, 4), dtype=torch.float64, seed=seed).requires_grad_()


@pytest.mark.parametrize(
    ("case", "loss"),
    [
        ("smoothap", SmoothAPLoss(normalize=False)),
        ("supap_default", SupAPLoss(normalize=False)),
        ("supap_yaml1.44", SupAPLoss(Sup(offset=1.44), normalize=False)),
    ],
)
def test_golden_in_any_order(case: str, loss: RetrievalLoss) -> None:
    x = torch.tensor(GOLDEN["x"], dtype=torch.float64, requires_grad=True)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    value = loss(x[order], torch.tensor(GOLDEN["labels_fine"])[order])
    golden = torch.tensor(GOLDEN["cases"][case]["value"], dtype=torch.float64)
    torch.testing.assert_close(value, golden.mean(), rtol=1e-9, atol=0)
    (grad,) = torch.autograd.grad(value * len(golden), x)
    expected = torch.tensor(GOLDEN["cases"][case]["grad_x"], dtype=torch.float64)
    torch.testing.assert_close(grad, expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_the_mean_over_queries_of_the_score_function(name: str) -> None:
    make, function = LOSSES[name]
    embeddings = batch()
    units = normalize(embeddings, dim=-1)
    same = LABELS[:, None] == LABELS
    expected = (1 - function(units @ units.T, same)).mean()
    torch.testing.assert_close(make()(embeddings, LABELS), expected)
    raw = (1 - function(embeddings @ embeddings.T, same)).mean()
    torch.testing.assert_close(make(normalize=False)(embeddings, LABELS), raw)

    # Without the query the label that nobody shares has no positive.
    others = ~torch.eye(8, dtype=torch.bool)
    values = function(units @ units.T, same, mask=others)
    assert values.isnan().tolist() == [label in (0, 2) for label in LABELS.tolist()]
    torch.testing.assert_close(make(exclude_query=True)(embeddings, LABELS), (1 - values).nanmean())


@pytest.mark.parametrize("name", LOSSES)
def test_references(name: str) -> None:
    make, function = LOSSES[name]
    queries, items = batch(), batch(seed=1, items=20)
    item_labels = torch.arange(20) % 3  # nobody has label 3
    value = make()(queries, LABELS, ref_emb=items, ref_labels=item_labels)
    scores = normalize(queries, dim=-1) @ normalize(items, dim=-1).T
    expected = (1 - function(scores, LABELS[:, None] == item_labels)).nanmean()
    torch.testing.assert_close(value, expected)
    grads = torch.autograd.grad(value, (queries, items))
    for grad, exact in zip(grads, torch.autograd.grad(expected, (queries, items)), strict=True):
        torch.testing.assert_close(grad, exact)
    for options in ({}, {"exclude_query": True}):
        itself = make(**options)(queries, LABELS, None, queries, LABELS)
        torch.testing.assert_close(itself, make(**options)(queries, LABELS))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("exclude_query", [False, True])
def test_degenerate_batches_are_finite(name: str, exclude_query: bool) -> None:
    loss = LOSSES[name][0](exclude_query=exclude_query)
    for labels in ([0], [0, 1, 2], [5, 5, 5], []):
        embeddings = batch(items=max(1, len(labels)))[: len(labels)]
        value = loss(embeddings, torch.tensor(labels, dtype=torch.int64))
        assert value.shape == ()
        assert abs(value.item()) < 1
        (grad,) = torch.autograd.grad(value, embeddings)
        assert grad.isfinite().all()
    together = loss(torch.ones(4, 3), torch.tensor([0, 0, 1, 1]))
    assert together.isfinite()


@pytest.mark.parametrize("name", LOSSES)
def test_a_nan_embedding_makes_the_loss_nan(name: str) -> None:
    embeddings = batch().detach()
    embeddings[2, 1] = torch.nan
    assert LOSSES[name][0]()(embeddings, LABELS).isnan()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_and_autocast_compare_in_float32(name: str, dtype: torch.dtype) -> None:
    loss = LOSSES[name][0]()
    embeddings = batch().detach().to(dtype).requires_grad_()
    value = loss(embeddings, LABELS)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(embeddings.float(), LABELS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(value, loss(embeddings, LABELS))
    (grad,) = torch.autograd.grad(value, embeddings)
    assert grad.dtype == dtype
    assert grad.isfinite().all()


def test_representation_and_scripts_of_users() -> None:
    assert repr(SmoothAPLoss(0.1)) == (
        "SmoothAPLoss(temperature=0.1, normalize=True, exclude_query=False)"
    )
    assert "offset=1.44" in repr(SupAPLoss(Sup(offset=1.44)))
    assert list(SmoothAPLoss().state_dict()) == []


X, Y = torch.zeros(4, 3), torch.zeros(4)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((X[0], Y), ValueError, r"embeddings must have shape \(B, D\), got \(3,\)"),
        ((X.long(), Y), TypeError, "embeddings must be float16.* got torch.int64"),
        ((X, Y[:3]), ValueError, r"labels must have shape \(4,\), .* got \(3,\)"),
        ((X, [0, 1, 2, 3]), TypeError, "labels must be a torch.Tensor, got list"),
        ((X, Y, (Y, Y, Y)), ValueError, "indices_tuple must be None"),
        ((X, Y, None, X), ValueError, "ref_emb and ref_labels must be given together"),
        ((X, Y, None, None, Y), ValueError, "ref_emb and ref_labels must be given together"),
        ((X, Y, None, X[:0], Y[:0]), ValueError, "ref_emb must hold at least one item"),
        ((X, Y, None, X[:, :2], Y), ValueError, r"ref_emb must have shape \(M, 3\)"),
        ((X, Y, None, X, Y[:1]), ValueError, r"ref_labels must have shape \(4,\)"),
    ],
)
def test_bad_input(arguments: tuple, error: type[Exception], match: str) -> None:
    for make, _ in LOSSES.values():
        with pytest.raises(error, match=match):
            make()(*arguments)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        SmoothAPLoss(0)
    with pytest.raises(TypeError, match="lower must be a Sigmoid, Sup or Step, got float"):
        SupAPLoss(0.01)
