"""The released program's networks: its values, their definition, parameters and shapes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sodeep_fast.compat.sodeep import model_loader
from sodeep_fast.sorters.released import RELEASED_TYPES, released_sorter
from sodeep_fast.testing import NETWORK_ROUNDING, make_scores

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
# A few thousand operations of order one, in float64.


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
    """The released networks, in training mode, from their definitions, without our code."""

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
    torch.testing.assert_close(*results, **NETWORK_ROUNDING)


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
