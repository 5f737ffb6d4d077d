"""The retrieval metrics with a gradient: golden values, loops over the definitions, edges."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sodeep_fast
from sodeep_fast import (
    ByLevel,
    Ramp,
    Sigmoid,
    Step,
    Sup,
    h_ap,
    hard_ap,
    metrics,
    rank_counts,
    smooth_ap,
    smooth_ndcg,
    smooth_recall,
    sup_ap,
    sup_ndcg,
    sup_recall,
)
from sodeep_fast.reference.rank_counts import compare
from sodeep_fast.testing import make_scores

GOLDEN = json.loads((Path(__file__).parent / "data" / "seed-golden.json").read_text())
FINE, COARSE = (torch.tensor(GOLDEN[name]) for name in ("labels_fine", "labels_coarse"))
SAME = FINE[:, None] == FINE
SHARED = SAME.long() + (COARSE[:, None] == COARSE).long()  # labels in common
NOT_ITSELF = ~torch.eye(12, dtype=torch.bool)
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "smooth_ap": smooth_ap,
    "sup_ap": sup_ap,
    "smooth_recall": smooth_recall,
    "sup_recall": sup_recall,
    "smooth_ndcg": smooth_ndcg,
    "sup_ndcg": sup_ndcg,
    "h_ap": h_ap,
}
GRADED = ("smooth_ndcg", "sup_ndcg", "h_ap")


def ideal_dcg_in_float32() -> Tensor:
    """Our ideal gain divided by that of SupRank's program, which is float32."""
    gains = (2.0**SHARED - 1).sort(-1, descending=True).values
    discounts = (2 + torch.arange(12)).double().log2()
    exact = (gains.double() / discounts).sum(-1)
    rounded = (gains.float() / discounts.float()).sum(-1)
    return exact / rounded.double()


