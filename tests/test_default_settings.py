"""Under PyTorch's default settings, results are the same as under those of the other tests."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sodeep_fast as sf
from sodeep_fast import doctor
from sodeep_fast.testing import make_bilstm, make_conv_blocks, make_scores

pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")

ITEMS = 300
LEVELS = torch.randint(3, (6, ITEMS), generator=torch.Generator().manual_seed(0))
RELEVANT = LEVELS > 0
LABELS = torch.arange(24) // 4
HIERARCHY = torch.stack([LABELS, LABELS // 2], 1)


def bilstm(scores: Tensor) -> Tensor:
    return sf.bilstm(scores, list(make_bilstm(9, 2).parameters()))


def conv_stack(scores: Tensor) -> Tensor:
    blocks = make_conv_blocks([(1, 5, 3, "same", True, True, 0.25), (5, 2, 2, 0, True, True, 0)])
    return sf.conv_stack(scores.unsqueeze(1), list(blocks.float()))


Function = Callable[[Tensor], Tensor]
# Of scores (6, ITEMS).
OPERATORS: dict[str, Function] = {
    "soft_rank": sf.soft_rank,
    "hard_rank": sf.hard_rank,
    "rank_counts": lambda s: sf.rank_counts(s, LEVELS, comparator=sf.ByLevel()).counts,
    "soft_histogram": lambda s: sf.soft_histogram(s, LEVELS),
    "bilstm": bilstm,
    "conv_stack": conv_stack,
}
LOSSES: dict[str, Function] = {
    "smooth_ap": lambda s: sf.smooth_ap(s, RELEVANT),
    "sup_ap": lambda s: sf.sup_ap(s, RELEVANT),
    "smooth_recall": lambda s: sf.smooth_recall(s, RELEVANT),
    "sup_ndcg": lambda s: sf.sup_ndcg(s, LEVELS),
    "h_ap": lambda s: sf.h_ap(s, LEVELS),
    "quantized_ap": lambda s: sf.quantized_ap(s, RELEVANT),
    "calibration": lambda s: sf.calibration_loss(s, RELEVANT),
    "spearman": lambda s: sf.spearman_loss(s, s.detach().flip(-1), sf.HandcraftedSorter()),
}
# Of embeddings (24, 8).
RETRIEVAL: dict[str, Function] = {
    "SmoothAPLoss": lambda x: sf.SmoothAPLoss()(x, LABELS),
    "QuantizedAPLoss": lambda x: sf.QuantizedAPLoss()(x, LABELS),
    "RoadmapLoss": lambda x: sf.RoadmapLoss()(x, LABELS),
    "HappierLoss": lambda x: sf.HappierLoss(8, 6)(x, HIERARCHY),
}
SORTERS: dict[str, Callable[[], nn.Module]] = {
    "handcrafted": sf.HandcraftedSorter,
    "equivariant": sf.EquivariantSorter,
    "lstm": lambda: sf.LSTMSorter(5),
    "gru": lambda: sf.GRUSorter(5, 2),
    "cnn": lambda: sf.CNNSorter(ITEMS, 3),
    "mlp": lambda: sf.MLPSorter(ITEMS, 11),
}


def test_every_public_operator_is_here() -> None:
    assert {name for name in doctor.OPERATORS if hasattr(sf, name)} == set(OPERATORS)


def check(function: Function, inputs: Tensor) -> None:
    """Asserts that value and gradient are the same, to the last bit."""
    results = []
    for deterministic in (True, False):
        torch.use_deterministic_algorithms(deterministic)
        torch.manual_seed(0)
        leaf = inputs.clone().requires_grad_()
        value = function(leaf)
        results.append([value])
        if value.requires_grad:
            results[-1] += torch.autograd.grad(value.square().sum(), leaf)
    for poisoned, default in zip(*results, strict=True):
        assert torch.equal(default, poisoned)
        assert default.isfinite().all()


@pytest.mark.parametrize("name", [*OPERATORS, *LOSSES])
def test_functions_of_scores(name: str) -> None:
    check({**OPERATORS, **LOSSES}[name], make_scores("normal", (6, ITEMS)))


@pytest.mark.parametrize("name", RETRIEVAL)
def test_losses_of_embeddings(name: str) -> None:
    check(RETRIEVAL[name], make_scores("normal", (24, 8)))


# Of embeddings (24, 8) among references, where a query has to be found.
AMONG_REFERENCES: dict[str, Function] = {
    "RecallAtKLoss": lambda x: sf.RecallAtKLoss()(x, LABELS, None, x.detach() * 2, LABELS),
    "SmoothAPLoss": lambda x: sf.SmoothAPLoss(exclude_query=True)(
        x, LABELS, None, x.detach().flip(0), LABELS.flip(0)
    ),
}


@pytest.mark.parametrize("name", [*OPERATORS, *LOSSES, *RETRIEVAL, *AMONG_REFERENCES])
def test_another_default_device(name: str) -> None:
    function = {**OPERATORS, **LOSSES, **RETRIEVAL, **AMONG_REFERENCES}[name]
    inputs = make_scores("normal", (6, ITEMS) if name in {**OPERATORS, **LOSSES} else (24, 8))
    if name in ("bilstm", "conv_stack", "HappierLoss"):
        pytest.skip("makes parameters, which belong on the default device")
    leaf, other = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    expected = function(leaf)
    with torch.device("meta"):
        value = function(other)
    assert torch.equal(value, expected)
    if value.requires_grad:
        grads = (torch.autograd.grad(v.sum(), x)[0] for v, x in ((value, other), (expected, leaf)))
        assert torch.equal(*grads)


@pytest.mark.parametrize("name", SORTERS)
def test_sorters(name: str) -> None:
    check(lambda scores: SORTERS[name]()(scores), make_scores("normal", (6, ITEMS)))
