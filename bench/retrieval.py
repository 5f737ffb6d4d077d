"""Checks the speed and memory targets of the retrieval losses, and writes what was measured.

Run it on a quiet machine: `python -m bench.retrieval`. The unit is what any such loss has to
compute: the score matrix E @ E.T of a batch, and the two products of its backward. Ratios of one
run are the result; absolute times are context. `bench/gpu_losses.py` has the same losses on a GPU.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

import sodeep_fast
from bench.retrieval_peers import ALL_TRIPLES, Metric
from sodeep_fast._columns import align
from sodeep_fast._environment import environment
from sodeep_fast.benchmark.measure import Call, interleave, quantiles
from sodeep_fast.benchmark.memory import peak_of
from sodeep_fast.benchmark.report import bytes_text, time_text

RESULTS = Path(__file__).parent / "results"
DIMENSIONS, PER_CLASS = 128, 4
BATCH = 4096  # against the matrix products
NUM_CLASSES = BATCH // PER_CLASS
PLAIN, HIERARCHY = 1, 2  # columns of labels

SCORES_ALONE = "quantized_ap"  # measured on scores that are given


@dataclass(frozen=True)
class Measured:
    """A loss on embeddings, and how many columns of labels it takes."""

    build: Callable[..., nn.Module]
    columns: int = PLAIN


LOSSES = {
    "SmoothAPLoss": Measured(sodeep_fast.SmoothAPLoss),
    "SupAPLoss": Measured(sodeep_fast.SupAPLoss),
    "QuantizedAPLoss": Measured(sodeep_fast.QuantizedAPLoss),
    "RecallAtKLoss": Measured(sodeep_fast.RecallAtKLoss),
    "NDCGLoss": Measured(sodeep_fast.NDCGLoss, HIERARCHY),
    "HierarchicalAPLoss": Measured(sodeep_fast.HierarchicalAPLoss, HIERARCHY),
    "RoadmapLoss": Measured(sodeep_fast.RoadmapLoss),
}


def _happier(**options: Any) -> nn.Module:
    return sodeep_fast.HappierLoss(DIMENSIONS, NUM_CLASSES, **options)


# Combinations of the others with a calibration or clusters.
COMPOSED = {
    "CalibrationLoss": Measured(sodeep_fast.CalibrationLoss),
    **{
        f"SupRankLoss of {metric}": Measured(
            partial(sodeep_fast.SupRankLoss, metric), HIERARCHY if metric == "ndcg" else PLAIN
        )
        for metric in ("ap", "recall", "ndcg")
    },
    "HappierLoss": Measured(_happier, HIERARCHY),
}


def make_batch(
    batch: int, per_class: int, device: str = "cpu", coarse: int | None = None
) -> tuple[Tensor, dict[int, Tensor]]:
    """Returns embeddings (batch, 128) around the centres of their classes, and their labels.

    Labels come with one column (the class) and with two (the class, and one of `coarse` groups; by
    default a group is two classes).
    """
    generator = torch.Generator().manual_seed(0)
    fine = torch.arange(batch) // per_class
    centres = torch.randn(int(fine[-1]) + 1, DIMENSIONS, generator=generator)
    embeddings = centres[fine] + torch.randn(batch, DIMENSIONS, generator=generator)
    order = torch.randperm(batch, generator=generator)
    fine = fine[order]
    groups = max(1, len(centres) // 2) if coarse is None else coarse
    both = torch.stack([fine, fine % groups], dim=-1)
    return embeddings[order].to(device), {PLAIN: fine.to(device), HIERARCHY: both.to(device)}


def loss_call(loss: nn.Module, embeddings: Tensor, labels: Tensor) -> Call:
    """Returns forward and backward of a loss on embeddings."""
    leaf = embeddings.clone().requires_grad_()
    return lambda: torch.autograd.grad(loss(leaf, labels), leaf)


def metric_call(metric: Metric, embeddings: Tensor, levels: Tensor) -> Call:
    """Returns forward and backward of 1 - the mean of a metric of the cosines."""
    leaf = embeddings.clone().requires_grad_()

    def call() -> object:
        unit = normalize(leaf, dim=-1)
        return torch.autograd.grad(1 - metric(unit @ unit.T, levels).mean(), leaf)

    return call


def products_call(embeddings: Tensor) -> Call:
    """Returns the score matrix and the two products of its backward."""
    grad = embeddings @ embeddings.T

    def call() -> object:
        scores = embeddings @ embeddings.T
        return scores, grad @ embeddings, grad.T @ embeddings

    return call


def shared_labels(labels: Tensor) -> Tensor:
    """Returns (B, B): how many labels two members of a batch share; labels (B,) or (B, L)."""
    columns = labels.view(len(labels), -1)
    return (columns.unsqueeze(1) == columns).sum(-1)


def time_all(calls: dict[str, Call]) -> dict[str, float]:
    """Returns the median seconds of every call, all of them in the same rounds."""
    for call in calls.values():
        call()
    samples = interleave(calls, seconds=3.0, min_rounds=3, max_rounds=50, device="cpu")
    return {name: quantiles(times)[1] for name, times in samples.items()}


def peak(name: str, batch: int, chunk_size: int | str | None) -> float:
    """Returns the peak bytes of forward and backward of a loss, in its own process.

    NaN, which meets no target, if the system does not report it.
    """
    command = [sys.executable, "-m", __spec__.name, "--peak", name, str(batch), str(chunk_size)]
    command += ["--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return float(done.stdout.split()[-1])


def peak_here(name: str, batch: int, chunk_size: int | str | None) -> float:
    """Measures `peak` in this process, which should be fresh."""
    for size in (64, batch):
        embeddings, labels = make_batch(size, PER_CLASS)
        if name == SCORES_ALONE:
            same = shared_labels(labels[PLAIN]).bool()
            leaf = (embeddings @ embeddings.T).requires_grad_()
            call: Call = partial(metric_gradient, sodeep_fast.quantized_ap, leaf, same)
        else:
            measured = (LOSSES | COMPOSED)[name]
            loss = measured.build(chunk_size=chunk_size)
            call = loss_call(loss, embeddings, labels[measured.columns])
        if size != batch:
            call()
    used = peak_of(call, "cpu")
    return math.nan if used is None else used


def metric_gradient(metric: Metric, scores: Tensor, levels: Tensor) -> object:
    """Forward and backward of the mean of a metric of given scores."""
    return torch.autograd.grad(metric(scores, levels).mean(), scores)


class Report:
    """Lines of (what, target, measured, verdict), and whether one of them failed."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str, str]] = []
        self.passed = True

    def add(
        self,
        what: str,
        value: float,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        text: Callable[[float], str] = "{:.3g}x".format,
    ) -> None:
        """Adds a line, judged if there is a bound."""
        met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
        bound = f">= {text(at_least)}" if at_least is not None else ""
        bound = f"<= {text(at_most)}" if at_most is not None else bound
        self.passed &= met
        verdict = "" if not bound else "pass" if met else "FAIL"
        line = (what, bound, text(value), verdict)
        self.lines.append(line)
        print("  ".join(line), flush=True)


