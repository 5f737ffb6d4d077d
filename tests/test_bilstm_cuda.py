"""The CUDA C++ kernels of bilstm over tests/cuda_emulator, against PyTorch's LSTM in float64."""

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import cpp_extension

from sodeep_fast import bilstm
from sodeep_fast.kernels._layouts import lstm_saved_shape
from sodeep_fast.ops import _backend
from sodeep_fast.ops import bilstm as module
from sodeep_fast.testing import (
    bilstm_derivatives,
    make_bilstm,
    make_scores,
)
from sodeep_fast.testing.lstm import (
    bilstm_under_autocast,
    by_kernels,
    check_bilstm_accuracy,
    check_computed_anew,
    check_empty,
    check_half_types,
    check_nothing_out_of_bounds,
    check_operators,
    check_rows_of_different_scales,
    check_rows_that_are_not_finite,
    check_saturation,
    check_scale_of_gradients,
    exact_bilstm,
)

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.kernels,
]

ROOT = Path(__file__).parent.parent
OPS = torch.ops.sodeep_fast
# Rows, steps, hidden units and layers: full and partial tiles and blocks of units.
SHAPES = [(3, 2, 1, 1), (13, 1, 7, 2), (8, 7, 16, 1), (1, 7, 33, 2), (3, 2, 64, 1), (13, 2, 100, 2)]
SHAPES += [(8, 7, 128, 1), (1, 2, 127, 2)]
every_precision = pytest.mark.parametrize("precision", ["bf16", "fp16"])


