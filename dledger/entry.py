"""One entry of the replicated log and its 48-byte header.

The header is DLedger's, big-endian (``DLedgerEntryCoder``):

    magic      int32    1 normal, 2 no-op; -1 marks the blank rest of a segment
    size       int32    header and body, in bytes
    index      int64    Raft index, 1-based
    term       int64    term of the leader that created the entry
    position   int64    of this header, counted from the start of the log
    channel    int32    who reads the body; the ledger does not look
    chain_crc  uint32   see below
    body_crc   uint32   CRC-32 of the body
    body_size  int32

DLedger leaves both CRCs at zero; we compute them.  *chain_crc* is the CRC-32 of every other header
field, seeded with the *chain_crc* of the entry before: two logs that agree on it at one index agree
on everything up to there, and a stale entry left behind by a truncation or a recycled file never
fits the entry before it.

Segments have one fixed size and an entry never spans two of them (`place_entry`).
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING

import msgspec

from dledger.checksum import crc32
from dledger.errors import CorruptEntryError
from dledger.remoting.frame import FRAME_SIZE_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

Buffer = bytes | bytearray | memoryview

HEADER_SIZE = 48
FILLER_SIZE = 8  # least room kept behind every entry: magic and length of the blank
BLANK_MAGIC = -1
# Bytes of an entry, header and body: a follower gets it in one frame, behind the fields of the
# message (at most 200 bytes).
ENTRY_SIZE_MAX = FRAME_SIZE_MAX - 1024

_HEADER = struct.Struct(">iiqqqiIIi")
_CHAINED_HEAD = struct.Struct(">iiqqqi")  # the fields before chain_crc
_CHAINED_TAIL = struct.Struct(">Ii")  # the fields behind it
_CRC = struct.Struct(">I")
_FILLER = struct.Struct(">ii")


class EntryKind(enum.IntEnum):
    """The header's magic. Source: ``DLedgerEntryType``."""

    NORMAL = 1
    NOOP = 2  # a new leader's first entry; its body is empty


_KINDS = frozenset(map(int, EntryKind))


# Structs, as several of these are made for each entry: a frozen dataclass takes ten times as long.
class EntryHeader(msgspec.Struct, frozen=True, gc=False):
    """The header as it stands in the log, not yet checked."""

    kind: int
    size: int  # header and body, in bytes
    index: int
    term: int
    position: int  # of the header, in bytes from the start of the log
    channel: int
    chain_crc: int
    body_crc: int
    body_size: int


class EntryRef(msgspec.Struct, frozen=True, gc=False):
    """Where one entry lies; the same on every replica."""

    index: int  # Raft index, 1-based
    term: int
    position: int  # first byte of the header, counted from the start of the log
    size: int  # header and body, in bytes
    kind: int

    @property
    def end(self) -> int:
        """The byte behind the entry."""
        return self.position + self.size

    @property
    def body_position(self) -> int:
        """First byte of the body, counted from the start of the log."""
        return self.position + HEADER_SIZE


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry read back; *body* is a read-only view over the log, nothing is copied."""

    index: int
    term: int
    position: int  # of the header, in bytes from the start of the log
    size: int  # header and body, in bytes
    kind: int
    channel: int
    chain_crc: int
    body: memoryview

    @property
    def end(self) -> int:
        """The byte behind the entry."""
        return self.position + self.size

    @property
    def body_position(self) -> int:
        """First byte of the body, counted from the start of the log."""
        return self.position + HEADER_SIZE


class LogPoint(msgspec.Struct, frozen=True, gc=False):
    """A place between two entries: the last entry before it, and where the next may begin.

    Two logs with equal points hold the same bytes up to there.
    """

    index: int  # of the last entry; 0 at the start of a log
    term: int
    position: int  # the byte behind the last entry; its successor starts here or one segment on
    chain_crc: int


LOG_START = LogPoint(index=0, term=0, position=0, chain_crc=0)


def place_entry(end_position: int, *, entry_size: int, segment_size: int) -> int:
    """Return the position of an entry of *entry_size* bytes appended at *end_position*.

    It is *end_position* itself, or the start of the next segment when the entry and the filler do
    not fit the rest. A function of sizes alone, so that every replica arrives at the same bytes.

    Source: RocketMQ ``CommitLog.DefaultAppendMessageCallback`` (END_FILE_MIN_BLANK_LENGTH).
    """
    assert HEADER_SIZE <= entry_size <= segment_size - FILLER_SIZE
    room = segment_size - end_position % segment_size
    if entry_size + FILLER_SIZE > room:
        return end_position + room
    return end_position


def body_size_limit(segment_size: int) -> int:
    """Return the most bytes that an entry's body may have in a log of such segments."""
    return min(segment_size - FILLER_SIZE, ENTRY_SIZE_MAX) - HEADER_SIZE


def body_crc_of(body: Sequence[Buffer]) -> int:
    """Return the CRC-32 over *body*, whose parts follow one another."""
    crc = 0
    for part in body:
        crc = crc32(part, crc)
    return crc


