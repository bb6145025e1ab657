"""``--watch``: show something again and again, in place where the output is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click
import trio

from broker.cli.output import Table, console, print_json, remark
from broker.cli.values import INTERVAL
from broker.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

WATCH_SECONDS = 1.0

_TROUBLE = "no news: "

_Command = TypeVar("_Command", bound="Callable[..., Any]")

# What a command shows of one moment: tables and lines for people, one value for programs.
Frame = tuple["Sequence[Table | str]", object]


def watch_option(command: _Command) -> _Command:
    """Give *command* the option ``--watch`` as the argument ``watch``: seconds, or None."""
    return click.option(
        "--watch", type=INTERVAL, is_flag=False, flag_value=str(WATCH_SECONDS), metavar="[SECONDS]",
        help=f"Show it again every SECONDS ({WATCH_SECONDS:g}), until Ctrl-C.",
    )(command)  # fmt: skip


def _without_trouble(parts: Sequence[Table | str]) -> list[Table | str]:
    return [part for part in parts if isinstance(part, Table) or not part.startswith(_TROUBLE)]


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
    """Show what *take* gives every *seconds*, until cancelled or interrupted.

    What goes wrong later than at the first time is shown, and asked again: who watches a group
    wants to see it come back.
    """
    screen = console()
    if as_json or not screen.is_terminal:
        show_frame(await take(), as_json=as_json)
        while True:
            await trio.sleep(seconds)
            try:
                show_frame(await take(), as_json=as_json)
            except BrokerError as error:
                remark(str(error))
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(console=screen, auto_refresh=False) as live:
        parts, _ = await take()
        while True:
            shown = [part.to_rich() if isinstance(part, Table) else Text(part) for part in parts]
            live.update(Group(*shown), refresh=True)
            await trio.sleep(seconds)
            try:
                parts, _ = await take()
            except BrokerError as error:
                parts = [*_without_trouble(parts), f"{_TROUBLE}{error}"]
