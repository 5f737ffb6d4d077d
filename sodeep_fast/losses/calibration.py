"""ROADMAP's calibration: positive scores above one threshold, negative ones below another."""

from typing import Any

import torch
from torch import Tensor

from sodeep_fast._checks import (
    check_choice,
    check_labels,
    check_mask,
    check_matrix,
    check_number,
)
from sodeep_fast.ops.margin_excess import count_active, margin_excess
from sodeep_fast.retrieval import RetrievalLoss
from sodeep_fast.retrieval.gallery import Gallery

AVERAGES = ("active", "all")


def calibration_loss(
    scores: Tensor,
    labels: Tensor,
    pos_margin: float = 0.9,
    neg_margin: float = 0.6,
    *,
    average: str = "active",
    mask: Tensor | None = None,
) -> Tensor:
    """Returns the mean excess of positives below `pos_margin` plus that of negatives above
    `neg_margin`.

    That is, of max(0, pos_margin - s) and max(0, s - neg_margin). It makes batches agree on the
    scores, so that the average precisions of batches average to that of the set. Ramzi et al.,
    ROADMAP, NeurIPS 2021.

    Arguments:
        scores: (B, M) floating-point scores of B queries and M items, larger for more similar.
        labels: (B, M) 1 where query and item belong together and 0 elsewhere, of any real dtype.
        pos_margin: what scores of positives should reach; the paper's alpha. Default: 0.9.
        neg_margin: what scores of negatives should not exceed; the paper's beta. Default: 0.6.
        average: over the "active" pairs of each kind, as in the official program, or over "all" of
            them, as in the paper. Default: "active".
        mask: (B, M) bool, True for pairs that take part. Default: all do.

    Returns:
        A scalar; a kind without pairs adds 0.

    Raises:
        TypeError: scores that are not floating point, a mask that is not bool, or a margin that is
            not a number.
        ValueError: scores that are not a matrix, labels or a mask of a different shape or device,
            labels that are not binary, a margin that is not finite, or an unknown average.

    Example:
        >>> import torch, sodeep_fast
        >>> scores = torch.tensor([[0.8, 0.7, 0.1]])
        >>> sodeep_fast.calibration_loss(scores, torch.tensor([[1, 0, 0]]))
        tensor(0.2000)
    """
    check_matrix(scores, "(B, M)")
    check_labels(labels, scores)
    check_mask(mask, scores)
    _check_options(pos_margin, neg_margin, average)
    positives = labels.bool()
    sums = margin_excess(scores, positives, mask, pos_margin, neg_margin)
    counts = _counts(scores, positives, mask, pos_margin, neg_margin, average)
    return (sums / counts.clamp(min=1)).sum()


class CalibrationLoss(RetrievalLoss):
    """`calibration_loss` of embeddings: ROADMAP's second term.

    Ramzi et al., ROADMAP, NeurIPS 2021. A query does not form a pair with itself, as in the
    official program; among references that program does pair it with its copy, as
    `exclude_query=False` does.

    Arguments:
        pos_margin: what scores of positives should reach. Default: 0.9.
        neg_margin: what scores of negatives should not exceed. Default: 0.6.
        average: over the "active" pairs of each kind, or "all". Default: "active".
        exclude_query: False lets a query form a pair with itself. Default: True.
        options: those of `RetrievalLoss`.

    Raises:
        TypeError: a margin that is not a number.
        ValueError: a margin that is not finite, or an unknown average.

    Example:
        >>> import torch, sodeep_fast
        >>> loss = sodeep_fast.CalibrationLoss()
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> loss(embeddings, torch.tensor([0, 1, 0, 1]))
        tensor(0.5533)
    """

    num_terms = 2

    def __init__(
        self,
        pos_margin: float = 0.9,
        neg_margin: float = 0.6,
        average: str = "active",
        exclude_query: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(exclude_query=exclude_query, **options)
        _check_options(pos_margin, neg_margin, average)
        self.pos_margin = pos_margin
        self.neg_margin = neg_margin
        self.average = average

    def block_sums(self, scores: Tensor, gallery: Gallery, rows: slice) -> Tensor:
        """Returns the sums over positive and over negative pairs."""
        relation, mask = self.pairs(gallery, rows)
        return margin_excess(scores, relation, mask, self.pos_margin, self.neg_margin)

    def block_counts(self, scores: Tensor, gallery: Gallery, rows: slice) -> Tensor:
        """Returns how many positive and how many negative pairs are averaged over."""
        relation, mask = self.pairs(gallery, rows)
        return _counts(scores, relation, mask, self.pos_margin, self.neg_margin, self.average)

    def extra_repr(self) -> str:
        """Returns margins, average and options."""
        return (
            f"pos_margin={self.pos_margin}, neg_margin={self.neg_margin}, "
            f"average={self.average!r}, {super().extra_repr()}"
        )


def _check_options(pos_margin: float, neg_margin: float, average: str) -> None:
    check_number(pos_margin, "pos_margin")
    check_number(neg_margin, "neg_margin")
    check_choice(average, AVERAGES, "average")


def _counts(
    scores: Tensor,
    positives: Tensor,
    mask: Tensor | None,
    pos_margin: float,
    neg_margin: float,
    average: str,
) -> Tensor:
    """Returns how many positive and how many negative pairs are averaged over."""
    if average == "active":
        return count_active(scores, positives, mask, pos_margin, neg_margin)
    taking_part = torch.ones_like(positives) if mask is None else mask
    count = (positives & taking_part).count_nonzero()
    return torch.stack([count, taking_part.count_nonzero() - count])
