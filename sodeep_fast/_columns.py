"""Text tables, as printed by `sodeep-fast doctor`, `bench` and `paper`."""

from collections.abc import Iterable, Sequence


def align(lines: Iterable[Sequence[str]], right: range = range(0), indent: str = "  ") -> list[str]:
    """Pads cells into columns.

    Arguments:
        lines: of one number of cells each, at least one line.
        right: the columns that hold numbers, padded on the left. Default: none.
        indent: what every line begins with. Default: two spaces.

    Returns:
        a string per line.

    Example:
        >>> align([("name", "ms"), ("a", "10.0")], right=range(1, 2))
        ['  name    ms', '  a     10.0']
    """
    lines = list(lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        indent
        + "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
