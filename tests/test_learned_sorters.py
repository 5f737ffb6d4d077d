"""The learned sorters: the released program's values, shapes, dtypes, freezing, and bad input."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sodeep_fast
from sodeep_fast.compat.sodeep import model_loader
from sodeep_fast.sorters.cnn import CNNSorter, ReleasedCNNSorter
from sodeep_fast.sorters.gru import GRUSorter, RepeatedGRUSorter
from sodeep_fast.sorters.lstm import LSTMSorter
from sodeep_fast.sorters.mlp import MLPSorter
from sodeep_fast.sorters.released import RELEASED_TYPES, released_sorter
from sodeep_fast.synthetic import generate_batch
from sodeep_fast.testing import DEVICES, make_scores

DATA = Path(__file__).parent / "data" / "sodeep-learned-golden.json"
GOLDEN = json.loads(DATA.read_text())["cases"]
LENGTHS = {t: 6 for t in RELEASED_TYPES if t != "exa"} | {"lstmla": 2, "cnn": 100}
# The parameters of the released networks for rows of 100.
PARAMETERS = {
    "lstm": 3_089_508,
    "lstmla": 18_649_188,
    "lstme": 903_000,
    "grus": 168,
    "gruc": 100_800,
    "grup": 4_142_948,
    "mlp": 4_608_100,
    "cnn": 1_444_725,
    "exa": 0,
}
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
# A few thousand operations of order one, in float64.
ROUNDING = {"rtol": 1e-10, "atol": 1e-12}


pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")


def golden_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that the golden values were computed with."""
    weights = {}
    for k, (name, value) in enumerate(state.items()):
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(k)
            continue
        wave = torch.sin(0.7 * torch.arange(value.numel(), dtype=torch.float64) + k)
        scale = math.sqrt(3 * len(value) / value.numel()) if value.dim() > 1 else 0.3
        weights[name] = scale * wave.view(value.shape) + name.endswith("running_var")
    return weights


