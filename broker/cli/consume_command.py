"""``dledger consume``: print the messages of a topic as they come."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass

import click
import trio

from broker.cli import exits
from broker.cli.completing import GROUP, TOPIC
from broker.cli.connecting import open_client
from broker.cli.message_output import FORMAT, MessageFormat, MessagePrinter
from broker.cli.output import json_lines_option, plural
from broker.cli.servers import group_options
from broker.cli.starting import consumer_start
from broker.cli.values import DURATION, PLACE, Place

DEFAULT_GROUP = "dledger-cli"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What is to be consumed."""

    topic: str
    group: str
    count: int | None
    place: Place
    tags: str | None
    patience: float | None  # seconds without a message after which it ends
    is_acked: bool


@click.command()
@click.argument("topic", type=TOPIC)
@click.option(
    "-g", "--group", type=GROUP, default=DEFAULT_GROUP, show_default=True,
    help="Consumer group; its offsets are kept by the brokers.",
)  # fmt: skip
@click.option("-n", "--count", type=click.IntRange(min=1), help="Stop after so many messages.")
@click.option(
    "--from", "place", type=PLACE, default="committed", show_default=True, metavar="PLACE",
    help="Where to begin: committed, earliest, latest, offset:QUEUE:OFFSET, -5m, a time.",
)  # fmt: skip
@click.option("--filter", "tags", metavar="TAGS", help='Only these tags: "A || B".')
@click.option("--ack/--no-ack", "is_acked", default=True, help="Commit what was printed, or not.")
@click.option(
    "--timeout", "patience", type=DURATION, metavar="DURATION",
    help="Stop when nothing has come for so long; otherwise wait for ever.",
)  # fmt: skip
@click.option(
    "--format", "layout", type=FORMAT, default="%v", show_default=True,
    help="How a message is printed: %t topic, %q queue, %o offset, %k keys, %v body; docs/cli.md.",
)  # fmt: skip
@json_lines_option
@group_options
def consume(
    topic: str,
    *,
    group: str,
    count: int | None,
    place: Place,
    tags: str | None,
    is_acked: bool,
    patience: float | None,
    layout: MessageFormat,
    as_json: bool,
    servers: list[str],
) -> None:
    """Print messages of TOPIC for a group, and commit how far it came.

    Exit code 1 when fewer than --count messages came in time.

    \b
    Example: dledger consume orders -g billing -n 10
             dledger consume orders -g billing --from -1h --no-ack --format '%q %o %k %v'
    """
    wanted = _Wanted(
        topic=topic,
        group=group,
        count=count,
        place=place,
        tags=tags,
        patience=patience,
        is_acked=is_acked,
    )
    printer = MessagePrinter(as_json=as_json, layout=layout)
    seen, interrupted = trio.run(_consume, servers, wanted, printer)
    if interrupted:
        raise SystemExit(exits.INTERRUPTED)
    if count is not None and seen < count:
        print(f"dledger: {plural(seen, 'message')} of {count} came in time", file=sys.stderr)
        raise SystemExit(exits.FAILURE)


async def _consume(
    servers: list[str], wanted: _Wanted, printer: MessagePrinter
) -> tuple[int, bool]:
    """Print messages; return how many, and whether a signal ended it."""
    seen = 0
    interrupted = False
    reading: trio.CancelScope | None = None
    queues, start = consumer_start(wanted.place)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                nonlocal interrupted
                await signals.__anext__()
                interrupted = True
                # While messages are read only the reading ends, so that they are committed.
                (reading or nursery.cancel_scope).cancel()

            nursery.start_soon(stop_on_signal)
            async with (
                open_client(servers, auto_create_topic=False) as mq,
                mq.consumer(
                    wanted.group,
                    wanted.topic,
                    queues=queues,
                    start=start,
                    tags=wanted.tags,
                    auto_commit=wanted.is_acked,
                ) as consumer,
            ):
                with trio.CancelScope() as reading:
                    while wanted.count is None or seen < wanted.count:
                        if wanted.patience is not None:
                            reading.deadline = trio.current_time() + wanted.patience
                        printer.print(await anext(consumer))
                        seen += 1
            nursery.cancel_scope.cancel()
    return seen, interrupted
