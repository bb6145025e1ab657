"""``dledger top``: the whole group, live."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

import click
import trio

from broker.cli import exits
from broker.cli.output import Table, console, json_option
from broker.cli.servers import group_options
from broker.cli.top_view import moment_json, moment_parts, take_moment
from broker.cli.values import INTERVAL
from broker.cli.watching import show_frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, RenderableType

    from broker.cli.top_view import Moment

EVERY = "2s"

_LINES_BESIDE = 9  # of a screen: the first line, heads of three tables, blanks, the last line
_KEYS = "q quits"


@click.command()
@click.option(
    "--every", "seconds", type=INTERVAL, default=EVERY, show_default=True, metavar="DURATION",
    help="How often to ask.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Print one frame and end.")
@json_option
@group_options
def top(*, servers: list[str], seconds: float, once: bool, as_json: bool) -> None:
    """Show nodes, topics and groups, live; q or Ctrl-C ends it.

    Topics stand by what comes in, groups by their lag. With --once, --json or without a terminal
    it prints one frame. Exit code 3 when the group of that frame is not healthy.

    Example: dledger top --every 1s
    """
    if once or as_json or not (sys.stdout.isatty() and sys.stdin.isatty()):
        moment = trio.run(take_moment, servers)
        show_frame((moment_parts(moment), moment_json(moment)), as_json=as_json)
        if not moment.view.is_healthy:
            raise SystemExit(exits.UNHEALTHY)
        return
    if not trio.run(_live, servers, seconds):
        raise SystemExit(exits.INTERRUPTED)


async def _live(servers: list[str], seconds: float) -> bool:
    """Show moments until a key or a signal ends it; return whether it was a key."""
    from rich.live import Live

    screen = console()
    ended_by_key = False
    # Signals too end the block, so that the terminal is always put back as it was.
    with (
        trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals,
        _unbuffered_keys(),
        Live(console=screen, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        async with trio.open_nursery() as nursery:

            async def show() -> None:
                moment: Moment | None = None
                while True:
                    moment = await take_moment(servers, before=moment)
                    live.update(_render(moment, screen), refresh=True)
                    await trio.sleep(seconds)

            async def wait_for_signal() -> None:
                await signals.__anext__()
                nursery.cancel_scope.cancel()

            async def wait_for_key() -> None:
                nonlocal ended_by_key
                while True:
                    await trio.lowlevel.wait_readable(sys.stdin.fileno())
                    keys = os.read(sys.stdin.fileno(), 100)
                    if not keys or b"q" in keys.lower():
                        ended_by_key = True
                        nursery.cancel_scope.cancel()
                        return

            nursery.start_soon(wait_for_signal)
            nursery.start_soon(wait_for_key)
            nursery.start_soon(show)
    return ended_by_key


def _render(moment: Moment, screen: Console) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    beside = _LINES_BESIDE + len(moment.view.answers) + len(moment.remarks)
    row_count = max(2, screen.height - beside)
    parts = [*moment_parts(moment, row_count=row_count), "", _KEYS]
    return Group(
        *(part.to_rich() if isinstance(part, Table) else Text(part, no_wrap=True) for part in parts)
    )


@contextlib.contextmanager
def _unbuffered_keys() -> Iterator[None]:
    """Have the terminal hand over keys at once and print none of them, and put it back."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
