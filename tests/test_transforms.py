"""`torch.func.grad`, `vmap` and `jacrev` of operators and losses agree with autograd."""

from collections.abc import Callable
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, vmap

from sodeep_fast import (
    ClusterLoss,
    CNNSorter,
    EquivariantSorter,
    HandcraftedSorter,
    HappierLoss,
    LSTMSorter,
    NDCGLoss,
    QuantizedAPLoss,
    RecallAtKLoss,
    RoadmapLoss,
    SmoothAPLoss,
    SpearmanLoss,
    SupRankLoss,
    h_ap,
    quantized_ap,
    rank_counts,
    smooth_ap,
    smooth_ndcg,
    soft_histogram,
    soft_rank,
)
from sodeep_fast.ops import _autograd
from sodeep_fast.ops.margin_excess import margin_excess
from sodeep_fast.testing import make_scores

LEVELS = torch.tensor([[0, 1, 2, 0, 1, 0], [1, 0, 0, 2, 0, 1]])
# Of scores (2, 6); squared, so that no second derivative is 0.
OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "soft_rank, direct": lambda s: soft_rank(s, method="direct").square().sum(),
    "soft_rank, linear": lambda s: soft_rank(s, method="linear").square().sum(),
    "soft_rank, masked": lambda s: soft_rank(s, mask=LEVELS < 2).square().sum(),
    "soft_histogram": lambda s: soft_histogram(s, LEVELS, bins=5).square().sum(),
    "rank_counts": lambda s: rank_counts(s, LEVELS).counts.square().sum(),
    "smooth_ap": lambda s: smooth_ap(s, LEVELS > 0).sum(),
    "h_ap": lambda s: h_ap(s, LEVELS).sum(),
    "smooth_ndcg": lambda s: smooth_ndcg(s, LEVELS).sum(),
    "margin_excess": lambda s: margin_excess(s, LEVELS > 0, LEVELS < 2, 0.9, 0.2).square().sum(),
    "quantized_ap": lambda s: quantized_ap(s, LEVELS > 0).sum(),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_grad_and_its_jacobian(name: str) -> None:
    function = OPERATORS[name]
    scores = make_scores("uniform", (2, 6), dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(function, scores)
    torch.testing.assert_close(grad(function)(scores), expected)
    hessian = torch.autograd.functional.hessian(function, scores)
    torch.testing.assert_close(jacrev(grad(function))(scores), hessian)
    assert hessian.abs().max() > 0


@pytest.mark.kernels
def test_the_kernels_are_what_is_differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    backward = Mock(wraps=_autograd._FUNCTIONS["soft_rank_backward"])
    monkeypatch.setitem(_autograd._FUNCTIONS, "soft_rank_backward", backward)
    grad(OPERATORS["soft_rank, direct"])(make_scores("uniform", (2, 6)))
    backward.apply.assert_called_once()


@pytest.mark.parametrize("name", OPERATORS)
def test_vmap_of_grad_and_of_its_jacobian(name: str) -> None:
    function = OPERATORS[name]
    scores = make_scores("uniform", (4, 2, 6), dtype=torch.float64)
    expected = torch.stack([torch.autograd.functional.jacobian(function, each) for each in scores])
    torch.testing.assert_close(vmap(grad(function))(scores), expected)
    expected = torch.stack([torch.autograd.functional.hessian(function, each) for each in scores])
    torch.testing.assert_close(vmap(jacrev(jacrev(function)))(scores), expected)


# Without kernels, PyTorch's own LSTM warns.
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize(
    "sorter",
    [
        HandcraftedSorter(),
        HandcraftedSorter(learnable=True),
        LSTMSorter(5, 2),
        CNNSorter(12, padding="same"),
        EquivariantSorter(),
    ],
    ids=lambda sorter: type(sorter).__name__,
)
def test_gradients_by_sample_of_a_spearman_loss(sorter: nn.Module) -> None:
    torch.manual_seed(0)
    model, loss = nn.Linear(3, 1), SpearmanLoss(sorter)
    inputs, targets = torch.randn(4, 12, 3), torch.randn(4, 12)
    parameters = dict(model.named_parameters())

    def of_one(values: dict[str, Tensor], rows: Tensor, exact: Tensor) -> Tensor:
        return loss(functional_call(model, values, (rows,))[:, 0], exact)

    found = vmap(partial(grad(of_one), parameters))(inputs, targets)
    for k in range(4):
        model.zero_grad()
        loss(model(inputs[k])[:, 0], targets[k]).backward()
        for name, parameter in parameters.items():
            torch.testing.assert_close(found[name][k], parameter.grad, atol=1e-6, rtol=1e-4)


CLASSES = torch.arange(16) // 4
LOSSES: list[tuple[nn.Module, Tensor]] = [
    (SmoothAPLoss(), CLASSES),
    (QuantizedAPLoss(), CLASSES),
    (RecallAtKLoss(), CLASSES),
    (RoadmapLoss(), CLASSES),
    (SupRankLoss("ap"), CLASSES),
    (ClusterLoss(8, 4), CLASSES),
    (NDCGLoss(), torch.stack([CLASSES, CLASSES // 2], 1)),
    (HappierLoss(8, 4), torch.stack([CLASSES, CLASSES // 2], 1)),
]


@pytest.mark.kernels
@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # of forward_ad itself
@pytest.mark.parametrize("name", OPERATORS)
def test_forward_mode_is_refused(name: str) -> None:
    """Rather than a derivative of 0."""
    scores = make_scores("normal", (2, 6))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(scores, torch.ones_like(scores))
        with pytest.raises((NotImplementedError, RuntimeError), match=r"forward-mode|jvp"):
            OPERATORS[name](dual)
        reference = soft_rank(dual, backend="reference")
        assert forward_ad.unpack_dual(reference).tangent is not None
        assert OPERATORS[name](scores).isfinite()


@pytest.mark.kernels
@pytest.mark.filterwarnings("ignore:.torch.jit.script")
def test_forward_mode_of_the_lstm_is_refused() -> None:
    sorter = LSTMSorter(3, 1)
    scores = make_scores("normal", (2, 6))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(scores, torch.ones_like(scores))
        with pytest.raises((NotImplementedError, RuntimeError), match=r"forward-mode|jvp"):
            sorter(dual)


def test_jacobian_of_no_counts() -> None:
    scores = make_scores("normal", (2, 3))
    counts = lambda values: rank_counts(values, torch.zeros(2, 3, dtype=torch.bool)).counts  # noqa: E731
    assert jacrev(counts)(scores).shape == (0, 2, 2, 3)


@pytest.mark.parametrize(("loss", "labels"), LOSSES, ids=lambda x: type(x).__name__)
def test_grad_of_losses_of_embeddings(loss: nn.Module, labels: Tensor) -> None:
    embeddings = make_scores("normal", (16, 8)).requires_grad_()
    (expected,) = torch.autograd.grad(loss(embeddings, labels), embeddings)
    found = grad(lambda values: loss(values, labels))(embeddings.detach())
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_second_derivatives_of_a_loss_of_embeddings() -> None:
    embeddings, labels = make_scores("normal", (6, 3)).double(), torch.arange(6) // 2
    loss, whole = SmoothAPLoss(0.1), SmoothAPLoss(0.1, chunk_size=None)
    expected = torch.autograd.functional.hessian(lambda x: whole(x, labels), embeddings)
    torch.testing.assert_close(jacrev(grad(lambda x: loss(x, labels)))(embeddings), expected)
