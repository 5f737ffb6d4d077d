"""The original SoDeep names against golden values of the official program, and its definitions."""

import argparse
import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sodeep_fast
from sodeep_fast.compat import sodeep
from sodeep_fast.sorters.released import RELEASED_TYPES
from sodeep_fast.testing import DEVICES, DISTRIBUTIONS, ROUNDING, make_scores

GOLDEN = json.loads((Path(__file__).parent / "data" / "seed-golden.json").read_text())["cases"]
# Sums of fewer than a thousand terms of order one, in float64.


def length_of(model_type: str) -> int:
    return {"cnn": 100, "lstmla": 2}.get(model_type, 6)


def exact_by_definition(row: Tensor) -> Tensor:
    """The ranks of sorter type "exa", from all pairs of one row."""
    n = len(row)
    difference = row.unsqueeze(0) - row.unsqueeze(1)
    lam = 6.8 / difference.detach().triu(1).std()
    return (0.5 + torch.sigmoid(lam * difference).sum(1)) / n


def assert_golden(case: dict[str, Any], value: Tensor, x: Tensor) -> None:
    expected = torch.tensor(case["value"], dtype=torch.float64).reshape(value.shape)
    torch.testing.assert_close(value.detach(), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(
        x.grad, torch.tensor(case["grad"], dtype=torch.float64), rtol=1e-7, atol=1e-12
    )


def golden_input(case: str) -> tuple[dict[str, Any], Tensor]:
    x = torch.tensor(GOLDEN[case]["input"], dtype=torch.float64)
    return GOLDEN[case], x.requires_grad_()


# --- Golden values ---


def test_golden_exact_sorter() -> None:
    case, x = golden_input("sodeep_exa")
    ranks = sodeep.model_loader("exa", None)(x.unsqueeze(0))[0]
    ranks.sum().backward()
    assert_golden(case, ranks, x)


def test_golden_get_rank() -> None:
    case, x = golden_input("sodeep_get_rank")
    assert sodeep.get_rank(x).tolist() == case["value"]


def test_golden_spearman() -> None:
    case, x = golden_input("sodeep_spearman")
    loss = sodeep.SpearmanLoss("exa")(x, torch.tensor(case["target"], dtype=torch.float64))
    loss.backward()
    assert_golden(case, loss, x)


def test_golden_rank_loss() -> None:
    case, x = golden_input("sodeep_rank")
    loss = sodeep.RankLoss("exa")(x)
    loss.backward()
    assert_golden(case, loss, x)


# --- The exact sorter ---


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("distribution", ["uniform", "normal", "cauchy", "clustered", "tied"])
@pytest.mark.parametrize("shape", [(1, 2), (5, 3), (4, 100)])
def test_exact_sorter_by_definition(distribution: str, shape: tuple[int, int], device: str) -> None:
    scores = make_scores(distribution, shape, dtype=torch.float64, device=device, seed=3)
    scores[:, 0] += 0.25  # no constant row, the tied scores being multiples of one half
    weights = make_scores("normal", shape, dtype=torch.float64, device=device, seed=1)
    results = []
    for sorter in (
        sodeep.ExactSorter(),
        lambda s: torch.stack([exact_by_definition(r) for r in s]),
    ):
        leaf = scores.clone().requires_grad_()
        ranks = sorter(leaf)
        (ranks * weights).sum().backward()
        results.append((ranks.detach(), leaf.grad))
    torch.testing.assert_close(*results, **ROUNDING)


def test_exact_sorter_of_two_scores() -> None:
    # One upper difference d among four entries: mean d / 4, so the variance is d^2 / 4.
    ranks = sodeep.ExactSorter()(torch.tensor([[3.0, 1.0], [1.0, 3.0]], dtype=torch.float64))
    late = (1 + 1 / (1 + math.exp(-2 * 6.8))) / 2
    torch.testing.assert_close(
        ranks, torch.tensor([[1.5 - late, late], [late, 1.5 - late]]).double(), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("scale", [1e-38, 1e-6, 1e6, 1e37])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_exact_sorter_does_not_depend_on_scale_or_shift(scale: float, shift: float) -> None:
    scores = make_scores("normal", (3, 50), dtype=torch.float64)
    expected = sodeep.ExactSorter()(scores)
    ranks = sodeep.ExactSorter()((scores + shift) * scale)
    torch.testing.assert_close(ranks, expected, **ROUNDING)


def test_exact_sorter_of_tiny_and_huge_float32() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    scores *= torch.tensor([[1e-44], [1.0], [1e38]])
    ranks = sodeep.ExactSorter()(scores)
    # 1e-44 is a whole number of the smallest float32 steps, and so is twice that.
    torch.testing.assert_close(ranks, ranks[1].expand(3, 3))


@pytest.mark.parametrize("row", [[0.7] * 5, [-3.0, -3.0], [1e30] * 3, [4.0]])
def test_exact_sorter_of_equal_scores(row: list[float]) -> None:
    scores = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    ranks = sodeep.ExactSorter()(scores)
    n = len(row)
    assert ranks[0].tolist() == pytest.approx([(n + 1) / (2 * n)] * n, rel=1e-15)
    ranks.square().sum().backward()
    assert (scores.grad == 0).all()


def test_exact_sorter_rows_are_independent() -> None:
    scores = make_scores("normal", (4, 9))
    expected = sodeep.ExactSorter()(scores)
    spoilt = scores.clone()
    spoilt[1, 3] = math.nan
    spoilt[2, 3] = math.inf
    ranks = sodeep.ExactSorter()(spoilt)
    assert torch.equal(ranks[[0, 3]], expected[[0, 3]])
    assert ranks[[1, 2]].isnan().all()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0,)])