@pytest.mark.parametrize(
    ("case", "value"),
    [
        ("smoothap", lambda s: (1 - smooth_ap(s, SAME)).mean()),
        ("road_smoothap_perquery", lambda s: 1 - smooth_ap(s, SAME)),
        ("supap_default", lambda s: 1 - sup_ap(s, SAME)),
        ("supap_yaml1.44", lambda s: 1 - sup_ap(s, SAME, Sup(offset=1.44))),
        ("hap_default", lambda s: h_ap(s, SHARED, ByLevel(Sup(offset=1.44)))),
        ("suprank_supndcg", lambda s: sup_ndcg(s, SHARED) * ideal_dcg_in_float32()),
        ("suprank_suprecall", lambda s: sup_recall(s, SAME)),
        (
            "recallk",
            lambda s: (1 - smooth_recall(s, SAME & NOT_ITSELF, ks=[1, 2, 4, 8, 12])).mean(),
        ),
    ],
)
def test_golden(case: str, value: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor(GOLDEN["x"], dtype=torch.float64, requires_grad=True)
    result = value(x @ x.T)
    (grad,) = torch.autograd.grad(result.sum(), x)
    golden = {
        name: torch.tensor(GOLDEN["cases"][case][name], dtype=torch.float64)
        for name in ("value", "grad_x")
    }
    torch.testing.assert_close(result.detach().view(-1), golden["value"], rtol=1e-9, atol=0)
    # The file has twelve digits, and entries that cancel.
    torch.testing.assert_close(grad, golden["grad_x"], rtol=1e-7, atol=1e-12)


def case(shape: tuple[int, int] = (5, 23), num_levels: int = 2) -> tuple[Tensor, Tensor]:
    scores = make_scores("uniform", shape, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    return scores, torch.randint(num_levels, shape, generator=generator)


def ranks_by_loop(scores: Tensor, levels: Tensor, lower: Sigmoid | Sup, others) -> Tensor:
    """1 + the sum over the other items, for one row."""
    ranks = torch.ones_like(scores)
    for i in range(len(scores)):
        for k in range(len(scores)):
            if k != i:
                comparator = lower if levels[k] < levels[i] else others
                ranks[i] += compare(comparator, scores[k] - scores[i])
    return ranks


@pytest.mark.parametrize("kind", ["smooth", "sup"])
def test_values_are_the_definitions(kind: str) -> None:
    lower = Sigmoid(0.05) if kind == "smooth" else Sup(0.05, rho=7.0)
    others = lower if kind == "smooth" else Step()
    argument = 0.05 if kind == "smooth" else lower
    scores, levels = case(num_levels=3)
    labels = levels.clamp(max=1)
    values = {name: FUNCTIONS[f"{kind}_{name}"] for name in ("ap", "recall", "ndcg")}
    for row in range(5):
        s, y = scores[row], labels[row]
        rank = ranks_by_loop(s, y, lower, others)
        positives = y.nonzero().view(-1)
        rank_plus = torch.ones_like(s)
        rank_plus[positives] = ranks_by_loop(s[positives], y[positives], lower, others)
        expected = (rank_plus / rank)[positives].mean()
        one = slice(row, row + 1)
        torch.testing.assert_close(values["ap"](scores[one], labels[one], argument)[0], expected)
        for clip in (False, True):
            recalls = []
            for k in (1, 5, 30):
                found = torch.sigmoid((k - rank[positives]) / 0.7).sum()
                found = found.clamp(max=k) if clip else found
                recalls.append(found / min(k, len(positives)))
            value = values["recall"](
                scores[one], labels[one], (1, 5, 30), argument, temperature=0.7, clip=clip
            )
            torch.testing.assert_close(value[0], torch.stack(recalls).mean())

        rank = ranks_by_loop(s, levels[row], lower, others)
        gain = 2.0 ** levels[row] - 1
        best = sorted(gain.tolist(), reverse=True)
        ideal = sum(g / math.log2(2 + position) for position, g in enumerate(best))
        value = values["ndcg"](scores[one], levels[one], argument)
        torch.testing.assert_close(value[0], (gain / (1 + rank).log2()).sum() / ideal)

        sizes = torch.stack([(levels[row] == level).sum() for level in range(3)])
        relevance = (levels[row] ** 1.5) / sizes[levels[row]]
        hrank = relevance.clone()
        for i in range(23):
            for k in range(23):
                if k != i:
                    outranks = compare(others, s[k] - s[i])
                    hrank[i] += outranks * torch.minimum(relevance[i], relevance[k])
        expected = (hrank / rank).sum() / relevance.sum()
        comparator = lower if kind == "smooth" else ByLevel(lower)
        value = h_ap(scores[one], levels[one], comparator, alpha=1.5)
        torch.testing.assert_close(value[0], expected)
        table = torch.arange(3) ** 1.5 / sizes
        for given in (table, table[None]):
            torch.testing.assert_close(
                h_ap(scores[one], levels[one], comparator, relevances=given)[0], expected
            )


def test_smooth_h_ap_of_ties_and_of_its_gradient() -> None:
    levels = torch.tensor([[1, 1, 0]])
    assert h_ap(torch.tensor([[0.5, 0.5, -9.0]]), levels, Sigmoid()).item() == 1.0
    # For two levels it is Smooth-AP, whose numerator has a gradient.
    scores, levels = case()
    leaf, other = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    ours, expected = h_ap(leaf, levels, Sigmoid(0.1)), smooth_ap(other, levels, 0.1)
    torch.testing.assert_close(ours, expected)
    ours.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad)


def test_h_rank_of_a_ramp_is_its_definition() -> None:
    scores, levels = case(num_levels=3)
    leaf = (scores / 4).requires_grad_()
    value = h_ap(leaf, levels, h_rank=Ramp(), relevances=torch.tensor([0.0, 1.0, 2.0]))
    rank = h_ap(leaf, levels, relevances=torch.tensor([0.0, 1.0, 2.0]))
    for row in range(len(scores)):
        s, relevance = leaf[row].detach(), levels[row].double()
        extra = torch.zeros((), dtype=torch.float64)
        counts = rank_counts(leaf[row : row + 1], levels[row : row + 1], comparator=ByLevel())
        ranks = 1 + counts.counts.sum(-1)
        for place, i in enumerate(counts.columns.tolist()):
            for k in range(len(s)):
                if relevance[k] > relevance[i]:
                    x = s[k] - s[i]
                    ramp = min(1.0, 25 * x + 0.5) if x > 0 else 10 * x
                    extra += (ramp - float(x >= 0)) * relevance[i] / ranks[place].detach()
        expected = rank[row].detach() + extra / relevance.sum()
        torch.testing.assert_close(value[row].detach(), expected)
    (with_ramp,) = torch.autograd.grad(value.sum(), leaf)
    (without,) = torch.autograd.grad(rank.sum(), leaf)
    assert with_ramp.isfinite().all()
    assert not torch.allclose(with_ramp, without)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_mask_is_a_smaller_gallery(name: str) -> None:
    scores, levels = case(num_levels=3 if name in GRADED else 2)
    mask = torch.rand(5, 23, generator=torch.Generator().manual_seed(2)) > 0.4
    leaf = scores.masked_fill(~mask, torch.nan).requires_grad_()
    value = FUNCTIONS[name](leaf, levels, mask=mask)
    (grad,) = torch.autograd.grad(value.sum(), leaf)
    for row in range(5):
        short = scores[row][mask[row]][None].requires_grad_()
        alone = FUNCTIONS[name](short, levels[row][mask[row]][None])
        (short_grad,) = torch.autograd.grad(alone.sum(), short)
        torch.testing.assert_close(value[row], alone[0])
        torch.testing.assert_close(grad[row][mask[row]], short_grad[0])
        assert (grad[row][~mask[row]] == 0).all()
    (grad,) = torch.autograd.grad(FUNCTIONS[name](leaf, levels, mask=mask).sum() * torch.inf, leaf)
    assert (grad[~mask] == 0).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_queries_without_a_positive_are_nan_without_a_gradient(name: str) -> None:
    scores, levels = case()
    levels[[1, 3]] = 0
    leaf = scores.clone().requires_grad_()
    value = FUNCTIONS[name](leaf, levels)
    assert value.isnan().tolist() == [False, True, False, True, False]
    (grad,) = torch.autograd.grad(value.nanmean(), leaf)
    assert grad.isfinite().all()
    assert (grad[[1, 3]] == 0).all()
    (logarithmic,) = torch.autograd.grad(FUNCTIONS[name](leaf, levels).log().nanmean(), leaf)
    assert (logarithmic[[1, 3]] == 0).all()
    rest = FUNCTIONS[name](scores[[0, 2, 4]], levels[[0, 2, 4]])
    torch.testing.assert_close(value[[0, 2, 4]], rest)
    nothing = FUNCTIONS[name](leaf, torch.zeros_like(levels))
    assert nothing.isnan().all()
    (grad,) = torch.autograd.grad(nothing.nansum(), leaf)
    assert (grad == 0).all()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (1, 1)])
