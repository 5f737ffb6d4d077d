"""The losses on embeddings: golden values, galleries, references, queries left out, bad input."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sodeep_fast import (
    ByLevel,
    CalibrationLoss,
    CombinedLoss,
    HierarchicalAPLoss,
    NDCGLoss,
    QuantizedAPLoss,
    Ramp,
    RecallAtKLoss,
    RoadmapLoss,
    Sigmoid,
    SmoothAPLoss,
    Sup,
    SupAPLoss,
    SupRankLoss,
    calibration_loss,
    h_ap,
    quantized_ap,
    smooth_ap,
    smooth_recall,
    sup_ap,
    sup_ndcg,
    sup_recall,
)
from sodeep_fast.retrieval import RetrievalLoss
from sodeep_fast.testing import make_scores

GOLDEN = json.loads((Path(__file__).parent / "data" / "seed-golden.json").read_text())
# Unequal classes, unsorted, one of one member; and two superclasses, unequal too.
LABELS = torch.tensor([3, 1, 3, 2, 1, 3, 1, 0])
SUPER = torch.tensor([0, 1, 0, 0, 1, 0, 1, 1])
HIERARCHY = torch.stack([LABELS, SUPER], -1)

# The value of one query: of scores (B, M), levels (B, M), the finest of which is 2, and a mask.
Value = Callable[[Tensor, Tensor, Tensor | None], Tensor]
MEANS: dict[str, tuple[type[RetrievalLoss], Value]] = {
    "smooth_ap": (SmoothAPLoss, lambda s, level, m: smooth_ap(s, level == 2, mask=m)),
    "sup_ap": (SupAPLoss, lambda s, level, m: sup_ap(s, level == 2, mask=m)),
    "quantized_ap": (QuantizedAPLoss, lambda s, level, m: quantized_ap(s, level == 2, mask=m)),
    "recall": (
        lambda **options: RecallAtKLoss(query_is_positive=True, **options),
        lambda s, level, m: smooth_recall(s, level == 2, [min(k, s.shape[1]) for k in KS], mask=m),
    ),
    "ndcg": (NDCGLoss, lambda s, level, m: sup_ndcg(s, level, mask=m)),
    "h_ap": (HierarchicalAPLoss, lambda s, level, m: h_ap(s, level, mask=m)),
    "h_ap_with_hrank": (
        lambda **options: HierarchicalAPLoss(h_rank=Ramp(), **options),
        lambda s, level, m: h_ap(s, level, mask=m, h_rank=Ramp()),
    ),
    "smooth_h_ap": (
        lambda **options: HierarchicalAPLoss(Sigmoid(0.1), **options),
        lambda s, level, m: h_ap(s, level, Sigmoid(0.1), mask=m),
    ),
}
KS = (1, 2, 4, 8, 16)
LOSSES: dict[str, Callable[..., RetrievalLoss]] = {
    **{name: make for name, (make, _) in MEANS.items()},
    "recall_as_published": RecallAtKLoss,
    "calibration": CalibrationLoss,
    "roadmap": RoadmapLoss,
    "suprank_recall": lambda **options: SupRankLoss("recall", **options),
    "suprank_ndcg": lambda **options: SupRankLoss("ndcg", **options),
}


def batch(seed: int = 0, items: int = 8) -> Tensor:
    return make_scores("normal", (items, 4), dtype=torch.float64, seed=seed).requires_grad_()


def levels(labels: Tensor, item_labels: Tensor) -> Tensor:
    return (labels[:, None] == item_labels[None]).sum(-1)


def assert_same(value: Tensor, expected: Tensor, *leaves: Tensor) -> None:
    """Compares values and their gradients."""
    torch.testing.assert_close(value, expected)
    grads, exacts = (
        torch.autograd.grad(each, leaves, retain_graph=True) for each in (value, expected)
    )
    for grad, exact in zip(grads, exacts, strict=True):
        torch.testing.assert_close(grad, exact)


@pytest.mark.parametrize(
    ("case", "loss", "affine"),
    [
        ("smoothap", SmoothAPLoss(normalize=False), (0, 1)),
        ("road_smoothap_perquery", SmoothAPLoss(normalize=False), (0, 1)),
        ("supap_default", SupAPLoss(normalize=False), (0, 1)),
        ("supap_yaml1.44", SupAPLoss(Sup(offset=1.44), normalize=False), (0, 1)),
        ("recallk", RecallAtKLoss(normalize=False), (0, 1)),
        (
            "suprank_suprecall",
            RecallAtKLoss(
                comparator=ByLevel(), clip=False, query_is_positive=True, normalize=False
            ),
            (1, -1),
        ),
        (
            "hap_default",
            HierarchicalAPLoss(ByLevel(Sup(offset=1.44)), normalize=False),
            (1, -1),
        ),
    ],
)
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_golden_in_any_order(
    case: str, loss: RetrievalLoss, affine: tuple[int, int], chunk_size: int | None
) -> None:
    """`affine` turns the loss into the file's value: a loss, or the mean of a metric."""
    x = torch.tensor(GOLDEN["x"], dtype=torch.float64, requires_grad=True)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([GOLDEN["labels_fine"], GOLDEN["labels_coarse"]]).T
    golden = torch.tensor(GOLDEN["cases"][case]["value"], dtype=torch.float64)
    if case == "suprank_suprecall":
        # Its k = 16 is not clipped to the 12 items.
        loss.ks = (1, 2, 4, 8)
        golden = 1.25 * golden - 0.25 * at_sixteen(x.detach(), labels[:, 0])
    loss.chunk_size = chunk_size
    value = affine[0] + affine[1] * loss(x[order], labels[order])
    torch.testing.assert_close(value, golden.mean(), rtol=1e-9, atol=0)
    if case != "suprank_suprecall":
        (grad,) = torch.autograd.grad(value * len(golden), x)
        expected = torch.tensor(GOLDEN["cases"][case]["grad_x"], dtype=torch.float64)
        torch.testing.assert_close(grad, expected, rtol=1e-7, atol=1e-12)


