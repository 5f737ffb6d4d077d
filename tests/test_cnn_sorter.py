"""The convolutional sorters: any depth, the definition, and their initial weights."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sodeep_fast
from sodeep_fast.sorters.cnn import CNNSorter
from sodeep_fast.testing import NETWORK_ROUNDING, make_scores

# A few thousand operations of order one, in float64.


pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")


@pytest.mark.parametrize("depth", range(1, 11))
@pytest.mark.parametrize("length", [1, 2, 7, 100])
def test_cnn_of_any_depth(length: int, depth: int) -> None:
    sorter = CNNSorter(length, depth)
    convolutions = [m for m in sorter.modules() if isinstance(m, nn.Conv1d)]
    assert len(convolutions) == depth
    assert convolutions[-1].out_channels == length
    # One position is left, with a channel for each score.
    assert sorter.linear.weight.shape == (length, length)
    assert sorter(torch.randn(2, length)).shape == (2, length)


def with_statistics(sorter: nn.Module) -> dict[str, Tensor]:
    """Sets some statistics of batch normalization, and returns the state dict."""
    with torch.no_grad():
        for name, buffer in sorter.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 2)
    return sorter.state_dict()


def cnn_block(state: dict[str, Tensor], i: int, x: Tensor) -> Tensor:
    """Block i by definition."""
    block = {k.removeprefix(f"blocks.{i}."): v[..., None] for k, v in state.items()}
    x = F.conv1d(x, block["0.weight"][..., 0], block["0.bias"][..., 0])
    x = (x - block["1.running_mean"]) / (block["1.running_var"] + 1e-5).sqrt()
    return (x * block["1.weight"] + block["1.bias"]).relu()


def test_cnn_by_definition() -> None:
    sorter = CNNSorter(9, 2, channels=[5], kernel_sizes=[3, 4]).double()
    state = with_statistics(sorter)
    scores = make_scores("normal", (3, 9), dtype=torch.float64)
    x = scores.unsqueeze(1)
    for i in range(2):
        x = cnn_block(state, i, x)
    assert x.shape == (3, 9, 4)
    expected = x.flatten(1) @ state["linear.weight"].T + state["linear.bias"]
    torch.testing.assert_close(sorter(scores), expected, **NETWORK_ROUNDING)


@pytest.mark.parametrize("depth", range(1, 11))
@pytest.mark.parametrize("length", [1, 2, 7, 100])
def test_padded_cnn_of_any_depth(length: int, depth: int) -> None:
    sorter = CNNSorter(length, depth, padding="same").double()
    convolutions = [m for m in sorter.modules() if isinstance(m, nn.Conv1d)]
    assert len(convolutions) == depth
    assert convolutions[-1].out_channels == length
    assert max(m.kernel_size for m in convolutions) == (2 * length - 1,)
    assert sorter.linear.weight.shape == (1, length)
    assert sorter(torch.randn(2, length)).shape == (2, length)


def test_padded_cnn_by_definition() -> None:
    sorter = CNNSorter(6, 3, channels=[5, 4], kernel_sizes=[2, 11, 4], padding="same").double()
    state = with_statistics(sorter)
    scores = make_scores("normal", (3, 6), dtype=torch.float64)
    x = scores.unsqueeze(1)
    for i, (left, right) in enumerate([(0, 1), (5, 5), (1, 2)]):
        x = F.pad(x, (left, right))
        x = cnn_block(state, i, x)
    assert x.shape == (3, 6, 6)
    expected = (state["linear.weight"][0][:, None] * x).sum(1) + state["linear.bias"]
    torch.testing.assert_close(sorter(scores), expected, **NETWORK_ROUNDING)


@pytest.mark.parametrize("options", [{}, {"depth": 1}, {"depth": 2, "kernel_sizes": [13, 1]}])
def test_untrained_padded_cnn_does_not_depend_on_order(options: dict[str, Any]) -> None:
    sorter = CNNSorter(7, padding="same", **options).double()
    scores = make_scores("normal", (3, 7), dtype=torch.float64)
    order = torch.tensor([4, 0, 6, 1, 5, 2, 3])
    ranks = sorter(scores)
    torch.testing.assert_close(sorter(scores[:, order]), ranks[:, order], **NETWORK_ROUNDING)
    assert (ranks.amax(-1) - ranks.amin(-1)).min() > 1e-3  # not trivially so


def test_padded_cnn_begins_with_spread_thresholds() -> None:
    scores = torch.linspace(-1, 1, 6001, dtype=torch.float64).pow(3).view(1, 1, -1)
    block = CNNSorter(100, padding="same", trainable=True).blocks[0].double()
    # In training, normalization divides by their standard deviation; the largest has 2.6.
    features = block(scores)[0] > 0
    kinks = scores[0, 0, (features[:, 1:] != features[:, :-1]).int().argmax(-1)] / scores.std()
    expected = torch.linspace(-2, 2, 16, dtype=torch.float64)
    falling = torch.arange(16) % 2 == 1
    torch.testing.assert_close(kinks, expected.where(falling, -expected), atol=0.01, rtol=0)
    assert features[:, 0].equal(falling)
    assert features[:, -1].equal(~falling)


def test_loaded_kernels_are_laid_out_as_they_are_read() -> None:
    loaded = sodeep_fast.load_sorter("cnn-100")
    fresh = CNNSorter(**loaded.arguments())
    fresh.standardize = loaded.standardize
    dense = {key: value.contiguous() for key, value in loaded.state_dict().items()}
    assigned = copy.deepcopy(fresh)
    fresh.load_state_dict(dense)
    assigned.load_state_dict(dense, assign=True)
    scores = torch.randn(2, 100)
    for sorter in (loaded, fresh, assigned):
        kernels = [m.weight for m in sorter.modules() if isinstance(m, nn.Conv1d)]
        assert len(kernels) > 3
        assert all(weight.transpose(1, 2).is_contiguous() for weight in kernels)
        torch.testing.assert_close(sorter(scores), loaded(scores))


def test_batch_statistics_need_two_numbers() -> None:
    sorter = CNNSorter(20, trainable=True)
    with pytest.raises(ValueError, match="scores must have two rows or more in training mode"):
        sorter(torch.randn(20))
    assert sorter(torch.randn(2, 20)).shape == (2, 20)
    assert sorter.eval()(torch.randn(20)).shape == (20,)
    assert CNNSorter(20, padding="same", trainable=True)(torch.randn(20)).shape == (20,)
