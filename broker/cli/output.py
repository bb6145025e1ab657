"""What the commands print: one look for all of them.

People get tables, with colours where the output is a terminal and ``NO_COLOR`` is not set; a pipe
gets the same columns as plain text.  Programs ask for ``--json``: one JSON document, or one a line
where a command prints many things.  What is printed goes to stdout, what is remarked to stderr.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.console import Console
    from rich.table import Table as RichTable

    Cell = str | tuple[str, str]  # its text, or text and style

# Wide enough for any table when the output is no terminal: a pipe should not be cut at 80.
_PIPE_WIDTH = 200
_GAP = "  "

_Command = TypeVar("_Command", bound="Callable[..., Any]")


def json_option(command: _Command) -> _Command:
    """Give *command* the option ``--json`` as the argument ``as_json``: one JSON document."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document.")(command)


def json_lines_option(command: _Command) -> _Command:
    """Give *command* the option ``--json`` as the argument ``as_json``: a JSON document a line."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")(command)


class Table:
    """Rows under names, without frame; on a terminal with colours, elsewhere as plain text."""

    def __init__(self, *columns: str, right: Iterable[str] = ()) -> None:
        """Begin an empty table; the columns in *right* are numbers."""
        self.columns = columns
        self.right = frozenset(right)
        self.rows: list[tuple[Cell, ...]] = []

    def add_row(self, *cells: Cell) -> None:
        """Add a row; it may have fewer cells than there are columns."""
        assert len(cells) <= len(self.columns)
        self.rows.append(cells)

    def plain_lines(self) -> list[str]:
        """Return the table as lines of text, the names of the columns first."""
        rows = [self.columns, *(tuple(map(_text_of, row)) for row in self.rows)]
        widths = [
            max(len(row[number]) if number < len(row) else 0 for row in rows)
            for number in range(len(self.columns))
        ]
        return [
            _GAP.join(
                cell.rjust(width) if name in self.right else cell.ljust(width)
                for cell, width, name in zip(row, widths, self.columns, strict=False)
            ).rstrip()
            for row in rows
        ]

    def to_rich(self) -> RichTable:
        """Return the table for a terminal."""
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in self.columns:
            is_number = column in self.right
            # Words at the end of a row go on in the next line; all else is cut.
            wraps = column == self.columns[-1] and not is_number
            table.add_column(
                column,
                justify="right" if is_number else "left",
                no_wrap=not wraps,
                overflow="fold" if wraps else "ellipsis",
            )
        for row in self.rows:
            table.add_row(*(Text(cell) if isinstance(cell, str) else Text(*cell) for cell in row))
        return table

    def print(self) -> None:
        """Print the table on stdout."""
        if sys.stdout.isatty():
            console().print(self.to_rich())
        else:
            print("\n".join(self.plain_lines()), flush=True)


def _text_of(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def console(*, is_error: bool = False) -> Console:
    """Return a console on stdout or stderr; plain text where that is no terminal."""
    from rich.console import Console

    stream = sys.stderr if is_error else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=not stream.isatty())


def print_json(value: object) -> None:
    """Print *value* as one line of JSON, at once, so that a reader of a pipe sees it."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def tell(text: str, value: object, *, as_json: bool) -> None:
    """Print *text* for people, or *value* as JSON."""
    if as_json:
        print_json(value)
    else:
        print(text, flush=True)


def remark(text: str) -> None:
    """Print *text* on stderr: what a reader of the output should know and a program not read."""
    print(f"dledger: {text}", file=sys.stderr, flush=True)


def format_bytes(size: int) -> str:
    """Return *size* in bytes for people: ``"3.2 MiB"``."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024 or unit == "GiB":
            break
    return f"{value:.1f} {unit}"


def plural(count: int, noun: str) -> str:
    """Return ``"1 entry"``, ``"2 entries"``: *count* with thousands marked, and *noun* to fit."""
    if count == 1:
        return f"1 {noun}"
    many = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count:,} {many}"


def preview(data: bytes, *, size_max: int = 60) -> str:
    """Return the beginning of *data* on one line: text if it is some, else hexadecimal."""
    try:
        text = data[: size_max * 4].decode()
    except UnicodeDecodeError:
        text = "0x" + data[: size_max // 2].hex()
    text = "".join(char if char.isprintable() else " " for char in text)
    return text if len(text) <= size_max else text[: size_max - 3] + "..."


def join_words(words: Sequence[str]) -> str:
    """Return ``"a, b and c"``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def first_leaf(error: BaseException) -> BaseException:
    """Return the first error that is no group, inside whatever groups *error* is."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
