"""Which devices PyTorch can use here."""

import torch


def why_unusable(device: str | torch.device) -> str | None:
    """Returns why PyTorch cannot use a device here, in a line; None if it can."""
    try:
        torch.empty(0, device=torch.device(device))
    except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
        return str(error).split("\n")[0]
    return None