def test_exact_sorter_of_nothing(shape: tuple[int, ...]) -> None:
    assert sodeep.ExactSorter()(torch.ones(shape)).shape == shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_exact_sorter_of_halves(dtype: torch.dtype) -> None:
    scores = make_scores("normal", (4, 9), dtype=dtype)
    ranks = sodeep.ExactSorter()(scores)
    assert ranks.dtype == torch.float32
    assert torch.equal(ranks, sodeep.ExactSorter()(scores.float()))


# --- get_rank ---


def test_get_rank_dimensions() -> None:
    scores = torch.tensor([[0.3, 0.9], [0.5, -1.0], [0.1, 0.0]])
    assert torch.equal(sodeep.get_rank(scores), torch.tensor([[2.0, 1], [1, 3], [3, 2]]) / 3)
    assert torch.equal(sodeep.get_rank(scores, dim=1), torch.tensor([[2.0, 1], [1, 2], [1, 2]]) / 2)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_get_rank_by_double_sorting(distribution: str) -> None:
    scores = make_scores(distribution, (4, 30))
    ascending = scores.argsort(dim=-1, stable=True).argsort(-1)
    assert torch.equal(sodeep.get_rank(scores, -1), (30 - ascending).float() / 30)


def test_get_rank_is_float32_without_gradient() -> None:
    ranks = sodeep.get_rank(torch.randn(5, dtype=torch.float64, requires_grad=True))
    assert ranks.dtype == torch.float32
    assert not ranks.requires_grad


# --- The losses ---


def test_spearman_by_definition() -> None:
    x = make_scores("normal", (12,), dtype=torch.float64)
    y = make_scores("normal", (12,), dtype=torch.float64, seed=1)
    squares = (exact_by_definition(x) - sodeep.get_rank(y)).square().mean()
    for lbd in (0, 0.5):
        expected = squares + lbd * (x - y).abs().mean()
        torch.testing.assert_close(sodeep.SpearmanLoss("exa", lbd=lbd)(x, y), expected, **ROUNDING)


def test_spearman_of_a_batch_is_the_mean_over_rows() -> None:
    x = make_scores("normal", (5, 12), dtype=torch.float64)
    y = make_scores("normal", (5, 12), dtype=torch.float64, seed=1)
    loss = sodeep.SpearmanLoss("exa", lbd=0.3)
    rows = [loss(a, b) for a, b in zip(x, y, strict=True)]
    torch.testing.assert_close(loss(x, y), torch.stack(rows).mean(), **ROUNDING)


def test_spearman_takes_integer_targets() -> None:
    loss = sodeep.SpearmanLoss("exa", lbd=1)
    x = make_scores("normal", (5,))
    assert torch.equal(loss(x, torch.arange(5)), loss(x, torch.arange(5.0)))


