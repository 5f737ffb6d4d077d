"""Training sorters: settings, schedules, optimizers, mixed precision, bad input, progress."""

import builtins
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

import sodeep_fast
from sodeep_fast import CNNSorter, EquivariantSorter, HandcraftedSorter, LSTMSorter, hard_rank
from sodeep_fast.testing import weights_of
from sodeep_fast.training import (
    gradient_use,
    make_settings,
    mean_error,
    train_sorter,
)
from sodeep_fast.training.objective import objective
from sodeep_fast.training.settings import OPTIMIZERS

SMALL: dict[str, Any] = {"batch_size": 8, "length": 12, "progress": False}


pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")


# --- Settings ---


def test_the_papers_schedule() -> None:
    settings = make_settings("paper", steps=10**6)
    assert (settings.batch_size, settings.lr, settings.average) == (512, 1e-3, 0)
    epoch = 100_000 / 512
    assert settings.learning_rate(math.floor(100 * epoch)) == 1e-3
    assert settings.learning_rate(math.ceil(100 * epoch)) == 0.5e-3
    assert settings.learning_rate(math.ceil(300 * epoch)) == 0.125e-3


def test_the_fast_schedule() -> None:
    settings = make_settings("fast", steps=1000, warm_up=100, lr=0.01)
    rates = [settings.learning_rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[99] == rates[100] == max(rates) == pytest.approx(0.01)
    assert rates[550] == pytest.approx(0.005)
    assert 0 < rates[-1] < 1e-7
    assert rates[100:] == sorted(rates[100:], reverse=True)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({}, TypeError, "steps must be given"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 1.5}, TypeError, "steps must be an integer"),
        ({"steps": 1, "speed": 2}, TypeError, "unknown settings: speed"),
        ({"steps": 1, "dist": "gamma"}, ValueError, "dist must be None, a number .*got 'gamma'"),
        ({"steps": 1, "length": (5, 3)}, ValueError, r"length must be \(shortest, longest\)"),
        ({"steps": 1, "lr": 0.0}, ValueError, "lr must be positive"),
        ({"steps": 1, "schedule": "linear"}, ValueError, "schedule must be one of"),
        ({"steps": 1, "average": 1.0}, ValueError, "average must be below 1"),
        ({"steps": 1, "precision": "float16"}, ValueError, "precision must be one of"),
        ({"steps": 1, "preset": "slow"}, ValueError, "preset must be one of 'paper', 'fast'"),
    ],
)
def test_bad_settings(changes: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make_settings(**changes)


# --- Training ---


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_it_learns(preset: str, optimizer: str) -> None:
    sorter = LSTMSorter(8, 1, normalize=False)
    sorter.standardize = True
    before = mean_error(sorter, 12, vectors=200)
    run = train_sorter(
        sorter,
        60,
        preset=preset,
        **(SMALL | {"batch_size": 64}),
        optimizer=optimizer,
        lr=0.01,
        warm_up=5,
    )
    assert mean_error(sorter, 12, vectors=200) < before / 2
    assert (run.steps, run.processes) == (60, 1)
    assert 0 < run.error < before
    assert not sorter.normalize
    assert not sorter.trainable


def test_the_first_step_is_adams() -> None:
    sorter = LSTMSorter(3, 1)
    before = weights_of(sorter)
    train_sorter(sorter, 1, lr=0.01, **SMALL)
    for key, value in sorter.state_dict().items():
        step = (value - before[key]).abs()
        assert step.max() <= 0.01 * (1 + 1e-4)
        assert step.mean() > 0.005


def test_muon_takes_the_matrices_and_adam_the_rest() -> None:
    sorter = LSTMSorter(16, 2)
    before = weights_of(sorter)
    train_sorter(sorter, 1, optimizer="muon", lr=0.01, **SMALL)
    for key, value in sorter.state_dict().items():
        step = (value - before[key]) / 0.01
        if value.dim() < 2 or 1 in value.shape:
            assert step.abs().max() <= 1 + 1e-4
            assert step.abs().mean() > 0.5
            continue
        # Equal singular values would be as large as here for a step of 0.2 in every weight. Five
        # Newton-Schulz steps bring the larger ones to 0.7 to 1.2 times that.
        size = torch.linalg.svdvals(step) / (0.2 * max(step.shape) ** 0.5)
        assert 0.65 < size[0] < 1.25
        assert size[1] > 0.65


def test_the_averaged_weights() -> None:
    sorters = [CNNSorter(12, 2, [3]) for _ in range(3)]
    first = weights_of(sorters[0])
    for sorter, steps, average in zip(sorters, (1, 2, 2), (0.0, 0.0, 0.15), strict=True):
        sorter.load_state_dict(first)
        train_sorter(sorter, steps, average=average, **SMALL)
    one, two, averaged = (sorter.state_dict() for sorter in sorters)
    for key in one:
        if one[key].is_floating_point():
            wanted = 0.1 * first[key] + 0.9 * one[key]
            wanted = 0.15 * wanted + 0.85 * two[key]
            torch.testing.assert_close(averaged[key], wanted)


def test_the_objective_of_the_gradient() -> None:
    sorter = HandcraftedSorter(2.0).double()
    scores = torch.randn(3, 6, dtype=torch.float64)
    ranks = hard_rank(scores, normalize=True)
    targets = hard_rank(torch.rand(3, 6, dtype=torch.float64), normalize=True)
    loss, error = objective(sorter, scores, ranks, targets, 0.1)
    known = scores.clone().requires_grad_()
    sodeep_fast.SpearmanLoss(sorter)(known, -targets).backward()
    assert known.grad is not None
    cosine = torch.cosine_similarity(-known.grad, ranks - targets, dim=-1).mean()
    torch.testing.assert_close(error, (sorter(scores) - ranks).abs().mean())
    torch.testing.assert_close(loss, error - 0.1 * cosine)


def test_a_training_for_the_gradient_improves_it() -> None:
    plain, trained = (EquivariantSorter(sharpness=[4.0]) for _ in range(2))
    train_sorter(trained, 30, **SMALL, gradient_weight=1.0, lr=0.02)
    before, after = (gradient_use(sorter, 12, steps=20) for sorter in (plain, trained))
    assert after.cosine > before.cosine + 0.02


def test_mixed_precision_and_lengths() -> None:
    sorter = LSTMSorter(4, 1)
    train_sorter(sorter, 3, **(SMALL | {"length": (5, 9)}), precision="bfloat16")
    assert all(value.dtype == torch.float32 for value in sorter.parameters())
    assert all(value.isfinite().all() for value in sorter.parameters())


# --- Bad input, and what is shown ---


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="sorter must be a learned sorter, got HandcraftedSorter"):
        train_sorter(HandcraftedSorter(), 1)
    with pytest.raises(ValueError, match="length must be 10, which this CNNSorter was made for"):
        train_sorter(CNNSorter(10, 2), 1)
    with pytest.raises(TypeError, match="unknown settings: momentum"):
        train_sorter(LSTMSorter(2), 1, momentum=0.9)
    with pytest.raises(TypeError, match="until must be an integer, got float"):
        train_sorter(LSTMSorter(2), 5, until=2.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="until must be an integer, got str"):
        train_sorter(LSTMSorter(2), 5, until="3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="until must be at least 1, got 0"):
        train_sorter(LSTMSorter(2), 5, until=0)
    with pytest.raises(ValueError, match="device must be one that PyTorch can use here, got 'foo'"):
        train_sorter(LSTMSorter(2), 1, device="foo")
    with pytest.raises(ValueError, match=f"checkpoint must be a file, got '{tmp_path}'"):
        train_sorter(LSTMSorter(2), 1, checkpoint=tmp_path)
    with pytest.raises(FileNotFoundError, match="checkpoint cannot be written"):
        train_sorter(LSTMSorter(2), 1, checkpoint=tmp_path / "none" / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which is then taken")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="device must be one that PyTorch can use here, got 'cuda"):
        train_sorter(LSTMSorter(2), 1, device="cuda")


def test_one_row_in_a_batch_where_rows_are_compared() -> None:
    for sorter in (CNNSorter(12, 2), CNNSorter(1, 2, padding="same")):
        with pytest.raises(ValueError, match=r"batch_size must be at least 2 for CNNSorter.*got 1"):
            train_sorter(sorter, 1, **(SMALL | {"batch_size": 1, "length": sorter.length}))
    # These have several positions of the one row.
    for sorter in (CNNSorter(12, 2, padding="same"), CNNSorter(12, 2, kernel_sizes=[3, 3])):
        assert train_sorter(sorter, 1, **(SMALL | {"batch_size": 1})).steps == 1


def test_progress_with_and_without_tqdm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SMALL | {"progress": True}
    train_sorter(LSTMSorter(2, 1), 2, **options)
    assert "2/2" in capsys.readouterr().err
    hide(monkeypatch, "tqdm")
    train_sorter(LSTMSorter(2, 1), 2, **options)
    assert "step 2 of 2: L1 0." in capsys.readouterr().out


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Makes the import of a package fail."""
    original = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith(package):
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, list[int]] = {}

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            logged.setdefault(name, []).append(step)

        def close(self) -> None:
            logged["closed"] = []

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", module)
        train_sorter(LSTMSorter(2, 1), 3, tensorboard=tmp_path, **SMALL)
    assert logged.keys() == {"L1", "learning rate", "seconds", "closed"}
    assert logged["L1"][-1] == 3
    hide(monkeypatch, "torch.utils.tensorboard")
    with pytest.raises(ImportError, match="pip install tensorboard"):
        train_sorter(LSTMSorter(2, 1), 3, tensorboard=tmp_path, **SMALL)
