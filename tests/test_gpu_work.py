"""The times that kernels should take: for every row, and as in the kernels' files."""

import importlib
import re
from pathlib import Path

import pytest

from sodeep_fast.benchmark import Row
from sodeep_fast.ops import _backend

if not _backend.has_triton():
    pytest.skip("Triton is not installed", allow_module_level=True)

from bench import gpu_losses
from bench.gpu_bench import TARGETS, recipe_of
from bench.gpu_ceilings import COPY, FLOAT32
from bench.gpu_rows import add_rates
from bench.gpu_work import SOFT_RANK_INSTRUCTIONS, Work, conv_stack, count_pairs, lstm, passes_of
from bench.losses import LOSSES

ROOT = Path(__file__).parent.parent
KERNELS = ("soft_rank", "rank_counts", "soft_histogram", "bilstm", "conv_stack")


@pytest.mark.parametrize("name", TARGETS)
def test_every_row_of_ours_has_an_expected_time(name):
    recipe, target = recipe_of(name, dry=False), TARGETS[name]
    for provider in ("ours", *target.names):
        assert provider in recipe.operator.providers
        for shape in (*target.shapes, *target.graph_shapes):
            for mode in target.modes:
                row = Row(name, provider, mode, *shape)
                add_rates(recipe, row, {})
                assert row.expected is not None
                assert 2e-6 <= row.expected < 2, (provider, shape, mode)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_an_expected_time(name):
    recipe = gpu_losses.recipe_of(name, dry=False)
    for shape in recipe.operator.shapes:
        passes = [
            sum(w.seconds() for w in recipe.counted("ours", m, shape))
            for m in ("forward", "backward")
        ]
        both = sum(work.seconds() for work in recipe.counted("ours", "both", shape))
        assert both == pytest.approx(sum(passes))
        assert 2e-5 < both < 1


@pytest.mark.parametrize("name", KERNELS)
def test_every_triton_kernel_has_its_cost_beside_it(name):
    module = importlib.import_module(f"sodeep_fast.kernels.{name}")
    assert "should cost on an H200" in module.__doc__
    assert "expected" in module.__doc__ or "instructions a pair" in module.__doc__
    files = {
        path.stem
        for path in Path(module.__file__).parent.glob("*.py")
        if "_kernel(" in path.read_text()
    }
    assert files == set(KERNELS)


@pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="the sources are not next to the tests")
def test_every_cuda_kernel_has_its_cost_beside_it():
    texts = {path: path.read_text() for path in (ROOT / "csrc/cuda").glob("*.cu*")}
    kernels = re.findall(r"__global__[^;{]*?(\w+)_kernel\(", "\n".join(texts.values()))
    assert len(kernels) == 8
    costs = [
        text.split("#pragma once")[0].split("Expected on an H200")[1]
        for text in texts.values()
        if "Expected on an H200" in text
    ]
    for kernel in kernels:
        words = ("ranks", "gradient") if kernel == "soft_rank_direct" else (kernel,)
        assert any(all(word in cost for word in words) for cost in costs), kernel


def test_the_counts_are_those_of_the_kernels_files():
    """The instructions and times in the heads of the files are those of `bench.gpu_work`."""
    ranks = importlib.import_module("sodeep_fast.kernels.soft_rank").__doc__
    for mode, (short, long) in SOFT_RANK_INSTRUCTIONS.items():
        times = [
            passes_of("soft_rank", "triton-direct", mode, shape)[0].seconds()
            for shape in ((512, 100), (8, 100_000))
        ]
        micro, milli = 1e6 * (times[0] - 2e-6), 1e3 * times[1]
        line = next(line for line in ranks.splitlines() if line.strip().startswith(f"{mode}  "))
        numbers = [float(number) for number in re.findall(r"\d+", line)]
        assert numbers[::2] == [short, long]
        assert numbers[1] == pytest.approx(micro, abs=1)
        assert numbers[3] == pytest.approx(milli, abs=1.5)
    # The other files' numbers at the shapes they name, in microseconds, launches aside.
    shape = (4096, 4096)
    for work, expected in (
        (count_pairs("forward", shape, 4), 66),
        (passes_of("soft_histogram", "triton-auto", "forward", shape)[0], 910),
    ):
        assert 1e6 * work.seconds() - 2 * work.launches == pytest.approx(expected, rel=0.05)
    for route, backward, low, high in (
        *(("triton", False, 52, 115), ("triton", True, 75, 125)),
        *(("cuda", False, 43, 80), ("cuda", True, 69, 103)),
    ):
        time = 1e6 * lstm(128, 1, (512, 100), backward, saves=True, route=route).seconds()
        assert low < time < high
    for backward, about, alone in ((False, 210, 35), (True, 230, 28)):
        work = conv_stack(512, backward)
        assert 1e6 * work.seconds() == pytest.approx(about, rel=0.02)
        assert 1e6 * conv_stack(1, backward).seconds() == pytest.approx(alone, rel=0.02)
        assert work.flop == pytest.approx(44.8e9, rel=1e-3)
        assert work.bytes == pytest.approx(156e6, rel=5e-3)
    for mode, about in (("forward", 40), ("backward", 50)):
        time = passes_of("soft_rank", "cuda-linear", mode, (8, 100_000))[0].seconds()
        assert 1e6 * time == pytest.approx(about, rel=0.1)


def test_what_would_take_long_is_left_out():
    recipe = recipe_of("soft_rank", dry=False)
    direct, linear = (
        recipe.operator.providers[f"{name}"] for name in ("cuda-direct", "cuda-linear")
    )
    assert direct.seconds(1, 1_000_000) > recipe.plan.max_seconds > linear.seconds(1, 1_000_000)


def test_work_adds_up():
    assert Work(bytes=4.3e12).seconds() == pytest.approx(1, rel=1e-5)
    one, other = Work(bytes=1.0, launches=2), Work(steps=3.0, launches=5)
    total = one + other
    assert (total.bytes, total.steps, total.launches) == (1.0, 3.0, 7)
    assert total.seconds() == pytest.approx(3 + 7 * 2e-6)  # bytes hide behind steps


def test_rates_and_their_shares():
    recipe = recipe_of("soft_rank", dry=False)
    row = Row("soft_rank", "triton-direct", "forward", 512, 100, median=1e-5)
    add_rates(recipe, row, {COPY: 10**12, FLOAT32: 10**13})
    assert row.bandwidth == pytest.approx(8 * 512 * 100 / 1e-5)
    assert row.share == pytest.approx(row.bandwidth / 1e12)
    assert row.flops == pytest.approx(6 * 512 * 100**2 / 1e-5)
    assert row.flop_share == pytest.approx(row.flops / 1e13)
    rival = Row("soft_rank", "compile", "forward", 512, 100, median=2e-5)
    add_rates(recipe, rival, {COPY: 10**12, FLOAT32: 10**13})
    assert rival.flops == pytest.approx(row.flops / 2)
    assert rival.expected is None
    sort = Row("soft_rank", "torch.sort", "forward", 512, 100, median=2e-5)
    add_rates(recipe, sort, {COPY: 10**12, FLOAT32: 10**13})
    assert sort.flops is None