def at_sixteen(x: Tensor, labels: Tensor) -> Tensor:
    return sup_recall(x @ x.T, labels[:, None] == labels, ks=[16])


@pytest.mark.parametrize("name", MEANS)
def test_it_is_the_mean_over_queries_of_the_score_function(name: str) -> None:
    make, function = MEANS[name]
    embeddings = batch()
    units = normalize(embeddings, dim=-1)
    shared = levels(HIERARCHY, HIERARCHY)
    expected = (1 - function(units @ units.T, shared, None)).mean()
    assert_same(make()(embeddings, HIERARCHY), expected, embeddings)
    raw = (1 - function(embeddings @ embeddings.T, shared, None)).mean()
    assert_same(make(normalize=False)(embeddings, HIERARCHY), raw, embeddings)

    # Without the query, a label that no other item shares has no positive.
    values = function(units @ units.T, shared, ~torch.eye(8, dtype=torch.bool))
    if name != "ndcg" and "h_ap" not in name:
        assert values.isnan().tolist() == [label in (0, 2) for label in LABELS.tolist()]
    alone = (1 - values).nanmean()
    assert_same(make(exclude_query=True)(embeddings, HIERARCHY), alone, embeddings)


@pytest.mark.parametrize("name", MEANS)
def test_references(name: str) -> None:
    make, function = MEANS[name]
    queries, items = batch(), batch(seed=1, items=20)
    label = torch.arange(20) % 3  # nobody has label 3
    item_labels = torch.stack([label, (label < 2).long()], -1)
    value = make()(queries, HIERARCHY, ref_emb=items, ref_labels=item_labels)
    scores = normalize(queries, dim=-1) @ normalize(items, dim=-1).T
    expected = (1 - function(scores, levels(HIERARCHY, item_labels), None)).nanmean()
    assert_same(value, expected, queries, items)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("exclude_query", [False, True])
