"""Builds our provider, with the backend that it picks by default."""

from collections.abc import Callable

from sodeep_fast.benchmark.model import Function, Unavailable
from sodeep_fast.ops import _backend


def build_ours(
    operator: str, route: Callable[[str, str], Function], method: str = "auto"
) -> Callable[[str], Function]:
    """Returns what builds our provider; unavailable where it would only be the reference.

    Arguments:
        operator: its name.
        route: takes a backend and a method, returns our function by these two.
        method: which of the operator's. Default: its own choice.
    """

    def build(device: str) -> Function:
        backend, reason = _backend.choose(device, operator, method)
        if backend == "reference":
            raise Unavailable(f"no kernel for {device} here: {reason}")
        return route("auto", method)

    return build
