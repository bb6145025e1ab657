"""Tables on a terminal of any width: no figure is cut off."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_PIPED_WIDTH = 190  # columns, where it goes to a file


def print_table(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[str] = (),
    width: int | None = None,
) -> None:
    """Print *rows* below *heads*; where they do not fit, each row as a few lines of its own.

    Args:
        title: what the figures are of.
        heads: names of the columns.
        rows: cells; empty ones have no figure.
        left: heads of the columns that hold words; figures stand at the right.
        width: of the terminal; asked for if None.
    """
    console = Console(width=width or (None if sys.stdout.isatty() else _PIPED_WIDTH))
    widths = _widths([heads, *rows], console.width - 3 * len(heads) - 1)
    if widths is not None:
        table = Table(title=title)
        for head, at_most in zip(heads, widths, strict=True):
            table.add_column(head, justify="left" if head in left else "right", width=at_most)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    print(title)
    for row in rows:
        told = [f"{head} {cell}".strip() for head, cell in zip(heads, row, strict=True) if cell]
        first, *others = told
        text = f"{first.removeprefix(heads[0]).strip()}: {'; '.join(others)}"
        print(textwrap.fill(text, console.width, subsequent_indent="    ", break_on_hyphens=False))


def _widths(lines: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Return how wide each column is when all fit, cells folded between words; None: they do not.

    Rich would fold whatever is widest, and cut figures in two.
    """
    columns = list(zip(*lines, strict=True))
    widths = [
        max(len(word) for cell in cells for word in cell.split() or [""]) for cells in columns
    ]
    spare = room - sum(widths)
    if spare < 0:
        return None
    for at, cells in enumerate(columns):
        more = min(spare, max(map(len, cells)) - widths[at])
        widths[at] += more
        spare -= more
    return widths
