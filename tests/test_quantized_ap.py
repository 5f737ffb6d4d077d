"""AP_Q: golden values, the definitions by loops, how near it is to AP, gradients, bad input."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sodeep_fast import (
    QuantizedAPLoss,
    metrics,
    quantized_ap,
    soft_histogram,
    tie_aware_quantized_ap,
)
from sodeep_fast.benchmark.memory import peak_bytes
from sodeep_fast.benchmark.model import Case, WrongResult
from sodeep_fast.benchmark.soft_histogram import check_quantized_ap, labels_of
from sodeep_fast.benchmark.soft_histogram import make_scores as make_benchmark_scores
from sodeep_fast.testing import make_scores

GOLDEN = json.loads((Path(__file__).parent / "data" / "seed-golden.json").read_text())
FINE = torch.tensor(GOLDEN["labels_fine"])
SAME = FINE[:, None] == FINE
FUNCTIONS = {
    "plain": quantized_ap,
    "simplified": tie_aware_quantized_ap,
    "full": lambda *args, **options: tie_aware_quantized_ap(*args, simplified=False, **options),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def case(shape: tuple[int, int] = (6, 40), seed: int = 1) -> tuple[Tensor, Tensor]:
    scores = make_scores("normal", shape, dtype=torch.float64) / 2
    labels = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.2
    labels[:, 3] = True
    return scores, labels


def gradient(name: str, scores: Tensor, labels: Tensor, **options) -> Tensor:
    leaf = scores.detach().requires_grad_()
    (grad,) = torch.autograd.grad(FUNCTIONS[name](leaf, labels, **options).sum(), leaf)
    return grad


@pytest.mark.parametrize(
    ("golden", "name"),
    [("apq_nq20_-1_1", "plain"), ("tapq_simplified_nq20_-1_1", "simplified")],
)
def test_golden(golden: str, name: str) -> None:
    x = torch.tensor(GOLDEN["x"], dtype=torch.float64, requires_grad=True)
    values = FUNCTIONS[name](x @ x.T, SAME)
    (grad,) = torch.autograd.grad(values.sum(), x)
    expected = {
        key: torch.tensor(GOLDEN["cases"][golden][key], dtype=torch.float64)
        for key in ("value", "grad_x")
    }
    torch.testing.assert_close(values, expected["value"], rtol=1e-9, atol=0)
    # The file has twelve digits, and entries that cancel.
    torch.testing.assert_close(grad, expected["grad_x"], rtol=1e-7, atol=1e-11)


def by_loop(name: str, items: list[float], positives: list[float]) -> float:
    """The definitions for one row of bins, from the top; "full" is that of the official program."""
    total, before, found_before = 0.0, 0.0, 0.0
    for c, p in zip(items, positives, strict=True):
        if p > 0:
            if name == "plain":
                precision = (found_before + p) / (before + c)
            elif name == "simplified":
                precision = (2 * found_before + p + 1) / (2 * before + c + 1)
            else:
                rate = max(p - 1, 0) / max(c - 1, 1e-8)
                logarithm = math.log((before + c + 1) / (before + 1))
                precision = (c * rate + (found_before + 1 - rate * (before + 1)) * logarithm) / c
            total += precision * p
        before, found_before = before + c, found_before + p
    return total / sum(positives)


@every_function
def test_it_is_the_definition(name: str) -> None:
    scores, labels = case((6, 400))
    for bins in (2, 7, 20):
        counts = soft_histogram(scores, labels, bins=bins).flip(-1)
        items, positives = counts.sum(1), counts[:, 1]
        # With 1 < c < 2 items in a bin they differ: the program divides by c - 1, ours by 1.
        assert name != "full" or ((items - 1.5).abs() > 0.5).all()
        rows = zip(items.tolist(), positives.tolist(), strict=True)
        expected = [by_loop(name, *row) for row in rows]
        values = FUNCTIONS[name](scores, labels, bins=bins)
        torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))


@every_function
def test_gradcheck(name: str) -> None:
    # Within the intervals between centres, whose width is 1, and apart from each other.
    places = torch.rand(3, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = torch.randint(-1, 6, (3, 14)) + 0.1 + 0.8 * places
    labels = torch.arange(14).expand(3, 14) % 3 == 0
    mask = torch.arange(14).expand(3, 14) % 5 != 1

    def values(scores: Tensor) -> Tensor:
        return FUNCTIONS[name](scores, labels, bins=6, low=0, high=5, mask=mask)

    assert torch.autograd.gradcheck(values, scores.requires_grad_())
    assert torch.autograd.gradgradcheck(values, scores)


def test_scores_on_the_centres_give_the_exact_average_precision() -> None:
    scores, labels = case((50, 60))
    on_centres = (scores * 10).round().clamp(-10, 10) / 10  # many ties
    expected = metrics.average_precision(on_centres, labels)
    torch.testing.assert_close(quantized_ap(on_centres, labels, bins=21), expected)


def protocol(queries: int, seed: int) -> tuple[Tensor, Tensor]:
    """Gaussian scores of 200 items, 5 to 59 of them positive and better by a gap of 0 to 0.6."""
    generator = torch.Generator().manual_seed(seed)
    number = torch.randint(5, 60, (queries, 1), generator=generator)
    gap = 0.6 * torch.rand(queries, 1, generator=generator, dtype=torch.float64)
    noise = 0.12 * torch.randn(queries, 200, generator=generator, dtype=torch.float64)
    labels = torch.arange(200) < number
    return noise + gap * labels, labels


# Between five samples of 2000 queries, correlations differ by 0.001 at 20 bins.
@pytest.mark.parametrize(
    ("name", "bins", "low", "correlation", "bias"),
    [
        ("plain", 20, -1.0, 0.985, 0.07),
        ("plain", 25, 0.0, 0.997, 0.03),
        ("plain", 50, -1.0, 0.997, 0.03),
        ("simplified", 20, -1.0, 0.992, 0.04),
        ("full", 20, -1.0, 0.990, 0.05),
    ],
)
def test_it_is_close_to_average_precision(
    name: str, bins: int, low: float, correlation: float, bias: float
) -> None:
    scores, labels = protocol(2000, seed=0)
    exact = metrics.average_precision(scores, labels)
    values = FUNCTIONS[name](scores.float(), labels, bins=bins, low=low).double()
    assert torch.corrcoef(torch.stack([values, exact]))[0, 1] >= correlation
    assert -bias <= (values - exact).mean() < 0


@pytest.mark.parametrize(("name", "left"), [("plain", 0.004), ("simplified", 0.0005)])
def test_it_nears_average_precision_as_bins_grow(name: str, left: float) -> None:
    scores, labels = protocol(300, seed=1)
    exact = metrics.average_precision(scores, labels)
    errors = [
        float((FUNCTIONS[name](scores, labels, bins=bins) - exact).abs().mean())
        for bins in (5, 10, 20, 40, 80, 640, 5120)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < left


@every_function
def test_gradients_are_bounded_where_the_official_ones_are_not(name: str) -> None:
    """A bin that holds about one item, for instance the query itself, alone at the top."""
    negatives = torch.linspace(-0.9, 0.1, 30, dtype=torch.float64)
    for bins in (20, 21):
        for distance in (0.0, 1e-16, 1e-12, 1e-9, 1e-8, 1e-6, 1e-3):
            for sign in (-1, 1):
                top = torch.tensor([1 + sign * distance, 0.8 - sign * distance])
                scores = torch.cat([top.double(), negatives, negatives[:3] + 0.05])[None]
                labels = torch.zeros_like(scores, dtype=torch.bool)
                labels[0, [0, 1, 20, 31]] = True
                for dtype in (torch.float32, torch.float64):
                    grad = gradient(name, scores.to(dtype), labels, bins=bins)
                    assert grad.abs().max() < 4 * bins  # of a slope of bins / 2
    if name == "full":
        # The official formula's jump: from one item alone in its bin, log 2, to a little more, 1.
        steep = by_loop(name, [1 + 1e-7], [1 + 1e-7]) - by_loop(name, [1 - 1e-7], [1 - 1e-7])
        assert steep / 2e-7 > 1e6


@every_function
def test_a_training_signal(name: str) -> None:
    """A step along the gradient raises the value."""
    scores, labels = case((30, 50))
    scores = scores.clamp(-0.99, 0.99)
    before = FUNCTIONS[name](scores, labels)
    after = FUNCTIONS[name](scores + 1e-4 * gradient(name, scores, labels), labels)
    assert (after > before).all()


def test_all_tied_is_the_prevalence() -> None:
    labels = torch.arange(30)[None] < 12
    for score in (0.0, 0.33, -4.0, torch.inf):
        value = quantized_ap(torch.full((1, 30), score), labels)
        torch.testing.assert_close(value, torch.tensor([0.4]))


@every_function
def test_queries_without_positives_are_nan_without_a_gradient(name: str) -> None:
    scores, labels = case()
    mask = torch.rand(labels.shape, generator=torch.Generator().manual_seed(5)) < 0.7
    labels[1], mask[2], mask[3] = False, False, ~labels[3]
    leaf = scores.masked_fill(~mask, torch.nan).requires_grad_()
    values = FUNCTIONS[name](leaf, labels, mask=mask)
    assert values.isnan().tolist() == [False, True, True, True, False, False]
    (grad,) = torch.autograd.grad(values.nansum(), leaf)
    assert grad.isfinite().all()
    assert (grad[1:4] == 0).all()
    short = FUNCTIONS[name](scores[:1, mask[0]], labels[:1, mask[0]])
    torch.testing.assert_close(values[:1], short)


@every_function
def test_edges(name: str) -> None:
    function = FUNCTIONS[name]
    assert function(torch.zeros(0, 5), torch.zeros(0, 5, dtype=torch.bool)).shape == (0,)
    assert function(torch.zeros(3, 0), torch.zeros(3, 0, dtype=torch.bool)).isnan().all()
    scores, labels = case()
    assert function(scores, labels, bins=1).isfinite().all()
    assert (gradient(name, scores, labels, bins=1) == 0).all()
    beyond = torch.tensor([[1.5, -1.5, 0.2, torch.inf]])
    assert gradient(name, beyond, torch.tensor([[1, 0, 1, 1]]))[0, [0, 1, 3]].tolist() == [0, 0, 0]
    spoilt = scores.clone()
    spoilt[1, 0] = torch.nan
    values = function(spoilt, labels)
    assert values.isnan().tolist() == [False, True, False, False, False, False]
    assert torch.equal(values[2:], function(scores, labels)[2:])


@every_function
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    scores, labels = case()
    values = FUNCTIONS[name](scores.to(dtype), labels)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, FUNCTIONS[name](scores.to(dtype).float(), labels))
    grad = gradient(name, scores.to(dtype), labels)
    assert grad.dtype == dtype
    assert grad.isfinite().all()


@pytest.mark.filterwarnings("ignore")  # torch's compiler sets off deprecations of its own
def test_compile() -> None:
    def function(scores: Tensor, labels: Tensor) -> Tensor:
        return quantized_ap(scores, labels).nanmean()

    scores, labels = case()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(scores, labels), function(scores, labels))


def test_backends_agree() -> None:
    scores, labels = case()
    reference = quantized_ap(scores, labels, backend="reference")
    torch.testing.assert_close(quantized_ap(scores, labels), reference)


X = make_scores("normal", (8, 4), dtype=torch.float64)
CLASSES = torch.tensor([3, 1, 3, 2, 1, 3, 1, 0])


@pytest.mark.parametrize("tie_aware", [False, True])
def test_the_loss_of_embeddings(tie_aware: bool) -> None:
    function = tie_aware_quantized_ap if tie_aware else quantized_ap
    units, same = normalize(X, dim=-1), CLASSES[:, None] == CLASSES
    options = {"bins": 15, "low": -0.5, "high": 1.0}
    loss = QuantizedAPLoss(**options, tie_aware=tie_aware)
    values = function(units @ units.T, same, **options)
    torch.testing.assert_close(loss(X, CLASSES), (1 - values).mean())
    others = ~torch.eye(8, dtype=torch.bool)
    loss = QuantizedAPLoss(**options, tie_aware=tie_aware, exclude_query=True)
    values = function(units @ units.T, same, **options, mask=others)
    torch.testing.assert_close(loss(X, CLASSES), (1 - values).nanmean())


def test_the_loss_learns() -> None:
    x = X.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    loss = QuantizedAPLoss(exclude_query=True)
    first = loss(x, CLASSES).item()
    for _ in range(100):
        optimizer.zero_grad()
        value = loss(x, CLASSES)
        value.backward()
        optimizer.step()
    assert value.item() < 0.1 < first


def test_representation() -> None:
    expected = "bins=20, low=-1.0, high=1.0, tie_aware=False, normalize=True, exclude_query=False"
    assert repr(QuantizedAPLoss()) == f"QuantizedAPLoss({expected})"
    assert list(QuantizedAPLoss().state_dict()) == []


S, L = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)


@every_function
@pytest.mark.parametrize(
    ("scores", "labels", "options", "error", "match"),
    [
        (S[0], L[0], {}, ValueError, r"scores must have shape \(B, M\), got \(3,\)"),
        (S.long(), L, {}, TypeError, "scores must be float16.* got torch.int64"),
        (S, L[:1], {}, ValueError, "labels must have the shape of scores"),
        (S, 2 * L.long(), {}, ValueError, "labels must be binary, 0 or 1, got 2"),
        (S, L, {"mask": L.long()}, TypeError, "mask must be a bool tensor"),
        (S, L, {"bins": 0}, ValueError, "bins must be at least 1, got 0"),
        (S, L, {"low": 2}, ValueError, "low must be below high, got 2 and 1.0"),
        (S, L, {"backend": "tpu"}, ValueError, "backend must be one of"),
    ],
)
def test_bad_input(name, scores, labels, options, error, match) -> None:
    with pytest.raises(error, match=match):
        FUNCTIONS[name](scores, labels, **options)


def test_bad_options() -> None:
    with pytest.raises(TypeError, match="bins must be an integer, got float"):
        QuantizedAPLoss(20.0)
    with pytest.raises(ValueError, match="low must be below high, got 1 and 0"):
        QuantizedAPLoss(low=1, high=0)


@pytest.mark.kernels
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's /proc")
def test_memory_is_linear() -> None:
    """Forward and backward stay under twice the scores, where all bins would take 80 times."""
    shape = (2048, 2048)
    peak = peak_bytes("soft_histogram", Case("ours", "both", shape), "cpu", 1)
    assert 4 * shape[0] * shape[1] <= peak < 2 * 4 * shape[0] * shape[1]


def test_the_benchmark_refuses_another_function() -> None:
    scores = make_benchmark_scores((3, 50), "cpu")
    labels = labels_of(scores)
    check_quantized_ap(scores, quantized_ap(scores, labels), None, None)
    with pytest.raises(WrongResult, match="AP_Q is off"):
        check_quantized_ap(scores, tie_aware_quantized_ap(scores, labels), None, None)
    leaf, weights = scores.requires_grad_(), torch.ones(3)
    values = quantized_ap(leaf, labels)
    (slope,) = torch.autograd.grad(values, leaf, weights)
    check_quantized_ap(scores.detach(), values.detach(), weights, slope)
    with pytest.raises(WrongResult, match="the gradient of AP_Q is off"):
        check_quantized_ap(scores.detach(), values.detach(), weights, 1.01 * slope)