def test_edges(name: str, shape: tuple[int, int]) -> None:
    scores = torch.zeros(shape, requires_grad=True)
    value = FUNCTIONS[name](scores, torch.ones(shape, dtype=torch.int64))
    assert value.shape == shape[:1]
    if shape == (1, 1):
        found = torch.sigmoid(torch.tensor([1.0, 2, 4, 8, 16]) - 1).mean().item()
        assert value.item() == pytest.approx(found if "recall" in name else 1.0, rel=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_nan_stays_in_its_row(name: str) -> None:
    scores, levels = case()
    spoilt = scores.clone()
    spoilt[2, 4] = torch.nan
    leaf = spoilt.requires_grad_()
    value = FUNCTIONS[name](leaf, levels)
    assert value.isnan().tolist() == [False, False, True, False, False]
    (grad,) = torch.autograd.grad(value.sum(), leaf)
    assert grad[2].isnan().all()
    assert grad[[0, 1, 3, 4]].isfinite().all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_halves_and_label_types(name: str) -> None:
    scores, labels = case()
    scores = scores.half().requires_grad_()
    value = FUNCTIONS[name](scores, labels)
    assert value.dtype == torch.float32
    assert torch.equal(value, FUNCTIONS[name](scores.float(), labels))
    assert torch.equal(value, FUNCTIONS[name](scores, labels.bool()))
    (grad,) = torch.autograd.grad(value.sum(), scores)
    assert grad.dtype == torch.float16
    assert grad.isfinite().all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradcheck(name: str) -> None:
    scores, levels = case((2, 8), num_levels=3 if name in GRADED else 2)
    levels[:, 0] = 1
    argument = 0.3 if name.startswith("smooth") else Sup(0.3, rho=2.0)
    argument = ByLevel(argument) if name == "h_ap" else argument
    keyword = {"smooth": "tau"}.get(name.split("_")[0], "comparator")

    def value(leaf: Tensor) -> Tensor:
        return FUNCTIONS[name](leaf, levels, **{keyword: argument})

    assert torch.autograd.gradcheck(value, scores.requires_grad_())
    assert torch.autograd.gradgradcheck(value, scores)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bad_input(name: str) -> None:
    function = FUNCTIONS[name]
    with pytest.raises(ValueError, match=r"scores must have shape \(B, M\), got \(3,\)"):
        function(torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"must have the shape of scores, \(2, 3\), got \(2, 2\)"):
        function(torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        function(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.int64), mask=torch.ones(2, 3))
    if name.startswith("smooth"):
        with pytest.raises(ValueError, match="tau must be positive and finite, got 0"):
            function(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.int64), tau=0)
    if name not in GRADED:
        with pytest.raises(ValueError, match="labels must be binary, 0 or 1, got 2"):
            function(torch.zeros(2, 3), torch.full((2, 3), 2))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"ks": []}, ValueError, "ks must hold at least one k, got none"),
        ({"ks": [0]}, ValueError, "every k of ks must be at least 1, got 0"),
        ({"ks": [1.5]}, TypeError, "every k of ks must be an integer, got float"),
        ({"ks": 5}, TypeError, "ks must be a sequence of integers, got int"),
        ({"ks": None}, TypeError, "ks must be a sequence of integers, got NoneType"),
        ({"temperature": 0}, ValueError, "temperature must be positive and finite, got 0"),
    ],
)
def test_bad_cutoffs(options: dict, error: type[Exception], match: str) -> None:
    for function in (smooth_recall, sup_recall):
        with pytest.raises(error, match=match):
            function(torch.zeros(2, 3), torch.ones(2, 3), **options)