def test_spearman_is_the_papers_up_to_a_factor() -> None:
    n = 12
    x = make_scores("normal", (5, n), dtype=torch.float64)
    y = make_scores("normal", (5, n), dtype=torch.float64, seed=1)
    loss = sodeep.SpearmanLoss("exa")
    # The original keeps its exact ranks / n in float32.
    torch.testing.assert_close(
        loss(x, y) * 6 * n**2 / (n**2 - 1),
        sodeep_fast.SpearmanLoss(loss.sorter)(x, y),
        rtol=0,
        atol=12 * torch.finfo(torch.float32).eps,
    )


def test_map_by_definition() -> None:
    scores = make_scores("normal", (9, 4), dtype=torch.float64)
    labels = (make_scores("uniform", (9, 4), seed=1) > 0.2).int()
    labels[:, 2] = 0
    expected = sum((exact_by_definition(scores[:, c]) * labels[:, c]).sum() for c in range(4))
    torch.testing.assert_close(sodeep.MapRankingLoss("exa")(scores, labels), expected, **ROUNDING)


def test_map_without_a_positive_can_be_differentiated() -> None:
    scores = torch.randn(5, 3, requires_grad=True)
    loss = sodeep.MapRankingLoss("exa")(scores, torch.zeros(5, 3))
    loss.backward()
    assert loss.item() == 0
    assert (scores.grad == 0).all()


def test_rank_by_definition() -> None:
    scores = make_scores("normal", (7, 7), dtype=torch.float64)
    expected = sum(
        exact_by_definition(matrix[i])[i] for matrix in (scores, scores.T) for i in range(7)
    )
    torch.testing.assert_close(sodeep.RankLoss("exa")(scores), expected, **ROUNDING)


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("nmax", [1, 3, 99])
@pytest.mark.parametrize("margin", [0.05, 0.2, 0.9])
def test_rank_hard_by_definition(margin: float, nmax: int, released: bool) -> None:
    size = 7
    scores = make_scores("normal", (size, size), dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for matrix in (scores, scores.T):
        for i in range(size):
            ranks = exact_by_definition(matrix[i])
            others = torch.cat([ranks[:i], ranks[i + 1 :]]).sort().values[:nmax]
            used = 1 / size if released else margin
            expected += (used + ranks[i] - others).clamp(min=0).sum()
    loss = sodeep.RankHardLoss("exa", margin=margin, nmax=nmax, released_margin=released)
    torch.testing.assert_close(loss(scores), expected, **ROUNDING)


def test_rank_hard_uses_its_margin_by_default() -> None:
    scores = make_scores("normal", (7, 7))
    assert sodeep.RankHardLoss("exa", margin=0.9)(scores) > sodeep.RankHardLoss("exa")(scores)


@pytest.mark.parametrize("loss", [sodeep.RankLoss, sodeep.RankHardLoss])
@pytest.mark.parametrize("size", [0, 1])
def test_small_batches(loss: type[torch.nn.Module], size: int) -> None:
    scores = torch.ones(size, size, requires_grad=True)
    value = loss("exa")(scores)
    assert value.item() == (2 if size == 1 and loss is sodeep.RankLoss else 0)
    value.backward()
    assert (scores.grad == 0).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda x: sodeep.SpearmanLoss("exa", lbd=0.5)(x, torch.arange(4).expand(4, 4)),
        lambda x: sodeep.MapRankingLoss("exa")(x, torch.eye(4)),
        lambda x: sodeep.RankLoss("exa")(x),
        lambda x: sodeep.RankHardLoss("exa")(x),
    ],
)
def test_half_inputs(call: Any) -> None:
    x = make_scores("normal", (4, 4), dtype=torch.float16).requires_grad_()
    value = call(x)
    assert value.dtype == torch.float32
    value.backward()
    assert x.grad.dtype == torch.float16
    assert x.grad.isfinite().all()


