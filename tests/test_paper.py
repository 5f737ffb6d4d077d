"""The reproductions of the paper: each runs in small, and measures what it says."""

import json
from pathlib import Path

import pytest
import torch

from sodeep_fast import CNNSorter, save_sorter
from sodeep_fast.cli import main
from sodeep_fast.paper import fig4, fig5, fig6, sorter_comparison, table1
from sodeep_fast.paper.results import sorters

pytest.importorskip("matplotlib")


pytestmark = pytest.mark.usefixtures("same_weights_and_one_thread")


def test_table1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sodeep_fast.training.evaluate.RATES", (100.0,))
    results = table1.run(tmp_path, vectors=2000, seeds=2, gradient_vectors=2)
    assert results.keys() == sorters(100).keys()
    errors = results["handcrafted"]["error"]
    assert isinstance(errors, list)
    assert all(0.033 < error < 0.037 for error in errors)
    text = (tmp_path / "table1.txt").read_text()
    assert "0.0350" in text
    content = json.loads((tmp_path / "table1.json").read_text())
    assert content["results"]["handcrafted"]["error"] == errors
    assert content["settings"]["vectors"] == 2000
    assert "torch" in content["environment"]


def test_fig4_resumes_and_compares_depths(tmp_path: Path) -> None:
    results = fig4.run(tmp_path, depths=(2, 3), steps=4, batch_size=8, length=12, vectors=10)
    assert results.keys() == {2, 3}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fig4.json", "fig4.png", "fig4.txt"]


def test_fig5(tmp_path: Path) -> None:
    curves = fig5.run(tmp_path, length=20, step=0.1)
    assert len(curves["score"]) == len(curves["exact"]) == len(curves["equivariant"]) == 21
    assert curves["score"][0] == -1
    assert curves["exact"][0] == 20
    assert curves["exact"][-1] == 1
    assert abs(curves["equivariant"][0] - 20) < 1
    assert (tmp_path / "fig5.png").stat().st_size > 10_000


def test_fig6_hinge() -> None:
    scores = torch.rand(3, 30) * 2 - 1
    labels = torch.rand(3, 30) < 0.3
    labels[1] = False
    pairs = [
        max(0.0, 1 - float(p - q))
        for row, positive in zip(scores, labels, strict=True)
        for p in row[positive]
        for q in row[~positive]
    ]
    hinge = float(fig6.pairwise_hinge(scores, labels))
    assert hinge == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)


def test_fig6(tmp_path: Path) -> None:
    results = fig6.run(tmp_path, seeds=1, steps=20)
    assert {"L_mAP, handcrafted", "Smooth-AP", "SupAP", "AP_Q", "Hinge-AP", "cross entropy"} <= set(
        results
    )
    for result in results.values():
        assert len(result["curve"]) == 2
        assert 0.25 < result["test"][0] <= 1  # by chance it is 0.2
    assert (tmp_path / "fig6.png").exists()


def test_sorter_comparison(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    results = sorter_comparison.run(tmp_path, seeds=1, folds=2, steps=40)
    assert results.keys() == {"diabetes", "wine"}
    for found in results.values():
        assert {"L1", "MSE", "Spearman, handcrafted", "Spearman, equivariant"} <= found.keys()
        assert all(value[0] > 0.4 for value in found.values())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper", "fig5", f"--output={tmp_path / 'new'}"]) == 0
    assert (tmp_path / "new" / "fig5.txt").exists()
    assert "equivariant" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert main(["paper", "fig5", f"--output={tmp_path / 'file' / 'x'}"]) == 2
    assert "sodeep-fast paper: " in capsys.readouterr().err


def test_every_trained_sorter_takes_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_sorter(CNNSorter(12, 2), tmp_path / "cnn-12.safetensors")
    monkeypatch.setattr("sodeep_fast.sorters.checkpoint._WEIGHTS", tmp_path)
    for module in ("sorters.checkpoint", "paper.results"):
        monkeypatch.setattr(f"sodeep_fast.{module}.SHIPPED", ("cnn-12",))
    assert list(sorters(12)) == ["handcrafted", "exa", "cnn-12"]
    # Of one length, so nowhere else.
    assert list(sorters()) == list(sorters(13)) == ["handcrafted", "exa"]
