"""``dledger message``: one message by its id or its place, or the messages with a key."""

from __future__ import annotations

import datetime
import re
import sys
from typing import TYPE_CHECKING

import click
import trio

from broker.cli import exits
from broker.cli.completing import TOPIC
from broker.cli.connecting import open_client
from broker.cli.message_output import message_json, printable
from broker.cli.output import (
    Table,
    format_bytes,
    json_lines_option,
    json_option,
    preview,
    print_json,
    remark,
)
from broker.cli.servers import group_options
from broker.cli.values import TIME, format_duration, format_time
from broker.message import properties as names

if TYPE_CHECKING:
    import broker
    from broker.client.message import Message

_PLACE = re.compile(r"(?P<topic>[^:]+):(?P<queue>\d+):(?P<offset>\d+)\Z", re.ASCII)
_OFFSET_ID = re.compile(r"(?:[0-9A-Fa-f]{32}|[0-9A-Fa-f]{56})\Z")
_DUMP_WIDTH = 16  # bytes on a line of a body that is no text
_LABEL_WIDTH = 12


@click.group()
def message() -> None:
    """Find messages by id, place or key."""


@message.command()
@click.argument("what", metavar="MSGID|TOPIC:QUEUE:OFFSET")
@click.option(
    "-t", "--topic", type=TOPIC, metavar="TOPIC",
    help="Topic of a unique id; without, every topic is looked through.",
)  # fmt: skip
@click.option("--body", "only_body", is_flag=True, help="Print the body's bytes and nothing else.")
@json_option
@group_options
def get(
    what: str, *, topic: str | None, only_body: bool, as_json: bool, servers: list[str]
) -> None:
    """Print one message: all there is to know of it, and its body.

    MSGID is a message id (where it lies in the log) or a unique id (from its sender); `produce
    --json` and `consume --json` tell both. Exit code 1 when there is no such message, or not any
    more.

    \b
    Example: dledger message get orders:3:128
             dledger message get 7F0000010000269400000000000012D8 --json
    """
    place = _PLACE.match(what)
    if place is not None and topic is not None:
        raise click.UsageError("a place names its topic; leave --topic out")

    async def find() -> Message | None:
        async with open_client(servers, auto_create_topic=False) as mq:
            if place is not None:
                return await mq.messages.at(
                    place["topic"], int(place["queue"]), int(place["offset"])
                )
            return await _by_id(mq, what, topic)

    found = trio.run(find)
    if found is None:
        remark(f"no message {what}: it never was, or retention has removed it")
        raise SystemExit(exits.FAILURE)
    if only_body:
        sys.stdout.buffer.write(found.body)
        sys.stdout.buffer.flush()
    elif as_json:
        print_json({**message_json(found), "position": found.position})
    else:
        print("\n".join(describe(found)))


@message.command("by-key")
@click.argument("topic", type=TOPIC)
@click.argument("key")
@click.option(
    "--from", "begin_ms", type=TIME, metavar="TIME", help="Stored then or later: -5m, a time."
)
@click.option("--to", "end_ms", type=TIME, metavar="TIME", help="Stored then or before.")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), default=32, show_default=True,
    help="Most messages to print; of more, the newest.",
)  # fmt: skip
@json_lines_option
@group_options
def by_key(
    topic: str,
    key: str,
    *,
    begin_ms: int | None,
    end_ms: int | None,
    limit: int,
    as_json: bool,
    servers: list[str],
) -> None:
    """Print the messages of TOPIC with KEY, in the order in which they were stored.

    KEY is one of the keys a message was sent with, or its unique id. Exit code 1 when there is
    none.

    \b
    Example: dledger message by-key orders order-17
             dledger message by-key orders order-17 --from -1h --limit 5 --json
    """
    if begin_ms is not None and end_ms is not None and begin_ms > end_ms:
        raise click.BadParameter("it lies before --from", param_hint="--to")

    async def find() -> list[Message]:
        async with open_client(servers, auto_create_topic=False) as mq:
            return await mq.messages.by_key(
                topic, key, begin=_moment(begin_ms), end=_moment(end_ms), limit=limit
            )

    found = trio.run(find)
    if not found:
        within = "" if begin_ms is None and end_ms is None else " in that time"
        remark(f"topic {topic} holds no message with key {key}{within}")
        raise SystemExit(exits.FAILURE)
    if as_json:
        for each in found:
            print_json({**message_json(each), "position": each.position})
        return
    columns = ("stored", "queue", "offset", "tag", "bytes", "body")
    table = Table(*columns, right=("queue", "offset", "bytes"))
    for each in found:
        table.add_row(
            format_time(each.store_timestamp_ms),
            str(each.queue_id),
            f"{each.queue_offset}",
            each.tag or "",
            f"{len(each.body):,}",
            preview(bytes(each.body)),
        )
    table.print()
    if len(found) == limit:
        remark(f"there may be more, older ones; --limit prints more than {limit}")


