"""The Triton kernels of soft_histogram in Triton's interpreter, against the reference."""

import pytest
import torch
from torch import Tensor

from sodeep_fast import quantized_ap, soft_histogram
from sodeep_fast.testing import make_scores, random_levels

op = torch.ops.sodeep_fast


def derivatives(scores: Tensor, levels: Tensor | None, **options) -> dict[str, Tensor]:
    """The histogram, its gradient for fixed weights, and the gradient of that for the weights."""
    torch.use_deterministic_algorithms(False)  # with which PyTorch's scatter takes seconds
    leaf = scores.detach().requires_grad_()
    value = soft_histogram(leaf, levels, **options)
    generator = torch.Generator().manual_seed(3)
    grad = torch.randn(value.shape, generator=generator, dtype=value.dtype).requires_grad_()
    (first,) = torch.autograd.grad(value, leaf, grad, create_graph=True)
    along = torch.randn(first.shape, generator=generator, dtype=torch.float64).to(first.dtype)
    (for_grad,) = torch.autograd.grad(first, grad, along)
    return {"value": value.detach(), "grad": first.detach(), "for_grad": for_grad}


def check(scores: Tensor, levels: Tensor | None = None, **options) -> None:
    ours = derivatives(scores, levels, backend="triton", **options)
    expected = derivatives(scores, levels, backend="reference", **options)
    precision = torch.finfo(ours["value"].dtype).eps
    scale = options.get("bins", 20) * scores.shape[-1]
    for name, value in ours.items():
        assert value.dtype == expected[name].dtype, name
        # Triton's interpreter truncates half gradients, which PyTorch rounds.
        rtol = 8 * precision + torch.finfo(value.dtype).eps
        tolerance = {"rtol": rtol, "atol": 8 * precision * scale, "equal_nan": True}
        torch.testing.assert_close(value, expected[name], **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(5, 1), (3, 2), (2, 33), (1, 140), (2, 2, 7)])
@pytest.mark.parametrize("num_levels", [None, 3])
def test_agrees_with_the_reference(
    num_levels: int | None, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    scores = make_scores("normal", shape, dtype=dtype)
    check(scores, None if num_levels is None else random_levels(shape, 3), num_levels=num_levels)


@pytest.mark.parametrize(("bins", "low", "high"), [(1, 0, 1), (2, -1, 1), (16, 0, 1), (70, -2, 1)])
def test_bins(bins: int, low: float, high: float) -> None:
    scores = make_scores("uniform", (2, 40)) * 1.5
    check(scores, random_levels((2, 40), 2), bins=bins, low=low, high=high)


def test_ties_on_centres() -> None:
    check(make_scores("tied", (2, 50)), random_levels((2, 50), 2), bins=9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half(dtype: torch.dtype) -> None:
    scores = make_scores("uniform", (2, 50), dtype=dtype)
    check(scores, random_levels((2, 50), 2))


def test_long_rows_are_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    from sodeep_fast.kernels import _config

    monkeypatch.setattr(_config, "HISTOGRAM_SLICE", 64)
    for items in (64, 65, 150):
        check(make_scores("normal", (3, items)), random_levels((3, items), 2))


def test_mask() -> None:
    scores = make_scores("normal", (4, 50))
    mask = torch.rand(4, 50, generator=torch.Generator().manual_seed(2)) > 0.4
    mask[1] = False
    poisoned = scores.masked_fill(~mask, torch.nan)
    for levels in (None, random_levels((4, 50), 2)):
        check(poisoned, levels, mask=mask)
        assert soft_histogram(poisoned, levels, mask=mask, backend="triton").isfinite().all()


def test_what_is_not_finite_stays_in_its_row() -> None:
    scores = make_scores("normal", (3, 40))
    scores[0, 3], scores[0, 4], scores[1, 7] = torch.inf, -torch.inf, torch.nan
    check(scores, random_levels((3, 40), 2))
    ours = derivatives(scores, random_levels((3, 40), 2), backend="triton")
    assert ours["value"].isnan().any(-1).any(-1).tolist() == [False, True, False]
    assert ours["grad"].isnan().nonzero().tolist() == [[1, 7]]


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4), (2, 0, 3)])
def test_empty(shape: tuple[int, ...]) -> None:
    scores = torch.zeros(shape, requires_grad=True)
    counts = soft_histogram(scores, backend="triton")
    counts.sum().backward()
    assert torch.equal(counts, torch.zeros(*shape[:-1], 1, 20))
    assert scores.grad.shape == shape


def test_strided_inputs() -> None:
    scores = make_scores("normal", (40, 6)).T
    levels = random_levels((40, 6), 2).bool().T
    expected = derivatives(scores.contiguous(), levels.contiguous(), backend="triton")
    for name, value in derivatives(scores, levels, backend="triton").items():
        assert torch.equal(value, expected[name]), name


def test_opcheck() -> None:
    scores = torch.randn(3, 20).requires_grad_()
    levels = random_levels((3, 20), 3).to(torch.uint8)
    grad, tangent = (torch.randn(shape).requires_grad_() for shape in ((3, 3, 7), (3, 20)))
    options = (levels, 3, 7, -1.0, 1.0)
    torch.library.opcheck(op.triton_soft_histogram.default, (scores, *options))
    torch.library.opcheck(op.triton_soft_histogram_backward.default, (grad, scores, *options))
    torch.library.opcheck(op.triton_soft_histogram_tangent.default, (tangent, scores, *options))


def test_quantized_ap_runs_the_triton_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from sodeep_fast.kernels import soft_histogram as kernels

    launched = []
    for name in ("soft_histogram_fwd_kernel", "soft_histogram_bwd_kernel"):

        class Spy:
            kernel, label = getattr(kernels, name), name

            def __getitem__(self, grid):
                launched.append(self.label)
                return self.kernel[grid]

        monkeypatch.setattr(kernels, name, Spy())
    scores = make_scores("normal", (3, 40)).requires_grad_()
    labels = random_levels((3, 40), 2).bool()
    values = quantized_ap(scores, labels, backend="triton")
    (grad,) = torch.autograd.grad(values.sum(), scores)
    assert launched == ["soft_histogram_fwd_kernel", "soft_histogram_bwd_kernel"]
    expected = quantized_ap(scores, labels)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), scores)[0])


def test_more_programs_than_a_launch_has() -> None:
    scores, levels = (
        torch.zeros(1, 1, dtype=t).expand(1 << 24, 1) for t in (torch.float32, torch.uint8)
    )
    with pytest.raises(ValueError, match="16777216 rows of 255 levels and 1 bins take 4278190080"):
        soft_histogram(scores, levels, num_levels=255, bins=1, backend="triton")
