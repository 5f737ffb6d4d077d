"""No Triton kernel reads outside of its inputs; like tests/test_bounds.py for C++."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sodeep_fast import Sup, bilstm, conv_stack, rank_counts, soft_histogram, soft_rank
from sodeep_fast.testing import make_bilstm, make_scores
from sodeep_fast.testing.bounds import GuardsInputs
from sodeep_fast.testing.convolutions import make_conv_blocks

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect"),
    pytest.mark.usefixtures("same_weights_and_one_thread"),
]

LEVELS = torch.randint(0, 3, (3, 33), generator=torch.Generator().manual_seed(0))
RUNS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "soft_rank": lambda s, levels: soft_rank(s, backend="triton"),
    "soft_rank, masked": lambda s, levels: soft_rank(s, mask=levels < 2, backend="triton"),
    "soft_histogram": lambda s, levels: soft_histogram(s, levels, backend="triton"),
    "rank_counts": lambda s, levels: rank_counts(s, levels, backend="triton").counts,
    "rank_counts, sup": lambda s, levels: (
        rank_counts(s, levels, comparator=Sup(), backend="triton").counts
    ),
}


@pytest.mark.parametrize("behind", [True, False], ids=["behind", "before"])
@pytest.mark.parametrize("n", [1, 33])
@pytest.mark.parametrize("name", RUNS)
def test_rows(name: str, n: int, behind: bool) -> None:
    scores = make_scores("normal", (3, n)).requires_grad_()
    with GuardsInputs(behind) as mode:
        value = RUNS[name](scores, LEVELS[:, :n])
        (grad,) = torch.autograd.grad(value.square().sum(), scores, create_graph=True)
        torch.autograd.grad(grad.square().sum(), scores)
    assert mode.calls > 0


@pytest.mark.parametrize("behind", [True, False], ids=["behind", "before"])
@pytest.mark.parametrize("hidden", [1, 17])
def test_bilstm(hidden: int, behind: bool) -> None:
    weights = list(make_bilstm(hidden, 2).parameters())
    scores = make_scores("normal", (5, 3)).requires_grad_()
    with GuardsInputs(behind) as mode:
        hidden_states = bilstm(scores, weights, backend="triton", precision="fp16")
        torch.autograd.grad(hidden_states.sum(), [scores, *weights])
    assert mode.calls > 0


@pytest.mark.parametrize("behind", [True, False], ids=["behind", "before"])
@pytest.mark.parametrize("n", [5, 37])
def test_conv_stack(n: int, behind: bool) -> None:
    layers = [(1, 3, 3, "same", True, True, 0), (3, 5, 4, 0, False, False, 0.2)]
    blocks = make_conv_blocks(layers).float()
    inputs = make_scores("normal", (2, 1, n)).requires_grad_()
    with GuardsInputs(behind) as mode:
        outputs = conv_stack(inputs, blocks, backend="triton")
        torch.autograd.grad(outputs.square().sum(), inputs)
    assert mode.calls > 0
