"""What the commands print: one look for all of them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Wide enough for any table when the output is no terminal: a pipe should not be cut at 80.
_PIPE_WIDTH = 200


def console(*, is_error: bool = False) -> Console:
    """Return a console on stdout or stderr; plain text where that is no terminal."""
    stream = sys.stderr if is_error else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=not stream.isatty())


def print_json(value: object) -> None:
    """Print *value* as one line of JSON, at once, so that a reader of a pipe sees it."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def make_table(*columns: str, right: Iterable[str] = ()) -> Table:
    """Return an empty table without frame; the columns in *right* are numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    aligned = set(right)
    for column in columns:
        table.add_column(column, justify="right" if column in aligned else "left", no_wrap=True)
    return table


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