def encode_header(
    *,
    kind: int,
    index: int,
    term: int,
    position: int,
    channel: int,
    previous_chain_crc: int,
    body_crc: int,
    body_size: int,
) -> tuple[bytes, int]:
    """Return the header's 48 bytes and the chain CRC in them."""
    head = _CHAINED_HEAD.pack(kind, HEADER_SIZE + body_size, index, term, position, channel)
    tail = _CHAINED_TAIL.pack(body_crc, body_size)
    chain_crc = crc32(tail, crc32(head, previous_chain_crc))
    return head + _CRC.pack(chain_crc) + tail, chain_crc


def decode_header(buffer: Buffer, offset: int = 0) -> EntryHeader:
    """Return the header at *offset* without checking it.

    Raises:
        CorruptEntryError: fewer than 48 bytes are left.
    """
    if len(buffer) - offset < HEADER_SIZE:
        raise CorruptEntryError(
            f"{len(buffer) - offset} bytes where an entry header takes {HEADER_SIZE}"
        )
    return EntryHeader(*_HEADER.unpack_from(buffer, offset))


def check_entry(
    buffer: Buffer, offset: int, *, after: LogPoint, position: int, size_max: int
) -> EntryHeader:
    """Return the header at *offset* once all of the entry there is proved to follow *after*.

    Args:
        buffer: holds the entry; it may end before the entry does, which is an error.
        offset: of the header in *buffer*, in bytes.
        after: the log so far.
        position: where `place_entry` puts an entry of this size, or *after*'s own position when
            that is to be checked here: the header must name the same.
        size_max: largest entry allowed, header included, in bytes.

    Raises:
        CorruptEntryError: names the index expected and the first field that is wrong.
    """
    return _checked(decode_header(buffer, offset), buffer, offset, after, position, size_max)


def _checked(
    header: EntryHeader,
    buffer: Buffer,
    offset: int,
    after: LogPoint,
    position: int,
    size_max: int,
) -> EntryHeader:
    """Return *header* once all of its entry is proved to be right; see `check_entry`."""
    index = after.index + 1
    if header.kind not in _KINDS:
        raise _wrong(index, "magic", header.kind, "1 or 2")
    if header.index != index:
        raise _wrong(index, "index", header.index, index)
    if not HEADER_SIZE <= header.size <= size_max:
        raise _wrong(index, "size", header.size, f"{HEADER_SIZE} to {size_max}")
    if header.body_size != header.size - HEADER_SIZE:
        raise _wrong(index, "body size", header.body_size, header.size - HEADER_SIZE)
    if header.position != position:
        raise _wrong(index, "position", header.position, position)
    if header.term < after.term:
        raise _wrong(index, "term", header.term, f"at least {after.term}")
    chained = crc32(buffer[offset : offset + 36], after.chain_crc)
    chained = crc32(buffer[offset + 40 : offset + HEADER_SIZE], chained)
    if header.chain_crc != chained:
        raise _wrong(index, "chain CRC", header.chain_crc, chained)
    if len(buffer) - offset < header.size:
        raise _wrong(index, "length", len(buffer) - offset, f"{header.size} bytes")
    body_crc = crc32(buffer[offset + HEADER_SIZE : offset + header.size])
    if header.body_crc != body_crc:
        raise _wrong(index, "body CRC", header.body_crc, body_crc)
    return header


def check_entries(
    raw: memoryview, *, after: LogPoint, segment_size: int
) -> tuple[list[EntryRef], LogPoint]:
    """Return where whole entries back to back that follow *after* lie, and the point behind them.

    Raises:
        CorruptEntryError: as `check_entry`; also for bytes left over behind the last entry.
    """
    refs: list[EntryRef] = []
    offset, end = 0, len(raw)
    size_max = segment_size - FILLER_SIZE
    while offset < end:
        header = decode_header(raw, offset)
        size, position = header.size, after.position
        if position % segment_size + size > size_max:
            # A size that no entry can have is found wrong below, wherever it would lie.
            position = place_entry(
                position,
                entry_size=min(max(size, HEADER_SIZE), size_max),
                segment_size=segment_size,
            )
        _checked(header, raw, offset, after, position, size_max)
        refs.append(EntryRef(header.index, header.term, position, size, header.kind))
        after = LogPoint(header.index, header.term, position + size, header.chain_crc)
        offset += size
    return refs, after


def point_behind(header: EntryHeader) -> LogPoint:
    """Return the point behind the entry of *header*."""
    return LogPoint(header.index, header.term, header.position + header.size, header.chain_crc)


def encode_filler(room: int) -> bytes:
    """Return the eight bytes that mark *room* bytes at the end of a segment as blank."""
    assert room >= FILLER_SIZE
    return _FILLER.pack(BLANK_MAGIC, room)


def is_filler(buffer: Buffer, offset: int, *, room: int) -> bool:
    """Whether *offset* marks exactly *room* bytes, the rest of its segment, as blank."""
    if len(buffer) - offset < FILLER_SIZE:
        return False
    marker: tuple[int, int] = _FILLER.unpack_from(buffer, offset)
    return marker == (BLANK_MAGIC, room)


def _wrong(index: int, field: str, found: object, expected: object) -> CorruptEntryError:
    return CorruptEntryError(f"entry {index}: {field} is {found}, expected {expected}")
