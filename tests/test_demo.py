"""The demo's pieces on small settings."""

import math

import numpy as np
import pytest
import torch

from demo import diabetes, digits, plots, retrieval
from demo.training import fit, report, spread


def test_diabetes_gives_a_correlation_per_seed_and_leaves_the_threads_alone(capsys):
    threads = torch.get_num_threads()
    results = diabetes.train(seeds=2, folds=2, epochs=15)
    assert torch.get_num_threads() == threads
    assert list(results) == list(diabetes.FITS)
    for values in results.values():
        assert len(values) == 2
        assert all(0.2 < value < 0.9 for value in values)
    assert "diabetes" in capsys.readouterr().err  # the progress bar


def test_spearman_loss_sees_only_the_order_of_the_targets():
    loss, _ = diabetes.FITS["SpearmanLoss (any scale of the target)"]
    targets = np.random.default_rng(0).normal(size=50)
    outputs = torch.linspace(-1, 1, 50)
    values = [
        loss(outputs, torch.tensor(scaled, dtype=torch.float32))
        for scaled in (targets, diabetes._exponential_scale(targets))
    ]
    assert values[0] == values[1]


def test_digits_gives_a_map_per_seed():
    results = digits.train(seeds=2, epochs=10)
    assert list(results) == list(digits.CANDIDATES)
    assert all(0.2 < value <= 1 for values in results.values() for value in values)


def test_retrieval_beats_pixels():
    mean_ap, recall = retrieval.train(seeds=1, epochs=15)
    for results in (mean_ap, recall):
        assert set(results) == {retrieval.UNTRAINED, *retrieval.LOSSES}
        assert all(0.2 < value <= 1 for values in results.values() for value in values)
    for name in ("Smooth-AP", "SupAP", "ROADMAP", "AP_Q", "Recall@k", "H-AP, digit and parity"):
        gains = zip(mean_ap[name], mean_ap[retrieval.UNTRAINED], strict=True)
        assert all(trained > pixels for trained, pixels in gains), name


def test_retrieval_metrics_of_a_small_example():
    """The first two queries find each other; the third has nobody, and the fourth a stranger."""
    embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 1.0]])
    labels = torch.tensor([0, 0, 1, 2])
    mean_ap, recall = retrieval.retrieval_metrics(embeddings, labels)
    assert mean_ap == 1
    assert recall == 0.5


def test_both_losses_get_the_same_number_of_candidates():
    assert len({len(candidates) for candidates in digits.CANDIDATES.values()}) == 1


def test_fit_keeps_the_best_validated_epoch():
    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    seen = []

    def validate(model):
        seen.append(float(model(inputs).mean().detach()))
        return -abs(len(seen) - 2)  # the second epoch is best

    best, model = fit(
        inputs,
        1,
        lambda outputs: outputs.sum(),
        validate,
        seed=0,
        epochs=4,
        learning_rate=0.1,
    )
    assert best == 0
    assert float(model(inputs).mean().detach()) == pytest.approx(seen[1])


def test_report_compares_seed_by_seed():
    text = report("title", {"old": [0.5, 0.7], "new": [0.6, 0.9]}, "note")
    assert text.splitlines() == [
        "title",
        "  old  0.600 +- 0.141",
        "  new  0.750 +- 0.212   gain +0.150 +- 0.071, ahead in 2 of 2 seeds",
        "note",
    ]
    assert spread([1.0, 1.0]) == "1.000 +- 0.000"


def test_the_sweep_steps_exactly_and_smoothly():
    moving, exact, soft = plots.sweep()
    assert len(moving) == 2001
    assert (moving[0], moving[-1]) == (-1, 1)
    assert (exact[0], exact[-1]) == (100, 1)
    assert (np.diff(exact) <= 0).all()
    assert (np.diff(soft) < 0).all()
    steepest = 100 * 10 / 4 * 1e-3  # n lam max(sigmoid') step
    assert np.abs(np.diff(soft)).max() < steepest
    assert math.isclose(np.corrcoef(exact, soft)[0, 1], 1, abs_tol=0.01)


def test_pictures_are_written(tmp_path):
    plots.plot_sweep(tmp_path / "deep" / "sweep.png")
    results = {"one, two": [0.1, 0.2], "three (four)": [0.3, 0.5]}
    plots.plot_comparison(results, tmp_path / "comparison.png", title="title", label="score")
    for path in (tmp_path / "deep" / "sweep.png", tmp_path / "comparison.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
