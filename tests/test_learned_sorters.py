"""What the learned sorters have in common: shapes, dtypes, gradients, freezing, bad input."""

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import sodeep_fast
from sodeep_fast.sorters.cnn import CNNSorter, ReleasedCNNSorter
from sodeep_fast.sorters.gru import GRUSorter, RepeatedGRUSorter
from sodeep_fast.sorters.lstm import LSTMSorter
from sodeep_fast.sorters.mlp import MLPSorter
from sodeep_fast.sorters.released import released_sorter
from sodeep_fast.synthetic import generate_batch
from sodeep_fast.testing import DEVICES, make_scores

SMALL: dict[str, Callable[..., nn.Module]] = {
    "lstm": lambda **options: LSTMSorter(5, **options),
    "lstm-dense": lambda **options: LSTMSorter(5, 1, head="dense", length=7, **options),
    "gru": lambda **options: GRUSorter(5, 2, **options),
    "gru-plain": lambda **options: GRUSorter(5, 2, squash=False, **options),
    "gru-dense": lambda **options: GRUSorter(5, 2, head="dense", length=7, **options),
    "repeated-gru": lambda **options: RepeatedGRUSorter(7, 2, **options),
    "mlp": lambda **options: MLPSorter(7, 11, **options),
    "cnn": lambda **options: CNNSorter(7, 3, **options),
    "cnn-same": lambda **options: CNNSorter(7, 4, padding="same", **options),
}


pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SMALL)
def test_shapes_and_scale(name: str, device: str) -> None:
    sorter = SMALL[name]().to(device)
    scores = make_scores("normal", (2, 3, 7), device=device)
    ranks = sorter(scores)
    assert ranks.shape == (2, 3, 7)
    assert ranks.dtype == torch.float32
    # Rows are ranked independently; products of other sizes round differently.
    torch.testing.assert_close(sorter(scores[1, 2]), ranks[1, 2])
    plain = copy.deepcopy(sorter)
    plain.normalize = False
    torch.testing.assert_close(plain(scores), 7 * ranks)
    for shape in ((0, 7), (2, 0, 7)):
        assert sorter(torch.ones(shape, device=device)).shape == shape


@pytest.mark.parametrize("name", ["lstm", "gru", "gru-plain"])
def test_any_length(name: str) -> None:
    sorter = SMALL[name]()
    for n in (0, 1, 2, 33):
        assert sorter(torch.randn(3, n)).shape == (3, n)


@pytest.mark.parametrize(
    "name", ["lstm-dense", "gru-dense", "repeated-gru", "mlp", "cnn", "cnn-same"]
)
def test_other_lengths(name: str) -> None:
    match = r"scores must have rows of length 7, which this \w+ was made for, got shape \(3, {}\)"
    for n in (0, 1, 6, 8):
        with pytest.raises(ValueError, match=match.format(n)):
            SMALL[name]()(torch.randn(3, n))


@pytest.mark.parametrize("name", SMALL)
def test_rows_are_independent(name: str) -> None:
    sorter = SMALL[name]()
    scores = make_scores("normal", (4, 7))
    expected = sorter(scores)
    scores[1, 3], scores[2, 3] = math.nan, math.inf
    torch.testing.assert_close(sorter(scores)[[0, 3]], expected[[0, 3]])