def test_the_query_is_found_among_references(name: str, exclude_query: bool) -> None:
    """A batch inside a memory, with equal embeddings too, gives the same as the batch itself.

    Scores are exact, as equal embeddings tie, and rounding may break a tie.
    """
    loss = LOSSES[name](exclude_query=exclude_query, normalize=False)
    queries, others = ((8 * each.detach()).round() / 16 for each in (batch(), batch(1, 5)))
    queries[6] = queries[1]  # of one class
    queries[7] = queries[0]  # of two
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    other_labels = torch.tensor([[3, 0], [1, 1], [2, 0], [0, 1], [5, 0]])
    items = torch.cat([queries, others])[order]
    labels = torch.cat([HIERARCHY, other_labels])
    value = loss(queries, HIERARCHY, None, items, labels[order])

    # By pairs: everything but the diagonal takes part or, for the recall, may be positive.
    query, item = torch.ones(8, 13, dtype=torch.bool).nonzero(as_tuple=True)
    if exclude_query:
        query, item = (index[query != item] for index in (query, item))
    everything = torch.cat([queries, others])
    if name == "recall_as_published" and not exclude_query:
        scores = queries @ everything.T
        positive = (LABELS[:, None] == labels[:, 0]) & ~torch.eye(8, 13, dtype=torch.bool)
        ks = [min(k, 13) for k in KS]
        expected = (1 - smooth_recall(scores, positive, ks)).nanmean()
    elif name in ("roadmap", "suprank_recall", "suprank_ndcg") and not exclude_query:
        loss.losses[0].normalize = loss.losses[1].normalize = False
        first, second = (each(queries, HIERARCHY, None, everything, labels) for each in loss.losses)
        expected = loss.weights[0] * first + loss.weights[1] * second
    else:
        plain = LOSSES[name](normalize=False, exclude_query=False)
        expected = plain(queries, HIERARCHY, (query, item, query, item), everything, labels)
    torch.testing.assert_close(value, expected)

    itself = loss(queries, HIERARCHY, None, queries.clone(), HIERARCHY)
    torch.testing.assert_close(itself, loss(queries, HIERARCHY))
    torch.testing.assert_close(loss(queries, HIERARCHY, None, queries, HIERARCHY), itself)


def test_calibration_is_its_formula() -> None:
    embeddings, margins = batch(), (0.7, 0.2)
    scores = normalize(embeddings, dim=-1) @ normalize(embeddings, dim=-1).T
    same = LABELS[:, None] == LABELS
    others = ~torch.eye(8, dtype=torch.bool)
    near = (margins[0] - scores[same & others]).relu()
    far = (scores[~same] - margins[1]).relu()
    active = near.sum() / (near > 0).sum() + far.sum() / (far > 0).sum()
    everything = near.mean() + far.mean()
    for average, expected in (("active", active), ("all", everything)):
        loss = CalibrationLoss(*margins, average)
        assert_same(loss(embeddings, LABELS), expected, embeddings)
        value = calibration_loss(scores, same, *margins, average=average, mask=others)
        assert_same(value, expected, embeddings)
    with_itself = CalibrationLoss(*margins, "all", exclude_query=False)(embeddings, LABELS)
    own = (margins[0] - scores[same]).relu()
    assert_same(with_itself, own.mean() + far.mean(), embeddings)


def test_combinations_are_sums() -> None:
    embeddings = batch()
    parts = SupAPLoss(exclude_query=True), CalibrationLoss(0.8, 0.1)
    values = [loss(embeddings, LABELS) for loss in parts]
    for weighting, weights in [
        ("program", (1, 1)),
        ("paper", (0.5, 0.5)),
        ("suprank", (0.9, 0.1)),
        ((2.0, 3.0), (2, 3)),
    ]:
        loss = RoadmapLoss(weighting, pos_margin=0.8, neg_margin=0.1, exclude_query=True)
        expected = weights[0] * values[0] + weights[1] * values[1]
        assert_same(loss(embeddings, LABELS), expected, embeddings)
    nested = CombinedLoss([CombinedLoss(parts, [0.5, 2.0]), SmoothAPLoss()], [2.0, 1.0])
    expected = values[0] + 4 * values[1] + SmoothAPLoss()(embeddings, LABELS)
    assert_same(nested(embeddings, LABELS), expected, embeddings)
    for metric, bound, weights in [
        ("ap", SupAPLoss(), (0.9, 0.1)),
        ("ndcg", NDCGLoss(), (0.9, 0.1)),
        ("h_ap", HierarchicalAPLoss(), (0.9, 0.1)),
        (
            "recall",
            RecallAtKLoss(comparator=ByLevel(), clip=False, query_is_positive=True),
            (0.5, 0.5),
        ),
    ]:
        ranking, calibration = (loss(embeddings, HIERARCHY) for loss in (bound, CalibrationLoss()))
        expected = weights[0] * ranking + weights[1] * calibration
        assert_same(SupRankLoss(metric)(embeddings, HIERARCHY), expected, embeddings)


