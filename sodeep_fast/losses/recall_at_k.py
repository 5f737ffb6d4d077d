"""The recall at k of embeddings as a loss, and similarity mixup, which extends a batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sodeep_fast._checks import check_positive
from sodeep_fast.comparators import Comparator, Sigmoid, check_comparator
from sodeep_fast.losses.recall import KS, check_cutoffs, recall_at
from sodeep_fast.retrieval import RetrievalLoss
from sodeep_fast.retrieval._checks import check_batch


def simix(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a virtual embedding for each pair of a class: a random point between the two.

    a x_i + (1 - a) x_j, with a drawn uniformly from [0, 1) for each pair. It is not scaled to unit
    length, so its similarities are mixed in the same way. Patel et al., Recall@k Surrogate Loss,
    CVPR 2022.

    Arguments:
        embeddings: (B, D) floating-point embeddings.
        labels: (B,) or (B, L) labels, the finest first, which defines the classes: class indices,
            not one-hot.

    Returns:
        (V, D) embeddings and their labels; P (P - 1) / 2 for a class of P.

    Raises:
        TypeError: embeddings that are not floating point, or labels that are not real.
        ValueError: tensors whose shapes or devices do not match, or labels that are NaN (only
            checked on the CPU).

    Example:
        >>> import torch, sodeep_fast
        >>> virtual, labels = sodeep_fast.simix(torch.eye(4), torch.tensor([0, 1, 1, 1]))
        >>> virtual.shape, labels
        (torch.Size([3, 4]), tensor([1, 1, 1]))
    """
    check_batch(embeddings, labels, "embeddings", "labels")
    order = (labels if labels.dim() == 1 else labels[:, 0]).argsort(stable=True)
    sorted_labels = labels[order]
    classes = sorted_labels if labels.dim() == 1 else sorted_labels[:, 0]
    firsts, seconds = [order[:0]], [order[:0]]
    for distance in range(1, len(order)):
        (start,) = (classes[:-distance] == classes[distance:]).nonzero(as_tuple=True)
        if len(start) == 0:
            break
        firsts.append(order[start])
        seconds.append(order[start + distance])
    first, second = torch.cat(firsts), torch.cat(seconds)
    share = torch.rand(len(first), 1, dtype=embeddings.dtype, device=embeddings.device)
    return share * embeddings[first] + (1 - share) * embeddings[second], labels[first]


class RecallAtKLoss(RetrievalLoss):
    """1 - the smooth recall at k of embeddings, averaged over several k and over the queries.

    Patel et al., Recall@k Surrogate Loss, CVPR 2022. By default, as in its program, a query is in
    its own gallery as an item that is not positive, which costs its positives a rank. The paper's
    equation leaves it out: `exclude_query=True`. A perfect order does not reach 0.

    SupRank's recall is `RecallAtKLoss(ks, ByLevel(), clip=False, query_is_positive=True)`.

    Arguments:
        ks: how many items are retrieved, each at least 1. Default: 1, 2, 4, 8, 16.
        comparator: how ranks are counted. Default: `Sigmoid(0.01)`, with a temperature in units of
            score, which other losses, such as `SmoothAPLoss`, call their temperature.
        temperature: of the sigmoid that tests whether a rank is within k, in units of rank,
            positive. Default: 1. The program's `k_temperatures`, one for each k, are a
            `CombinedLoss` of one loss per k.
        clip: count at most k of the positives as found at k, and reduce each k to the number of
            items, as in the program. Default: True.
        query_is_positive: count the query as its own positive. Default: False.
        simix: extend the batch by the virtual embeddings of `simix`, which serve as queries and
            items as the others do; a class of P becomes one of P (P + 1) / 2. Only for a batch
            without references or indices_tuple; under `gather`, each process mixes its own.
            Default: False.
        options: those of `RetrievalLoss`.

    Raises:
        TypeError: ks that are not integers, an invalid comparator, or a temperature that is not a
            number.
        ValueError: no ks or one below 1, or a temperature that is not positive.

    Example:
        >>> import torch, sodeep_fast
        >>> loss = sodeep_fast.RecallAtKLoss(ks=[1, 2], exclude_query=True)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> loss(embeddings, torch.tensor([0, 1, 0, 1]))
        tensor(0.7107)
    """

    def __init__(
        self,
        ks: Sequence[int] = KS,
        comparator: Comparator | None = None,
        *,
        temperature: float = 1.0,
        clip: bool = True,
        query_is_positive: bool = False,
        simix: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_cutoffs(ks)
        check_positive(temperature, "temperature")
        self.ks = tuple(ks)
        self.comparator = Sigmoid(0.01) if comparator is None else comparator
        check_comparator(self.comparator)
        self.temperature = temperature
        self.clip = clip
        self.query_is_positive = query_is_positive
        self.simix = simix

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Returns the loss; arguments as in `RetrievalLoss.forward`."""
        if self.simix and not (indices_tuple is ref_emb is None):
            raise ValueError("simix=True mixes the batch with itself: no indices_tuple, no ref_emb")
        return super().forward(embeddings, labels, indices_tuple, ref_emb, ref_labels)

    def augment(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the batch followed by its virtual embeddings."""
        if not self.simix:
            return embeddings, labels
        virtual, virtual_labels = simix(embeddings, labels)
        return torch.cat([embeddings, virtual]), torch.cat([labels, virtual_labels])

    def values(self, scores: Tensor, relation: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the recall at k."""
        most = max(1, scores.shape[1])
        ks = [min(k, most) for k in self.ks] if self.clip else self.ks
        return recall_at(scores, relation, ks, self.comparator, self.temperature, self.clip, mask)

    def extra_repr(self) -> str:
        """Returns all options."""
        return (
            f"ks={self.ks}, comparator={self.comparator}, temperature={self.temperature}, "
            f"clip={self.clip}, query_is_positive={self.query_is_positive}, simix={self.simix}, "
            f"{super().extra_repr()}"
        )
