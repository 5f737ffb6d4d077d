"""Losses of several processes: the same values and gradients as one process with the batch."""

import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from sodeep_fast import (
    HappierLoss,
    RecallAtKLoss,
    RoadmapLoss,
    SmoothAPLoss,
    multistage_step,
)
from sodeep_fast.compat.metric_learning import as_metric_loss
from sodeep_fast.retrieval import gather

LABELS = torch.arange(14) % 4
HIERARCHY = torch.stack([LABELS, LABELS // 2], -1)
SHARES = [slice(0, 5), slice(5, 14)]  # processes with batches of different sizes


def losses(**options: object) -> dict[str, nn.Module]:
    torch.manual_seed(1)  # of the proxies
    return {
        "smooth_ap": SmoothAPLoss(**options),
        "at_once": SmoothAPLoss(**options, chunk_size=None, exclude_query=True),
        "recall": RecallAtKLoss(**options, chunk_size=3),
        "roadmap": RoadmapLoss(**options, chunk_size=3),
        "roadmap_at_once": RoadmapLoss(**options, chunk_size=None),
        "happier": HappierLoss(3, 4, **options).double(),
    }


def case() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(6, 3).double(), torch.randn(14, 6).double(), torch.randn(30, 3).double()


def gradients(model: nn.Module, loss: nn.Module) -> list[Tensor]:
    parameters = [*model.parameters(), *loss.parameters()]
    result = [parameter.grad.clone() for parameter in parameters]
    model.zero_grad(set_to_none=True)
    loss.zero_grad(set_to_none=True)
    return result


def check_a_process(out: str) -> None:
    """Runs in each of two processes; writes what it checked."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    share = SHARES[rank]
    model, inputs, memory = case()
    memory_labels = (torch.arange(30) % 4)[:, None] // torch.tensor([1, 2])
    parallel = nn.parallel.DistributedDataParallel(model)
    checked = []

    rows, offset = gather(torch.full((2 + rank, 1), float(rank)))
    assert rows[:, 0].tolist() == [0, 0, 1, 1, 1]
    assert offset == 2 * rank

    alone, together = losses(), losses(gather=True)
    for name in alone:
        for references in (False, True):
            rest, own = (), ()
            if references:  # each process has half of them
                rest = (None, memory, memory_labels)
                own = (None, memory[rank::2], memory_labels[rank::2])
            expected = alone[name](model(inputs), HIERARCHY, *rest)
            expected.backward()
            exact = gradients(model, alone[name])
            # Proxies are parameters too: their gradients are averaged like the model's.
            loss = together[name]
            value = loss(parallel(inputs[share]), HIERARCHY[share], *own)
            value.backward()
            for parameter in loss.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= 2
            torch.testing.assert_close(value, expected)
            for grad, each in zip(gradients(model, loss), exact, strict=True):
                torch.testing.assert_close(grad, each)
        checked.append(name)

    # A process may have no rows.
    some = inputs if rank == 0 else inputs[:0]
    value = together["roadmap"](model(some), LABELS[: len(some)])
    torch.testing.assert_close(value, alone["roadmap"](model(inputs), LABELS))
    value.backward()
    gradients(model, together["roadmap"])
    checked.append("empty")

    # Several batches in each process, one synchronization.
    loss = together["roadmap"]
    alone["roadmap"](model(inputs), LABELS).backward()
    exact = gradients(model, loss)
    batches = zip(inputs[share].split(2), LABELS[share].split(2), strict=True)
    multistage_step(parallel, batches, loss)
    for grad, each in zip(gradients(model, loss), exact, strict=True):
        torch.testing.assert_close(grad, each)
    checked.append("multistage")

    if importlib.util.find_spec("pytorch_metric_learning"):
        from pytorch_metric_learning.utils.distributed import DistributedLossWrapper

        RoadmapLoss(chunk_size=3)(model(inputs), LABELS).backward()
        exact = gradients(model, loss)
        wrapped = DistributedLossWrapper(as_metric_loss(RoadmapLoss(chunk_size=3)))
        half = slice(7 * rank, 7 * rank + 7)  # it wants batches of one size
        wrapped(parallel(inputs[half]), LABELS[half]).backward()
        for grad, each in zip(gradients(model, loss), exact, strict=True):
            torch.testing.assert_close(grad, each)

    # Without gather a process is by itself.
    own = model(inputs[share])
    torch.testing.assert_close(
        RoadmapLoss(chunk_size=3)(own, LABELS[share]),
        RoadmapLoss(chunk_size=None)(own, LABELS[share]),
    )
    indices = (torch.arange(2),) * 3
    with pytest.raises(ValueError, match="indices_tuple must be None with gather=True"):
        SmoothAPLoss(gather=True)(own, LABELS[share], indices)
    Path(out, f"{rank}.json").write_text(json.dumps(checked))
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="this PyTorch was built without processes")
def test_two_processes_are_one(tmp_path: Path) -> None:
    import subprocess

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", __file__, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in (0, 1):
        checked = json.loads((tmp_path / f"{rank}.json").read_text())
        assert checked == [*losses(), "empty", "multistage"]


def test_without_processes_there_is_nothing_to_gather() -> None:
    embeddings = torch.randn(14, 3)
    alone, together = losses(), losses(gather=True)
    for name, loss in alone.items():
        assert torch.equal(loss(embeddings, HIERARCHY), together[name](embeddings, HIERARCHY))
    indices = (torch.arange(2), torch.arange(2) + 4, torch.arange(2), torch.arange(2) + 1)
    assert SmoothAPLoss(gather=True)(embeddings, LABELS, indices).isfinite()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        check_a_process(sys.argv[1] if len(sys.argv) > 1 else scratch)
