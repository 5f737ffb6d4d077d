"""The benchmark engine: what it refuses, skips and records, and the numbers it takes."""

import csv
import sys
from dataclasses import replace
from itertools import groupby

import pytest
import torch

from bench import soft_rank as targets
from bench import test_operators
from sodeep_fast import _native
from sodeep_fast._environment import environment
from sodeep_fast.benchmark import (
    Case,
    Operator,
    Plan,
    Provider,
    Row,
    Unavailable,
    WrongResult,
    measure,
    measure_cases,
    quick_plan,
    run,
)
from sodeep_fast.benchmark import hard_rank as hard_rank_benchmark
from sodeep_fast.benchmark import soft_rank as soft_rank_benchmark
from sodeep_fast.benchmark.checks import within
from sodeep_fast.benchmark.measure import interleave, quantiles
from sodeep_fast.benchmark.memory import peak_bytes
from sodeep_fast.benchmark.plot import plot_time
from sodeep_fast.benchmark.registry import OPERATORS
from sodeep_fast.benchmark.report import read_json, table, write_csv, write_json
from sodeep_fast.benchmark.soft_rank import LAM, OPERATOR, check_sigmoid_rank, spot_values
from sodeep_fast.reference.soft_rank import soft_rank as reference_soft_rank
from sodeep_fast.testing import make_scores

SHAPE = (3, 17)
FAST = Plan(seconds=0.0, min_rounds=2, max_rounds=2, memory_shapes=())


def with_provider(name, build, **changes) -> Operator:
    """The operator with one more provider, otherwise like the eager one."""
    provider = replace(OPERATOR.providers["eager"], name=name, build=build, **changes)
    return replace(OPERATOR, providers={**OPERATOR.providers, name: provider})


def eager(scores):
    return reference_soft_rank(scores, LAM)


class HalvedGradient(torch.autograd.Function):
    """Right values, wrong derivative."""

    @staticmethod
    def forward(ctx, scores):
        return eager(scores)

    @staticmethod
    def backward(ctx, grad):
        return grad / 2


def test_the_yardstick_of_the_check_is_the_reference():
    scores = make_scores("normal", (31,), dtype=torch.float64).requires_grad_()
    grad = make_scores("uniform", (31,), dtype=torch.float64, seed=1)
    ranks = reference_soft_rank(scores, LAM)
    (slope,) = torch.autograd.grad(ranks, scores, grad)
    index = torch.tensor([0, 7, 30])
    values, slopes, scale = spot_values(scores.detach(), grad, index)
    torch.testing.assert_close(values, ranks.detach()[index])
    torch.testing.assert_close(slopes, slope[index])
    assert bool((scale >= slopes.abs()).all())


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda scores: eager(scores) + 0.5, "rank is off by 0.5"),
        (lambda scores: reference_soft_rank(scores, 2 * LAM), "rank is off"),
        (lambda scores: eager(scores) * float("nan"), "rank is off by"),
        (HalvedGradient.apply, "gradient is off"),
    ],
    ids=["shifted", "steeper", "nan", "gradient"],
)
def test_a_wrong_provider_is_refused_and_gets_no_time(wrong, complaint):
    operator = with_provider("wrong", lambda device: wrong)
    row, right = measure_cases(
        operator, [Case("wrong", "both", SHAPE), Case("eager", "both", SHAPE)], FAST
    )
    assert row.status == "refused"
    assert complaint in row.note
    assert row.median is None
    assert "refused" in table([row])
    assert right.status == "ok"


def test_wrong_orders_are_refused():
    scores = torch.tensor([[3.0, 1.0, 2.0]])
    with pytest.raises(WrongResult, match="not sorted"):
        soft_rank_benchmark.check_sort(scores, scores, None, None)
    with pytest.raises(WrongResult, match="order of the scores"):
        soft_rank_benchmark.check_permutahedron(scores, -scores, None, None)
    with pytest.raises(WrongResult, match="mean rank"):
        soft_rank_benchmark.check_permutahedron(scores, scores + 1, None, None)
    soft_rank_benchmark.check_permutahedron(scores, scores, None, None)


