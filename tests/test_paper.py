"""The reproductions of the paper: each runs at a small size, and measures what it says."""

import inspect
import json
import re
from collections.abc import Callable
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sorters", "--folds=1"], "folds must be at least 2, got 1"),
        (
            ["sorters", "--folds=100000"],
            "folds must be at most 89, of two examples each, got 100000",
        ),
        (["sorters", "--steps=2"], "steps must be at least 10, got 2"),
        (["fig6", "--steps=9"], "steps must be at least 10, got 9"),
    ],
)
def test_bad_numbers_are_found_before_any_work(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    assert main(["paper", *arguments, f"--output={tmp_path / 'new'}"]) == 2
    assert capsys.readouterr().err == f"sodeep-fast paper: {message}\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("run", [table1.run, fig4.run, fig6.run, sorter_comparison.run])
def test_counts_of_every_part_are_checked(run: Callable[..., object], tmp_path: Path) -> None:
    for name in {"vectors", "seeds", "steps", "folds"} & inspect.signature(run).parameters.keys():
        with pytest.raises(ValueError, match=f"{name} must be at least .*, got 0"):
            run(tmp_path / "new", **{name: 0})
        with pytest.raises(TypeError, match=f"{name} must be an integer, got str"):
            run(tmp_path / "new", **{name: "2"})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("part", ["table1", "fig4", "fig5", "fig6", "sorters"])
def test_a_bad_folder_is_found_before_any_work(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the work began")

    for name in ("table1", "fig5", "fig6", "sorter_comparison"):
        monkeypatch.setattr(f"sodeep_fast.paper.{name}.sorters", never)
    monkeypatch.setattr(fig4, "train_sorter", never)
    (tmp_path / "file").touch()
    assert main(["paper", part, f"--output={tmp_path / 'file'}"]) == 2
    message = f"sodeep-fast paper: folder must be no file, got '{tmp_path / 'file'}'\n"
    assert capsys.readouterr().err == message


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for part, defaults in (
        ("table1", {"vectors": 10_000, "seeds": 3}),
        ("fig4", {"steps": 500, "batch-size": 64, "device": "cpu"}),
        ("fig5", {}),
        ("fig6", {"seeds": 5, "steps": 300}),
        ("sorters", {"seeds": 5, "folds": 5, "steps": 300}),
    ):
        with pytest.raises(SystemExit, match="0"):
            main(["paper", part, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert "default: bench/results/paper in the current folder" in text
        for name, default in defaults.items():
            assert re.search(rf"--{name} [A-Z_]+ \w[^-]*; default: {default}\b", text), name


def test_every_trained_sorter_takes_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_sorter(CNNSorter(12, 2), tmp_path / "cnn-12.safetensors")
    monkeypatch.setattr("sodeep_fast.sorters.checkpoint._WEIGHTS", tmp_path)
    for module in ("sorters.checkpoint", "paper.results"):
        monkeypatch.setattr(f"sodeep_fast.{module}.SHIPPED", ("cnn-12",))
    assert list(sorters(12)) == ["handcrafted", "exa", "cnn-12"]
    # Of one length, so nowhere else.
    assert list(sorters()) == list(sorters(13)) == ["handcrafted", "exa"]
