"""``dledger produce``: one message from the command line, or many from a file or pipe."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import trio

from broker.cli import exits
from broker.cli.completing import TOPIC
from broker.cli.connecting import open_client
from broker.cli.output import first_leaf, json_lines_option, plural, print_json
from broker.cli.produce_input import (
    Outgoing,
    ProduceError,
    json_reader,
    line_reader,
    open_input,
    read_messages,
)
from broker.cli.produce_progress import Progress, open_progress
from broker.cli.servers import group_options
from broker.client.acks import ACKS, FLUSHES
from broker.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    import broker
    from broker.client.acks import Acks, Flush
    from broker.client.compression import Compression

# Messages on their way at once: enough for a batch of each queue while the last one travels.
IN_FLIGHT_MAX = 1_000
ERRORS_MAX = 100
PRODUCER_NAME = "dledger-cli"

_ERRORS_SHOWN = 10


@click.command()
@click.argument("topic", type=TOPIC)
@click.argument("body", required=False)
@click.option(
    "-f", "--file", "path", metavar="FILE", help="Send each line of FILE; '-' is standard input."
)
@click.option(
    "--jsonl", is_flag=True,
    help='Lines are JSON: {"body": .., "key": .., "tag": .., "props": {..}}; "body_base64" '
    "for bytes.",
)  # fmt: skip
@click.option("-k", "--key", multiple=True, help="Message key; may be given several times.")
@click.option("-t", "--tag", help="Tag that consumers may filter by.")
@click.option("-p", "--prop", "props", multiple=True, metavar="NAME=VALUE", help="A property.")
@click.option("-q", "--queue", type=click.IntRange(min=0), help="Queue to send to.")
@click.option("--ordering-key", metavar="KEY", help="Messages of one KEY go to one queue.")
@click.option("--ordered", is_flag=True, help="The same, by each message's own (first) key.")
@click.option(
    "--compress", type=click.Choice(["zlib", "lz4", "zstd"]), help="Compress bodies from 4 KiB on."
)
@click.option(
    "--acks", type=click.Choice(ACKS),
    help="Who has a copy before a message counts as sent; else as the topic has it.",
)  # fmt: skip
@click.option("--flush", type=click.Choice(FLUSHES), help="On their disks, or in memory.")
@click.option(
    "--errors-max", type=click.IntRange(min=0), default=ERRORS_MAX, show_default=True,
    help="Give up after more failed messages than that.",
)  # fmt: skip
@json_lines_option
@group_options
def produce(
    topic: str,
    body: str | None,
    *,
    path: str | None,
    jsonl: bool,
    key: tuple[str, ...],
    tag: str | None,
    props: tuple[str, ...],
    queue: int | None,
    ordering_key: str | None,
    ordered: bool,
    compress: Compression | None,
    acks: Acks | None,
    flush: Flush | None,
    errors_max: int,
    as_json: bool,
    servers: list[str],
) -> None:
    """Send BODY, or each line of a file or pipe, to TOPIC.

    Every message is acknowledged by the group before it counts as sent. Exit code 1 when one
    failed; the others are sent all the same.

    \b
    Example: dledger produce orders 'two chairs' -k order-17 -t furniture
             dledger produce orders --jsonl -f orders.jsonl
    """
    if body is not None and (path is not None or jsonl):
        raise click.UsageError("give BODY or --file, not both; --jsonl is for lines")
    if body is None and path is None and sys.stdin.isatty():
        raise click.UsageError("give BODY, --file FILE, or pipe lines in")
    if sum([queue is not None, ordering_key is not None, ordered]) > 1:
        raise click.UsageError("give one of --queue, --ordering-key, --ordered")
    pattern = Outgoing(
        number=1,
        body=(body or "").encode(),
        keys=key,
        tag=tag,
        properties=read_properties(props),
        queue=queue,
        ordering_key=ordering_key,
    )
    run = _Run(topic, ordered=ordered, errors_max=errors_max, as_json=as_json)
    run.acks, run.flush = acks, flush
    if body is not None:
        trio.run(run.send_one, servers, compress, pattern)
        return
    make = json_reader(pattern) if jsonl else line_reader(pattern)
    with open_input(path or "-") as (stream, size):
        trio.run(run.send_many, servers, compress, stream, size, make)
    if run.failed:
        raise SystemExit(exits.FAILURE)


class _Run:
    """Sends, and keeps count."""

    def __init__(self, topic: str, *, ordered: bool, errors_max: int, as_json: bool) -> None:
        self.topic = topic
        self.ordered = ordered
        self.errors_max = errors_max
        self.as_json = as_json
        self.acks: Acks | None = None
        self.flush: Flush | None = None
        self.acknowledged = 0
        self.failed = 0

    async def send_one(
        self, servers: list[str], compress: Compression | None, message: Outgoing
    ) -> None:
        """Send *message* and say where it is."""
        async with (
            open_client(servers) as mq,
            mq.producer(PRODUCER_NAME, compression=compress) as producer,
        ):
            result = await self._send(producer, message)
        if self.as_json:
            print_json(_describe(result))
            return
        print(
            f"sent to {self.topic}, queue {result.queue_id}, offset {result.queue_offset} "
            f"({result.message_id})" + (f", kept as {result.durability}" if self._asks else "")
        )

    async def send_many(
        self,
        servers: list[str],
        compress: Compression | None,
        stream: BinaryIO,
        size: int | None,
        make: Callable[[int, bytes], Outgoing],
    ) -> None:
        """Send what *make* makes of the lines of *stream*; the sum goes to stderr."""
        began = trio.current_time()
        try:
            with open_progress(size, is_wanted=not (self.as_json and sys.stdout.isatty())) as shown:
                async with (
                    open_client(servers) as mq,
                    mq.producer(PRODUCER_NAME, compression=compress) as producer,
                ):

                    async def send(message: Outgoing) -> None:
                        await self._send_counted(producer, message, shown)

                    try:
                        await send_in_order(read_messages(stream, make), send)
                    except* BrokerError as group:
                        raise first_leaf(group) from None
        finally:
            seconds = trio.current_time() - began
            if self.acknowledged or self.failed:
                rate = self.acknowledged / seconds if seconds else 0
                failed = f", {self.failed:,} failed" if self.failed else ""
                print(
                    f"{plural(self.acknowledged, 'message')} acknowledged in {seconds:.1f} s "
                    f"({rate:,.0f}/s){failed}",
                    file=sys.stderr,
                )

    async def _send_counted(
        self, producer: broker.Producer, message: Outgoing, shown: Progress
    ) -> None:
        try:
            if message.problem:
                raise ProduceError(message.problem)
            result = await self._send(producer, message)
        except BrokerError as error:
            self.failed += 1
            text = f"line {message.number}: {error}"
            if self.as_json:
                print_json({"line": message.number, "error": str(error)})
            if self.failed > self.errors_max:
                raise ProduceError(f"{text}; given up ({self._counts()})") from error
            if self.failed <= _ERRORS_SHOWN:
                shown.say(f"dledger: {text}")
                if self.failed == _ERRORS_SHOWN:
                    shown.say("dledger: more failures are only counted")
        else:
            self.acknowledged += 1
            if self.as_json:
                print_json({"line": message.number, **_describe(result)})
        shown.advance(message.size, acknowledged=self.acknowledged, failed=self.failed)

    async def _send(self, producer: broker.Producer, message: Outgoing) -> broker.SendResult:
        ordering_key = message.ordering_key
        if self.ordered and message.keys and message.queue is None and ordering_key is None:
            ordering_key = message.keys[0]
        return await producer.send(
            self.topic,
            message.body,
            key=list(message.keys) or None,
            tag=message.tag,
            properties=message.properties,
            queue=message.queue,
            ordering_key=ordering_key,
            acks=self.acks,
            flush=self.flush,
        )

    @property
    def _asks(self) -> bool:
        return self.acks is not None or self.flush is not None

    def _counts(self) -> str:
        return f"{plural(self.acknowledged, 'message')} acknowledged, {self.failed:,} failed"


async def send_in_order(
    batches: AsyncGenerator[list[Outgoing], None],
    send: Callable[[Outgoing], Awaitable[None]],
    *,
    in_flight_max: int = IN_FLIGHT_MAX,
) -> None:
    """Call *send* for every message in their order, up to *in_flight_max* at once.

    A producer keeps the order of the calls within each queue, so none has to wait for the last.
    Whichever worker runs next takes the next message and sends it without an await between, so the
    order of the workers, which trio leaves open, does not matter.
    """
    waiting: deque[Outgoing] = deque()
    arrived = trio.lowlevel.ParkingLot()  # workers without a message
    taken = trio.lowlevel.ParkingLot()  # the reader, while enough messages wait
    is_read = False

    async def work() -> None:
        while True:
            while not waiting:
                if is_read:
                    return
                await arrived.park()
            message = waiting.popleft()
            if len(waiting) < in_flight_max:
                taken.unpark_all()
            await send(message)

    async with contextlib.aclosing(batches), trio.open_nursery() as nursery:
        is_first = True
        async for batch in batches:
            if is_first and batch:
                await send(batch.pop(0))  # alone: it asks for the topic, and others would race
                is_first = False
                for _ in range(in_flight_max):
                    nursery.start_soon(work)
            waiting.extend(batch)
            arrived.unpark(count=len(batch))
            while len(waiting) >= in_flight_max:
                await taken.park()
        is_read = True
        arrived.unpark_all()


def read_properties(props: tuple[str, ...]) -> dict[str, str] | None:
    """Return the properties that ``-p NAME=VALUE`` gave; None without any.

    Raises:
        click.BadParameter: one of them has no name or no value.
    """
    found = {}
    for prop in props:
        name, equals, value = prop.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{prop!r}: write NAME=VALUE", param_hint="--prop")
        found[name] = value
    return found or None


def _describe(result: broker.SendResult) -> dict[str, Any]:
    return {
        "topic": result.topic,
        "queue_id": result.queue_id,
        "queue_offset": result.queue_offset,
        "message_id": result.message_id,
        "unique_id": result.unique_id,
        "durability": result.durability,
    }
