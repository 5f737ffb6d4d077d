"""Argument checks of the losses of embeddings."""

from torch import Tensor

from sodeep_fast._checks import can_read, check_real, check_scores


def check_batch(embeddings: Tensor, labels: Tensor, name: str, labels_name: str) -> None:
    """Raises unless `embeddings` is (B, D), and `labels` (B,) or (B, L) on its device.

    Labels are only checked for NaN on the CPU, as on a GPU the host would have to wait.
    """
    check_scores(embeddings, name)
    if embeddings.dim() != 2:
        raise ValueError(f"{name} must have shape (B, D), got {tuple(embeddings.shape)}")
    check_real(labels, labels_name)
    count = len(embeddings)
    if labels.dim() > 2 or len(labels) != count or labels.shape[1:].numel() == 0:
        raise ValueError(
            f"{labels_name} must have shape ({count},) or ({count}, L), one or L for each of "
            f"{name}, got {tuple(labels.shape)}"
        )
    if labels.device != embeddings.device:
        raise ValueError(
            f"{labels_name} must be on the device of {name}, {embeddings.device}, "
            f"got {labels.device}"
        )
    if labels.is_floating_point() and can_read(labels) and labels.isnan().any():
        raise ValueError(f"{labels_name} must be numbers, got NaN")


def check_references(
    embeddings: Tensor, labels: Tensor, items: Tensor | None, item_labels: Tensor | None
) -> None:
    """Raises unless items and their labels are both None, or fit the batch."""
    if (items is None) != (item_labels is None):
        raise ValueError("ref_emb and ref_labels must be given together")
    if items is None or item_labels is None:
        return
    check_batch(items, item_labels, "ref_emb", "ref_labels")
    if len(items) == 0:
        raise ValueError("ref_emb must hold at least one item, got none")
    if items.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"ref_emb must have shape (M, {embeddings.shape[1]}), got {tuple(items.shape)}"
        )
    if item_labels.shape[1:] != labels.shape[1:]:
        raise ValueError(
            "ref_labels must have as many levels as labels, so shape "
            f"{(len(items), *labels.shape[1:])}, got {tuple(item_labels.shape)}"
        )
    if items.device != embeddings.device:
        raise ValueError(
            f"ref_emb must be on the device of embeddings, {embeddings.device}, got {items.device}"
        )
