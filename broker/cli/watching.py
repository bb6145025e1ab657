"""``--watch``: show something again and again, in place where the output is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click
import trio

from broker.cli.output import Table, console, print_json
from broker.cli.values import DURATION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

WATCH_SECONDS = 1.0

_Command = TypeVar("_Command", bound="Callable[..., Any]")

# What a command shows of one moment: tables and lines for people, one value for programs.
Frame = tuple["Sequence[Table | str]", object]


def watch_option(command: _Command) -> _Command:
    """Give *command* the option ``--watch`` as the argument ``watch``: seconds, or None."""
    return click.option(
        "--watch", type=DURATION, is_flag=False, flag_value=str(WATCH_SECONDS), metavar="[SECONDS]",
        help=f"Show it again every SECONDS ({WATCH_SECONDS:g}), until Ctrl-C.",
    )(command)  # fmt: skip


def show_frame(frame: Frame, *, as_json: bool) -> None:
    """Print *frame* once."""
    parts, value = frame
    if as_json:
        print_json(value)
        return
    for part in parts:
        if isinstance(part, Table):
            part.print()
        else:
            print(part, flush=True)


async def show_repeatedly(
    take: Callable[[], Awaitable[Frame]], *, seconds: float, as_json: bool
) -> None:
    """Show what *take* gives every *seconds*, until cancelled or interrupted."""
    screen = console()
    if as_json or not screen.is_terminal:
        while True:
            show_frame(await take(), as_json=as_json)
            await trio.sleep(seconds)
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(console=screen, auto_refresh=False) as live:
        while True:
            parts, _ = await take()
            shown = [part.to_rich() if isinstance(part, Table) else Text(part) for part in parts]
            live.update(Group(*shown), refresh=True)
            await trio.sleep(seconds)