def test_a_missing_peer_is_a_row_that_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchsort", None)
    (row,) = measure_cases(OPERATOR, [Case("torchsort", "both", SHAPE)], FAST)
    assert row.status == "missing"
    assert "torchsort is not installed" in row.note


def test_ours_is_not_the_reference_under_another_name(monkeypatch):
    monkeypatch.setattr(_native, "HAS_CPU", False)
    with pytest.raises(Unavailable, match="without its compiled library"):
        OPERATOR.providers["ours"].build("cpu")


@pytest.mark.parametrize("name", ["soft_rank", "rank_counts"])
def test_nor_by_a_method_that_a_gpu_has_no_kernel_for(name, monkeypatch):
    monkeypatch.setattr(_native, "HAS_CUDA", False)
    with pytest.raises(Unavailable, match="no kernel for cuda here"):
        OPERATORS[name].providers["ours-linear"].build("cuda")


def test_one_that_raises_is_a_row_and_the_others_are_measured():
    def broken(scores):
        raise RuntimeError("the compiler gave up\nsomewhere")

    operator = with_provider("broken", lambda device: broken)
    row, right = measure_cases(
        operator, [Case("broken", "both", SHAPE), Case("eager", "both", SHAPE)], FAST
    )
    assert (row.status, row.note, row.median) == ("failed", "the compiler gave up", None)
    assert right.status == "ok"


def test_a_mode_that_nobody_has_is_left_out():
    plan = replace(FAST, shapes=(SHAPE,), modes=("backward", "forward"))
    rows = run(hard_rank_benchmark.OPERATOR, plan)
    assert {row.mode for row in rows} == {"forward"}
    assert {row.status for row in rows} == {"ok"}


@pytest.mark.parametrize("provider", ["ours", "pairs", "eager"])
def test_exact_ranks_pass_their_check_and_others_do_not(provider):
    function = hard_rank_benchmark.OPERATOR.providers[provider].build("cpu")
    scores = make_scores("tied", (5, 40))
    hard_rank_benchmark.check(scores, function(scores), None, None)
    for wrong in (function(scores) + 9, function(-scores), function(scores) * torch.nan):
        with pytest.raises(WrongResult, match="a rank is off"):
            hard_rank_benchmark.check(scores, wrong, None, None)


def test_achieved_rates_and_the_expected_time_have_columns():
    row = Row("soft_rank", "ours", "both", 8, 64, median=0.1, q20=0.1, q80=0.1)
    row.expected, row.bandwidth, row.flops, row.flop_share = 0.05, 2e9, 3e12, 0.25
    text = table([row])
    for cell in ("expected", "50.0 ms", "bytes/s", "2.00 G", "3.00 T", "FLOP limit", "25.00 %"):
        assert cell in text


@pytest.mark.kernels
@pytest.mark.parametrize("name", ["soft_rank", "rank_counts", "soft_histogram", "bilstm"])
def test_ours_is_refused_for_ranks_of_other_scores(name):
    operator = OPERATORS[name]
    ours = replace(
        operator.providers["ours"], build=lambda device: lambda scores: right(scores * 0.5)
    )
    right = operator.providers["ours"].build("cpu")
    row, *_ = measure_cases(
        replace(operator, providers={"ours": ours}), [Case("ours", "both", SHAPE)], FAST
    )
    assert (row.status, row.median) == ("refused", None)
    assert "is off by" in row.note


