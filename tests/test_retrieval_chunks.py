"""Losses a chunk of queries at a time: the same results in less memory, differentiable once."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sodeep_fast import (
    CalibrationLoss,
    ClusterLoss,
    HappierLoss,
    HierarchicalAPLoss,
    NDCGLoss,
    QuantizedAPLoss,
    RecallAtKLoss,
    RoadmapLoss,
    SmoothAPLoss,
    SupAPLoss,
    SupRankLoss,
)
from sodeep_fast.retrieval import RetrievalLoss, sweep
from sodeep_fast.testing import make_scores

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "smooth_ap": SmoothAPLoss,
    "sup_ap": SupAPLoss,
    "quantized_ap": QuantizedAPLoss,
    "recall": RecallAtKLoss,
    "ndcg": NDCGLoss,
    "h_ap": HierarchicalAPLoss,
    "calibration": CalibrationLoss,
    "roadmap": RoadmapLoss,
    "suprank": lambda **options: SupRankLoss("ndcg", **options),
    "cluster": lambda **options: ClusterLoss(5, 6, **options),
    "happier": lambda **options: HappierLoss(5, 6, **options),
}
LABELS = torch.arange(23) % 6
HIERARCHY = torch.stack([LABELS, LABELS // 2], -1)


def batch(seed: int = 0, items: int = 23) -> Tensor:
    return make_scores("normal", (items, 5), dtype=torch.float64, seed=seed).requires_grad_()


def make(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)  # of the proxies
    return LOSSES[name](**options).double()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("references", [False, True])
def test_chunks_are_the_whole(name: str, references: bool) -> None:
    embeddings, items = batch(), batch(seed=1, items=40)
    rest = (None, items, (torch.arange(40) % 6)[:, None] // torch.tensor([1, 2]))
    arguments = (embeddings, HIERARCHY, *(rest if references else ()))
    whole = make(name, chunk_size=None)
    expected = whole(*arguments)
    leaves = [embeddings, *([items] if references else []), *whole.parameters()]
    grads = torch.autograd.grad(expected, leaves, allow_unused=True)
    for chunk_size in ("auto", 1, 7, 23, 1000):
        loss = make(name, chunk_size=chunk_size)
        value = loss(*arguments)
        torch.testing.assert_close(value, expected)
        leaves = [embeddings, *([items] if references else []), *loss.parameters()]
        for grad, exact in zip(
            torch.autograd.grad(3 * value, leaves, allow_unused=True), grads, strict=True
        ):
            if exact is None:
                assert grad is None or (grad == 0).all()
            else:
                torch.testing.assert_close(grad, 3 * exact)


@pytest.mark.parametrize("name", LOSSES)
def test_the_same_call_gives_the_same_bits(name: str) -> None:
    embeddings, loss = batch().detach().float().requires_grad_(), LOSSES[name](chunk_size=7)
    runs = []
    for _ in range(2):
        value = loss(embeddings, HIERARCHY)
        runs.append((value, *torch.autograd.grad(value, embeddings)))
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def test_auto_scores_a_bounded_number() -> None:
    assert sweep.chunk_rows("auto", 4096, 4096, "cpu") * 4096 == sweep.AUTO_SCORES["cpu"]
    assert sweep.chunk_rows("auto", 65536, 65536, "cpu") == sweep.AUTO_ROWS
    assert sweep.chunk_rows(256, 4096, 1024, "cpu") == 128
    assert sweep.chunk_rows(None, 4096, 1024, "cpu") == 4096


def test_without_a_graph_there_is_no_gradient_to_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, loss = batch(), RoadmapLoss(chunk_size=7)
    expected = loss(embeddings, LABELS)
    monkeypatch.setattr(torch.autograd, "grad", lambda *_: pytest.fail("computed a gradient"))
    assert torch.equal(loss(embeddings.detach(), LABELS), expected)
    with torch.no_grad():
        assert torch.equal(loss(embeddings, LABELS), expected)


def test_only_one_side_may_want_a_gradient() -> None:
    queries, items = batch(), batch(seed=1, items=40)
    labels = torch.arange(40) % 6
    loss = RoadmapLoss(chunk_size=7)
    both = torch.autograd.grad(loss(queries, LABELS, None, items, labels), (queries, items))
    for side in (0, 1):
        pair = [queries.detach(), items.detach()]
        pair[side].requires_grad_()
        value = loss(pair[0], LABELS, None, pair[1], labels)
        (grad,) = torch.autograd.grad(value, pair[side])
        torch.testing.assert_close(grad, both[side])


@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives_need_the_whole(name: str) -> None:
    embeddings = batch()
    (grad,) = torch.autograd.grad(
        make(name, chunk_size=7)(embeddings, HIERARCHY), embeddings, create_graph=True
    )
    with pytest.raises(RuntimeError, match="second derivatives need chunk_size=None"):
        grad.sum().backward()
    loss = make(name, chunk_size=None)
    (grad,) = torch.autograd.grad(loss(embeddings, HIERARCHY), embeddings, create_graph=True)
    torch.autograd.grad(grad.sum(), embeddings)


def test_gradcheck_of_the_whole() -> None:
    embeddings = batch(items=7)
    for loss in (SmoothAPLoss(0.5, chunk_size=None), CalibrationLoss(0.5, 0.1, chunk_size=None)):
        function = lambda leaf, loss=loss: loss(leaf, LABELS[:7])  # noqa: E731
        assert torch.autograd.gradcheck(function, embeddings)
        assert torch.autograd.gradgradcheck(function, embeddings)
    assert torch.autograd.gradcheck(
        lambda leaf: SmoothAPLoss(0.5, chunk_size=3)(leaf, LABELS[:7]), embeddings
    )


@pytest.mark.parametrize("name", ["smooth_ap", "suprank", "roadmap", "happier"])
def test_any_similarity(name: str) -> None:
    embeddings = batch()
    metric = nn.Linear(5, 5, bias=False).double()

    class Bilinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.metric = metric

        def forward(self, queries: Tensor, items: Tensor) -> Tensor:
            return metric(queries) @ metric(items).T

    loss = make(name, similarity=Bilinear(), normalize=False, chunk_size=None)
    expected = loss(embeddings, HIERARCHY)
    leaves = [embeddings, *loss.parameters()]
    grads = torch.autograd.grad(expected, leaves)
    assert len(leaves) > 1
    for chunk_size in (7, "auto"):
        loss.chunk_size = chunk_size
        value = loss(embeddings, HIERARCHY)
        torch.testing.assert_close(value, expected)
        for _ in range(2):  # a retained graph gives the same result again
            found = torch.autograd.grad(value, leaves, retain_graph=True)
            torch.testing.assert_close(found, grads)
    if name == "smooth_ap":
        mapped = SmoothAPLoss(normalize=False)(metric(embeddings), LABELS)
        torch.testing.assert_close(expected, mapped)
    distance = make("smooth_ap", similarity=lambda q, i: -torch.cdist(q, i), chunk_size=7)
    assert distance(embeddings, LABELS).isfinite()


@pytest.mark.parametrize("name", ["smooth_ap", "roadmap"])
def test_second_derivatives_by_a_similarity(name: str) -> None:
    embeddings, results = batch(), []
    for chunk_size in (None, 7):
        loss = make(name, similarity=lambda q, i: q @ i.T, chunk_size=chunk_size)
        value = loss(embeddings, HIERARCHY)
        (grad,) = torch.autograd.grad(value, embeddings, create_graph=True)
        results.append(torch.autograd.grad(grad.square().sum(), embeddings)[0])
    assert results[0].count_nonzero() > 0
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_compiled_with_the_rest_of_a_step() -> None:
    loss = SmoothAPLoss()

    def step(embeddings: Tensor) -> Tensor:
        return loss(2 * embeddings, LABELS) + 1

    embeddings = batch()
    value = torch.compile(step, backend="eager")(embeddings)
    torch.testing.assert_close(value, step(embeddings))
    (grad,) = torch.autograd.grad(value, embeddings)
    torch.testing.assert_close(grad, torch.autograd.grad(step(embeddings), embeddings)[0])


PEAK = """
import sys, torch, sodeep_fast as sf
from sodeep_fast.benchmark.memory import peak_of
torch.set_num_threads(1)
def call(size):
    labels = torch.arange(size) // 4
    embeddings = torch.randn(size, 128, requires_grad=True)
    sf.{loss}chunk_size={chunk_size})(embeddings, labels).backward()