async def _by_id(mq: broker.Client, what: str, topic: str | None) -> Message | None:
    """Return the message with that offset id, or with that unique id."""
    if topic is None and _OFFSET_ID.match(what):
        found = await mq.messages.by_id(what)
        if found is not None:
            return found
    topics = [topic] if topic else [entry.topic for entry in await mq.admin.list_topics()]
    for name in topics:
        found = await mq.messages.by_unique_key(name, what)
        if found is not None:
            return found
    return None


def describe(found: Message) -> list[str]:
    """Return lines that tell all about a message to people."""
    own = {name: value for name, value in found.properties.items() if name not in names.RESERVED}
    others = {
        name: value
        for name, value in found.properties.items()
        if name in names.RESERVED and name not in (names.KEYS, names.TAGS, names.UNIQUE_KEY)
    }
    took = (found.store_timestamp_ms - found.born_timestamp_ms) / 1000
    rows = [
        ("topic", found.topic),
        ("queue", f"{found.queue_id}"),
        ("offset", f"{found.queue_offset}"),
        ("message id", found.message_id),
        ("unique id", found.unique_id or "-"),
        ("position", f"{found.position:,}"),
        ("keys", " ".join(found.keys) or "-"),
        ("tag", found.tag or "-"),
        *(("property", f"{name} = {value}") for name, value in own.items()),
        *(("broker's", f"{name} = {value}") for name, value in others.items()),
        ("born", f"{format_time(found.born_timestamp_ms)} by the sender's clock"),
        ("stored", f"{format_time(found.store_timestamp_ms)} ({format_duration(took)} later)"),
        ("given back", f"{found.reconsume_times}x" if found.reconsume_times else "never"),
        ("body", format_bytes(len(found.body))),
    ]
    lines = [f"{label:<{_LABEL_WIDTH}}  {_one_line(value)}" for label, value in rows]
    return [*lines, "", *body_lines(bytes(found.body))]


def body_lines(body: bytes) -> list[str]:
    """Return a body as text where it is some, else as bytes in hexadecimal beside their text."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return _dump(body)
    if all(char.isprintable() or char in "\t\r\n" for char in text):
        return text.splitlines() or ["(empty)"]
    return _dump(body)


def _dump(body: bytes) -> list[str]:
    lines = []
    for at in range(0, len(body), _DUMP_WIDTH):
        piece = body[at : at + _DUMP_WIDTH]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{at:08x}  {piece.hex(' '):<{3 * _DUMP_WIDTH - 1}}  {text}")
    return lines


def _one_line(text: str) -> str:
    """Return *text*, which came from whoever may send, without what would move the cursor."""
    return printable(text.encode()).decode().replace("\n", "\N{RETURN SYMBOL}")


def _moment(milliseconds: int | None) -> datetime.datetime | None:
    if milliseconds is None:
        return None
    return datetime.datetime.fromtimestamp(milliseconds // 1000, datetime.UTC) + datetime.timedelta(
        milliseconds=milliseconds % 1000
    )
