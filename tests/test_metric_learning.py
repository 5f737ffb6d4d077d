"""Inside pytorch-metric-learning: its memory, its wrapper for several processes, its pairs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sodeep_fast import CalibrationLoss, NDCGLoss, RecallAtKLoss, SmoothAPLoss
from sodeep_fast.compat.metric_learning import as_metric_loss, cross_batch_memory
from sodeep_fast.testing import make_scores

pml_losses = pytest.importorskip("pytorch_metric_learning.losses")
pml_utils = pytest.importorskip("pytorch_metric_learning.utils.loss_and_miner_utils")
pml_distributed = pytest.importorskip("pytorch_metric_learning.utils.distributed")

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 3, 0])


def batch(seed: int, items: int = 8) -> Tensor:
    return make_scores("normal", (items, 4), dtype=torch.float64, seed=seed).requires_grad_()


@pytest.mark.parametrize("make", [SmoothAPLoss, RecallAtKLoss, CalibrationLoss])
def test_cross_batch_memory_ranks_all_that_it_holds_but_the_query(make: type[nn.Module]) -> None:
    memory = cross_batch_memory(make(), embedding_size=4, memory_size=20)
    batches = [batch(seed) for seed in range(4)]
    for embeddings in batches:
        value = memory(embeddings, LABELS)
    (grad,) = torch.autograd.grad(value, batches[-1])

    # The last 20 of 32 embeddings, in any order; only the queries have a gradient.
    items = torch.cat([embeddings.detach() for embeddings in batches])[-20:]
    item_labels = LABELS.repeat(4)[-20:]
    expected = make(exclude_query=True)(batches[-1], LABELS, None, items, item_labels)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, batches[-1])[0])


def test_the_calibration_is_its_contrastive_loss() -> None:
    embeddings = batch(0)
    theirs = pml_losses.ContrastiveLoss(0.9, 0.6, distance=cosine())
    value = CalibrationLoss(0.9, 0.6)(embeddings, LABELS)
    expected = theirs(embeddings, LABELS)
    torch.testing.assert_close(value, expected)
    (grad,) = torch.autograd.grad(value, embeddings)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, embeddings)[0])


def cosine() -> nn.Module:
    from pytorch_metric_learning.distances import CosineSimilarity

    return CosineSimilarity()


def test_pairs_and_triplets_of_miners() -> None:
    embeddings, loss = batch(0), CalibrationLoss()
    theirs = pml_losses.ContrastiveLoss(0.9, 0.6, distance=cosine())
    pairs = pml_utils.get_all_pairs_indices(LABELS)
    few = tuple(index[::3] for index in pairs)
    torch.testing.assert_close(loss(embeddings, LABELS, few), theirs(embeddings, LABELS, few))
    triplets = tuple(index[::2] for index in pml_utils.get_all_triplets_indices(LABELS))
    in_pairs = pml_utils.convert_to_pairs(triplets, LABELS)
    torch.testing.assert_close(
        loss(embeddings, LABELS, triplets), loss(embeddings, LABELS, in_pairs)
    )
    without = SmoothAPLoss(exclude_query=True)(embeddings, LABELS)
    torch.testing.assert_close(SmoothAPLoss()(embeddings, LABELS, pairs), without)


@pytest.mark.filterwarnings("ignore:DistributedLossWrapper is being used in a non-distributed")
def test_distributed_wrapper_in_one_process() -> None:
    embeddings, loss = batch(0), SmoothAPLoss()
    wrapped = pml_distributed.DistributedLossWrapper(as_metric_loss(loss))
    assert torch.equal(wrapped(embeddings, LABELS), loss(embeddings, LABELS))
    memory = cross_batch_memory(loss, embedding_size=4)
    assert isinstance(pml_distributed.DistributedLossWrapper(memory), nn.Module)


def test_wrappers_can_be_saved_whole(tmp_path: Path) -> None:
    embeddings = batch(0)
    for wrapped in (
        as_metric_loss(SmoothAPLoss(0.2)),
        cross_batch_memory(SmoothAPLoss(0.2), embedding_size=4, memory_size=20),
    ):
        torch.save(wrapped, tmp_path / "loss")
        loaded = torch.load(tmp_path / "loss", weights_only=False)
        assert torch.equal(loaded(embeddings, LABELS), wrapped(embeddings, LABELS))


HIERARCHY = torch.stack([LABELS, LABELS // 2], -1)


def test_a_memory_of_hierarchies(tmp_path: Path) -> None:
    memory = cross_batch_memory(NDCGLoss(), embedding_size=4, memory_size=20, levels=2)
    batches = [batch(seed) for seed in range(4)]
    for embeddings in batches:
        value = memory(embeddings, HIERARCHY)
    items = torch.cat([embeddings.detach() for embeddings in batches])[-20:]
    item_labels = HIERARCHY.repeat(4, 1)[-20:]
    expected = NDCGLoss(exclude_query=True)(batches[-1], HIERARCHY, None, items, item_labels)
    torch.testing.assert_close(value, expected)

    loaded = cross_batch_memory(NDCGLoss(), embedding_size=4, memory_size=20, levels=2).double()
    loaded.load_state_dict(memory.state_dict())
    assert torch.equal(loaded.label_memory, memory.label_memory)
    memory.reset_queue()
    assert memory.label_memory.shape == (20, 2)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: as_metric_loss(3), TypeError, "loss must be a module, got int"),
        (lambda: as_metric_loss(SmoothAPLoss), TypeError, "got the class SmoothAPLoss"),
        (lambda: cross_batch_memory(3, 8, 64), TypeError, "loss must be a module, got int"),
        (lambda: cross_batch_memory(SmoothAPLoss(), 0), ValueError, "embedding_size must be at"),
        (lambda: cross_batch_memory(SmoothAPLoss(), 4, 1.5), TypeError, "memory_size must be an"),
        (lambda: cross_batch_memory(SmoothAPLoss(), 4, 8, 3), TypeError, "miner must be a module"),
        (lambda: cross_batch_memory(SmoothAPLoss(), 4, levels=0), ValueError, "levels must be at"),
    ],
)
def test_bad_wrappers(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize(
    ("embeddings", "labels", "match"),
    [
        (torch.zeros(8, 4), HIERARCHY, r"labels must have shape \(8,\) with levels=None, got"),
        (torch.zeros(8, 4), LABELS[:3], r"labels must have shape \(8,\) .* got \(3,\)"),
        (torch.zeros(8, 5), LABELS, r"embeddings must have shape \(B, 4\), got \(8, 5\)"),
        (torch.zeros(16, 4), LABELS.repeat(2), "at most 10, the memory_size, got 16"),
    ],
)
def test_what_does_not_fit_a_memory(embeddings: Tensor, labels: Tensor, match: str) -> None:
    memory = cross_batch_memory(SmoothAPLoss(), 4, 10)
    with pytest.raises(ValueError, match=match):
        memory(embeddings, labels)
    assert memory.queue_idx == 0
