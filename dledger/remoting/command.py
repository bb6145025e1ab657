"""One command: what travels in a frame, whichever way its header is written.

A request and its response have the same *opaque*, a number the requester picks and that means
nothing to anyone else.  A command is built, sent and forgotten; only its sender changes it.

Source: RocketMQ ``RemotingCommand``, ``SerializeType``, ``LanguageCode``.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec

Buffer: TypeAlias = bytes | bytearray | memoryview

if TYPE_CHECKING:
    ExtFields: TypeAlias = dict[str, Any]
    Body: TypeAlias = Buffer | list[Buffer]
else:
    # What msgspec is told when it builds a Command straight from a MSGPACK header: nil is a legal
    # way to write no ext fields (header_codec turns it into {}), and a body is never in a header.
    ExtFields = dict[str, Any] | None
    Body = Any

FLAG_RESPONSE: Final = 1
FLAG_ONEWAY: Final = 2  # a request nobody answers
# Ours, MSGPACK only.  On a request: "I understand grouped acks"; on a response: the body holds the
# acks of many requests, and opaque means nothing.
FLAG_GROUPED: Final = 4

VERSION: Final = 401  # ordinal of MQVersion.V4_9_4, the release whose protocol we speak

CODE_SUCCESS: Final = 0
CODE_SYSTEM_ERROR: Final = 1

INT32_MIN: Final = -(1 << 31)
INT32_MAX: Final = (1 << 31) - 1

# What a MSGPACK header is checked against as it is read; anyone may build a command beyond them,
# and header_codec then refuses to send it.
_Int32 = Annotated[int, msgspec.Meta(ge=INT32_MIN, le=INT32_MAX)]
# Grouped acks name a request by a u32, so an opaque of ours is never negative.
_Opaque = Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)]
_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class SerializeType(enum.IntEnum):
    """How a header is written. 77 ('M') keeps clear of the codes Apache may assign after 1."""

    JSON = 0
    ROCKETMQ = 1
    MSGPACK = 77


class LanguageCode(enum.IntEnum):
    """What the sender is written in; kept for logs and for quirks of known clients."""

    JAVA = 0
    CPP = 1
    DOTNET = 2
    PYTHON = 3
    DELPHI = 4
    ERLANG = 5
    RUBY = 6
    OTHER = 7
    HTTP = 8
    GO = 9
    PHP = 10
    OMS = 11
    RUST = 12
    NODE_JS = 13


# gc=False: a command never points back at itself, and the collector need not walk thousands.
class Command(msgspec.Struct, array_like=True, gc=False):
    """A request or a response.

    The first seven fields are the MSGPACK header, in the order of the wire; header_codec relies on
    that order.  *body* of a received command is a view into the received bytes (empty: ``b""``); of
    one to send it may be a list of buffers, which are sent one after another, uncopied.
    """

    code: _Int32  # request code, or response code when FLAG_RESPONSE is set
    flag: _Int32 = 0
    opaque: _Opaque = 0
    language: _Byte = 3  # LanguageCode.PYTHON; a plain int, as clients send numbers we do not know
    version: _Int32 = VERSION
    remark: str | None = None
    ext_fields: ExtFields = msgspec.field(default_factory=dict)
    body: Body = b""
    serialization: SerializeType = SerializeType.MSGPACK

    @property
    def is_response(self) -> bool:
        """Whether this answers a request."""
        return bool(self.flag & FLAG_RESPONSE)

    @property
    def is_oneway(self) -> bool:
        """Whether nobody waits for an answer."""
        return bool(self.flag & FLAG_ONEWAY)

    @property
    def is_grouped(self) -> bool:
        """Whether grouped acks are understood (request) or carried (response)."""
        return bool(self.flag & FLAG_GROUPED) and self.serialization is SerializeType.MSGPACK

    @property
    def body_size(self) -> int:
        """Bytes of the body, whatever it is made of."""
        body = self.body
        return sum(map(len, body)) if isinstance(body, list) else len(body)


def response(
    request: Command,
    code: int,
    remark: str | None = None,
    ext_fields: dict[str, Any] | None = None,
    body: Buffer | list[Buffer] = b"",
) -> Command:
    """Return the answer to *request*: same opaque, and written the way the request was.

    Args:
        request: what is answered.
        code: response code; 0 is success.
        remark: a sentence for people, when something is wrong.
        ext_fields: named values; JSON and ROCKETMQ write each as a string.
        body: one buffer or several, sent uncopied.
    """
    return Command(
        code,
        FLAG_RESPONSE,
        request.opaque,
        remark=remark,
        ext_fields={} if ext_fields is None else ext_fields,
        body=body,
        serialization=request.serialization,
    )
