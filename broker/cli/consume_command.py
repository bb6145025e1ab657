"""``dledger consume``: print the messages of a topic as they come."""

from __future__ import annotations

import base64
import signal
import sys
from typing import TYPE_CHECKING, Any

import click
import trio

from broker.cli.connecting import open_client
from broker.cli.output import plural, print_json
from broker.cli.servers import choose_servers, servers_options
from broker.message import properties as names

if TYPE_CHECKING:
    from pathlib import Path

    from broker.client.records import Message


DEFAULT_GROUP = "dledger-cli"


@click.command()
@click.argument("topic")
@click.option(
    "-g", "--group", default=DEFAULT_GROUP, show_default=True,
    help="Consumer group; its offsets are kept by the brokers.",
)  # fmt: skip
@click.option("-n", "--count", type=click.IntRange(min=1), help="Stop after so many messages.")
@click.option(
    "--from", "start", type=click.Choice(["committed", "first", "last"]), default="committed",
    show_default=True, help="Where to begin.",
)  # fmt: skip
@click.option(
    "--timeout",
    "patience", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
    help="Stop when nothing has come for so long; otherwise wait for ever.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each message.")
@servers_options
def consume(
    topic: str,
    *,
    group: str,
    count: int | None,
    start: str,
    patience: float | None,
    as_json: bool,
    servers: str | None,
    data: Path | None,
) -> None:
    """Print the messages of TOPIC, one body on a line, and commit how far it came.

    Exit code 1 when fewer than --count messages came in time.
    """
    addresses = choose_servers(servers, data)
    seen, interrupted = trio.run(_consume, addresses, topic, group, count, start, patience, as_json)
    if interrupted:
        raise SystemExit(130)
    if count is not None and seen < count:
        print(f"dledger: {plural(seen, 'message')} of {count} came in time", file=sys.stderr)
        raise SystemExit(1)


async def _consume(
    addresses: list[str],
    topic: str,
    group: str,
    count: int | None,
    start: str,
    patience: float | None,
    as_json: bool,
) -> tuple[int, bool]:
    """Print messages; return how many, and whether a signal ended it."""
    seen = 0
    interrupted = False
    reading: trio.CancelScope | None = None
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
                open_client(addresses, auto_create_topic=False) as mq,
                mq.consumer(group, topic, start=start) as consumer,
            ):
                with trio.CancelScope() as reading:
                    while count is None or seen < count:
                        if patience is not None:
                            reading.deadline = trio.current_time() + patience
                        message = await anext(consumer)
                        print_message(message, as_json=as_json)
                        seen += 1
            nursery.cancel_scope.cancel()
    return seen, interrupted


def print_message(message: Message, *, as_json: bool) -> None:
    """Print *message*, at once, so that a reader of a pipe sees it."""
    if as_json:
        print_json(message_json(message))
        return
    sys.stdout.buffer.write(bytes(message.body) + b"\n")
    sys.stdout.buffer.flush()


def message_json(message: Message) -> dict[str, Any]:
    """Return *message* fit for JSON; a body that is no text as base64."""
    body: dict[str, Any]
    try:
        body = {"body": bytes(message.body).decode()}
    except UnicodeDecodeError:
        body = {"body_base64": base64.b64encode(message.body).decode()}
    return {
        "topic": message.topic,
        "queue_id": message.queue_id,
        "queue_offset": message.queue_offset,
        **body,
        "key": list(message.keys),
        "tag": message.tag,
        "properties": {
            name: value for name, value in message.properties.items() if name not in names.RESERVED
        },
        "born_timestamp_ms": message.born_timestamp_ms,
        "store_timestamp_ms": message.store_timestamp_ms,
        "message_id": message.message_id,
        "unique_id": message.unique_id,
    }
