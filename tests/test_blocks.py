"""The tables of block sizes, and that the sweep measures all of them and prints rows for them."""

from dataclasses import replace

import pytest
import torch

from sodeep_fast.kernels import _config
from sodeep_fast.kernels._config import Blocks, Entry, HistogramBlocks
from sodeep_fast.ops import _backend

TABLES = {
    name: value
    for name, value in vars(_config).items()
    if isinstance(value, tuple) and all(isinstance(entry, Entry) for entry in value)
}


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_a_tile_for_every_row(name):
    assert any(entry.arch == 0 and entry.n == _config.UNLIMITED for entry in TABLES[name])
    assert len({(entry.arch, entry.n) for entry in TABLES[name]}) == len(TABLES[name])


def test_an_architectures_own_row_takes_the_place_of_the_others():
    table = (
        Entry(0, 16, Blocks(8, 16, 4, 8), "any"),
        Entry(0, _config.UNLIMITED, Blocks(1, 32, 8, 4), "any"),
        Entry(90, 16, Blocks(4, 16, 4, 8), "its own"),
    )
    assert _config.entries_of(table, 80) == list(table[:2])
    assert _config.entries_of(table, 90) == [table[2], table[1]]


def test_tiles_of_the_histogram():
    """The number of bins limits those of the tile."""
    for float64, n, bins, expected in (
        (False, 32, 10, (32, 16, 2)),
        (False, 32, 17, (32, 32, 2)),
        (False, 33, 16, (64, 16, 4)),
        (False, 5000, 700, (64, 32, 4)),
        (True, 5000, 20, (32, 32, 4)),
    ):
        assert _config.histogram_blocks(float64, n, bins, 90) == HistogramBlocks(*expected)


@pytest.mark.skipif(not _backend.has_triton(), reason="Triton is not installed")
def test_the_sweep_measures_every_row_of_every_table():
    from bench.gpu_candidates import sweeps

    measured = {(sweep.table, sweep.n): sweep for sweep in sweeps(tiny=False)}
    rows = {(name, entry.n): entry for name, table in TABLES.items() for entry in table}
    assert rows.keys() <= measured.keys()
    for key, entry in rows.items():
        assert entry.blocks in measured[key].candidates, key
    for (name, _), sweep in measured.items():
        kind = type(TABLES[name][0].blocks)
        assert all(type(tile) is kind for tile in sweep.candidates)


@pytest.mark.skipif(not _backend.has_triton(), reason="Triton is not installed")
def test_what_the_sweep_prints_is_a_row_of_its_table(monkeypatch):
    from bench.gpu_candidates import sweeps
    from bench.gpu_sweep import lines_of

    results = [
        {**vars(sweep), "tile": type(tile).__name__, "blocks": tile, "seconds": 1e-3}
        for sweep in sweeps(tiny=False)
        for tile in sweep.candidates[:2]
    ]
    lines = list(lines_of(results, 90, "a GPU, a date"))
    pasted = {}
    for comment, text in zip(lines[::2], lines[1::2], strict=True):
        name = comment.removeprefix("# ").split(":")[0]
        entry = eval(text.removesuffix(","), vars(_config))
        assert (entry.arch, entry.provenance) == (90, "a GPU, a date")
        pasted.setdefault(name, []).append(entry)
    assert pasted.keys() == TABLES.keys()
    for name, entries in pasted.items():
        table = (*TABLES[name], *entries)
        assert _config.entries_of(table, 90) == sorted(entries, key=lambda entry: entry.n)
        monkeypatch.setattr(_config, name, table)
    _config.histogram_blocks.cache_clear()
    assert _config.histogram_blocks(True, 5000, 20, 90) == pasted["HISTOGRAM_FLOAT64"][0].blocks
    _config.histogram_blocks.cache_clear()


@pytest.mark.skipif(not _backend.has_triton(), reason="Triton is not installed")
def test_the_sweep_times_the_tiles_of_its_table():
    from bench.gpu_candidates import sweeps
    from bench.gpu_sweep import timed_calls

    for sweep in sweeps(tiny=True):
        kept, used = getattr(_config, sweep.table), []
        sweep = replace(sweep, make=lambda scores, s=sweep, u=used: lambda: u.append(looked_up(s)))
        try:
            for call in timed_calls(sweep, "cpu").values():
                call()
        finally:
            setattr(_config, sweep.table, kept)
            getattr(_config, sweep.setting).cache_clear()
        assert used == sweep.candidates


@pytest.mark.skipif(not _backend.has_triton(), reason="Triton is not installed")
def test_the_sweep_leaves_out_tiles_that_do_not_fit():
    from triton.runtime.errors import OutOfResources

    from bench.gpu_candidates import sweeps
    from bench.gpu_sweep import measure_one

    sweep = sweeps(tiny=True)[0]
    large, small = sweep.candidates

    def make(scores):
        def call():
            if looked_up(sweep) == large:
                raise OutOfResources(300_000, 227 << 10, "shared memory")

        return call

    (result,) = measure_one(replace(sweep, make=make), "cpu", 0.0)
    assert result["blocks"] == small
    assert getattr(_config, sweep.table) == TABLES[sweep.table]


def looked_up(sweep):
    """Returns the largest tile that a kernel would take."""
    float64 = sweep.dtype == torch.float64
    keys = {
        "pairwise_blocks": (float64, 20, 0),
        "counts_blocks": (float64, 20, 1 << 20, 2, 0),
        "conv_blocks": ("FULL" in sweep.table, 20, 1 << 20, 1 << 20, 8, 0),
        "histogram_blocks": (float64, 20, 1 << 20, 0),
        "lstm_blocks": (
            "BACKWARD" in sweep.table, "FULL" in sweep.table, "PRODUCTS" not in sweep.table, 9, 0
        ),
    }  # fmt: skip
    blocks = getattr(_config, sweep.setting)(*keys[sweep.setting])
    return blocks._replace(levels=4) if sweep.setting == "counts_blocks" else blocks
