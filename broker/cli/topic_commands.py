"""``dledger topic``: create, alter, delete, list and describe topics."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
import trio

from broker.cli.completing import TOPIC
from broker.cli.confirming import confirm, yes_option
from broker.cli.connecting import open_client
from broker.cli.output import Table, format_bytes, join_words, json_option, plural, print_json, tell
from broker.cli.servers import group_options
from broker.cli.values import DURATION, SIZE, format_duration, format_time
from broker.cli.watching import show_frame, show_repeatedly, watch_option
from broker.protocol.topic_attributes import RETENTION_BYTES, RETENTION_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.cli.watching import Frame
    from broker.protocol.descriptions import TopicDescription

_PERM_BITS = {"r": 4, "w": 2, "i": 1}
QUEUES_MAX = 1024


@click.group()
def topic() -> None:
    """Create, alter, delete, list and describe topics."""


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give *command* the options for what a topic may have otherwise than the broker."""
    for option in (
        click.option(
            "--flush", type=click.Choice(["sync", "async", "default"]),
            help="Whether it stands on their disks, or on their memory.",
        ),
        click.option(
            "--acks", type=click.Choice(["leader", "majority", "all", "default"]),
            help="Whose copies an acknowledgement stands on.",
        ),
        click.option(
            "--retention-size", type=SIZE, metavar="SIZE",
            help="Keep so many bytes of messages, as in 1GiB; 0: no bound of its own.",
        ),
        click.option(
            "--retention", type=DURATION, metavar="TIME",
            help="Keep messages so long, as in 3d; 0: as the broker has it.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def _named_settings(
    retention: float | None, retention_size: int | None, acks: str | None, flush: str | None
) -> dict[str, Any]:
    return {
        "retention_ms": None if retention is None else round(retention * 1000),
        "retention_bytes": retention_size,
        "acks": "" if acks == "default" else acks,
        "flush": "" if flush == "default" else flush,
    }


@topic.command()
@click.argument("name")
@click.option(
    "-q", "--queues", type=click.IntRange(1, QUEUES_MAX), default=8, show_default=True,
    help="How many consumers may share the topic; order is kept within one queue.",
)  # fmt: skip
@_settings
@json_option
@group_options
def create(
    name: str,
    *,
    queues: int,
    retention: float | None,
    retention_size: int | None,
    acks: str | None,
    flush: str | None,
    servers: list[str],
    as_json: bool,
) -> None:
    """Create the topic NAME, or change the number of its queues.

    What is not given is as the broker has it, or stays as it is.

    Example: dledger topic create orders -q 8 --retention 3d --acks majority
    """
    settings = _named_settings(retention, retention_size, acks, flush)

    async def run() -> None:
        async with open_client(servers) as mq:
            await mq.admin.create_topic(name, queue_count=queues, **settings)

    trio.run(run)
    value = {"topic": name, "queues": queues}
    tell(f"topic {name} has {plural(queues, 'queue')}", value, as_json=as_json)


@topic.command()
@click.argument("name", type=TOPIC)
@click.option(
    "-q", "--queues", type=click.IntRange(1, QUEUES_MAX),
    help="How many queues it is to have; not fewer than it has.",
)  # fmt: skip
@click.option(
    "--write-queues", type=click.IntRange(1, QUEUES_MAX),
    help="How many of them take messages.  [all]",
)  # fmt: skip
@click.option(
    "--perm", metavar="LETTERS",
    help="What may be done: r (read), w (write), i (inherit), or some of them: rw.",
)  # fmt: skip
@_settings
@json_option
@group_options
def alter(
    name: str,
    *,
    queues: int | None,
    write_queues: int | None,
    perm: str | None,
    retention: float | None,
    retention_size: int | None,
    acks: str | None,
    flush: str | None,
    servers: list[str],
    as_json: bool,
) -> None:
    """Change what is given of the topic NAME; all else stays as it is.

    Example: dledger topic alter orders --perm r
    """
    settings = _named_settings(retention, retention_size, acks, flush)
    if all(value is None for value in (queues, write_queues, perm, *settings.values())):
        raise click.UsageError("nothing to change; give an option, see --help")
    bits = None if perm is None else _perm_bits(perm)

    async def run() -> TopicDescription:
        async with open_client(servers) as mq:
            await mq.admin.alter_topic(
                name,
                queue_count=queues,
                write_queue_count=write_queues,
                perm=bits,
                **settings,
            )
            return await mq.admin.describe_topic(name)

    found = trio.run(run)
    tell(_headline(found), _summary(found), as_json=as_json)


@topic.command()
@click.argument("name", type=TOPIC)
@yes_option
@json_option
@group_options
def delete(name: str, *, yes: bool, servers: list[str], as_json: bool) -> None:
    """Delete the topic NAME with its messages and what groups have committed in it.

    Nothing brings them back. A topic created again by that name goes on at the old offsets.

    Example: dledger topic delete orders --yes
    """

    async def run() -> TopicDescription:
        async with open_client(servers) as mq:
            found = await mq.admin.describe_topic(name)
            confirm(f"delete topic {name} with {_content(found)}?", yes=yes)
            await mq.admin.delete_topic(name)
            return found

    found = trio.run(run)
    tell(f"deleted topic {name} with {_content(found)}", _summary(found), as_json=as_json)


@topic.command("list")
@json_option
@group_options
def list_(*, servers: list[str], as_json: bool) -> None:
    """List the topics with their queues, how many messages each has taken and what is kept.

    Example: dledger topic list
    """

    async def run() -> list[TopicDescription]:
        async with open_client(servers) as mq:
            return [
                await mq.admin.describe_topic(entry.topic) for entry in await mq.admin.list_topics()
            ]

    topics = trio.run(run)
    if as_json:
        print_json([_summary(found) for found in topics])
        return
    if not topics:
        print("no topic yet; `dledger topic create NAME` or the first message makes one")
        return
    numbers = ("queues", "messages", "kept", "size", "in/s", "out/s")
    table = Table("topic", "queues", "perm", *numbers[1:], "settings", right=numbers)
    for found in topics:
        table.add_row(
            found.topic,
            str(found.read_queue_count),
            _perm_letters(found.perm),
            f"{_taken(found):,}",
            f"{found.message_count:,}",
            _size(found),
            f"{found.in_rate.messages_per_second:,.1f}",
            f"{found.out_rate.messages_per_second:,.1f}",
            _attributes(found),
        )
    table.print()


@topic.command()
@click.argument("name", type=TOPIC)
@watch_option
@json_option
@group_options
def describe(name: str, *, watch: float | None, servers: list[str], as_json: bool) -> None:
    """Show what there is of the topic NAME: ends, sizes, times and rates.

    Rates are those of the last minute. A size with ~ is estimated from a sample.

    Example: dledger topic describe orders
    """

    async def run() -> None:
        async with open_client(servers) as mq:

            async def take() -> Frame:
                return _frame(await mq.admin.describe_topic(name))

            if watch is None:
                show_frame(await take(), as_json=as_json)
            else:
                await show_repeatedly(take, seconds=watch, as_json=as_json)

    trio.run(run)


def _frame(found: TopicDescription) -> Frame:
    table = Table(
        "queue", "first", "end", "kept", "size", "oldest", "newest",
        right=("queue", "first", "end", "kept", "size"),
    )  # fmt: skip
    for queue in found.queues:
        table.add_row(
            str(queue.queue_id),
            f"{queue.min_offset:,}",
            f"{queue.max_offset:,}",
            f"{queue.message_count:,}",
            ("~" if queue.is_size_estimated else "") + format_bytes(queue.size),
            format_time(queue.oldest_ms),
            format_time(queue.newest_ms),
        )
    lines = [
        _headline(found),
        f"{plural(found.message_count, 'message')} kept, {_size(found)}; "
        f"{found.in_rate.messages_per_second:,.1f} in and "
        f"{found.out_rate.messages_per_second:,.1f} out a second "
        f"({format_bytes(round(found.in_rate.bytes_per_second))} and "
        f"{format_bytes(round(found.out_rate.bytes_per_second))})",
    ]
    value = _summary(found) | {
        "read_queue_count": found.read_queue_count,
        "write_queue_count": found.write_queue_count,
        "perm": found.perm,
        "order": found.order,
        "attributes": found.attributes,
        "oldest_ms": found.oldest_ms,
        "newest_ms": found.newest_ms,
        "in_rate": asdict(found.in_rate),
        "out_rate": asdict(found.out_rate),
        "queue_list": [asdict(queue) for queue in found.queues],
    }
    return [*lines, table], value


def _summary(found: TopicDescription) -> dict[str, Any]:
    return {
        "topic": found.topic,
        "queues": found.read_queue_count,
        "messages": _taken(found),
        "kept": found.message_count,
        "size": found.size,
        "is_size_estimated": found.is_size_estimated,
        "perm": found.perm,
        "attributes": found.attributes,
        "in_per_second": found.in_rate.messages_per_second,
        "out_per_second": found.out_rate.messages_per_second,
    }


def _headline(found: TopicDescription) -> str:
    parts = [plural(found.read_queue_count, "queue")]
    if found.write_queue_count != found.read_queue_count:
        parts[0] += f" ({found.write_queue_count} written to)"
    parts.append(f"perm {_perm_letters(found.perm)}")
    if settings := _attributes(found):
        parts.append(settings)
    return f"topic {found.topic}: {', '.join(parts)}"


def _attributes(found: TopicDescription) -> str:
    kept = []
    others = []
    for name, value in found.attributes.items():
        if name == RETENTION_MS:
            kept.append(format_duration(int(value) / 1000).removesuffix(" 0h"))
        elif name == RETENTION_BYTES:
            kept.append(format_bytes(int(value)))
        else:
            others.append(f"{name} {value}")
    return ", ".join([f"retention {join_words(kept)}", *others] if kept else others)


def _content(found: TopicDescription) -> str:
    return f"{plural(found.message_count, 'message')}, {_size(found)}"


def _taken(found: TopicDescription) -> int:
    return sum(queue.max_offset for queue in found.queues)


def _size(found: TopicDescription) -> str:
    return ("~" if found.is_size_estimated else "") + format_bytes(found.size)


def _perm_letters(perm: int) -> str:
    return "".join(letter for letter, bit in _PERM_BITS.items() if perm & bit) or "none"


def _perm_bits(letters: str) -> int:
    if not letters or not set(letters) <= _PERM_BITS.keys():
        raise click.UsageError(
            f"--perm {letters!r}: use {join_words(list(_PERM_BITS))}, or some of them, as in rw"
        )
    return sum(_PERM_BITS[letter] for letter in set(letters))
