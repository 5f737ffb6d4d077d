"""The losses of embeddings inside pytorch-metric-learning's wrappers, which ask for its own types.

Its trainers, testers and miners take the losses as they are. `DistributedLossWrapper` wants a
subclass of its base class, `CrossBatchMemory` a loss whose name is on a list.

Two things differ. Its `SmoothAPLoss` (2.9.0) is Smooth-AP only where there are as many classes as
members of each, in order; ours always is. And the pairs of a miner are all that takes part here,
where some of its losses take them for weights.
"""

from typing import Any

from torch import nn


def as_metric_loss(loss: nn.Module) -> nn.Module:
    """Returns the loss as a pytorch-metric-learning loss, for its `DistributedLossWrapper`.

    Arguments:
        loss: a loss that is called with (embeddings, labels, indices_tuple, ref_emb, ref_labels).

    Returns:
        A `BaseMetricLossFunction` that calls it, without reducer, distance or regularizer.

    Raises:
        ImportError: pytorch-metric-learning is not installed.
    """
    from sodeep_fast.compat._metric_learning_types import MetricLoss

    wrapped: nn.Module = MetricLoss(loss)
    return wrapped


def cross_batch_memory(
    loss: nn.Module,
    embedding_size: int,
    memory_size: int = 1024,
    miner: nn.Module | None = None,
    **options: Any,
) -> nn.Module:
    """Returns pytorch-metric-learning's `CrossBatchMemory` around any loss.

    Wang et al., Cross-Batch Memory for Embedding Learning, CVPR 2020. The memory holds the batch
    too, and lists all pairs but those of a query with itself: a query is never in its own gallery.

    Arguments:
        loss: a loss that is called with (embeddings, labels, indices_tuple, ref_emb, ref_labels).
        embedding_size: D.
        memory_size: how many embeddings it holds.
        miner: a miner of pytorch-metric-learning that chooses pairs.
        options: of `CrossBatchMemory`.

    Returns:
        A `CrossBatchMemory`, which `DistributedLossWrapper` takes as well.

    Raises:
        ImportError: pytorch-metric-learning is not installed.
    """
    from sodeep_fast.compat._metric_learning_types import AnyLossMemory

    memory: nn.Module = AnyLossMemory(loss, embedding_size, memory_size, miner, **options)
    return memory