def test_hard_ap_checks_its_scores() -> None:
    with pytest.raises(TypeError, match=r"scores must be a torch\.Tensor, got list"):
        hard_ap([[0.5]], torch.ones(1, 1))


@pytest.mark.parametrize("function", [smooth_ndcg, sup_ndcg])
def test_gains_beyond_float32(function: Callable[..., Tensor]) -> None:
    # 2^200 is beyond float32; the levels of one query must not cost another its precision.
    levels = torch.tensor([[200, 1, 0, 3], [1, 0, 0, 2], [254, 253, 254, 0]])
    scores = make_scores("uniform", (3, 4)).requires_grad_()
    exact = scores.detach().double().requires_grad_()
    found, expected = function(scores, levels), function(exact, levels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    (grad,) = torch.autograd.grad(found.sum(), scores)
    (exact_grad,) = torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(grad.double(), exact_grad, rtol=1e-4, atol=1e-5)


def test_bad_relevances() -> None:
    with pytest.raises(TypeError, match=r"relevances must be a torch\.Tensor, got list"):
        h_ap(torch.zeros(2, 3), torch.ones(2, 3).long(), relevances=[0.0, 1.0])
    with pytest.raises(TypeError, match=r"relevances must be float16, .* got torch\.int64"):
        h_ap(torch.zeros(2, 3), torch.ones(2, 3).long(), relevances=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"of at least one level, got \(0,\)"):
        h_ap(torch.zeros(2, 3), torch.ones(2, 3).long(), relevances=torch.ones(0))
    with pytest.raises(ValueError, match=r"relevances must have shape \(L,\) or \(2, L\)"):
        h_ap(torch.zeros(2, 3), torch.ones(2, 3).long(), relevances=torch.ones(3, 2))
    with pytest.raises(ValueError, match="levels must be between 0 and 1, got 2"):
        h_ap(torch.zeros(2, 3), torch.full((2, 3), 2), relevances=torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="alpha must be positive"):
        h_ap(torch.zeros(2, 3), torch.ones(2, 3).long(), alpha=0)


@pytest.mark.parametrize(
    ("relevances", "match"),
    [
        ([1.0, 1.0, 2.0], "relevances must be zero for level 0, got 1.0"),
        ([[0.0, 1.0, 2.0], [0.5, 1.0, 2.0]], "relevances must be zero for level 0, got 0.5"),
        ([0.0, -1.0, 2.0], "relevances must be finite and not negative, got -1.0"),
        ([0.0, math.nan, 2.0], "relevances must be finite and not negative, got nan"),
        ([0.0, 1.0, math.inf], "relevances must be finite and not negative, got inf"),
    ],
)
def test_relevances_of_bad_values(relevances: list, match: str) -> None:
    for function in (h_ap, metrics.h_ap):
        with pytest.raises(ValueError, match=match):
            function(
                torch.zeros(2, 3), torch.ones(2, 3).long(), relevances=torch.tensor(relevances)
            )


@pytest.mark.parametrize("h_rank", [Sigmoid(), True])
def test_h_rank_is_a_ramp(h_rank: object) -> None:
    match = f"h_rank must be a Ramp or None, got {type(h_rank).__name__}"
    with pytest.raises(TypeError, match=match):
        h_ap(torch.zeros(2, 3), torch.ones(2, 3).long(), h_rank=h_rank)


def test_sparse_tensors_are_refused_by_name() -> None:
    dense = torch.eye(3)
    for arguments in ((dense.to_sparse(), dense), (dense, dense.to_sparse())):
        with pytest.raises(TypeError, match=r"(scores|labels) must be a dense .*sparse_coo"):
            smooth_ap(*arguments)


@pytest.fixture(scope="module")
def random_queries() -> tuple[Tensor, Tensor]:
    """10,000 queries for 40 items, a quarter of them positive, at the scales that cosines have."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(10_000, 40, generator=generator, dtype=torch.float64)
    scores *= torch.logspace(-3, 0, 10_000, dtype=torch.float64).unsqueeze(-1)
    labels = torch.rand(scores.shape, generator=generator) < 0.25
    labels[:, 0] = True
    return scores.clamp(-1, 1), labels


@pytest.mark.parametrize("offset", [None, 1.44], ids=["paper", "configuration files"])
def test_sup_ap_is_a_lower_bound(random_queries: tuple[Tensor, Tensor], offset: float | None):
    scores, labels = random_queries
    assert (sup_ap(scores, labels, Sup(offset=offset)) <= hard_ap(scores, labels) + 1e-12).all()


def test_the_inaturalist_variant_is_no_bound(random_queries: tuple[Tensor, Tensor]):
    scores, labels = random_queries
    comparator = Sup(start=0.0, offset=1.0)
    assert (sup_ap(scores, labels, comparator) > hard_ap(scores, labels) + 1e-3).any()


def test_hard_ap_is_the_metric(random_queries: tuple[Tensor, Tensor]):
    scores, labels = random_queries
    scores = (20 * scores).round()  # with ties
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.9
    expected = sodeep_fast.metrics.average_precision(scores, labels, mask=mask)
    torch.testing.assert_close(hard_ap(scores, labels, mask=mask), expected, equal_nan=True)
    assert not hard_ap(scores.requires_grad_(), labels).requires_grad
