"""The soft histogram as a user meets it: values, shapes, dtypes, masks, derivatives, bad input."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sodeep_fast import soft_histogram
from sodeep_fast.ops import _backend
from sodeep_fast.testing import DISTRIBUTIONS, assert_as_accurate, make_scores

OPS = torch.ops.sodeep_fast
BACKENDS = ["auto", "reference"]
AXES = [(1, -1.0, 1.0), (2, -1.0, 1.0), (3, -0.5, 0.25), (20, -1.0, 1.0), (25, 0.0, 1.0)]


def random_levels(shape: tuple[int, ...], num_levels: int, seed: int = 1) -> Tensor:
    return torch.randint(num_levels, shape, generator=torch.Generator().manual_seed(seed))


def weights_like(values: Tensor, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(values.shape, generator=generator, dtype=torch.float64).to(values.dtype)


def derivatives(scores: Tensor, levels: Tensor | None = None, **options) -> dict[str, Tensor]:
    """The histogram, its gradient for fixed weights, and the gradient of that for the weights."""
    if options.get("backend") == "reference":
        torch.use_deterministic_algorithms(False)  # with which PyTorch's scatter takes seconds
    leaf = scores.detach().requires_grad_()
    value = soft_histogram(leaf, levels, **options)
    grad = weights_like(value).requires_grad_()
    (first,) = torch.autograd.grad(value, leaf, grad, create_graph=True)
    along = weights_like(first)
    for_grad, second = torch.autograd.grad(first, (grad, leaf), along, materialize_grads=True)
    return {"value": value.detach(), "grad": first.detach(), "for_grad": for_grad, "second": second}


def by_triangles(
    scores: Tensor, levels: Tensor, num_levels: int, bins: int, low: float, high: float
) -> Tensor:
    """Eq. (7) of the paper's supplement, every item against every bin, the ends saturating."""
    width = (high - low) / max(bins - 1, 1)
    centres = low + width * torch.arange(bins, dtype=scores.dtype)
    distance = (scores.unsqueeze(-1) - centres) / width
    shares = (1 - distance.abs()).clamp(min=0)
    shares[..., 0] = torch.where(scores < low, 1, shares[..., 0])
    shares[..., -1] = torch.where(scores > high, 1, shares[..., -1])
    if bins == 1:
        shares[:] = 1
    of_level = levels.unsqueeze(-1) == torch.arange(num_levels)
    return of_level.to(scores.dtype).transpose(-1, -2) @ shares


