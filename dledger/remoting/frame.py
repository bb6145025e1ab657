"""A frame: what one command is on the wire.

    length         u32  bytes that follow this field
    serialize type u8   how the header is written
    header length  u24
    header
    body

Source: RocketMQ ``RemotingCommand.encode``, ``NettyDecoder`` (FRAME_MAX_LENGTH, which counts the
length field too).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from dledger.remoting.command import SerializeType
from dledger.remoting.errors import LocalProtocolError
from dledger.remoting.header_codec import encode_header, encode_msgpack_header

if TYPE_CHECKING:
    from dledger.remoting.command import Buffer, Command

FRAME_SIZE_MAX: Final = 16 * 1024 * 1024  # bytes of a whole frame, its length field included
PREFIX_SIZE: Final = 8  # length, serialize type and header length
# Bytes of a request's header that a server reads: 174,000 records of the smallest kind fill a
# frame, and the column of their sizes is two thirds of this.
REQUEST_HEADER_SIZE_MAX: Final = 1024 * 1024
# Below this a copy into one buffer costs less than another entry in a sendmsg vector.
JOIN_SIZE_MAX: Final = 1024

_PREFIX = struct.Struct(">II")
_MSGPACK: Final = SerializeType.MSGPACK
_MSGPACK_MARK: Final = SerializeType.MSGPACK.value << 24


def encode_frame(
    command: Command,
    *,
    frame_size_max: int = FRAME_SIZE_MAX,
    header_size_max: int = FRAME_SIZE_MAX,
) -> list[Buffer]:
    """Return the buffers that make up the frame of *command*, to be sent in order.

    The first holds prefix and header, and a small body too; a larger body follows as the caller's
    own buffers, uncopied.

    Raises:
        LocalProtocolError: the frame is over *frame_size_max* bytes or its header over
            *header_size_max*, or the header cannot be written; the message says which.
    """
    if command.serialization is _MSGPACK:
        header = encode_msgpack_header(command)  # as nearly all are, and without a call in between
    else:
        header = encode_header(command)
    body = command.body
    header_size = len(header)
    body_size = sum(map(len, body)) if isinstance(body, list) else len(body)
    length = 4 + header_size + body_size
    if length + 4 > frame_size_max:
        raise LocalProtocolError(
            f"frame of code {command.code} has {length + 4} bytes ({header_size} of header, "
            f"{body_size} of body), over the limit of {frame_size_max}; send less at a time"
        )
    if header_size > header_size_max:
        raise LocalProtocolError(
            f"header of code {command.code} has {header_size} bytes, over the limit of "
            f"{header_size_max}; send less beside the body"
        )
    prefix = _PREFIX.pack(length, command.serialization << 24 | header_size)
    if isinstance(body, list):
        if body_size < JOIN_SIZE_MAX:
            return [b"".join((prefix, header, *body))]
        return [prefix + header, *body]
    if body_size < JOIN_SIZE_MAX:
        return [b"".join((prefix, header, body))]
    return [prefix + header, body]


def frame_with_header(header: bytes, body: Buffer) -> bytes:
    """Return the frame of a MSGPACK *header* that is encoded already, for it is always the same.

    Raises:
        LocalProtocolError: the frame is over `FRAME_SIZE_MAX`.
    """
    header_size = len(header)
    length = 4 + header_size + len(body)
    if length + 4 > FRAME_SIZE_MAX:
        raise LocalProtocolError(
            f"frame has {length + 4} bytes ({header_size} of header, {len(body)} of body), over "
            f"the limit of {FRAME_SIZE_MAX}; send less at a time"
        )
    return b"".join((_PREFIX.pack(length, _MSGPACK_MARK | header_size), header, body))