def test_an_error_that_is_not_in_a_row_is_named_with_its_bound():
    error = torch.tensor([[0.0, 0.25], [0.5, torch.nan]])
    with pytest.raises(WrongResult, match=r"^it is off by nan, allowed 2$"):
        within(error, torch.full_like(error, 2.0), "it")
    with pytest.raises(WrongResult, match=r"^it is off by 0.5, allowed 0.125$"):
        within(error.nan_to_num(0), torch.full_like(error, 0.125), "it")
    within(error.nan_to_num(0), torch.full_like(error, 0.5), "it")


def test_what_is_too_large_or_too_slow_is_skipped():
    cases = [Case("eager", "both", (1, 100_000)), Case("ours-direct", "both", (1, 1_000_000))]
    large, slow = measure_cases(OPERATOR, cases, FAST)
    assert large.status == slow.status == "skipped"
    assert "80 GB; the limit is 4" in large.note
    assert "s a call; the limit is 20" in slow.note


@pytest.mark.parametrize("mode", ["forward", "backward", "both"])
@pytest.mark.parametrize("provider", [name for name in OPERATOR.providers if name != "compile_sym"])
def test_every_provider_passes_its_own_check(provider, mode):
    if mode not in OPERATOR.providers[provider].modes:
        pytest.skip(f"{provider} has no gradient")
    (row,) = measure_cases(OPERATOR, [Case(provider, mode, SHAPE)], FAST)
    if row.status == "missing":
        pytest.skip(row.note)
    assert row.status == "ok", row.note
    assert row.rounds == 2
    assert 0 < row.q20 <= row.median <= row.q80


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch's compiler
def test_the_compiled_rival_passes_its_check():
    (row,) = measure_cases(OPERATOR, [Case("compile_sym", "both", SHAPE)], FAST)
    assert row.status == "ok", row.note


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 200)])
def test_the_check_takes_every_shape(shape):
    scores = soft_rank_benchmark.make_scores(shape, "cpu")
    check_sigmoid_rank(scores, eager(scores), None, None)


def test_rounds_are_interleaved():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    samples = interleave(calls, seconds=10, min_rounds=1, max_rounds=4)
    assert [len(times) for times in samples.values()] == [4, 4]
    runs = "".join(name for name, _ in groupby(order))
    # To warm up and to calibrate, then ab, ba, ab, ba; a repeated letter is one run.
    assert runs == "abab" + "ababa"


def test_a_slow_call_leaves_the_rounds_when_its_time_is_spent(monkeypatch):
    monkeypatch.setattr(measure, "time_call", lambda call, repeats, device: call())
    calls = {"slow": lambda: 1.0, "slower": lambda: 9.0, "fast": lambda: 0.01}
    samples = interleave(calls, seconds=2.5, min_rounds=2, max_rounds=6)
    assert {name: len(times) for name, times in samples.items()} == {
        "slow": 3,
        "slower": 2,
        "fast": 6,
    }


def test_quantiles():
    assert quantiles([5.0, 1.0, 2.0, 3.0, 4.0, 0.0]) == (1.0, 2.5, 4.0)


def test_run_compares_with_ours_and_measures_shares():
    slow = with_provider("slower", lambda device: lambda scores: (eager(scores), eager(scores))[0])
    operator = replace(slow, ours="eager")
    rows = run(operator, replace(FAST, shapes=(SHAPE,), modes=("both",), providers=("slower",)))
    ours, other = rows
    assert (ours.provider, ours.slowdown) == ("eager", 1.0)
    assert other.slowdown == pytest.approx(other.median / ours.median)
    assert other.pairs == pytest.approx(3 * 17 * 17 / other.median)
    assert other.share > 0
    assert other.peak_bytes is None


def test_run_rejects_unknown_names():
    with pytest.raises(ValueError, match="providers must be among ours"):
        run(OPERATOR, replace(FAST, providers=("nobody",)))
    with pytest.raises(ValueError, match="mode must be one of forward"):
        measure_cases(OPERATOR, [Case("eager", "sideways", SHAPE)], FAST)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's /proc")
