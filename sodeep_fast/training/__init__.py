"""Training a sorter, and evaluating one: its error, and how useful its gradient is."""

from sodeep_fast.training.evaluate import (
    UNSEEN,
    GradientUse,
    error_by_distribution,
    gradient_use,
    mean_error,
)
from sodeep_fast.training.loop import TrainingRun, train_sorter
from sodeep_fast.training.settings import PRESETS, Settings, make_settings

__all__ = [
    "PRESETS",
    "UNSEEN",
    "GradientUse",
    "Settings",
    "TrainingRun",
    "error_by_distribution",
    "gradient_use",
    "make_settings",
    "mean_error",
    "train_sorter",
]
