"""``dledger produce``: one message from the command line, or many from a file or pipe."""

from __future__ import annotations

import base64
import contextlib
import os
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click
import msgspec
import trio
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from broker.cli.connecting import open_client
from broker.cli.output import console, first_leaf, plural, print_json
from broker.cli.servers import choose_servers, servers_options
from broker.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

# Messages on their way at once: enough for a batch of each queue while the last one travels.
IN_FLIGHT_MAX = 1_000

_CHUNK_SIZE = 65_536


class ProduceError(BrokerError):
    """A message could not be sent; the text says which, why, and how many went before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message on its way out."""

    number: int  # of its line, from 1
    body: bytes
    keys: tuple[str, ...] = ()
    tag: str | None = None
    properties: dict[str, str] | None = None
    size: int = 0  # bytes of input it came from


class _JsonLine(msgspec.Struct):
    """One line of ``--json``: what `dledger consume --json` prints is welcome too."""

    body: str | None = None
    body_base64: str | None = None
    key: str | list[str] | None = None
    tag: str | None = None
    properties: dict[str, str] = {}


@click.command()
@click.argument("topic")
@click.argument("body", required=False)
@click.option("-k", "--key", multiple=True, help="Message key; may be given several times.")
@click.option("--tag", help="Tag that consumers may filter by.")
@click.option("--prop", "props", multiple=True, metavar="NAME=VALUE", help="A property.")
@click.option(
    "-f", "--file", "path", metavar="FILE", help="Send each line of FILE; '-' is standard input."
)
@click.option(
    "--json", "as_json", is_flag=True,
    help='Lines are JSON: {"body": .., "key": .., "tag": .., "properties": {..}}; '
    "the answer to a single message is JSON, too.",
)  # fmt: skip
@click.option(
    "--ordered", is_flag=True, help="Messages with the same (first) key go to one queue, in order."
)
@servers_options
def produce(
    topic: str,
    body: str | None,
    *,
    key: tuple[str, ...],
    tag: str | None,
    props: tuple[str, ...],
    path: str | None,
    as_json: bool,
    ordered: bool,
    servers: str | None,
    data: Path | None,
) -> None:
    """Send BODY to TOPIC, or each line of a file or of standard input.

    Every message is acknowledged by a majority of the group before it counts as sent.
    """
    if body is not None and path is not None:
        raise click.UsageError("give BODY or --file, not both")
    if body is None and path is None and sys.stdin.isatty():
        raise click.UsageError("give BODY, --file FILE, or pipe lines in")
    addresses = choose_servers(servers, data)
    properties = _read_properties(props)
    if body is not None:
        message = Outgoing(number=1, body=body.encode(), keys=key, tag=tag, properties=properties)
        trio.run(_send_one, addresses, topic, message, ordered, as_json)
        return
    make = _json_reader() if as_json else _line_reader(key, tag, properties)
    with open_input(path or "-") as (stream, size):
        trio.run(_send_many, addresses, topic, stream, size, make, ordered)


async def _send_one(
    addresses: list[str], topic: str, message: Outgoing, ordered: bool, as_json: bool
) -> None:
    async with open_client(addresses) as mq, mq.producer("dledger-cli") as producer:
        result = await producer.send(
            topic,
            message.body,
            key=list(message.keys) or None,
            tag=message.tag,
            properties=message.properties,
            ordering_key=message.keys[0] if ordered and message.keys else None,
        )
    if as_json:
        print_json(
            {
                "topic": topic,
                "queue_id": result.queue_id,
                "queue_offset": result.queue_offset,
                "message_id": result.message_id,
            }
        )
    else:
        print(
            f"sent to {topic}, queue {result.queue_id}, offset {result.queue_offset} "
            f"({result.message_id})"
        )


