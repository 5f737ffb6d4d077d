"""The nine types of sorter of SoDeep's released program, by their names there."""

from collections.abc import Callable

from torch import nn

from sodeep_fast._checks import check_choice, check_count
from sodeep_fast.sorters.cnn import ReleasedCNNSorter
from sodeep_fast.sorters.exact import ExactSorter
from sodeep_fast.sorters.gru import GRUSorter, RepeatedGRUSorter
from sodeep_fast.sorters.lstm import LSTMSorter
from sodeep_fast.sorters.mlp import MLPSorter

_ANY_LENGTH: dict[str, Callable[[bool], nn.Module]] = {
    "exa": lambda trainable: ExactSorter(),
    "grus": lambda trainable: GRUSorter(4, 1, squash=False, trainable=trainable),
    "gruc": lambda trainable: GRUSorter(32, 6, trainable=trainable),
}

_ONE_LENGTH: dict[str, Callable[[int, bool], nn.Module]] = {
    "lstm": lambda n, trainable: LSTMSorter(128, 2, "dense", n, trainable=trainable),
    "lstmla": lambda n, trainable: LSTMSorter(512, 2, "dense", n, trainable=trainable),
    "lstme": lambda n, trainable: RepeatedGRUSorter(n, trainable=trainable),
    "grup": lambda n, trainable: GRUSorter(128, 6, head="dense", length=n, trainable=trainable),
    "mlp": lambda n, trainable: MLPSorter(n, trainable=trainable),
    "cnn": lambda n, trainable: ReleasedCNNSorter(trainable=trainable),
}

RELEASED_TYPES = (*_ANY_LENGTH, *_ONE_LENGTH)


def released_sorter(
    model_type: str, length: int | None = None, *, trainable: bool = False
) -> nn.Module:
    """Returns a sorter of a type of the released program, with random weights.

    Arguments:
        model_type: "exa", the handcrafted one, without weights; "lstmla", the paper's LSTM; or
            "lstm", "lstme", "grus", "gruc", "grup", "mlp" or "cnn".
        length: the length of the rows to sort. "exa", "grus" and "gruc" sort any length and ignore
            it; "cnn" only sorts 100.
        trainable: whether the weights require gradients. Default: False.

    Raises:
        TypeError: a length that is not an integer.
        ValueError: an unknown type, or a length that is missing or that the type does not accept.

    Example:
        >>> from sodeep_fast.sorters.released import released_sorter
        >>> released_sorter("exa")
        ExactSorter()
    """
    check_choice(model_type, RELEASED_TYPES, "model_type")
    if model_type in _ANY_LENGTH:
        return _ANY_LENGTH[model_type](trainable)
    if length is None:
        raise ValueError(f"the length of the rows must be given for sorter type {model_type!r}")
    check_count(length, "length")
    if model_type == "cnn" and length != 100:
        raise ValueError(f"sorter type 'cnn' takes rows of length 100 only, got {length}")
    return _ONE_LENGTH[model_type](length, trainable)