def against_products(report: Report, batch: int) -> None:
    """Every loss at one batch size, in units of its matrix products, and its memory."""
    embeddings, labels = make_batch(batch, PER_CLASS)
    calls = {
        name: loss_call(measured.build(), embeddings, labels[measured.columns])
        for name, measured in (LOSSES | COMPOSED).items()
    }
    times = time_all({"products": products_call(embeddings), **calls})
    report.add(f"matrix products of batch {batch}", times["products"], text=time_text)
    matrix = 4.0 * batch**2
    for name in calls:
        what = f"{name}, batch {batch}"
        ratio = times[name] / times["products"]
        report.add(f"{what}: time over products", ratio, at_most=3)
        for chunk_size, most in ((None, 6), (256, 0.25)):
            used = peak(name, batch, chunk_size) / matrix
            report.add(
                f"{what}, chunk_size {chunk_size}: memory over score matrix",
                used,
                at_most=most,
            )


def against_triples(report: Report) -> None:
    """Every metric against its paper's program, batch 256."""
    embeddings, labels = make_batch(256, PER_CLASS)
    for name, metric in ALL_TRIPLES.items():
        levels = shared_labels(labels[HIERARCHY if name in ("smooth_ndcg", "h_ap") else PLAIN])
        ours = getattr(sodeep_fast, name)
        unit = normalize(embeddings.double(), dim=-1)
        torch.testing.assert_close(metric(unit @ unit.T, levels), ours(unit @ unit.T, levels))
        calls = {
            "triples": metric_call(metric, embeddings, levels),
            "ours": metric_call(ours, embeddings, levels),
        }
        times = time_all(calls)
        ratio = times["triples"] / times["ours"]
        report.add(f"{name} vs all triples, batch 256", ratio, at_least=50)


def against_positives_only(report: Report) -> None:
    """Smooth-AP against plain PyTorch that compares positives with items, batch 1024."""
    embeddings, labels = make_batch(1024, PER_CLASS)
    same = shared_labels(labels[PLAIN]).bool()
    times = time_all(
        {
            "plain": metric_call(positives_only, embeddings, same),
            "ours": loss_call(sodeep_fast.SmoothAPLoss(), embeddings, labels[PLAIN]),
        }
    )
    ratio = times["plain"] / times["ours"]
    report.add("SmoothAPLoss vs plain PyTorch over positives, batch 1024", ratio, at_least=4)