def restated(model_type: str, state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The released networks, in training mode, from their definitions and nothing else of ours."""

    def recurrent(kind: type[nn.RNNBase], prefix: str, layers: int, two: bool = True) -> Any:
        weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        hidden, width = weights["weight_hh_l0"].shape[1], weights["weight_ih_l0"].shape[1]
        network = kind(width, hidden, layers, batch_first=True, bidirectional=two).double()
        network.load_state_dict(weights)
        return network

    def convolve(hidden: Tensor) -> Tensor:
        return F.conv1d(hidden, state["conv1.weight"], state["conv1.bias"]).squeeze(-1)

    if model_type in ("lstm", "lstmla"):
        return convolve(recurrent(nn.LSTM, "lstm.", 2)(x.unsqueeze(-1))[0])
    if model_type == "grus":
        return recurrent(nn.GRU, "lstm.", 1)(x.unsqueeze(-1))[0].sum(2)
    if model_type in ("gruc", "grup"):
        hidden = recurrent(nn.GRU, "rnn.", 6)(torch.sigmoid(x / 2 + 1).unsqueeze(-1))[0]
        return torch.sigmoid(hidden.sum(2) if model_type == "gruc" else convolve(hidden))
    if model_type == "lstme":
        b, n = x.shape
        last = recurrent(nn.GRU, "lstm.", 1, False)(x.unsqueeze(1).repeat(1, n, 1))[1]
        return last[0].view(b, n, 5).sum(2)
    if model_type == "mlp":
        x = F.relu(F.linear(x, state["lin1.weight"], state["lin1.bias"]))
        x = F.relu(F.linear(x, state["lin2.weight"], state["lin2.bias"]))
        return F.linear(x, state["lin3.weight"], state["lin3.bias"])
    x = x.unsqueeze(1)
    for k in range(1, 10):
        x = F.conv1d(x, state[f"layer{k}.0.weight"], state[f"layer{k}.0.bias"])
        last = 1
        if k in (2, 4, 6, 8):
            mean, variance = x.mean((0, 2)), x.var((0, 2), unbiased=False)
            x = (x - mean[:, None]) / (variance[:, None] + 1e-5).sqrt()
            x = x * state[f"layer{k}.1.weight"][:, None] + state[f"layer{k}.1.bias"][:, None]
            last = 2
        x = torch.where(x > 0, x, state[f"layer{k}.{last}.weight"] * x)
    x = F.conv1d(x, state["layer10.weight"], state["layer10.bias"])
    return torch.sigmoid(x).squeeze(-1)


# --- The released networks ---


@pytest.mark.parametrize("case", GOLDEN)
def test_golden(case: str) -> None:
    model_type = case.removesuffix("-eval")
    n = LENGTHS[model_type]
    sorter = model_loader(model_type, n).double().train(not case.endswith("-eval"))
    sorter.load_state_dict(golden_weights(sorter.state_dict()))
    scores = torch.cos(2 * torch.arange(2 * n).double() ** 1.5).view(2, n).requires_grad_()
    ranks = sorter(scores)
    (ranks * torch.sin(torch.arange(2 * n).double()).view(2, n)).sum().backward()
    for name, value in (("ranks", ranks.detach()), ("grad", scores.grad)):
        expected = torch.tensor(GOLDEN[case][name], dtype=torch.float64)
        value = value[:, :: 9 if n == 100 else 1]
        atol = 1e-9 * expected.abs().max().item()
        torch.testing.assert_close(value, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("model_type", LENGTHS)
def test_released_networks_by_definition(model_type: str) -> None:
    n = LENGTHS[model_type]
    sorter = released_sorter(model_type, n, trainable=True).double()
    state = {name: value.clone() for name, value in sorter.state_dict().items()}
    scores = make_scores("normal", (3, n), dtype=torch.float64)
    weights = make_scores("normal", (3, n), dtype=torch.float64, seed=1)
    results = []
    for function in (sorter, lambda x: restated(model_type, state, x)):
        leaf = scores.clone().requires_grad_()
        ranks = function(leaf)
        (ranks * weights).sum().backward()
        results.append((ranks.detach(), leaf.grad))
    torch.testing.assert_close(*results, **ROUNDING)


def rnn_shapes(prefix: str, gates: int, hidden: int, layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for end in (f"_l{layer}", f"_l{layer}_reverse"):
            width = 1 if layer == 0 else 2 * hidden
            shapes[f"{prefix}.weight_ih{end}"] = (gates * hidden, width)
            shapes[f"{prefix}.weight_hh{end}"] = (gates * hidden, hidden)
            shapes[f"{prefix}.bias_ih{end}"] = shapes[f"{prefix}.bias_hh{end}"] = (gates * hidden,)
    return shapes


def released_shapes(model_type: str) -> dict[str, tuple[int, ...]]:
    """The names and shapes in the released state dicts, for rows of 100."""
    n = 100
    if model_type in ("lstm", "lstmla", "grup"):
        hidden = 512 if model_type == "lstmla" else 128
        head = {"conv1.weight": (n, n, 2 * hidden), "conv1.bias": (n,)}
        rnn = ("rnn", 3, hidden, 6) if model_type == "grup" else ("lstm", 4, hidden, 2)
        return rnn_shapes(*rnn) | head
    if model_type == "grus":
        return rnn_shapes("lstm", 3, 4, 1)
    if model_type == "gruc":
        return rnn_shapes("rnn", 3, 32, 6)
    if model_type == "lstme":
        return {
            "lstm.weight_ih_l0": (15 * n, n),
            "lstm.weight_hh_l0": (15 * n, 5 * n),
            "lstm.bias_ih_l0": (15 * n,),
            "lstm.bias_hh_l0": (15 * n,),
        }
    if model_type == "mlp":
        sizes = ((1, 2048, n), (2, 2048, 2048), (3, n, 2048))
        weights: dict[str, tuple[int, ...]] = {f"lin{i}.weight": (o, k) for i, o, k in sizes}
        return weights | {f"lin{i}.bias": (o,) for i, o, _ in sizes}
    if model_type == "exa":
        return {}
    shapes: dict[str, tuple[int, ...]] = {}
    channels = (1, 8, 16, 32, 64, 96, 128, 256, 256, 128)
    for k, kernel_size in enumerate((2, 3, 5, 7, 10, 7, 5, 3, 3), 1):
        shapes[f"layer{k}.0.weight"] = (channels[k], channels[k - 1], kernel_size)
        shapes[f"layer{k}.0.bias"] = (channels[k],)
        if k in (2, 4, 6, 8):
            for name in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"layer{k}.1.{name}"] = (channels[k],)
            shapes[f"layer{k}.1.num_batches_tracked"] = ()
        shapes[f"layer{k}.{2 if k in (2, 4, 6, 8) else 1}.weight"] = (1,)
    return shapes | {"layer10.weight": (n, 128, 64), "layer10.bias": (n,)}


@pytest.mark.parametrize("model_type", RELEASED_TYPES)
def test_released_state_dicts(model_type: str) -> None:
    with torch.device("meta"):
        sorter = released_sorter(model_type, 100)
    shapes = {name: tuple(value.shape) for name, value in sorter.state_dict().items()}
    assert shapes == released_shapes(model_type)
    assert sum(p.numel() for p in sorter.parameters()) == PARAMETERS[model_type]


# --- What they have in common ---


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SMALL)
def test_shapes_and_scale(name: str, device: str) -> None:
    sorter = SMALL[name]().to(device)
    scores = make_scores("normal", (2, 3, 7), device=device)
    ranks = sorter(scores)
    assert ranks.shape == (2, 3, 7)
    assert ranks.dtype == torch.float32
    # Rows are ranked alone; products of other sizes round differently.
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


@pytest.mark.parametrize("name", ["lstm", "gru", "repeated-gru"])
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


# --- The paper's convolutional network ---


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
    """Gives batch normalization some statistics, and returns the state dict."""
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
    torch.testing.assert_close(sorter(scores), expected, **ROUNDING)


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
    torch.testing.assert_close(sorter(scores), expected, **ROUNDING)


@pytest.mark.parametrize("options", [{}, {"depth": 1}, {"depth": 2, "kernel_sizes": [13, 1]}])
def test_untrained_padded_cnn_does_not_depend_on_order(options: dict[str, Any]) -> None:
    sorter = CNNSorter(7, padding="same", **options).double()
    scores = make_scores("normal", (3, 7), dtype=torch.float64)
    order = torch.tensor([4, 0, 6, 1, 5, 2, 3])
    ranks = sorter(scores)
    torch.testing.assert_close(sorter(scores[:, order]), ranks[:, order], **ROUNDING)
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