# --- Interface ---


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (sodeep.get_rank, ["batch_score", "dim"]),
        (sodeep.load_sorter, ["checkpoint_path"]),
        (sodeep.model_loader, ["model_type", "seq_len", "pretrained_state_dict"]),
        (sodeep.SpearmanLoss, ["sorter_type", "seq_len", "sorter_state_dict", "lbd"]),
        (sodeep.SpearmanLoss("exa").forward, ["mem_pred", "mem_gt", "pr"]),
        (sodeep.MapRankingLoss, ["sorter_type", "seq_len", "sorter_state_dict"]),
        (sodeep.MapRankingLoss("exa").forward, ["output", "target"]),
        (sodeep.RankLoss, ["sorter_type", "seq_len", "sorter_state_dict"]),
        (sodeep.RankLoss("exa").forward, ["scores"]),
        (
            sodeep.RankHardLoss,
            ["sorter_type", "seq_len", "sorter_state_dict", "margin", "nmax", "released_margin"],
        ),
        (sodeep.RankHardLoss("exa").forward, ["scores"]),
    ],
)
def test_arguments(call: Any, arguments: list[str]) -> None:
    assert list(inspect.signature(call).parameters) == arguments


@pytest.mark.parametrize(
    "loss", [sodeep.SpearmanLoss, sodeep.MapRankingLoss, sodeep.RankLoss, sodeep.RankHardLoss]
)
def test_the_sorter_is_an_attribute(loss: type[torch.nn.Module]) -> None:
    assert isinstance(loss("exa", 100, {}).sorter, torch.nn.Module)
    assert loss("exa").state_dict() == {}


def test_unknown_sorters() -> None:
    with pytest.raises(ValueError, match=r"model_type must be one of 'exa', .*got 'bogo'"):
        sodeep.model_loader("bogo", 100)


def test_weights_that_do_not_fit_are_not_dropped() -> None:
    with pytest.raises(RuntimeError, match=r"Unexpected key.*lin1\.weight"):
        sodeep.model_loader("exa", 100, {"lin1.weight": torch.ones(1)})
    with pytest.raises(RuntimeError, match=r"Missing key.*lin1\.bias"):
        sodeep.model_loader("mlp", 6, {"lin1.weight": torch.ones(2048, 6)})


def test_load_sorter(tmp_path: Path) -> None:
    path = tmp_path / "best_model.pth.tar"
    with pytest.raises(FileNotFoundError, match=r"no sorter checkpoint at .*best_model\.pth\.tar"):
        sodeep.load_sorter(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"best_model\.pth\.tar is damaged"):
        sodeep.load_sorter(str(path))


@pytest.mark.parametrize("model_type", RELEASED_TYPES)
def test_losses_over_a_checkpoint(model_type: str, tmp_path: Path) -> None:
    n = length_of(model_type)
    saved = sodeep.model_loader(model_type, n)
    arguments = argparse.Namespace(model_type=model_type, seq_len=n)
    torch.save({"state_dict": saved.state_dict(), "args_dict": arguments}, tmp_path / "sorter")
    loss = sodeep.SpearmanLoss(*sodeep.load_sorter(tmp_path / "sorter"))
    assert loss.state_dict().keys() == {f"sorter.{key}" for key in saved.state_dict()}
    # As in the original, it is trained along unless it is frozen by hand.
    assert loss.sorter.training
    assert all(p.requires_grad for p in loss.parameters())
    x, y = make_scores("normal", (n,)).requires_grad_(), make_scores("normal", (n,), seed=1)
    value = loss(x, y)
    expected = (saved(x.detach()[None])[0] - sodeep.get_rank(y)).square().mean()
    torch.testing.assert_close(value, expected)
    value.backward()
    assert x.grad.abs().max() > 0
    assert all(p.grad is not None for p in loss.parameters())


@pytest.mark.parametrize("model_type", RELEASED_TYPES)
def test_rows_are_ranked_one_by_one(model_type: str) -> None:
    n = length_of(model_type)
    sorter = sodeep.model_loader(model_type, n).double()
    scores = make_scores("normal", (n, 3), dtype=torch.float64)
    labels = (make_scores("uniform", (n, 3), seed=1) > 0.2).int()
    labels[0] = 1
    ranks = torch.cat([sorter(scores[None, :, c]) for c in range(3)]).detach()

    loss = sodeep.MapRankingLoss(model_type, n).double()
    loss.load_state_dict({f"sorter.{key}": value for key, value in sorter.state_dict().items()})
    torch.testing.assert_close(loss(scores, labels), (ranks.T * labels).sum(), **ROUNDING)

    loss = sodeep.SpearmanLoss(model_type, n).double()
    loss.load_state_dict({f"sorter.{key}": value for key, value in sorter.state_dict().items()})
    expected = (ranks - sodeep.get_rank(scores).T).square().mean()
    torch.testing.assert_close(loss(scores.T, scores.T), expected, **ROUNDING)


