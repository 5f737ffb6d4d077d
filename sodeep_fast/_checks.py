"""Argument checks shared by the public functions: each names the argument, the rule and the value."""

import math

import torch
from torch import Tensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_scores(scores: Tensor, name: str = "scores") -> None:
    """Raises unless `scores` is a floating-point tensor with at least one dimension."""
    if not isinstance(scores, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(scores).__name__}")
    if scores.dtype not in FLOATING:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {scores.dtype}")
    if scores.dim() == 0:
        raise ValueError(f"{name} must have at least one dimension (..., n), got a scalar tensor")


def check_mask(mask: Tensor | None, scores: Tensor) -> None:
    """Raises unless `mask` is None or a bool tensor of the shape and device of `scores`."""
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask must be a torch.Tensor or None, got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be a bool tensor (True = valid), got {mask.dtype}")
    if mask.shape != scores.shape:
        raise ValueError(
            f"mask must have the shape of scores, {tuple(scores.shape)}, got {tuple(mask.shape)}"
        )
    if mask.device != scores.device:
        raise ValueError(
            f"mask must be on the device of scores, {scores.device}, got {mask.device}"
        )


def check_positive(value: float, name: str) -> None:
    """Raises unless `value` is a positive, finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, got {value}")


def check_choice(value: str, choices: tuple[str, ...], name: str) -> None:
    """Raises unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_same_shape(value: Tensor, other: Tensor, name: str, other_name: str) -> None:
    """Raises unless the two tensors have one shape and one device."""
    if value.shape != other.shape:
        raise ValueError(
            f"{name} must have the shape of {other_name}, {tuple(other.shape)}, "
            f"got {tuple(value.shape)}"
        )
    if value.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {other_name}, {other.device}, got {value.device}"
        )
