"""The benchmark of the retrieval losses: its rivals are right, and its lines judge."""

import pytest
import torch
from torch.nn.functional import normalize

import sodeep_fast
from bench import retrieval
from bench.retrieval_peers import ALL_TRIPLES


def scores_and_levels(columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    embeddings, labels = retrieval.make_batch(24, 4)
    unit = normalize(embeddings.double(), dim=-1)
    return unit @ unit.T, retrieval.shared_labels(labels[columns])


@pytest.mark.parametrize("columns", [retrieval.PLAIN, retrieval.HIERARCHY])
@pytest.mark.parametrize("name", ALL_TRIPLES)
def test_all_triples_give_the_same_values(name, columns):
    scores, levels = scores_and_levels(columns)
    graded = name in ("smooth_ndcg", "h_ap")
    relevant = levels if graded else levels > 0
    expected = getattr(sodeep_fast, name)(scores, relevant)
    torch.testing.assert_close(ALL_TRIPLES[name](scores, relevant.long()), expected)


def test_positives_only_gives_the_same_values():
    scores, levels = scores_and_levels(retrieval.PLAIN)
    same = levels > 0
    torch.testing.assert_close(
        retrieval.positives_only(scores, same), sodeep_fast.smooth_ap(scores, same)
    )


def test_every_loss_is_measured(monkeypatch):
    monkeypatch.setattr(retrieval, "peak", lambda *arguments: 0)
    monkeypatch.setattr(retrieval, "time_all", lambda calls: dict.fromkeys(calls, 1.0))
    report = retrieval.Report()
    retrieval.against_products(report, 16)
    assert report.passed
    for name in retrieval.LOSSES | retrieval.COMPOSED:
        assert sum(line[0].startswith(f"{name}, batch 16") for line in report.lines) == 3
    report.add("too slow", 4.0, at_most=3)
    assert not report.passed
    assert report.lines[-1] == ("too slow", "<= 3x", "4x", "FAIL")


def test_peak_counts_what_a_loss_allocates():
    assert retrieval.peak_here("SmoothAPLoss", 512, None) > 4 * 512**2