def test_peak_memory_counts_what_a_call_holds():
    n = 1_000_000
    peak = peak_bytes("soft_rank", Case("torch.sort", "both", (1, n)), "cpu", 1)
    assert 12 * n <= peak < 60 * n  # float32 values and int64 positions, and room to sort in


def test_rows_survive_json_and_csv(tmp_path):
    rows = measure_cases(OPERATOR, [Case("eager", "forward", SHAPE)], FAST)
    facts = environment()
    write_json(tmp_path / "deep" / "rows.json", facts, rows)
    assert read_json(tmp_path / "deep" / "rows.json") == (facts, rows)
    write_csv(tmp_path / "rows.csv", facts, rows)
    with (tmp_path / "rows.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert line["provider"] == "eager"
    assert float(line["median"]) == rows[0].median
    assert line["torch"] == torch.__version__
    assert {"commit", "cpu", "threads", "version"} <= line.keys()


def test_the_plot_is_written_with_gaps_for_what_was_not_measured(tmp_path):
    timed = [
        Row("soft_rank", name, "both", 1, n, median=n * 1e-6)
        for name in ("ours-linear", "torchsort")
        for n in (10, 100)
    ]
    skipped = Row("soft_rank", "eager", "both", 1, 100, status="skipped")
    plot_time([*timed, skipped], tmp_path / "time.png", "a machine")
    assert (tmp_path / "time.png").read_bytes().startswith(b"\x89PNG")


def test_the_quick_plan_is_small():
    plan = quick_plan(OPERATOR)
    assert plan.modes == ("both",)
    assert set(plan.shapes) < set(OPERATOR.shapes)
    assert set(plan.memory_shapes) <= set(plan.shapes)


def target_rows(slowness: float) -> dict[Case, Row]:
    """Rows for every case of the targets: ours takes 1 s, everybody else `slowness`."""
    cases = {case for target in targets.TARGETS for case in (target.slow, target.fast)}
    return {
        case: Row(
            "soft_rank",
            case.provider,
            case.mode,
            *case.shape,
            median=1.0 if case.provider == "ours" else slowness,
        )
        for case in cases
    }


def test_targets_are_judged_in_their_direction():
    lines, passed = targets.judge(target_rows(1e6), peak=8 * 4_000_000)
    assert passed
    assert {line[-1] for line in lines} == {"pass"}
    lines, passed = targets.judge(target_rows(1e-6), peak=9 * 4_000_000)
    assert not passed
    verdicts = {line[0]: line[-1] for line in lines}
    assert verdicts.pop("cost of (1, 1000000) over (1, 100000), forward + backward") == "pass"
    assert set(verdicts.values()) == {"FAIL"}


def test_a_target_that_cannot_be_measured_says_why_and_a_refused_one_fails():
    rows = target_rows(1e6)
    for case, row in rows.items():
        if case.provider == "torchsort":
            row.median, row.status, row.note = None, "missing", "is not installed"
    lines, passed = targets.judge(rows, peak=None)
    assert passed
    assert sum("not measured: torchsort is not installed" in line[-1] for line in lines) == 4
    assert lines[-1][-1] == "not measured"
    for row in rows.values():
        row.status = "refused" if row.median is None else row.status
    assert not targets.judge(rows, peak=None)[1]


def test_pytest_benchmark_has_the_whole_registry():
    cases = [case.values for case in test_operators.CASES]
    for operator in OPERATORS.values():
        found = {case for whose, case in cases if whose is operator}
        for name, provider in operator.providers.items():
            modes = {(case.mode, case.shape) for case in found if case.provider == name}
            assert modes == {(mode, shape) for mode in provider.modes for shape in operator.shapes}
    assert len({case.id for case in test_operators.CASES}) == len(cases)


def test_every_target_names_a_provider_and_a_mode_it_has():
    for target in targets.TARGETS:
        for case in (target.slow, target.fast):
            provider: Provider = OPERATOR.providers[case.provider]
            assert case.mode in provider.modes
