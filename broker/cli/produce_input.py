"""What ``dledger produce`` reads: lines, or JSON lines, as they come from a file or a pipe."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec
import trio

from broker.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

_CHUNK_SIZE = 65_536


class ProduceError(BrokerError):
    """Messages could not be sent; the text says which, why, and how many went before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message on its way out."""

    number: int  # of its line, from 1
    body: bytes = b""
    keys: tuple[str, ...] = ()
    tag: str | None = None
    properties: dict[str, str] | None = None
    queue: int | None = None
    ordering_key: str | None = None
    size: int = 0  # bytes of input it came from
    problem: str = ""  # why the line is no message


class _JsonLine(msgspec.Struct):
    """One line of ``--jsonl``: what `dledger consume --json` prints is welcome too."""

    body: str | None = None
    body_base64: str | None = None
    key: str | list[str] | None = None
    tag: str | None = None
    properties: dict[str, str | int | float | bool] = {}
    props: dict[str, str | int | float | bool] = {}
    queue: int | None = None
    ordering_key: str | None = None


def line_reader(pattern: Outgoing) -> Callable[[int, bytes], Outgoing]:
    """Return what makes a message of a line: the line is the body, the rest is *pattern*'s."""

    def make(number: int, line: bytes) -> Outgoing:
        return dataclasses.replace(pattern, number=number, body=line, size=len(line) + 1)

    return make


def json_reader(pattern: Outgoing) -> Callable[[int, bytes], Outgoing]:
    """Return what makes a message of a line of JSON; *pattern* fills in what it leaves out."""
    decoder = msgspec.json.Decoder(_JsonLine)

    def make(number: int, line: bytes) -> Outgoing:
        size = len(line) + 1
        try:
            found = decoder.decode(line)
            if found.body_base64 is not None:
                body = base64.b64decode(found.body_base64, validate=True)
            elif found.body is not None:
                body = found.body.encode()
            else:
                return Outgoing(number=number, size=size, problem='no "body"; every line needs one')
        except (msgspec.DecodeError, ValueError) as error:
            return Outgoing(number=number, size=size, problem=f"no JSON of a message: {error}")
        keys = (found.key,) if isinstance(found.key, str) else tuple(found.key or ())
        named = {
            name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
            for name, value in (found.properties | found.props).items()
        }
        chooses_queue = found.queue is not None or found.ordering_key is not None
        return Outgoing(
            number=number,
            body=body,
            keys=keys or pattern.keys,
            tag=found.tag or pattern.tag,
            properties={**(pattern.properties or {}), **named} or None,
            queue=found.queue if chooses_queue else pattern.queue,
            ordering_key=found.ordering_key if chooses_queue else pattern.ordering_key,
            size=size,
        )

    return make


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
