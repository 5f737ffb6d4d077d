"""Multistage backpropagation: equal to the plain step, with dropout, batch norm and proxies."""

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
    assert torch.equal(torch.rand(3), after)  # the random state is where it would be
    assert not value.requires_grad
    torch.testing.assert_close(value, expected.detach())
    for one, other in zip(plain.parameters(), staged.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for one, other in zip(plain.buffers(), staged.buffers(), strict=True):
        assert torch.equal(one, other)
    for grad, parameter in zip(proxies, loss.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, grad)


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