@pytest.mark.parametrize("backend", BACKENDS)
def test_worked_literal(backend: str) -> None:
    scores = torch.tensor([[0.75, 0.25, -0.5, 7.0], [1.0, -1.0, 0.0, -torch.inf]])
    levels = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0]])
    counts = soft_histogram(scores, levels, bins=3, backend=backend)
    expected = [[[0.5, 1.25, 0.25], [0.0, 0.25, 1.75]], [[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]]]
    assert torch.equal(counts, torch.tensor(expected))
    everything = soft_histogram(scores, bins=3, backend=backend)
    assert torch.equal(everything, counts.sum(1, keepdim=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("num_levels", [1, 2, 5])
def test_it_is_the_sum_of_triangles(
    num_levels: int, axis: tuple[int, float, float], backend: str
) -> None:
    bins, low, high = axis
    scores = make_scores("uniform", (4, 60), dtype=torch.float64) * 1.5
    levels = random_levels((4, 60), num_levels)
    options = {"bins": bins, "low": low, "high": high, "num_levels": num_levels}
    counts = soft_histogram(scores, levels, **options, backend=backend)
    torch.testing.assert_close(counts, by_triangles(scores, levels, num_levels, bins, low, high))
    # An item counts one, whatever its score.
    number = torch.stack([(levels == level).sum(-1) for level in range(num_levels)], -1)
    torch.testing.assert_close(counts.sum(-1), number.double())


@pytest.mark.kernels
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(("items", "num_levels"), [(1, 1), (2, 2), (33, 2), (1000, 3), (40_000, 2)])
def test_kernels_agree_with_the_reference(items: int, num_levels: int, distribution: str) -> None:
    scores = make_scores(distribution, (2, items), dtype=torch.float64)
    levels = random_levels((2, items), num_levels)
    for bins in (1, 2, 20) if items > 1000 else (1, 2, 20, 400):
        ours, expected = (
            derivatives(scores, levels, num_levels=num_levels, bins=bins, backend=backend)
            for backend in BACKENDS
        )
        for name, value in ours.items():
            tolerance = {"rtol": 1e-11, "atol": 1e-11 * items}
            torch.testing.assert_close(value, expected[name], **tolerance)
        assert (ours["second"] == 0).all()


@pytest.mark.kernels
def test_auto_runs_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _backend.choose("cpu", "soft_histogram")[0] == "cpp"
    scores = make_scores("normal", (2, 30))
    expected = OPS.soft_histogram(scores, None, 1, 20, -1.0, 1.0)
    from sodeep_fast.ops import soft_histogram as module

    monkeypatch.setattr(module, "reference_soft_histogram", None)
    assert torch.equal(soft_histogram(scores), expected)


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("items", [3, 100, 40_000])
@pytest.mark.parametrize("bins", [2, 20, 500])
def test_accuracy(bins: int, items: int, distribution: str, dtype: torch.dtype) -> None:
    scores = make_scores(distribution, (1, items), dtype=dtype)
    exact_position = (np.clip(scores[0].numpy().astype(np.longdouble), -1, 1) + 1) * (bins - 1) / 2
    below = np.minimum(np.floor(exact_position), bins - 2).astype(np.int64)
    fraction = exact_position - below
    exact = np.zeros(bins, np.longdouble)
    np.add.at(exact, below, 1 - fraction)
    np.add.at(exact, below + 1, fraction)

    ours, eager = (derivatives(scores, bins=bins, backend=backend) for backend in BACKENDS)
    # An item's position, up to `bins`, is rounded three times.
    floor = torch.finfo(dtype).eps * (2 * bins + 2 * items**0.5)
    assert_as_accurate(ours["value"][0, 0], eager["value"][0, 0], exact, floor=floor)

    weights = weights_like(ours["value"])[0, 0].numpy().astype(np.longdouble)
    slopes = np.diff(weights) * (bins - 1) / 2
    inside = np.abs(scores[0].numpy()) <= 1
    exact_grad = np.where(inside, slopes[below], 0)
    # Next to a centre, rounding decides in which interval a position is.
    nearest = np.abs(exact_position - np.round(exact_position))
    away = torch.from_numpy((nearest > 8 * bins * torch.finfo(dtype).eps) | ~inside)
    floor = 4 * torch.finfo(dtype).eps * float(np.abs(slopes).max())
    assert_as_accurate(
        ours["grad"][0][away], eager["grad"][0][away], exact_grad[away.numpy()], floor=floor
    )


@pytest.mark.kernels
@pytest.mark.parametrize("instruction_set", ["baseline", "avx2"])
def test_on_other_instruction_sets(instruction_set: str, rerun_on) -> None:
    """Some of the checks in a process that is limited to an older instruction set."""
    selected = "(test_kernels_agree and normal) or test_masked or test_half"
    rerun_on(__file__, selected, 11, instruction_set)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_at_a_centre_is_that_of_the_interval_above(backend: str) -> None:
    scores = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, -1.5], requires_grad=True)
    counts = soft_histogram(scores, bins=5, backend=backend)
    weights = torch.tensor([[0.0, 1.0, 10.0, 100.0, 1000.0]])
    (grad,) = torch.autograd.grad(counts, scores, weights)
    assert grad.tolist() == [2.0, 18.0, 180.0, 1800.0, 1800.0, 0.0, 0.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_bin_counts_and_has_no_gradient(backend: str) -> None:
    scores = torch.tensor([-torch.inf, -3.0, 0.3, torch.inf]).requires_grad_()
    counts = soft_histogram(scores, torch.tensor([0, 1, 1, 1]), bins=1, backend=backend)
    assert counts.tolist() == [[1.0], [3.0]]
    (grad,) = torch.autograd.grad(counts.square().sum(), scores)
    assert (grad == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5), (1,), (2, 1), (1, 65), (2, 3, 17)])
