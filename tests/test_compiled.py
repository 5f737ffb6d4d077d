"""Losses under torch.compile: those of scores are part of a graph, those of embeddings are not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sodeep_fast as sf
from sodeep_fast.testing import make_scores

pytestmark = [
    pytest.mark.usefixtures("same_weights_and_one_thread"),
    pytest.mark.filterwarnings("ignore"),  # of the compiler
]

LABELS = torch.arange(24) // 4
HIERARCHY = torch.stack([LABELS, LABELS // 2], 1)
LOSSES: dict[str, Callable[[], torch.nn.Module]] = {
    "SmoothAPLoss": sf.SmoothAPLoss,
    "SupAPLoss": sf.SupAPLoss,
    "QuantizedAPLoss": sf.QuantizedAPLoss,
    "RecallAtKLoss": sf.RecallAtKLoss,
    "NDCGLoss": sf.NDCGLoss,
    "HierarchicalAPLoss": sf.HierarchicalAPLoss,
    "CalibrationLoss": sf.CalibrationLoss,
    "RoadmapLoss": sf.RoadmapLoss,
    "SupRankLoss": lambda: sf.SupRankLoss("ndcg"),
    "HappierLoss": lambda: sf.HappierLoss(16, 6),
}
RELEVANT = torch.rand(6, 30, generator=torch.Generator().manual_seed(0)) < 0.3
LSTM = sf.LSTMSorter(4)
METRICS: dict[str, Callable[[Tensor], Tensor]] = {
    "smooth_ap": lambda s: sf.smooth_ap(s, RELEVANT),
    "sup_ap": lambda s: sf.sup_ap(s, RELEVANT),
    "sup_ap, rounded": lambda s: sf.sup_ap(s, RELEVANT, sf.Sup(offset=1.44)),
    "smooth_recall": lambda s: sf.smooth_recall(s, RELEVANT),
    "sup_recall": lambda s: sf.sup_recall(s, RELEVANT),
    "quantized_ap": lambda s: sf.quantized_ap(s, RELEVANT),
    "smooth_ndcg": lambda s: sf.smooth_ndcg(s, RELEVANT),
    "sup_ndcg": lambda s: sf.sup_ndcg(s, RELEVANT),
    "h_ap": lambda s: sf.h_ap(s, RELEVANT),
    "calibration": lambda s: sf.calibration_loss(s, RELEVANT),
    "spearman": lambda s: sf.spearman_loss(s, s.detach().flip(-1), sf.HandcraftedSorter()),
    "spearman by an LSTM": lambda s: sf.spearman_loss(s, s.detach().flip(-1), LSTM),
}


def check(function: Callable[[Tensor], Tensor], compiled: Callable[[Tensor], Tensor], x: Tensor):
    """Asserts that both give the same value and gradient, at a second call too."""
    expected = function(x).nansum()
    (gradient,) = torch.autograd.grad(expected, x)
    for _ in range(2):
        found = compiled(x).nansum()
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, x)[0], gradient)


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_with_a_loss_of_embeddings(name: str) -> None:
    loss, layer = LOSSES[name](), torch.nn.Linear(8, 16)
    labels = HIERARCHY if name in ("HappierLoss", "NDCGLoss", "SupRankLoss") else LABELS

    def step(inputs: Tensor) -> Tensor:
        return 2 * loss(layer(inputs), labels)

    torch._dynamo.reset()
    check(step, torch.compile(step), make_scores("normal", (24, 8)).requires_grad_())


# Without kernels, the number of targets decides whether rank counts are computed in parts.
@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=pytest.mark.kernels)])
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_scores_is_one_graph(name: str, dynamic: bool) -> None:
    torch._dynamo.reset()
    # Inductor only differs in fusion, and takes ten times as long.
    backend = "inductor" if name in ("smooth_ap", "spearman") and not dynamic else "aot_eager"
    compiled = torch.compile(METRICS[name], fullgraph=True, backend=backend, dynamic=dynamic)
    check(METRICS[name], compiled, make_scores("uniform", (6, 30)).requires_grad_())


@pytest.mark.parametrize("name", [*LOSSES, "ClusterLoss"])
def test_a_loss_of_embeddings_whose_sizes_are_symbols(name: str) -> None:
    loss = sf.ClusterLoss(16, 6) if name == "ClusterLoss" else LOSSES[name]()
    function = lambda x: 2 * loss(2 * x, LABELS)  # noqa: E731
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="eager", dynamic=True)
    check(function, compiled, make_scores("normal", (24, 16)).requires_grad_())


def test_the_compiler_leaves_losses_of_embeddings_alone_without_compiling_anew() -> None:
    loss = sf.RoadmapLoss()
    compiled = torch.compile(lambda x: 2 * loss(2 * x, LABELS), backend="eager")
    torch._dynamo.reset()
    embeddings = make_scores("normal", (24, 8))
    compiled(embeddings)
    compiled(embeddings)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled(embeddings)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="disable"):
        torch.compile(loss, fullgraph=True, backend="eager")(embeddings, LABELS)