async def _send_many(
    addresses: list[str],
    topic: str,
    stream: BinaryIO,
    size: int | None,
    make: Callable[[int, bytes], Outgoing],
    ordered: bool,
) -> None:
    began = trio.current_time()
    count = 0
    screen = console(is_error=True)
    with progress_bar(size) as advance:
        async with open_client(addresses) as mq, mq.producer("dledger-cli") as producer:

            async def send(message: Outgoing) -> None:
                nonlocal count
                try:
                    await producer.send(
                        topic,
                        message.body,
                        key=list(message.keys) or None,
                        tag=message.tag,
                        properties=message.properties,
                        ordering_key=message.keys[0] if ordered and message.keys else None,
                    )
                except BrokerError as error:
                    raise ProduceError(
                        f"line {message.number}: {error} "
                        f"({plural(count, 'message')} acknowledged before it)"
                    ) from error
                count += 1
                advance(message.size)

            try:
                await send_in_order(read_messages(stream, make), send)
            except* BrokerError as group:
                raise first_leaf(group) from None
    seconds = trio.current_time() - began
    rate = count / seconds if seconds else 0
    screen.print(f"{plural(count, 'message')} acknowledged in {seconds:.1f} s ({rate:,.0f}/s)")


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


async def read_messages(
    stream: BinaryIO, make: Callable[[int, bytes], Outgoing]
) -> AsyncGenerator[list[Outgoing], None]:
    """Yield what *make* makes of the lines of *stream*, as many as came at once; no empty lines."""
    number = 0
    rest = b""
    read = getattr(stream, "read1", stream.read)
    while True:
        # In a thread: a pipe may be silent for long, and the client must keep its connections.
        chunk = await trio.to_thread.run_sync(read, _CHUNK_SIZE, abandon_on_cancel=True)
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        if not chunk and rest:
            lines.append(rest)
        batch = []
        for line in lines:
            number += 1
            if line.strip():
                batch.append(make(number, line.removesuffix(b"\r")))
        yield batch
        if not chunk:
            return


@contextlib.contextmanager
def open_input(path: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """Give the open file *path* ('-': standard input) and its size in bytes, None if unknown.

    Raises:
        ProduceError: it cannot be opened.
    """
    if path == "-":
        yield sys.stdin.buffer, None
        return
    with contextlib.ExitStack() as opened:
        try:
            stream = opened.enter_context(Path(path).open("rb"))
        except OSError as error:
            raise ProduceError(f"{path}: {error.strerror}") from None
        yield stream, os.fstat(stream.fileno()).st_size or None


@contextlib.contextmanager
def progress_bar(size: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function that takes bytes done; it moves a bar if there is a terminal and a size."""
    screen = console(is_error=True)
    if size is None or not screen.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("sending"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True) as progress:
        task = progress.add_task("", total=size)
        yield lambda count: progress.advance(task, count)


def _line_reader(
    keys: tuple[str, ...], tag: str | None, properties: dict[str, str] | None
) -> Callable[[int, bytes], Outgoing]:
    def make(number: int, line: bytes) -> Outgoing:
        return Outgoing(
            number=number, body=line, keys=keys, tag=tag, properties=properties, size=len(line) + 1
        )

    return make


def _json_reader() -> Callable[[int, bytes], Outgoing]:
    decoder = msgspec.json.Decoder(_JsonLine)

    def make(number: int, line: bytes) -> Outgoing:
        try:
            found = decoder.decode(line)
            if found.body_base64 is not None:
                body = base64.b64decode(found.body_base64, validate=True)
            elif found.body is not None:
                body = found.body.encode()
            else:
                raise ProduceError(f'line {number}: no "body"; every line needs one')
        except (msgspec.DecodeError, ValueError) as error:
            raise ProduceError(f"line {number}: {error}") from None
        keys = (found.key,) if isinstance(found.key, str) else tuple(found.key or ())
        return Outgoing(
            number=number,
            body=body,
            keys=keys,
            tag=found.tag,
            properties=found.properties or None,
            size=len(line) + 1,
        )

    return make


def _read_properties(props: tuple[str, ...]) -> dict[str, str] | None:
    found = {}
    for prop in props:
        name, equals, value = prop.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{prop!r}: write NAME=VALUE", param_hint="--prop")
        found[name] = value
    return found or None
