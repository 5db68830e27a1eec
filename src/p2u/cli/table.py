"""Tables that are never cut: a narrow terminal wraps their lines, a pipe gets them whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from p2u.cli.terminal import Part, say, shown

#: Between two columns.
_GAP = "  "


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> None:
    """Print rows below a heading.

    Args:
        heads: Of the columns.
        rows: As many cells each.
        left: How many columns begin at the left, the first ones; others end at the right.
    """
    from rich.cells import cell_len

    cells = [[shown(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]
    for number, row in enumerate([list(heads), *cells]):
        padded = []
        for at, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blank = " " * (width - cell_len(cell))
            padded.append(cell + blank if at < left else blank + cell)
        first, rest = padded[0], _GAP.join(["", *padded[1:]]).rstrip()
        parts: tuple[Part, ...] = (
            ((first + rest, "bold"),) if not number else ((first, "bold"), rest)
        )
        say(*parts)