def test_batch_statistics_of_the_classes_with_a_positive() -> None:
    sorter, loss = sodeep.model_loader("cnn", 100), sodeep.MapRankingLoss("cnn", 100)
    loss.sorter.load_state_dict(sorter.state_dict())
    scores, labels = make_scores("normal", (100, 3)), torch.zeros(100, 3)
    labels[5, 0] = labels[6, 2] = 1
    loss(scores, labels)
    for c in (0, 2):
        sorter(scores[None, :, c])
    for key, value in sorter.state_dict().items():
        torch.testing.assert_close(loss.sorter.state_dict()[key], value)
    assert loss.sorter.state_dict()["layer2.1.num_batches_tracked"] == 2
    nothing = loss(scores.requires_grad_(), torch.zeros(100, 3))
    nothing.backward()
    assert nothing.item() == 0
    assert (scores.grad == 0).all()


def test_weights_of_the_convolutional_sorter_are_loaded() -> None:
    state = sodeep.model_loader("cnn", 100).state_dict()
    loaded = sodeep.model_loader("cnn", 100, state)
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("model_type", sorted(set(RELEASED_TYPES) - {"exa", "grus", "gruc"}))
def test_rows_of_another_length(model_type: str) -> None:
    n = length_of(model_type)
    loss = sodeep.SpearmanLoss(model_type, n)
    with pytest.raises(ValueError, match=f"scores must have rows of length {n}, .*{n + 1}"):
        loss(torch.randn(n + 1), torch.randn(n + 1))
    with pytest.raises(ValueError, match=f"length of the rows must be given .*'{model_type}'"):
        sodeep.SpearmanLoss(model_type)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: sodeep.SpearmanLoss("exa")(torch.ones(4), torch.ones(4, 1)),
            ValueError,
            r"mem_gt must have the shape of mem_pred, \(4,\), got \(4, 1\)",
        ),
        (
            lambda: sodeep.SpearmanLoss("exa")(torch.arange(4), torch.ones(4)),
            TypeError,
            "mem_pred must be float16",
        ),
        (lambda: sodeep.SpearmanLoss("exa", lbd=-1), ValueError, "lbd must be at least 0"),
        (
            lambda: sodeep.MapRankingLoss("exa")(torch.ones(4, 2), torch.full((4, 2), 3)),
            ValueError,
            "labels must be binary, 0 or 1, got 3",
        ),
        (
            lambda: sodeep.RankLoss("exa")(torch.ones(4, 2)),
            ValueError,
            r"scores must have shape \(B, B\), got \(4, 2\)",
        ),
        (
            lambda: sodeep.RankHardLoss("exa")(torch.ones(4)),
            ValueError,
            r"scores must have shape \(B, B\), got \(4,\)",
        ),
        (lambda: sodeep.RankHardLoss("exa", margin=-1), ValueError, "margin must be at least 0"),
        (lambda: sodeep.RankHardLoss("exa", nmax=0), ValueError, "nmax must be at least 1"),
        (
            lambda: sodeep.ExactSorter()(torch.arange(4)),
            TypeError,
            r"input_ must be float16.*got torch\.int64",
        ),
        (lambda: sodeep.get_rank(torch.tensor(1.0)), ValueError, "batch_score must have at least"),
        (lambda: sodeep.get_rank(torch.ones(3, 4), 5), ValueError, "dim must be one of the 2 dim"),
        (
            lambda: sodeep.MapRankingLoss("exa")(torch.ones(4), torch.ones(4)),
            ValueError,
            r"output must have shape \(n, C\), got \(4,\)",
        ),
        (
            lambda: sodeep.MapRankingLoss("exa")(torch.ones(4, 2), torch.ones(4, 3)),
            ValueError,
            r"target must have the shape of output, \(4, 2\), got \(4, 3\)",
        ),
    ],
)
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_spearman_of_single_observations_warns() -> None:
    predictions = torch.randn(5, 1, requires_grad=True)
    with pytest.warns(UserWarning, match=r"mem_pred \(5, 1\) are groups of one observation"):
        assert sodeep.SpearmanLoss("exa")(predictions, torch.randn(5, 1)) == 0