class NearLabels(SmoothAPLoss):
    """Smooth-AP whose positives are items with labels that are near enough."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach

    def relation(self, labels: Tensor, item_labels: Tensor) -> Tensor:
        return (labels - item_labels.T).abs() <= self.reach


def test_losses_of_a_combination_may_relate_items_by_their_own_options() -> None:
    embeddings = batch()
    parts = [NearLabels(0), NearLabels(1)]
    values = [loss(embeddings, LABELS) for loss in parts]
    assert values[0] != values[1]
    torch.testing.assert_close(CombinedLoss(parts)(embeddings, LABELS), sum(values))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("exclude_query", [False, True])
def test_degenerate_batches_are_finite(name: str, exclude_query: bool) -> None:
    loss = LOSSES[name](exclude_query=exclude_query)
    for labels in ([0], [0, 1, 2], [5, 5, 5], []):
        embeddings = batch(items=max(1, len(labels)))[: len(labels)]
        value = loss(embeddings, torch.tensor(labels, dtype=torch.int64))
        assert value.shape == ()
        assert value.isfinite()
        (grad,) = torch.autograd.grad(value, embeddings)
        assert grad.isfinite().all()
    together = torch.ones(4, 3, requires_grad=True)
    value = loss(together, torch.tensor([0, 0, 1, 1]))
    assert value.isfinite()
    assert torch.autograd.grad(value, together)[0].isfinite().all()
    nobody = loss(batch(), LABELS, None, batch(seed=1), LABELS + 10)
    assert nobody.isfinite()


@pytest.mark.parametrize("name", LOSSES)
def test_a_nan_embedding_makes_the_loss_nan(name: str) -> None:
    embeddings = batch().detach()
    embeddings[2, 1] = torch.nan
    assert LOSSES[name]()(embeddings, LABELS).isnan()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_and_autocast_compare_in_float32(name: str, dtype: torch.dtype) -> None:
    loss = LOSSES[name]()
    embeddings = batch().detach().to(dtype).requires_grad_()
    value = loss(embeddings, LABELS)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(embeddings.float(), LABELS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(value, loss(embeddings, LABELS))
    (grad,) = torch.autograd.grad(value, embeddings)
    assert grad.dtype == dtype
    assert grad.isfinite().all()


def test_representation() -> None:
    assert repr(SmoothAPLoss(0.1)) == (
        "SmoothAPLoss(temperature=0.1, normalize=True, exclude_query=False)"
    )
    assert "offset=1.44" in repr(SupAPLoss(Sup(offset=1.44)))
    assert "chunk_size=7, gather=True" in repr(SmoothAPLoss(chunk_size=7, gather=True))
    for make in LOSSES.values():
        assert list(make().state_dict()) == []


X, Y = torch.zeros(4, 3), torch.zeros(4)
P = torch.arange(2)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((X[0], Y), ValueError, r"embeddings must have shape \(B, D\), got \(3,\)"),
        ((X.long(), Y), TypeError, "embeddings must be float16.* got torch.int64"),
        ((X, Y[:3]), ValueError, r"labels must have shape \(4,\) or \(4, L\), .* got \(3,\)"),
        ((X, Y[:, None, None]), ValueError, r"labels must have .* got \(4, 1, 1\)"),
        ((X, [0, 1, 2, 3]), TypeError, "labels must be a torch.Tensor, got list"),
        ((X, Y, P), TypeError, "indices_tuple must be a tuple of tensors or None, got Tensor"),
        ((X, Y, (P, P)), ValueError, "indices_tuple must hold triplets .* got 2 tensors"),
        ((X, Y, (Y, Y, Y)), TypeError, "indices_tuple must hold tensors of integers, got .*float"),
        ((X, Y, (P, P, P[:1])), ValueError, "indices_tuple must hold vectors of one length"),
        ((X, Y, (P, P + 3, P)), ValueError, "must be between 0 and 3, got 4 in its tensor 1"),
        ((X, Y, (P, P, P - 1, P)), ValueError, "must be between 0 and 3, got -1 in its tensor 2"),
        ((X, Y, None, X), ValueError, "ref_emb and ref_labels must be given together"),
        ((X, Y, None, None, Y), ValueError, "ref_emb and ref_labels must be given together"),
        ((X, Y, None, X[:0], Y[:0]), ValueError, "ref_emb must hold at least one item"),
        ((X, Y, None, X[:, :2], Y), ValueError, r"ref_emb must have shape \(M, 3\)"),
        ((X, Y, None, X, Y[:1]), ValueError, r"ref_labels must have shape \(4,\)"),
        ((X, Y, None, X, Y[:, None]), ValueError, "ref_labels must have as many levels as labels"),
        ((X, Y, None, X, HIERARCHY[:4]), ValueError, r"so shape \(4,\), got \(4, 2\)"),
        ((X, Y * torch.nan), ValueError, "labels must be numbers, got NaN"),
        ((X, Y, None, X, Y * torch.nan), ValueError, "ref_labels must be numbers, got NaN"),
        ((X.to_sparse(), Y), TypeError, "embeddings must be a dense .* got torch.sparse_coo"),
        ((X, Y.to_sparse()), TypeError, "labels must be a dense .* got torch.sparse_coo"),
    ],
)
def test_bad_input(arguments: tuple, error: type[Exception], match: str) -> None:
    for make in LOSSES.values():
        with pytest.raises(error, match=match):
            make()(*arguments)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: SmoothAPLoss(0), ValueError, "temperature must be positive and finite, got 0"),
        (
            lambda: SupAPLoss(0.01),
            TypeError,
            "comparator must be a Sigmoid, Sup, Step or Ramp, got float",
        ),
        (lambda: NDCGLoss(0.01), TypeError, "comparator must be a Sigmoid.* got float"),
        (lambda: HierarchicalAPLoss(alpha=0), ValueError, "alpha must be positive"),
        (lambda: RecallAtKLoss([0]), ValueError, "every k of ks must be at least 1, got 0"),
        (lambda: RecallAtKLoss([]), ValueError, "ks must hold at least one k"),
        (lambda: RecallAtKLoss(temperature=-1), ValueError, "temperature must be positive"),
        (lambda: CalibrationLoss("a"), TypeError, "pos_margin must be a number, got str"),
        (lambda: CalibrationLoss(average="some"), ValueError, "average must be one of 'active'"),
        (lambda: RoadmapLoss("thesis"), ValueError, "weighting must be one of 'program', 'paper'"),
        (lambda: RoadmapLoss((1.0,)), ValueError, "weights must hold 2 numbers, got 1"),
        (lambda: RoadmapLoss(0.5), TypeError, "weighting must be one of .* two numbers, got float"),
        (lambda: SupRankLoss("ap", weights=0.9), TypeError, "weights must be a .* got float"),
        (lambda: RecallAtKLoss(5), TypeError, "ks must be a sequence of integers, got int"),
        (lambda: RecallAtKLoss(None), TypeError, "ks must be a sequence .* got NoneType"),
        (
            lambda: CombinedLoss([SupAPLoss()], weights=2.0),
            TypeError,
            "weights must be a sequence of 1 numbers, got float",
        ),
        (
            lambda: CombinedLoss([SupAPLoss()], ["1"]),
            TypeError,
            "every number of weights must be a number, got str",
        ),
        (
            lambda: CombinedLoss(SmoothAPLoss(), SupAPLoss()),
            TypeError,
            "losses must be a sequence of modules, such as a list, got SmoothAPLoss",
        ),
        (lambda: SupRankLoss("f1"), ValueError, "metric must be one of 'ap'"),
        (lambda: CombinedLoss([]), ValueError, "losses must hold at least one RetrievalLoss"),
        (lambda: CombinedLoss([sup_ap]), TypeError, "losses must be modules, got function"),
        (lambda: CombinedLoss([RecallAtKLoss(simix=True)]), ValueError, "losses must see one"),
        (lambda: SmoothAPLoss(chunk_size=0), ValueError, "chunk_size must be at least 1, got 0"),
        (lambda: SmoothAPLoss(chunk_size="all"), ValueError, "chunk_size must be 'auto', None or"),
        (lambda: SmoothAPLoss(similarity=1), TypeError, "similarity must be a function"),
    ],
)
def test_bad_options(make: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


def test_the_base_class_says_that_it_is_abstract() -> None:
    with pytest.raises(NotImplementedError, match="RetrievalLoss has no metric of its own"):
        RetrievalLoss()(X, Y)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
@pytest.mark.parametrize("name", LOSSES)
def test_unsigned_labels_of_references(name: str, dtype: torch.dtype) -> None:
    loss, items = LOSSES[name](exclude_query=True), batch().detach()
    expected = loss(items, HIERARCHY, None, items.clone(), HIERARCHY)
    value = loss(items, HIERARCHY, None, items.clone(), HIERARCHY.to(dtype))
    assert torch.equal(value, expected)
    assert torch.equal(loss(items, HIERARCHY.to(dtype), None, items.clone(), HIERARCHY), expected)
