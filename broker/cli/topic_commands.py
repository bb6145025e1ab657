"""``dledger topic``: create and list topics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import trio

from broker.cli.connecting import open_client
from broker.cli.output import console, make_table, plural, print_json
from broker.cli.quantities import DURATION, SIZE
from broker.cli.servers import choose_servers, servers_options

if TYPE_CHECKING:
    from pathlib import Path


@click.group()
def topic() -> None:
    """Create and list topics."""


@topic.command()
@click.argument("name")
@click.option(
    "-q", "--queues", type=click.IntRange(1, 1024), default=8, show_default=True,
    help="How many consumers may share the topic; order is kept within one queue.",
)  # fmt: skip
@click.option(
    "--retention", type=DURATION, metavar="TIME", help="Keep messages so long, as in 3d or 12h."
)
@click.option(
    "--retention-size", type=SIZE, metavar="SIZE", help="Keep so many bytes of them, as in 1GiB."
)
@click.option(
    "--acks", type=click.Choice(["leader", "majority", "all"]),
    help="Whose copies an acknowledgement stands on.",
)  # fmt: skip
@click.option(
    "--flush", type=click.Choice(["sync", "async"]),
    help="Whether it stands on their disks, or on their memory.",
)  # fmt: skip
@servers_options
def create(
    name: str,
    *,
    queues: int,
    retention: int | None,
    retention_size: int | None,
    acks: str | None,
    flush: str | None,
    servers: str | None,
    data: Path | None,
) -> None:
    """Create the topic NAME, or change the number of its queues.

    What is not given is as the broker has it, or stays as it is.

    Example: dledger topic create orders -q 8 --retention 3d
    """
    addresses = choose_servers(servers, data)

    async def run() -> None:
        async with open_client(addresses) as mq:
            await mq.admin.create_topic(
                name,
                queue_count=queues,
                retention_ms=retention,
                retention_bytes=retention_size,
                acks=acks,
                flush=flush,
            )

    trio.run(run)
    print(f"topic {name} has {plural(queues, 'queue')}")


@topic.command("list")
@servers_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def list_(*, servers: str | None, data: Path | None, as_json: bool) -> None:
    """List the topics with their queues and how many messages each has taken.

    Example: dledger topic list
    """
    addresses = choose_servers(servers, data)

    async def run() -> list[tuple[str, int, int, int]]:
        async with open_client(addresses) as mq:
            found = []
            for entry in sorted(await mq.admin.list_topics(), key=lambda item: item.topic):
                first = last = 0
                for queue_id in range(entry.read_queue_count):
                    first += await mq.admin.min_offset(entry.topic, queue_id)
                    last += await mq.admin.max_offset(entry.topic, queue_id)
                found.append((entry.topic, entry.read_queue_count, last, last - first))
            return found

    topics = trio.run(run)
    if as_json:
        print_json(
            [
                {"topic": name, "queues": queues, "messages": messages, "kept": kept}
                for name, queues, messages, kept in topics
            ]
        )
        return
    if not topics:
        print("no topic yet; `dledger topic create NAME` or the first message makes one")
        return
    table = make_table("topic", "queues", "messages", "kept", right=("queues", "messages", "kept"))
    for name, queues, messages, kept in topics:
        table.add_row(name, str(queues), f"{messages:,}", f"{kept:,}")
    console().print(table)