call(1024)  # imports what several chunks need, too
print(peak_of(lambda: call({size}), "cpu"))
"""


@pytest.mark.kernels
@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("loss", "chunk_size", "limit"),
    [
        ("SmoothAPLoss(", 256, 0.25),
        ("RoadmapLoss(", 256, 0.25),
        ("RoadmapLoss(", None, 6),
        ("SmoothAPLoss(similarity=lambda q, i: q @ i.T, ", 256, 0.5),
        ("HappierLoss(128, 1024, ", 256, 0.25),
    ],
)
def test_peak_memory(loss: str, chunk_size: int | None, limit: float) -> None:
    size = 4096 if chunk_size else 2048
    script = PEAK.format(loss=loss, chunk_size=chunk_size, size=size)
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "262144",  # freed memory goes back to the system
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < limit * size * size * 4


@pytest.mark.parametrize("chunk_size", [None, "auto", 4])
@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("cluster", "happier")])
def test_an_empty_batch(name: str, chunk_size: int | str | None) -> None:
    embeddings = torch.zeros(0, 3, requires_grad=True)
    loss = LOSSES[name](chunk_size=chunk_size)(embeddings, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert embeddings.grad is not None


def test_a_subclass_needs_values_alone() -> None:
    class PrecisionAtOne(RetrievalLoss):
        def values(self, scores: Tensor, relation: Tensor, mask: Tensor | None) -> Tensor:
            scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
            return (scores.softmax(-1) * relation).sum(-1)

    embeddings = batch()
    losses = [PrecisionAtOne(exclude_query=True, chunk_size=size) for size in (None, 7)]
    first, second = (loss(embeddings, LABELS) for loss in losses)
    torch.testing.assert_close(first, second)
