"""Multistage backpropagation: equal to the plain step, with dropout, batch norm and proxies."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sodeep_fast import ClusterLoss, RecallAtKLoss, RoadmapLoss, SmoothAPLoss, multistage_step

LABELS = torch.arange(20) % 4


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
    return nn.Sequential(*layers).double()


def make_batches(size: int) -> list[tuple[Tensor, Tensor]]:
    inputs = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return list(zip(inputs.split(size), LABELS.split(size), strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [3, 20])
@pytest.mark.parametrize(
    "loss",
    [SmoothAPLoss(), RoadmapLoss(chunk_size=4), ClusterLoss(3, 4), RecallAtKLoss(simix=True)],
    ids=lambda loss: type(loss).__name__,
)
def test_it_is_the_plain_step(loss: nn.Module, size: int, training: bool) -> None:
    loss.double().zero_grad()
    plain, staged = network().train(training), network().train(training)
    batches = make_batches(size)

    torch.manual_seed(2)
    expected = loss(torch.cat([plain(inputs) for inputs, _ in batches]), LABELS)
    expected.backward()
    proxies = [parameter.grad.clone() for parameter in loss.parameters()]
    loss.zero_grad()
    after = torch.rand(3)

    torch.manual_seed(2)
    value = multistage_step(staged, iter(batches), loss)
    assert torch.equal(torch.rand(3), after)  # the random state is that of a plain step
    assert not value.requires_grad
    torch.testing.assert_close(value, expected.detach())
    for one, other in zip(plain.parameters(), staged.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for one, other in zip(plain.buffers(), staged.buffers(), strict=True):
        assert torch.equal(one, other)
    for grad, parameter in zip(proxies, loss.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, grad)


class Centred(nn.Module):
    """Less a running mean, which is a new tensor at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3).double()
        self.register_buffer("centre", torch.zeros(6, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        self.centre = 0.9 * self.centre + 0.1 * inputs.mean(0)
        return self.linear(inputs - self.centre)


def test_buffers_that_are_replaced_move_once() -> None:
    torch.manual_seed(0)
    plain, batches = Centred(), make_batches(5)
    staged, before = copy.deepcopy(plain), plain.centre
    SmoothAPLoss()(torch.cat([plain(inputs) for inputs, _ in batches]), LABELS).backward()
    multistage_step(staged, batches, SmoothAPLoss())
    assert not torch.equal(plain.centre, before)
    assert torch.equal(staged.centre, plain.centre)
    torch.testing.assert_close(staged.linear.weight.grad, plain.linear.weight.grad)


def test_gradients_are_added_to_what_is_there() -> None:
    model, loss = network().eval(), SmoothAPLoss()
    multistage_step(model, make_batches(5), loss)
    once = [parameter.grad.clone() for parameter in model.parameters()]
    multistage_step(model, make_batches(5), loss)
    for parameter, grad in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * grad)


def test_no_more_than_a_batch_has_a_graph() -> None:
    """The most embeddings that were alive with a graph at once are those of one batch."""
    alive: list[int] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = network()

        def forward(self, inputs: Tensor) -> Tensor:
            output: Tensor = self.layers(inputs)
            if output.requires_grad:
                alive.append(len(inputs))
                output.register_hook(lambda _: alive.remove(len(inputs)))
                assert alive == [len(inputs)]
            return output

    multistage_step(Counting(), make_batches(5), SmoothAPLoss())
    assert alive == []


def test_a_scaler_scales_gradients_and_not_the_value() -> None:
    class Scaler(torch.amp.GradScaler):
        def scale(self, outputs: Any) -> Any:
            return 8 * outputs

    plain, scaled = network().eval(), network().eval()
    value = multistage_step(plain, make_batches(5), SmoothAPLoss())
    scaler = Scaler("cpu", enabled=False)
    assert torch.equal(
        multistage_step(scaled, make_batches(5), SmoothAPLoss(), scaler=scaler), value
    )
    for one, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(8 * one.grad, other.grad)


def test_no_batches() -> None:
    with pytest.raises(ValueError, match="batches must hold at least one batch, got none"):
        multistage_step(network(), [], SmoothAPLoss())


class Refusing(nn.Linear):
    """A network that is not to be called."""

    def forward(self, inputs: Tensor) -> Tensor:
        raise AssertionError


X = torch.zeros(4, 3)
Y = torch.arange(4) // 2


@pytest.mark.parametrize(
    ("batches", "loss", "error", "match"),
    [
        ([(X, Y, Y)], SmoothAPLoss(), TypeError, "batches must hold pairs .* got a tuple of 3"),
        ([X], SmoothAPLoss(), TypeError, "batches must hold pairs .* got a Tensor"),
        (3, SmoothAPLoss(), TypeError, "batches must be a sequence of pairs .* got int"),
        ([(X, [0, 1])], SmoothAPLoss(), TypeError, "labels of batches must be .* got list"),
        ([(X, Y[0])], SmoothAPLoss(), ValueError, r"labels of batches must have shape"),
        (
            [(X, Y), (X, torch.stack([Y, Y], 1))],
            SmoothAPLoss(),
            ValueError,
            r"equal but for b, got \(4,\) and \(4, 2\)",
        ),
        ([(X, Y)], 3, TypeError, "loss must be a module or function .* got int"),
    ],
)
def test_what_is_wrong_is_found_before_the_network_runs(
    batches: Any, loss: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        multistage_step(Refusing(3, 2), batches, loss)


def test_a_static_graph_is_refused() -> None:
    model = network()
    model.static_graph = True  # as DistributedDataParallel has it
    with pytest.raises(ValueError, match=r"model must not be a .* with static_graph=True"):
        multistage_step(model, make_batches(5), SmoothAPLoss())


def test_bad_models() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got function"):
        multistage_step(lambda inputs: inputs, [(X, Y)], SmoothAPLoss())
    with pytest.raises(ValueError, match="model must have a parameter that requires a gradient"):
        multistage_step(Refusing(3, 2).requires_grad_(False), [(X, Y)], SmoothAPLoss())
    with pytest.raises(ValueError, match=r"an embedding for each of the 3 labels .* \(4, 2\)"):
        multistage_step(nn.Linear(3, 2), [(X, Y[:3])], SmoothAPLoss())
    with pytest.raises(TypeError, match=r"model must return a torch\.Tensor, got tuple"):
        multistage_step(nn.GRU(3, 2), [(X, Y)], SmoothAPLoss())


@pytest.mark.parametrize(
    ("loss", "error", "match"),
    [
        (lambda x, y: x.sum(-1), ValueError, r"loss must return a scalar, got shape \(4,\)"),
        (lambda x, y: x.sum().item(), TypeError, "loss must return a torch.Tensor, got float"),
        (lambda x, y: x.sum().detach(), ValueError, "loss must return a value with a graph"),
    ],
)
def test_losses_that_are_no_number(loss: Any, error: type[Exception], match: str) -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(error, match=match):
        multistage_step(model, [(X, Y)], loss)
    assert model.weight.grad is None
