"""How `consume`, `tail` and others print a message: as JSON, by a format, or as a line.

A format is text with ``%`` and a letter where something of the message belongs; see `FIELDS`.
"""

from __future__ import annotations

import base64
import re
import sys
from typing import TYPE_CHECKING, Any

import click

from broker.cli.output import print_json
from broker.cli.values import format_time
from broker.message import properties as names

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.client.message import Message

# What a letter behind a % stands for; docs/cli.md has the same list.
FIELDS: dict[str, tuple[str, Callable[[Message], bytes]]] = {
    "t": ("topic", lambda message: message.topic.encode()),
    "q": ("queue", lambda message: b"%d" % message.queue_id),
    "o": ("queue offset", lambda message: b"%d" % message.queue_offset),
    "k": ("keys", lambda message: " ".join(message.keys).encode()),
    "T": ("tag", lambda message: (message.tag or "").encode()),
    "v": ("body", lambda message: bytes(message.body)),
    "S": ("bytes of the body", lambda message: b"%d" % len(message.body)),
    "s": ("store time", lambda message: format_time(message.store_timestamp_ms).encode()),
    "b": ("time of birth", lambda message: format_time(message.born_timestamp_ms).encode()),
    "p": ("properties", lambda message: _encode_properties(message).encode()),
    "i": ("message id", lambda message: message.message_id.encode()),
    "u": ("unique id", lambda message: (message.unique_id or "").encode()),
}
_ESCAPES = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "\\": b"\\"}
_TOKEN = re.compile(r"%(.?)|\\(.?)|([^%\\]+)", re.DOTALL)

LINE_FORMAT = "%s  %q/%o  %k  %T  %v"


class MessageFormat:
    """A format, read once and used for many messages."""

    def __init__(self, text: str) -> None:
        """Read *text*.

        Raises:
            ValueError: a letter stands for nothing; says which there are.
        """
        self._parts: list[bytes | Callable[[Message], bytes]] = []
        for field, escape, plain in (match.groups() for match in _TOKEN.finditer(text)):
            if plain is not None:
                self._parts.append(plain.encode())
            elif escape is not None:
                if escape not in _ESCAPES:
                    raise ValueError(
                        f"\\{escape} stands for nothing; there are \\n \\t \\r \\0 \\\\"
                    )
                self._parts.append(_ESCAPES[escape])
            elif field == "%":
                self._parts.append(b"%")
            elif field in FIELDS:
                self._parts.append(FIELDS[field][1])
            else:
                known = ", ".join(f"%{letter} {what}" for letter, (what, _) in FIELDS.items())
                raise ValueError(f"%{field} stands for nothing; there are {known}, and %%")

    def render(self, message: Message) -> bytes:
        """Return what the format makes of *message*."""
        return b"".join(part if isinstance(part, bytes) else part(message) for part in self._parts)


class _FormatType(click.ParamType):  # type: ignore[type-arg]  # generic in newer clicks
    name = "format"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        if not isinstance(value, str):
            return value
        try:
            return MessageFormat(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


FORMAT = _FormatType()  # gives a `MessageFormat`


class MessagePrinter:
    """Prints messages on stdout, each at once, so that a reader of a pipe sees it.

    On a terminal what would move its cursor or change its colours is replaced: a body comes from
    anybody who may send.
    """

    def __init__(self, *, as_json: bool, layout: MessageFormat) -> None:
        self._as_json = as_json
        self._layout = layout
        self._is_terminal = sys.stdout.isatty()

    def print(self, message: Message) -> None:
        """Print *message*."""
        if self._as_json:
            print_json(message_json(message))
            return
        line = self._layout.render(message)
        if self._is_terminal:
            line = printable(line)
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()


def printable(data: bytes) -> bytes:
    """Return *data* as text without control characters but tabs and ends of lines."""
    text = data.decode(errors="replace")
    return "".join(
        char if char.isprintable() or char in "\t\n" else "\N{REPLACEMENT CHARACTER}"
        for char in text
    ).encode()


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
        "properties": _own_properties(message),
        "born_timestamp_ms": message.born_timestamp_ms,
        "store_timestamp_ms": message.store_timestamp_ms,
        "message_id": message.message_id,
        "unique_id": message.unique_id,
    }


def _own_properties(message: Message) -> dict[str, str]:
    return {name: value for name, value in message.properties.items() if name not in names.RESERVED}


def _encode_properties(message: Message) -> str:
    return ",".join(f"{name}={value}" for name, value in _own_properties(message).items())