def test_shapes(shape: tuple[int, ...], backend: str) -> None:
    scores = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    levels = random_levels(shape, 3)
    counts = soft_histogram(scores, levels, bins=7, num_levels=3, backend=backend)
    assert counts.shape == (*shape[:-1], 3, 7)
    assert counts.sum().item() == pytest.approx(scores.numel())
    (grad,) = torch.autograd.grad(counts.square().sum(), scores)
    assert grad.shape == shape
    assert grad.isfinite().all()


def test_number_of_levels() -> None:
    scores = torch.randn(2, 6)
    assert soft_histogram(scores).shape == (2, 1, 20)
    assert soft_histogram(scores, num_levels=3).shape == (2, 3, 20)
    assert soft_histogram(scores, torch.zeros(2, 6, dtype=torch.bool)).shape == (2, 2, 20)
    assert soft_histogram(scores, torch.full((2, 6), 254)).shape == (2, 255, 20)
    assert (soft_histogram(scores, torch.full((2, 6), 254))[:, 254].sum(-1) - 6).abs().max() < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_and_expanded_inputs(backend: str) -> None:
    wide = make_scores("normal", (40, 3, 50), dtype=torch.float64)
    for scores in (wide[::2, 1, 5:45:3], wide[:, 0].T, wide[0, 0].expand(6, 50)):
        levels = random_levels(tuple(scores.T.shape), 2).bool().T
        strided = derivatives(scores, levels, backend=backend)
        dense = derivatives(scores.contiguous(), levels.contiguous(), backend=backend)
        for name, value in strided.items():
            assert torch.equal(value, dense[name]), name
    leaf = wide[:, 0].T.requires_grad_()
    soft_histogram(leaf, bins=3, backend=backend)[..., 1].sum().backward()  # of stride 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_scores_are_counted_in_float32(dtype: torch.dtype) -> None:
    scores = make_scores("uniform", (2, 5000)).to(dtype)
    levels = random_levels((2, 5000), 3)
    half, wide = derivatives(scores, levels), derivatives(scores.float(), levels)
    assert half["value"].dtype == half["for_grad"].dtype == torch.float32
    assert torch.equal(half["value"], wide["value"])
    assert half["grad"].dtype == dtype
    assert torch.equal(half["grad"], wide["grad"].to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(soft_histogram(scores, levels), half["value"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("leveled", [False, True])
def test_masked_rows_are_the_rows_without_the_masked_entries(leveled: bool, backend: str) -> None:
    scores = make_scores("normal", (5, 60), dtype=torch.float64)
    levels = random_levels((5, 60), 3) if leveled else None
    mask = torch.rand(5, 60, generator=torch.Generator().manual_seed(2)) > 0.4
    mask[3], mask[4] = False, True
    options = {"num_levels": 3, "bins": 9, "backend": backend}
    # What is masked may be anything.
    leaf = scores.masked_fill(~mask, torch.nan).requires_grad_()
    poisoned = None if levels is None else levels.masked_fill(~mask, -7)
    counts = soft_histogram(leaf, poisoned, mask=mask, **options)
    (grad,) = torch.autograd.grad(counts.square().sum(), leaf)
    assert (grad[~mask] == 0).all()
    for row in range(5):
        short = scores[row][mask[row]].requires_grad_()
        alone = soft_histogram(short, None if levels is None else levels[row][mask[row]], **options)
        (short_grad,) = torch.autograd.grad(alone.square().sum(), short)
        torch.testing.assert_close(counts[row], alone)
        torch.testing.assert_close(grad[row][mask[row]], short_grad)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("level", [0, 2])
def test_a_nan_spoils_the_counts_of_its_row_and_its_own_gradient(level: int, backend: str) -> None:
    clean = make_scores("normal", (3, 45), dtype=torch.float64)
    levels = random_levels((3, 45), 3)
    at = int((levels[1] == level).nonzero()[0])
    scores = clean.clone()
    scores[1, at] = torch.nan
    expected = derivatives(clean, levels, backend=backend)
    actual = derivatives(scores, levels, backend=backend)
    for name in ("value", "for_grad"):
        assert actual[name][1].isnan().all(), name
        assert torch.equal(actual[name][[0, 2]], expected[name][[0, 2]]), name
    assert actual["grad"].isnan().nonzero().tolist() == [[1, at]]
    assert torch.equal(actual["grad"][[0, 2]], expected["grad"][[0, 2]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_extreme_magnitudes(backend: str) -> None:
    largest, tiny = torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny
    scores = torch.tensor([largest, -largest, tiny, torch.inf, -torch.inf])
    result = derivatives(scores, bins=3, backend=backend)
    assert result["value"].tolist() == [[2.0, 1.0, 2.0]]
    assert (result["grad"][[0, 1, 3, 4]] == 0).all()
    narrow = soft_histogram(scores, bins=20, low=0.0, high=1e-30, backend=backend)
    assert narrow.sum() == 5
    wide = soft_histogram(scores, bins=20, low=-1e30, high=1e30, backend=backend)
    assert wide.sum() == 5


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bins", [1, 2, 6])
def test_gradcheck(bins: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    # Away from the centres, where the histogram has kinks.
    inside = torch.randint(-1, 6, (2, 9), generator=generator).double() + 0.1
    inside += 0.8 * torch.rand(2, 9, dtype=torch.float64, generator=generator)
    scores = (inside / 5).requires_grad_()
    levels = random_levels((2, 9), 3)
    mask = torch.rand(2, 9, generator=generator) > 0.3 if masked else None

    def counts(values: Tensor) -> Tensor:
        return soft_histogram(values, levels, bins=bins, low=0, high=(bins - 1) / 5 or 1, mask=mask)

    assert torch.autograd.gradcheck(counts, scores)
    assert torch.autograd.gradgradcheck(counts, scores)


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("leveled", [False, True])
def test_opcheck(dtype: torch.dtype, leveled: bool) -> None:
    scores = torch.randn(3, 20).to(dtype).requires_grad_()
    levels = random_levels((3, 20), 3).to(torch.uint8) if leveled else None
    options = (levels, 3, 7, -1.0, 1.0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    grad = torch.randn(3, 3, 7, dtype=wide, requires_grad=True)
    tangent = torch.randn(3, 20).to(dtype).requires_grad_()
    torch.library.opcheck(OPS.soft_histogram, (scores, *options))
    torch.library.opcheck(OPS.soft_histogram_backward, (grad, scores, *options))
    torch.library.opcheck(OPS.soft_histogram_tangent, (tangent, scores, *options))


@pytest.mark.kernels
def test_operators_refuse_what_would_index_out_of_bounds() -> None:
    scores, levels = torch.randn(2, 4), torch.ones(2, 4, dtype=torch.uint8)
    good = (levels, 2, 20, -1.0, 1.0)
    for arguments, match in (
        ((levels[:1], 2, 20, -1.0, 1.0), "levels must be uint8, of the size"),
        ((levels.long(), 2, 20, -1.0, 1.0), "levels must be uint8, of the size"),
        ((levels, 0, 20, -1.0, 1.0), "between 1 and 255 levels"),
        ((levels, 2, 0, -1.0, 1.0), "between 1 and 2\\^20 bins"),
        ((levels, 2, 20, 1.0, 1.0), "low must be below high"),
    ):
        with pytest.raises(RuntimeError, match=match):
            OPS.soft_histogram(scores, *arguments)
    with pytest.raises(RuntimeError, match="gradient of another size"):
        OPS.soft_histogram_backward(torch.zeros(2, 2, 19), scores, *good)
    with pytest.raises(RuntimeError, match="tangent and scores differ in size"):
        OPS.soft_histogram_tangent(scores[:1], scores, *good)


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(150, 700), (1, 200_000), (2, 100_001)])
def test_results_do_not_depend_on_the_number_of_threads(
    shape: tuple[int, int], dtype: torch.dtype, set_threads: Callable[[int], None]
) -> None:
    scores, levels = make_scores("normal", shape, dtype=dtype), random_levels(shape, 3)
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        results.append(derivatives(scores, levels))
    for other in results[1:]:
        for name, value in other.items():
            assert torch.equal(value, results[0][name]), name


@pytest.mark.kernels
@pytest.mark.filterwarnings("ignore")  # torch's compiler sets off deprecations of its own
def test_compile() -> None:
    def function(scores: Tensor, positives: Tensor) -> Tensor:
        return soft_histogram(scores, positives, bins=11).square().sum(-1)

    compiled = torch.compile(function, fullgraph=True)
    for items in (30, 70):
        scores = make_scores("normal", (4, items)).requires_grad_()
        positives = random_levels((4, items), 2).bool()
        values, expected = compiled(scores, positives), function(scores, positives)
        torch.testing.assert_close(values, expected)
        grads = [torch.autograd.grad(value.sum(), scores)[0] for value in (values, expected)]
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_vmap(backend: str) -> None:
    scores = make_scores("normal", (4, 3, 60))
    positives = random_levels((4, 60), 2).bool()

    def function(values: Tensor, labels: Tensor) -> Tensor:
        return soft_histogram(values, labels, bins=9, backend=backend)

    mapped = torch.func.vmap(function, in_dims=(1, None))(scores, positives)
    expected = torch.stack([function(scores[:, i], positives) for i in range(3)])
    assert torch.equal(mapped, expected)


SCORES, LEVELS = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("scores", "options", "error", "message"),
    [
        ([[1.0]], {}, TypeError, "scores must be a torch.Tensor, got list"),
        (LEVELS, {}, TypeError, "scores must be float16.* got torch.int64"),
        (SCORES[0, 0], {}, ValueError, "scores must have at least one dimension"),
        (SCORES, {"levels": SCORES}, TypeError, "levels must be integers or bool"),
        (SCORES, {"levels": LEVELS[:1]}, ValueError, "levels must have the shape of scores"),
        (SCORES, {"levels": -LEVELS}, ValueError, "levels must be between 0 and 254, got -1"),
        (SCORES, {"levels": LEVELS, "num_levels": 1}, ValueError, "levels must be between 0 and 0"),
        (SCORES, {"num_levels": 0}, ValueError, "num_levels must be at least 1, got 0"),
        (SCORES, {"num_levels": 256}, ValueError, "num_levels must be at most 255, got 256"),
        (SCORES, {"mask": LEVELS}, TypeError, "mask must be a bool tensor"),
        (SCORES, {"bins": 0}, ValueError, "bins must be at least 1, got 0"),
        (SCORES, {"bins": 2.0}, TypeError, "bins must be an integer, got float"),
        (SCORES, {"bins": 1 << 21}, ValueError, "bins must be at most 1048576, got 2097152"),
        (SCORES, {"low": "0"}, TypeError, "low must be a number, got str"),
        (SCORES, {"high": torch.inf}, ValueError, "high must be finite, got inf"),
        (SCORES, {"low": 1, "high": 1}, ValueError, "low must be below high, got 1 and 1"),
        (SCORES, {"low": -1e308, "high": 1e308}, ValueError, "high - low must be finite"),
        (SCORES, {"backend": "gpu"}, ValueError, "backend must be one of .* got 'gpu'"),
        (SCORES, {"backend": "cuda"}, ValueError, "soft_histogram has no cuda kernels yet"),
    ],
)
def test_bad_input(scores, options, error, message) -> None:
    with pytest.raises(error, match=message):
        soft_histogram(scores, **options)
