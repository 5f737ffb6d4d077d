"""Adapts the losses of embeddings to pytorch-metric-learning's wrappers, which need its own types.

Its trainers, testers and miners take the losses as they are. `DistributedLossWrapper` needs a
subclass of its base class, and `CrossBatchMemory` a loss whose name is on a list.

There are two differences. Its `SmoothAPLoss` (2.9.0) is Smooth-AP only if there are as many classes
as members of each, in order; ours always is. And only the pairs from a miner take part here, while
some of its losses use them as weights.
"""

from typing import Any

from torch import nn

from sodeep_fast._checks import check_count


def as_metric_loss(loss: nn.Module) -> nn.Module:
    """Returns the loss as a pytorch-metric-learning loss, for its `DistributedLossWrapper`.

    Arguments:
        loss: a loss that is called with (embeddings, labels, indices_tuple, ref_emb, ref_labels).

    Returns:
        A `BaseMetricLossFunction` that calls it, without reducer, distance or regularizer.

    Raises:
        ImportError: pytorch-metric-learning is not installed.
        TypeError: a loss that is not callable.
    """
    from sodeep_fast.compat._metric_learning_types import MetricLoss

    _check_called(loss, "loss")
    wrapped: nn.Module = MetricLoss(loss)
    return wrapped


def cross_batch_memory(
    loss: nn.Module,
    embedding_size: int,
    memory_size: int = 1024,
    miner: nn.Module | None = None,
    *,
    levels: int | None = None,
    **options: Any,
) -> nn.Module:
    """Returns pytorch-metric-learning's `CrossBatchMemory` around any loss.

    Wang et al., Cross-Batch Memory for Embedding Learning, CVPR 2020. The memory also holds the
    batch, and lists all pairs except those of a query with itself, so a query is never in its own
    gallery.

    Arguments:
        loss: a loss that is called with (embeddings, labels, indices_tuple, ref_emb, ref_labels).
        embedding_size: D.
        memory_size: number of embeddings it holds, at least those of a batch.
        miner: a pytorch-metric-learning miner that chooses pairs by the finest labels.
        levels: L, for labels (B, L) of a hierarchy, finest first. Default: labels (B,).
        options: of `CrossBatchMemory`.

    Returns:
        A `CrossBatchMemory`, which `DistributedLossWrapper` also accepts. It raises a ValueError if
        called with more embeddings than it holds, or with embeddings or labels of a wrong shape.

    Raises:
        ImportError: pytorch-metric-learning is not installed.
        TypeError: a loss or miner that is not callable, or sizes or levels that are not integers.
        ValueError: sizes or levels below 1.
    """
    from sodeep_fast.compat._metric_learning_types import AnyLossMemory

    _check_called(loss, "loss")
    if miner is not None:
        _check_called(miner, "miner")
    check_count(embedding_size, "embedding_size")
    check_count(memory_size, "memory_size")
    if levels is not None:
        check_count(levels, "levels")
    memory: nn.Module = AnyLossMemory(loss, embedding_size, memory_size, miner, levels, **options)
    return memory


def _check_called(value: object, name: str) -> None:
    """Raises unless `value` is a module or a function, and not a class."""
    if isinstance(value, type) or not callable(value):
        what = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise TypeError(f"{name} must be a module, got {what}")
