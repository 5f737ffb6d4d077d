"""The settings of a training run, and the two presets."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from sodeep_fast._checks import check_choice, check_count, check_number, check_positive
from sodeep_fast.synthetic import distribution_name

SCHEDULES = ("halving", "cosine")
OPTIMIZERS = ("adam", "muon")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Settings:
    """The settings of a training run; with the same sorter, equal settings give the same weights.

    Arguments:
        steps: number of optimizer steps.
        batch_size: vectors per step, over all processes.
        length: scores per vector, or (shortest, longest), drawn for every step.
        dist: the distribution of the vectors; see `sodeep_fast.synthetic`.
        optimizer: "adam"; or "muon" for the matrices and Adam for the rest, which on an LSTM takes
            less than half the steps.
        lr: the highest learning rate.
        schedule: "halving" halves the rate every `halve_every` vectors; "cosine" raises it over
            `warm_up` steps, then lowers it to 0 at the last step along half a cosine.
        halve_every: vectors.
        warm_up: steps.
        average: the decay per step of the averaged weights, which become the result; 0 for no
            averaging.
        clip: the largest norm of the gradient of all weights; 0 for no clipping.
        precision: "bfloat16" computes matrix products and convolutions in bfloat16 by autocast. The
            scores they read then have three digits, which limits the accuracy of a sorter.
        gradient_weight: weight of the cosine subtracted from the loss: that between the descent
            direction of the Spearman loss through the sorter and the direction that corrects the
            ranks.
        seed: seed of the vectors. (The caller seeds the initial weights.)
    """

    steps: int
    batch_size: int = 512
    length: int | tuple[int, int] = 100
    dist: str = "released"
    optimizer: str = "adam"
    lr: float = 1e-3
    schedule: str = "halving"
    halve_every: int = 10_000_000
    warm_up: int = 0
    average: float = 0.0
    clip: float = 0.0
    precision: str = "float32"
    gradient_weight: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "halve_every"):
            check_count(getattr(self, name), name)
        lengths = self.length if isinstance(self.length, tuple) else (self.length, self.length)
        for length in lengths:
            check_count(length, "length")
        if len(lengths) != 2 or lengths[0] > lengths[1]:
            raise ValueError(f"length must be (shortest, longest), got {self.length}")
        object.__setattr__(self, "dist", distribution_name(self.dist))
        check_positive(self.lr, "lr")
        check_choice(self.optimizer, OPTIMIZERS, "optimizer")
        check_choice(self.schedule, SCHEDULES, "schedule")
        check_choice(self.precision, PRECISIONS, "precision")
        for name in ("warm_up", "seed"):
            check_count(getattr(self, name), name, least=0)
        for name in ("average", "clip", "gradient_weight"):
            check_number(getattr(self, name), name, least=0)
        if self.average >= 1:
            raise ValueError(f"average must be below 1, got {self.average}")

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        if self.schedule == "halving":
            return self.lr * 0.5 ** (step * self.batch_size // self.halve_every)
        if step < self.warm_up:
            return self.lr * (step + 1) / self.warm_up
        progress = (step - self.warm_up) / max(self.steps - self.warm_up, 1)
        return self.lr * 0.5 * (1 + math.cos(math.pi * progress))

    def as_json(self) -> dict[str, Any]:
        """Returns the settings as they would be read back from JSON."""
        values = asdict(self)
        if isinstance(self.length, tuple):
            values["length"] = list(self.length)
        return values


PRESETS: dict[str, dict[str, Any]] = {
    # SoDeep (Engilberge et al., CVPR 2019), section 4.1.1: 100 epochs of 100,000 vectors.
    "paper": {"schedule": "halving"},
    "fast": {"schedule": "cosine", "lr": 2e-3, "warm_up": 200, "average": 0.999, "clip": 1.0},
}


def make_settings(preset: str = "paper", **changes: Any) -> Settings:
    """Returns the settings of a preset with some of them changed.

    Arguments:
        preset: "paper", Adam with a rate of 0.001 that is halved every 100 epochs of 100,000
            vectors; or "fast", with warm-up, cosine, averaged weights and clipped gradients.
        changes: fields of `Settings`; `steps` has no default.

    Raises:
        TypeError: an unknown setting, or one of a wrong type.
        ValueError: an unknown preset, or a value out of range.

    Example:
        >>> from sodeep_fast.training import make_settings
        >>> make_settings("fast", steps=1000).learning_rate(99)
        0.001
    """
    check_choice(preset, tuple(PRESETS), "preset")
    unknown = changes.keys() - {field.name for field in fields(Settings)}
    if unknown:
        raise TypeError(f"unknown settings: {', '.join(sorted(unknown))}")
    if "steps" not in changes:
        raise TypeError("steps must be given")
    return Settings(**{**PRESETS[preset], **changes})


def check_resumable(now: Settings, saved: Mapping[str, Any], path: object) -> None:
    """Raises unless a run started with the settings `saved` can continue with those of `now`.

    The number of steps may differ if the learning rate does not depend on it.
    """
    ours, theirs = now.as_json(), dict(saved)
    if now.schedule == "halving":
        ours = replace(now, steps=theirs.get("steps", now.steps)).as_json()
    differences = [
        f"{name} was {theirs.get(name)!r} and is {ours.get(name)!r}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if differences:
        raise ValueError(
            f"{path} is of another training run: {'; '.join(differences)}; resume it with its own "
            "settings, or give another file"
        )