@pytest.fixture(scope="module", autouse=True)
def _emulated(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Makes the kernels and their binding work on CPU tensors."""
    folder = tmp_path_factory.mktemp("emulated")
    library = folder / "bilstm.so"
    sanitized = ["-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
    common = ["g++", "-std=c++17", "-O1", "-fPIC", "-Wall", "-Wno-unknown-pragmas"]
    common += [f"-I{ROOT / 'tests/cuda_emulator'}", f"-I{ROOT / 'csrc'}"]
    kernels = [*sanitized, "-x", "c++", "-c", str(ROOT / "csrc/cuda/bilstm.cu")]
    headers = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    headers += [f"-isystem{sysconfig.get_paths()['include']}"]
    define = "-DTORCH_TARGET_VERSION=0x020a000000000000"
    binding = [*headers, define, "-c", str(ROOT / "csrc/cuda/bilstm_bind.cpp")]
    for name, flags in (("kernels", kernels), ("binding", binding)):
        subprocess.run([*common, *flags, "-o", str(folder / f"{name}.o")], check=True)
    objects = [str(folder / "kernels.o"), str(folder / "binding.o")]
    torchs = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch_cpu", "-lc10"]
    command = ["g++", "-shared", *sanitized, *objects, *torchs, "-o", str(library)]
    subprocess.run(command, check=True)
    torch.ops.load_library(library)


@pytest.fixture(autouse=True)
def _serves_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(_backend, "missing", lambda *_: None)


def by_cuda(lstm: nn.LSTM, precision: str = "fp16") -> Any:
    return by_kernels(lstm, "cuda", precision)


def frozen_gradient(lstm: nn.LSTM, scores: Tensor, precision: str) -> Tensor:
    """The gradient of the scores with frozen weights, as `bilstm_derivatives` computes it."""
    weights = [weight.detach() for weight in lstm.parameters()]
    leaf = scores.clone().requires_grad_()
    hidden = bilstm(leaf, weights, backend="cuda", precision=precision)
    incoming = make_scores("normal", hidden.shape, seed=5)
    return torch.autograd.grad(hidden, leaf, incoming)[0]


@every_precision
@pytest.mark.parametrize(("b", "n", "hidden", "layers"), SHAPES)
def test_as_accurate_as_torch(b: int, n: int, hidden: int, layers: int, precision: str) -> None:
    lstm = make_bilstm(hidden, layers)
    scores = make_scores("normal", (b, n))
    eager, exact = bilstm_under_autocast(lstm, scores, precision), exact_bilstm(lstm, scores)
    found = bilstm_derivatives(by_cuda(lstm, precision), lstm, scores)
    found["frozen"] = frozen_gradient(lstm, scores, precision)
    for known in (eager, exact):
        known["frozen"] = known["scores"]
    check_bilstm_accuracy(found, eager, exact, torch.finfo(module.HALVES[precision]).eps)


@every_precision
def test_tiles(precision: str) -> None:
    """Neither a row's tile nor the other rows change its result."""
    # A second layer begins with PyTorch's products, which may depend on the number of rows.
    lstm = make_bilstm(5, 1).requires_grad_(False)
    scores = make_scores("normal", (11, 3))
    whole = by_cuda(lstm, precision)(scores)
    assert torch.equal(whole, torch.cat([by_cuda(lstm, precision)(row) for row in scores.split(1)]))


@every_precision
@pytest.mark.parametrize(("hidden", "layers"), [(9, 2), (16, 1), (40, 1)])
def test_head(hidden: int, layers: int, precision: str) -> None:
    """The kernels' products with a head are PyTorch's, and no hidden states are kept."""
    lstm = make_bilstm(hidden, layers).requires_grad_(False)
    weights, head = list(lstm.parameters()), torch.randn(2 * hidden)
    scores = make_scores("normal", (11, 5)).requires_grad_()
    options = {"precision": precision, "backend": "cuda"}
    actual = bilstm(scores, weights, head, **options)
    expected = bilstm(scores, weights, **options) @ head
    torch.testing.assert_close(actual, expected)
    incoming = torch.randn_like(expected)
    ours_, theirs = (torch.autograd.grad(y, scores, incoming)[0] for y in (actual, expected))
    close = torch.finfo(module.HALVES[precision]).eps * float(theirs.abs().max())
    torch.testing.assert_close(ours_, theirs, rtol=0, atol=close)
    with torch.no_grad():
        assert torch.equal(bilstm(scores, weights, head, **options), actual)


def test_head_and_what_is_not_finite() -> None:
    lstm = make_bilstm(5, 1).requires_grad_(False)
    weights, head = list(lstm.parameters()), torch.randn(10)
    others = [0, 2, 3, 5, 6, 8]
    scores, incoming = make_scores("normal", (9, 3)), make_scores("normal", (9, 3), seed=1)
    found = []
    for bad in (False, True):
        leaf = scores.clone().requires_grad_()
        if bad:
            incoming[1, 0], incoming[4, 1], incoming[7, 2] = torch.nan, torch.inf, -torch.inf
        ranks = bilstm(leaf, weights, head, backend="cuda", precision="fp16")
        found.append(torch.autograd.grad(ranks, leaf, incoming)[0])
    assert torch.equal(found[0][others], found[1][others])
    assert found[1][1].isnan().any()


@every_precision
def test_what_was_not_saved_is_computed_anew(precision: str) -> None:
    check_computed_anew("cuda", precision)


@pytest.mark.parametrize("exponent", [-90, -40, 40, 90])
def test_fp16_gradients_have_their_own_scale(exponent: int) -> None:
    check_scale_of_gradients(make_bilstm(6, 2), "cuda", exponent)


def test_fp16_rows_of_different_scales() -> None:
    check_rows_of_different_scales("cuda")


@every_precision
def test_what_is_not_finite_stays_in_its_row(precision: str) -> None:
    check_rows_that_are_not_finite(make_bilstm(5, 2), "cuda", precision)


@every_precision
def test_large_scores_and_weights_saturate(precision: str) -> None:
    check_saturation("cuda", precision)


@every_precision
@pytest.mark.parametrize("hidden", [9, 18])
def test_nothing_out_of_bounds(hidden: int, precision: str) -> None:
    from sodeep_fast.kernels import bilstm_cuda as kernels

    check_nothing_out_of_bounds(kernels, hidden, precision)


@every_precision
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_empty(shape: tuple[int, int], precision: str) -> None:
    check_empty(shape, "cuda", precision)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(dtype: torch.dtype) -> None:
    check_half_types(dtype, "cuda")


def test_opcheck() -> None:
    check_operators("cuda")


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")
def test_compile() -> None:
    lstm = make_bilstm(3, 2)
    compiled = torch.compile(by_cuda(lstm), fullgraph=True, backend="aot_eager")
    scores = make_scores("normal", (3, 4))
    actual = bilstm_derivatives(compiled, lstm, scores)
    for name, value in bilstm_derivatives(by_cuda(lstm), lstm, scores).items():
        assert torch.equal(actual[name], value), name


def test_weights_that_it_cannot_serve() -> None:
    lstm = make_bilstm(129, 1)
    scores = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"'cuda' is not available.* room for 128 .*, not 129"):
        by_cuda(lstm)(scores)
    with pytest.raises(ValueError, match=r"the precision is 'full', which 'triton' has"):
        by_cuda(make_bilstm(3, 1), "full")(scores)
    double = [weight.double() for weight in lstm.parameters()]
    with pytest.raises(ValueError, match="they are float64"):
        bilstm(scores, double, backend="cuda")


