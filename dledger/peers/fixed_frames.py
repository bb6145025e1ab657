"""Frames of two fixed shapes: the append message and the promise that answers it.

With one message under way nearly all that members say is "append this entry" and "done", and as
commands, their fields looked at one by one, these two cost a follower an eighth of its time.
So they are written by one `pack` and read by one `unpack_from`: everything in front of the body
is always the same but for some numbers, and each number has its place.

The protocol is no other one.  What is written here is an ordinary frame with an ordinary msgpack
header, whose numbers take the form of nine bytes (0xcf, u64) whatever their size.  msgpack
allows that, so every member reads it, one from before this module too.  And whatever is not of
these very bytes (shorter numbers, other fields, a refusal, anything broken) goes the general
way, `dledger.peers.messages` and `Connection`, where it is checked and refused field by field.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from dledger.peers.messages import to_command
from dledger.protocol import PeerCode
from dledger.remoting.command import FLAG_ONEWAY, VERSION, LanguageCode, SerializeType
from dledger.remoting.frame import FRAME_SIZE_MAX, JOIN_SIZE_MAX, encode_frame

if TYPE_CHECKING:
    from dledger.remoting.command import Buffer

    Message = dict[str, Any]

_LENGTH_SIZE: Final = 4  # bytes of a frame that its length does not count
_INT_BITS: Final = 63  # of what a file can hold; see `dledger.peers.messages`
_UINT64 = b"\xcf"
_TRUE, _FALSE = b"\xc3", b"\xc2"


def _text(value: str) -> bytes:
    assert len(value) < 32
    return bytes((0xA0 | len(value),)) + value.encode()


def _constants(code: PeerCode, *fields: str | tuple[str, bool]) -> tuple[bytes, ...]:
    """Return what lies between length and first number, between the numbers, and behind the last.

    A field is a number, named; or one that always has the same value, with that.
    """
    parts = [
        b"\x97\xcd" + struct.pack(">H", code),
        bytes((FLAG_ONEWAY, 0, LanguageCode.PYTHON, 0xCD)) + struct.pack(">H", VERSION),
        bytes((0xC0, 0x80 | len(fields))),
    ]
    found = []
    for field in fields:
        if isinstance(field, str):
            found.append(b"".join((*parts, _text(field), _UINT64)))
            parts = []
        else:
            parts += [_text(field[0]), _TRUE if field[1] else _FALSE]
    if parts:
        found.append(b"".join(parts))
    numbers = sum(isinstance(field, str) for field in fields)
    header_size = sum(map(len, found)) + 8 * numbers
    found[0] = struct.pack(">I", SerializeType.MSGPACK << 24 | header_size) + found[0]
    return tuple(found)


# Length, and each constant with the number behind it, from the mark in front of the header on.
_APPEND_CONSTANTS = _constants(
    PeerCode.PUSH, "term", "id", "prev_index", "prev_term", "last_index", "commit_index"
)
_A_TERM, _A_ID, _A_PREV_INDEX, _A_PREV_TERM, _A_LAST_INDEX, _A_COMMIT_INDEX = _APPEND_CONSTANTS
_APPEND = struct.Struct(">I" + "".join(f"{len(part)}sQ" for part in _APPEND_CONSTANTS))
_APPEND_SIZE: Final = _APPEND.size
_APPEND_BODY_MAX: Final = FRAME_SIZE_MAX - _APPEND_SIZE

_PROMISE_CONSTANTS = _constants(
    PeerCode.PUSH_ANSWER,
    "term",
    "id",
    "next_index",
    ("success", True),
    ("reset", False),
    ("joining", False),
)
_P_TERM, _P_ID, _P_NEXT_INDEX, _P_REST = _PROMISE_CONSTANTS
_PROMISE = struct.Struct(">I{}sQ{}sQ{}sQ{}s".format(*map(len, _PROMISE_CONSTANTS)))
_PROMISE_SIZE: Final = _PROMISE.size
_PROMISE_LENGTH: Final = _PROMISE_SIZE - _LENGTH_SIZE

# How many fields a message has that are in its shape; one with more has others, too.
_APPEND_FIELD_COUNT: Final = 8
_PROMISE_FIELD_COUNT: Final = 7


def frame_of(message: Message) -> list[Buffer]:
    """Return the buffers of the frame of *message*, to be sent in order; raw bytes not copied.

    Raises:
        LocalProtocolError: as `encode_frame`.
    """
    try:
        kind = message["type"]
        if kind == "append_entries":
            if len(message) == _APPEND_FIELD_COUNT:
                entries = message["entries"]
                size = len(entries)
                if size <= _APPEND_BODY_MAX:
                    # fmt: off
                    head = _APPEND.pack(
                        _APPEND_SIZE - _LENGTH_SIZE + size,
                        _A_TERM, message["term"],
                        _A_ID, message["id"],
                        _A_PREV_INDEX, message["prev_index"],
                        _A_PREV_TERM, message["prev_term"],
                        _A_LAST_INDEX, message["last_index"],
                        _A_COMMIT_INDEX, message["commit_index"],
                    )
                    # fmt: on
                    return [head + entries] if size < JOIN_SIZE_MAX else [head, entries]
        elif (
            kind == "append_answer"
            and len(message) == _PROMISE_FIELD_COUNT
            and message["success"] is True
            and message["reset"] is False
            and message["joining"] is False
        ):
            # fmt: off
            return [_PROMISE.pack(
                _PROMISE_LENGTH,
                _P_TERM, message["term"],
                _P_ID, message["id"],
                _P_NEXT_INDEX, message["next_index"],
                _P_REST,
            )]
            # fmt: on
    except (struct.error, KeyError):
        pass  # no such number, or another field: said, or written, the general way
    return encode_frame(to_command(message))


def read_front(data: bytes, messages: list[Message], *, frame_size_max: int) -> int:
    """Append what the frames say that *data* begins with, as far as they are of these shapes.

    Args:
        data: received bytes, from where a frame begins; bodies will be views into them.
        messages: gets what was read, in order.
        frame_size_max: bytes of the largest frame taken.

    Returns:
        Where the first frame begins that is not whole, or has to be read the general way.
    """
    end = len(data)
    position = 0
    while end - position >= _PROMISE_SIZE:
        # fmt: off
        if data.startswith(_P_TERM, position + _LENGTH_SIZE):
            length, _, term, c1, id_, c2, next_index, c3 = _PROMISE.unpack_from(data, position)
            if (
                length != _PROMISE_LENGTH
                or c1 != _P_ID or c2 != _P_NEXT_INDEX or c3 != _P_REST
                or (term | id_ | next_index) >> _INT_BITS
            ):
                return position
            messages.append({
                "type": "append_answer",
                "term": term,
                "id": id_,
                "next_index": next_index,
                "success": True,
                "reset": False,
                "joining": False,
            })
            position += _PROMISE_SIZE
            continue
        if end - position < _APPEND_SIZE or not data.startswith(_A_TERM, position + _LENGTH_SIZE):
            return position
        (
            length, _, term, c1, id_, c2, prev_index, c3, prev_term, c4, last_index,
            c5, commit_index,
        ) = _APPEND.unpack_from(data, position)
        stop = position + _LENGTH_SIZE + length
        body_at = position + _APPEND_SIZE
        if (
            not body_at <= stop <= end
            or stop - position > frame_size_max
            or c1 != _A_ID or c2 != _A_PREV_INDEX or c3 != _A_PREV_TERM
            or c4 != _A_LAST_INDEX or c5 != _A_COMMIT_INDEX
            or (term | id_ | prev_index | prev_term | last_index | commit_index) >> _INT_BITS
        ):
            return position
        messages.append({
            "type": "append_entries",
            "term": term,
            "id": id_,
            "prev_index": prev_index,
            "prev_term": prev_term,
            "last_index": last_index,
            "commit_index": commit_index,
            "entries": memoryview(data)[body_at:stop] if body_at < stop else b"",
        })
        position = stop
        # fmt: on
    return position