@pytest.mark.parametrize("name", SMALL)
def test_strides(name: str) -> None:
    sorter = SMALL[name]()
    scores = make_scores("normal", (7, 4, 2))
    strided = scores[..., 0].T
    torch.testing.assert_close(sorter(strided), sorter(strided.contiguous()))
    row = scores[:, 0, 0].expand(5, 7)
    torch.testing.assert_close(sorter(row), sorter(row.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", SMALL)
def test_scores_are_computed_in_the_dtype_of_the_weights(name: str, dtype: torch.dtype) -> None:
    sorter = SMALL[name]()
    scores = make_scores("normal", (3, 7), dtype=dtype).requires_grad_()
    ranks = sorter(scores)
    assert ranks.dtype == torch.float32
    assert torch.equal(ranks, sorter(scores.detach().float()))
    ranks.sum().backward()
    assert scores.grad.dtype == dtype
    assert sorter.double()(scores).dtype == torch.float64


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_weights_and_autocast(name: str) -> None:
    sorter = SMALL[name]()
    scores = make_scores("normal", (3, 7))
    expected = sorter(scores)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = sorter(scores)
    converted = sorter.bfloat16()(scores)
    for ranks in (autocast, converted):
        assert ranks.dtype == torch.float32
        # Values of order one through at most a few layers, each rounded to 8 bits.
        assert (ranks - expected).abs().max() < 0.1


@pytest.mark.parametrize("name", SMALL)
def test_gradients(name: str) -> None:
    sorter = SMALL[name]().double()
    scores = make_scores("normal", (2, 7), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(sorter, scores)


@pytest.mark.parametrize("name", SMALL)
def test_frozen_by_default(name: str) -> None:
    sorter = SMALL[name]()
    loss = sodeep_fast.SpearmanLoss(sorter).train()
    assert not sorter.training
    state = copy.deepcopy(sorter.state_dict())
    scores = make_scores("normal", (4, 7)).requires_grad_()
    loss(scores, make_scores("normal", (4, 7), seed=1)).backward()
    assert scores.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in sorter.parameters())
    assert all(torch.equal(sorter.state_dict()[key], value) for key, value in state.items())


def test_an_lstm_whose_weights_are_made() -> None:
    """By pruning and by parametrizations, of some or of all weights."""
    sorter, scores = LSTMSorter(5, 2), make_scores("normal", (3, 9))
    before = sorter(scores)
    normalized = copy.deepcopy(sorter)
    parametrizations.weight_norm(normalized.lstm, "weight_hh_l0")
    for dtype in (torch.float32, torch.float64):
        torch.testing.assert_close(normalized.to(dtype)(scores.to(dtype)).float(), before)
    every = [(sorter.lstm, name) for name in dict(sorter.lstm.named_parameters())]
    prune.global_unstructured(every, prune.RandomUnstructured, amount=0.5)
    pruned = sorter(scores)
    assert not torch.allclose(pruned, before)
    sorter.double()
    torch.testing.assert_close(sorter(scores.double()).float(), pruned)


@pytest.mark.parametrize("name", SMALL)
def test_trainable(name: str) -> None:
    sorter = SMALL[name](trainable=True)
    assert sorter.training
    sorter(make_scores("normal", (4, 7))).square().sum().backward()
    assert all(p.grad is not None for p in sorter.parameters())
    assert not sorter.eval().training
    assert sorter.requires_grad_(False).train().training  # as any other module
    sorter.trainable = False
    assert not sorter.training
    assert not sorter.train().training
    sorter.trainable = True
    assert sorter.training
    assert all(p.requires_grad for p in sorter.parameters())


@pytest.mark.parametrize("name", ["gru", "repeated-gru"])
def test_recurrent_layers_keep_the_mode_in_which_cudnn_has_a_backward(name: str) -> None:
    layers = [m for m in SMALL[name]().eval().modules() if isinstance(m, nn.RNNBase)]
    assert [layer.training for layer in layers] == [True]


def test_batch_normalization_follows_the_mode() -> None:
    scores = make_scores("normal", (4, 7))
    sorter = CNNSorter(7, 3, trainable=True)
    sorter(scores)
    statistics = {k: v.clone() for k, v in sorter.state_dict().items() if "running" in k}
    assert any((v != 0).any() for k, v in statistics.items() if k.endswith("mean"))
    sorter.eval()
    torch.testing.assert_close(sorter(scores)[:1], sorter(scores[:1]))
    assert all(torch.equal(sorter.state_dict()[k], v) for k, v in statistics.items())


@pytest.mark.parametrize("name", ["lstm", "mlp", "cnn", "cnn-same"])
def test_they_learn_to_sort(name: str) -> None:
    sorter = SMALL[name](trainable=True)
    optimizer = torch.optim.Adam(sorter.parameters(), 0.01)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(100):
        scores, ranks = generate_batch(64, 7, "uniform", generator=generator)
        error = (sorter(scores) - ranks).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    # The constant that fits best is 0.24 off on the average.
    assert sum(errors[-10:]) / 10 < 0.18


@pytest.mark.parametrize("name", SMALL)
def test_arguments_make_the_same_network(name: str) -> None:
    sorter = SMALL[name](normalize=False)
    again = type(sorter)(**json.loads(json.dumps(sorter.arguments())))
    again.load_state_dict(sorter.state_dict())
    scores = make_scores("normal", (3, 7))
    assert torch.equal(again(scores), sorter(scores))
    assert repr(sorter.arguments()["normalize"]) in repr(sorter)


# --- Bad input ---


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: LSTMSorter(0), ValueError, "hidden_size must be at least 1, got 0"),
        (lambda: LSTMSorter(2.0), TypeError, "hidden_size must be an integer"),
        (lambda: LSTMSorter(2, 0), ValueError, "num_layers must be at least 1"),
        (lambda: LSTMSorter(head="sum"), ValueError, "head must be one of 'position', 'dense'"),
        (lambda: LSTMSorter(head="dense"), ValueError, "length must be given for the dense head"),
        (lambda: LSTMSorter(length=5), ValueError, "length is for the dense head only, got 5"),
        (lambda: GRUSorter(head="position"), ValueError, "head must be one of 'sum', 'dense'"),
        (lambda: GRUSorter(head="dense", length=0), ValueError, "length must be at least 1"),
        (lambda: RepeatedGRUSorter(7, width=0), ValueError, "width must be at least 1"),
        (lambda: MLPSorter(None), TypeError, "length must be an integer, got NoneType"),
        (lambda: CNNSorter(9, 0), ValueError, "depth must be at least 1"),
        (lambda: CNNSorter(9, 2, [5, 5]), ValueError, "channels must have 1 entries for depth 2"),
        (lambda: CNNSorter(9, 2, [0]), ValueError, "every entry of channels must be at least 1"),
        (
            lambda: CNNSorter(9, 2, None, [9, 3]),
            ValueError,
            "kernel_sizes must sum up to at most 10",
        ),
        (lambda: CNNSorter(9, padding=1), ValueError, "padding must be one of 'valid', 'same'"),
        (lambda: ReleasedCNNSorter()(torch.ones(101)), ValueError, "rows of length 100, .*101"),
        (lambda: LSTMSorter(2)(torch.tensor(1.0)), ValueError, "at least one dimension"),
        (lambda: LSTMSorter(2)(torch.arange(3)), TypeError, "scores must be float16"),
        (lambda: released_sorter("bogo"), ValueError, "model_type must be one of 'exa', .*'bogo'"),
        (lambda: released_sorter("mlp"), ValueError, "length of the rows must be given .*'mlp'"),
        (lambda: released_sorter("cnn", 101), ValueError, "'cnn' takes rows of length 100 only"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_a_mask_is_refused_before_any_work() -> None:
    loss = sodeep_fast.SpearmanLoss(LSTMSorter(4))
    mask = torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="mask must be None for LSTMSorter"):
        loss(torch.randn(2, 5), torch.randn(2, 5), mask=mask)