def positives_only(scores: Tensor, same: Tensor, tau: float = 0.01) -> Tensor:
    """Smooth-AP without a batch x batch x batch tensor; all queries have equally many positives."""
    rows, columns = same.nonzero(as_tuple=True)
    outranked = torch.sigmoid((scores[rows] - scores[rows, columns, None]) / tau)
    among_positives = 0.5 + (outranked * same[rows]).sum(-1)
    return (among_positives / (0.5 + outranked.sum(-1))).view(len(scores), -1).mean(-1)


def against_metric_learning(report: Report) -> None:
    """Smooth-AP against that of pytorch-metric-learning, where it is installed."""
    try:
        from pytorch_metric_learning.losses import SmoothAPLoss as Peer
    except ImportError:
        report.lines.append(("SmoothAPLoss vs pytorch-metric-learning", "", "", "not installed"))
        return
    for batch, least in ((256, 150), (512, 800)):
        embeddings, labels = make_batch(batch, PER_CLASS)
        # It needs sorted classes, and assumes as many classes as each has members: the same work.
        order = labels[PLAIN].argsort()
        embeddings, labels[PLAIN] = embeddings[order], labels[PLAIN][order]
        calls = {
            "peer": loss_call(Peer(), embeddings, labels[PLAIN]),
            "ours": loss_call(sodeep_fast.SmoothAPLoss(), embeddings, labels[PLAIN]),
        }
        times = time_all(calls)
        ratio = times["peer"] / times["ours"]
        what = f"SmoothAPLoss vs pytorch-metric-learning, batch {batch}"
        report.add(what, ratio, at_least=least)


def many_positives(report: Report) -> None:
    """The time of large classes over that of small ones."""
    few, few_labels = make_batch(4096, PER_CLASS)
    many, many_labels = make_batch(4096, 410)
    for name in ("SmoothAPLoss", "SupAPLoss"):
        loss = LOSSES[name].build()
        times = time_all(
            {
                "few": loss_call(loss, few, few_labels[PLAIN]),
                "many": loss_call(loss, many, many_labels[PLAIN]),
            },
        )
        ratio = times["many"] / times["few"]
        report.add(f"{name}, batch 4096: 10 classes over 4 per class", ratio, at_most=6)
    embeddings, labels = make_batch(4096, PER_CLASS, coarse=16)
    times = time_all(
        {
            "few": loss_call(sodeep_fast.SmoothAPLoss(), embeddings, labels[PLAIN]),
            "many": loss_call(sodeep_fast.HierarchicalAPLoss(), embeddings, labels[HIERARCHY]),
        }
    )
    ratio = times["many"] / times["few"]
    report.add("H-AP with 16 coarse classes over Smooth-AP, batch 4096", ratio)
    embeddings, labels = make_batch(2048, PER_CLASS, coarse=2)
    times = time_all(
        {
            "few": loss_call(sodeep_fast.SmoothAPLoss(), embeddings, labels[PLAIN]),
            "half": loss_call(sodeep_fast.HierarchicalAPLoss(), embeddings, labels[HIERARCHY]),
        }
    )
    ratio = times["half"] / times["few"]
    report.add("H-AP with 2 coarse classes over Smooth-AP, batch 2048", ratio, at_most=6)


def large_batches(report: Report) -> None:
    """Batches whose score matrix alone would take gigabytes, in chunks."""
    largest = peak("SmoothAPLoss", 16384, "auto")
    report.add("SmoothAPLoss, batch 16384, memory", largest, at_most=4e9, text=bytes_text)
    used = peak(SCORES_ALONE, 4096, None) / (4.0 * 4096**2)
    report.add("quantized_ap of 4096 x 4096 scores: memory over them", used, at_most=2)


def main() -> int:
    """Measures, prints every target, writes them; 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", nargs=3, metavar=("LOSS", "BATCH", "CHUNK"), help="only this")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        name, batch, chunk = options.peak
        chunk_size = None if chunk == "None" else chunk if chunk == "auto" else int(chunk)
        print(peak_here(name, int(batch), chunk_size))
        return 0
    report = Report()
    parts: list[Callable[..., None]] = [
        partial(against_products, batch=BATCH),
        against_triples,
        against_positives_only,
        against_metric_learning,
        many_positives,
        large_batches,
    ]
    for part in parts:
        part(report)
    facts = environment()
    text = "\n".join(align([("what", "target", "measured", ""), *report.lines]))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "retrieval.txt").write_text(
        ", ".join(f"{key} {value}" for key, value in facts.items()) + "\n\n" + text + "\n"
    )
    (options.out / "retrieval.json").write_text(
        json.dumps({"environment": facts, "lines": report.lines}, indent=1) + "\n"
    )
    print(f"\n{text}")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
