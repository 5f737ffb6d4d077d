"""What must happen before any test module is imported, and fixtures for all of them."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    # Without a GPU the Triton kernels run in Triton's interpreter, which has to be chosen before
    # Triton is first imported. Tests that compile kernels do so in a process of their own.
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items):
    """Skips the tests marked `gpu`, with the reason shown, where there is no GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and there is none here"))


@pytest.fixture
def poisoned_empty(monkeypatch):
    """Fills what `torch.empty` returns with NaN, so that an element nobody writes shows."""
    original = torch.empty

    def poisoned(*args, **kwargs):
        tensor = original(*args, **kwargs)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", poisoned)