def test_the_named_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from sodeep_fast.kernels import bilstm_cuda as kernels

    launched = []

    class Spy:
        def __getattr__(self, name: str) -> Any:
            launched.append(name)
            return getattr(OPS, name)

    monkeypatch.setattr(kernels, "OPS", Spy())
    scores = torch.randn(9, 3, requires_grad=True)
    by_cuda(make_bilstm(4, 1).requires_grad_(False))(scores).sum().backward()
    # Both directions in one launch.
    assert launched == ["cuda_bilstm_steps", "cuda_bilstm_steps_backward"]


def test_the_operators_check_what_they_are_given() -> None:
    steps, batch, hidden = 3, 9, 5
    weights = [weight.detach() for weight in make_bilstm(hidden, 1).parameters()]
    scores, head = torch.randn(steps, batch, 1), torch.randn(2, hidden)
    output = torch.empty(steps, batch, 2 * hidden)
    saved = torch.empty(lstm_saved_shape(steps, batch, hidden), dtype=torch.float16)
    forward = {"entering": scores, "weights": weights, "head": None, "output": output}
    forward |= {"saved": saved, "bf16": False}
    backward = {"grad": output, "weights": weights, "head": None, "saved": saved, "bf16": False}
    backward |= {"largest": torch.rand(batch), "scale": torch.empty(batch), "gates": None}
    backward |= {"by_scores": torch.empty(2, steps, batch, 1)}
    gates = torch.empty(steps, batch, 8 * hidden)
    shorter = [*weights[:1], torch.zeros(4 * hidden, 1), *weights[2:]]
    for operator, valid, changes in (
        (
            OPS.cuda_bilstm_steps,
            forward,
            (
                {"entering": scores.double()},
                {"entering": scores[..., 0]},
                {"entering": gates[..., 1:]},
                {"weights": shorter},
                {"weights": [weight.squeeze() for weight in shorter]},
                {"output": output[1:]},
                {"output": output.double()},
                {"output": output.transpose(0, 1).contiguous().transpose(0, 1)},
                {"head": head},
                {"head": head[:1], "output": torch.empty(2, steps, batch)},
                {"saved": saved[:, 1:]},
                {"saved": saved.float()},
            ),
        ),
        (
            OPS.cuda_bilstm_steps_backward,
            backward,
            (
                {"grad": output[..., :1]},
                {"grad": output.half()},
                {"grad": output[0]},
                {"head": head},
                {"weights": shorter},
                {"saved": saved[:1]},
                {"largest": None},
                {"scale": torch.empty(batch + 1)},
                {"by_scores": torch.empty(2, steps, 1, 1)},
                {"by_scores": None},
                {"by_scores": None, "gates": gates},
                {"gates": gates.half()},
            ),
        ),
    ):
        operator(**valid)
        for change in changes:
            with pytest.raises(RuntimeError):
                operator(**(valid | change))
