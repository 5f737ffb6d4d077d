"""Every retrieval loss and SoDeep's, on every device: float32 against float64 on the CPU."""

import pytest
import torch

from sodeep_fast.ops import _backend
from sodeep_fast.testing import DEVICES, make_scores

if not _backend.has_triton():
    pytest.skip("Triton is not installed", allow_module_level=True)

import sodeep_fast
from bench.loss_providers import batch_of, shape_of, targets_of
from bench.losses import LOSSES
from bench.retrieval import DIMENSIONS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_every_loss_is_measured() -> None:
    """All that the package exports, except their base class and the sum of other losses."""
    exported = {name for name in sodeep_fast.__all__ if name.endswith("Loss")}
    assert exported - {"RetrievalLoss", "CombinedLoss"} == set(LOSSES)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_agrees_with_float64(name: str, dtype: torch.dtype, device: str) -> None:
    chunks = [{}] if not LOSSES[name].columns else [{}, {"chunk_size": 7}, {"chunk_size": None}]
    width = DIMENSIONS if LOSSES[name].columns else 16
    results = []
    for options, where, kind in [({}, "cpu", torch.float64), *((c, device, dtype) for c in chunks)]:
        leaf = make_scores("normal", (40, width), dtype=kind, device=where).requires_grad_()
        targets = targets_of(name, shape_of(name, leaf), where)
        value = LOSSES[name].build(**options).to(where)(leaf, targets)
        (grad,) = torch.autograd.grad(value, leaf)
        results.append((value.detach().cpu().double(), grad.cpu().double()))
    (exact, slope), *others = results
    bound = 1e-9 if dtype == torch.float64 else 2e-4
    for value, grad in others:
        assert float((value - exact).abs()) <= bound * max(1.0, float(exact.abs()))
        assert float((grad - slope).norm()) <= 20 * bound * float(slope.norm())
    assert float(slope.norm()) > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.columns])
def test_another_stream_on_cuda(name: str) -> None:
    embeddings, labels = batch_of(256, "cuda")
    loss, mine = LOSSES[name].build().cuda(), labels[LOSSES[name].columns]
    expected = loss(embeddings * 2, mine)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        actual = loss(embeddings * 2, mine)
    stream.synchronize()
    assert torch.equal(actual, expected)
