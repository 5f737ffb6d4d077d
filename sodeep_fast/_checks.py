"""Argument checks shared by the public functions: each names argument, rule and value."""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from sodeep_fast._compiler import are_tracing

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WIDE_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # for which PyTorch lacks most operators
MOST_LEVELS = 255  # a level is a byte, and the last value marks ignored items


def rank_dtype(scores: Tensor) -> torch.dtype:
    """Returns the dtype in which `scores` are computed, which is that of their ranks.

    bfloat16, for example, cannot hold rank 257.
    """
    return torch.float64 if scores.dtype == torch.float64 else torch.float32


def check_scores(scores: Tensor, name: str = "scores") -> None:
    """Raises unless `scores` is a floating-point tensor with at least one dimension."""
    if not isinstance(scores, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(scores).__name__}")
    if scores.dtype not in FLOATING:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {scores.dtype}")
    check_strided(scores, name)
    if scores.dim() == 0:
        raise ValueError(f"{name} must have at least one dimension (..., n), got a scalar tensor")


def check_real(value: Tensor, name: str = "scores") -> None:
    """Raises unless `value` is a real tensor, integers included, with at least one dimension."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype.is_complex:
        raise TypeError(f"{name} must be real, got {value.dtype}")
    check_strided(value, name)
    if value.dim() == 0:
        raise ValueError(f"{name} must have at least one dimension (..., n), got a scalar tensor")


def check_matrix(scores: Tensor, shape: str, *, square: bool = False) -> None:
    """Raises unless `scores` is a floating-point matrix of the `shape` named, square if asked."""
    check_scores(scores)
    if scores.dim() != 2 or (square and scores.shape[0] != scores.shape[1]):
        raise ValueError(f"scores must have shape {shape}, got {tuple(scores.shape)}")


def check_mask(
    mask: Tensor | None, scores: Tensor, name: str = "mask", scores_name: str = "scores"
) -> None:
    """Raises unless `mask` is None or a bool tensor of the shape and device of `scores`."""
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or None, got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise TypeError(f"{name} must be a bool tensor, got {mask.dtype}")
    check_same_shape(mask, scores, name, scores_name)


def warn_of_single_observations(predictions: Tensor, name: str) -> None:
    """Warns of predictions (b, 1), b > 1: probably a network's output for one group of b."""
    if predictions.shape[-1] == 1 and predictions.numel() > 1:
        warnings.warn(
            f"{name} {tuple(predictions.shape)} are groups of one observation, which has no order: "
            "the loss is 0; squeeze the last dimension to rank the observations among each other",
            stacklevel=4,
        )


def check_labels(labels: Tensor, scores: Tensor) -> None:
    """Raises unless `labels` is a binary tensor of the shape and device of `scores`.

    Reading values makes the host wait for a GPU; bool labels are binary by type and are not read.
    """
    check_real(labels, "labels")
    check_same_shape(labels, scores, "labels", "scores")
    if labels.dtype == torch.bool or torch.compiler.is_compiling():
        return
    other = labels[(labels != 0) & (labels != 1)]
    if other.numel() > 0:
        raise ValueError(f"labels must be binary, 0 or 1, got {other[0].item()}")


def check_levels(
    levels: Tensor, scores: Tensor, num_levels: int | None = None, mask: Tensor | None = None
) -> int:
    """Returns the number of levels; raises unless `levels` are bool or integers from 0 on.

    Reading values makes the host wait for a GPU; bool levels are not read.
    """
    if not isinstance(levels, Tensor):
        raise TypeError(f"levels must be a torch.Tensor, got {type(levels).__name__}")
    if levels.is_floating_point() or levels.is_complex():
        raise TypeError(f"levels must be integers or bool, got {levels.dtype}")
    check_same_shape(levels, scores, "levels", "scores")
    check_num_levels(num_levels)
    most = MOST_LEVELS if num_levels is None else num_levels
    if levels.dtype == torch.bool:
        if most < 2:
            raise ValueError(f"num_levels must be at least 2 for bool levels, got {num_levels}")
        return 2 if num_levels is None else num_levels
    if num_levels is not None and torch.compiler.is_compiling():
        return num_levels
    known = levels.long() if levels.dtype in WIDE_UNSIGNED else levels
    valid = known if mask is None else known.masked_fill(~mask, 0)
    low, high = (int(value) for value in valid.aminmax()) if levels.numel() > 0 else (0, 0)
    if low < 0 or high >= most:
        raise ValueError(f"levels must be between 0 and {most - 1}, got {low if low < 0 else high}")
    return high + 1 if num_levels is None else num_levels


def check_num_levels(num_levels: int | None) -> None:
    """Raises unless `num_levels` is None or an integer from 1 to 255."""
    if num_levels is None:
        return
    check_count(num_levels, "num_levels")
    if num_levels > MOST_LEVELS:
        raise ValueError(f"num_levels must be at most {MOST_LEVELS}, got {num_levels}")


def check_positive(value: float, name: str) -> None:
    """Raises unless `value` is a positive, finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0 < value < math.inf:  # it may be a symbol of the compiler, which has no isfinite
        raise ValueError(f"{name} must be positive and finite, got {value}")


def check_number(value: float, name: str, *, least: float = -math.inf) -> None:
    """Raises unless `value` is a finite number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not (value >= least and abs(value) < math.inf):
        rule = "finite" if least == -math.inf else f"at least {least} and finite"
        raise ValueError(f"{name} must be {rule}, got {value}")


def check_count(value: int, name: str, *, least: int = 1) -> None:
    """Raises unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_counts(**values: int) -> None:
    """Raises unless all values, by their names, are integers of at least 1."""
    for name, value in values.items():
        check_count(value, name)


def check_bins(bins: int, low: float, high: float) -> None:
    """Raises unless `bins` centres, at most 2^20, fit from `low` to `high`."""
    check_count(bins, "bins")
    if bins > 1 << 20:
        raise ValueError(f"bins must be at most {1 << 20}, got {bins}")
    check_number(low, "low")
    check_number(high, "high")
    if low >= high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    if not high - low < math.inf:
        raise ValueError(f"high - low must be finite, got {high} - {low}")


def check_sorter(sorter: object) -> None:
    """Raises unless `sorter` is callable and not a class, which would only make a sorter."""
    if isinstance(sorter, type):
        raise TypeError(
            f"sorter must be a module or function (b, n) -> (b, n), got the class "
            f"{sorter.__name__}: {sorter.__name__}(...) makes one"
        )
    if not callable(sorter):
        raise TypeError(
            f"sorter must be a module or function (b, n) -> (b, n), got {type(sorter).__name__}"
        )


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


def check_strided(value: Tensor, name: str) -> None:
    """Raises unless `value` is an ordinary, dense tensor."""
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense (strided) tensor, got {value.layout}")


def can_read(value: Tensor) -> bool:
    """Returns whether a check may read values: not while tracing, and not on a GPU."""
    return value.device.type == "cpu" and not are_tracing()


def check_numbers(values: Sequence[float], name: str, *, count: int | None = None) -> None:
    """Raises unless `values` is a sequence of finite numbers, of a given length if one is given."""
    what = "numbers" if count is None else f"{count} numbers"
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a sequence of {what}, got {type(values).__name__}")
    if count is not None and len(values) != count:
        raise ValueError(f"{name} must hold {what}, got {len(values)}")
    for value in values:
        check_number(value, f"every number of {name}")
