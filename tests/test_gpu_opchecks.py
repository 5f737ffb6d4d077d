"""Every operator with a kernel for CUDA tensors is opchecked by the tests that need a GPU."""

import ast
import re
from pathlib import Path

import pytest
import torch

import sodeep_fast  # noqa: F401
from sodeep_fast import _native

pytestmark = pytest.mark.skipif(not _native.HAS_CPU, reason="there are no operators")

TORCH_ROUTES = {"hard_rank", "find_marked"}
CUDA_CPP = {"soft_rank", "soft_rank_backward", "soft_rank_double_backward"}
# These run inside of other operators.
PARTS = {"cuda_bilstm_steps", "cuda_bilstm_steps_backward"}


def operators() -> set[str]:
    names = torch._C._dispatch_get_all_op_names()
    return {name.split("::")[1] for name in names if name.startswith("sodeep_fast::")}


def has_kernel(name: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"sodeep_fast::{name}", "CUDA")


def checked(file: Path) -> str:
    """Returns the source of a file's tests with an opcheck."""
    source = file.read_text()
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    texts = [ast.get_source_segment(source, function) or "" for function in functions]
    return "\n".join(text for text in texts if "torch.library.opcheck(" in text)


def test_every_operator_with_a_gpu_kernel_is_opchecked() -> None:
    texts = "\n".join(checked(file) for file in Path(__file__).parent.glob("test_*_gpu.py"))
    # A build without nvcc lacks the CUDA C++ kernels, which other builds have.
    served = {name for name in operators() if has_kernel(name)} | CUDA_CPP
    served -= PARTS
    assert len(served) == 20
    for name in served:
        # By its name, or in a test of both backends, with a prefix for Triton's.
        pattern = rf"OPS\.{name}\b|ops\.{name}\b|\{{prefix\}}{name.removeprefix('triton_')}\""
        assert re.search(pattern, texts), name


def test_the_others_are_made_of_pytorchs_operators() -> None:
    assert operators() >= TORCH_ROUTES
    assert not any(has_kernel(name) for name in TORCH_ROUTES)
