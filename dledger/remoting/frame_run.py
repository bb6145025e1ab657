"""Requests that come back to back and differ in a few numbers only, read together.

A client with hundreds of small requests under way sends frames whose headers are alike byte for
byte but for the opaque and a sequence number or the like.  Read one by one they cost more than a
microsecond each; here the first is decoded, the others are proved to differ from it in nothing but
the value of such fields, and those are read by column.

What is found is a `FrameRun`.  It stands for exactly the commands that the frames would be one by
one, and whoever can do nothing with it asks for these.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np

from dledger.remoting.command import INT32_MAX, Command, SerializeType
from dledger.remoting.connection import LOOK_MIN
from dledger.remoting.frame import PREFIX_SIZE
from dledger.remoting.header_codec import MSGPACK_ARRAY, MSGPACK_ERRORS, decode_msgpack

if TYPE_CHECKING:
    from collections.abc import Iterator

IntArray = np.ndarray[Any, np.dtype[np.int64]]
ByteTable = np.ndarray[Any, np.dtype[np.uint8]]

_PREFIX = struct.Struct(">II")
_MSGPACK = SerializeType.MSGPACK.value
_OPAQUE_PLACE: Final = 2  # in the header's array
_EXT_FIELDS_PLACE: Final = 6

RUN_MIN = 64  # frames; fewer cost no less as columns

# First bytes of MessagePack's values, by the names of its specification.
_FIXMAP, _FIXARRAY, _FIXSTR, _NIL = 0x80, 0x90, 0xA0, 0xC0
_CONSTANT_SIZES = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
_UNSIGNED_SIZES = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_LENGTHS = {0xC4: 1, 0xC5: 2, 0xD9: 1, 0xDA: 2}  # bin 8, bin 16, str 8, str 16
_BINARY = (0xC4, 0xC5)


class _Span(NamedTuple):
    """Where the value of a field lies in a header, without the byte that says its type."""

    begin: int
    end: int
    is_number: bool  # else bytes
    is_small: bool  # a number of one byte that is its own type: 0 to 127


class _Shape:
    """Which bytes of a header may differ, and what they are."""

    def __init__(self, header: bytes) -> None:
        """Take a header that is known to be sound.

        Raises:
            ValueError: it has nested fields, or one twice, and cannot be read by column.
        """
        self.fields: dict[str, _Span] = {}
        at = 1
        spans = []
        for _ in range(_EXT_FIELDS_PLACE):
            span, at = _value(header, at)
            spans.append(span)
        opaque = spans[_OPAQUE_PLACE]
        if opaque is None or not opaque.is_number:
            raise ValueError("an opaque that is no number")
        self.opaque = opaque
        count, at = _map_count(header, at)
        for _ in range(count):
            name_at = at
            span, at = _value(header, at)
            if span is not None or header[name_at] == _NIL:
                raise ValueError("a key that is no text")
            name = _text(header, name_at, at)
            span, at = _value(header, at)
            if name in self.fields:
                raise ValueError("a field comes twice")
            if span is not None:
                self.fields[name] = span
        if at != len(header):
            raise ValueError("something follows the fields")


class FrameRun:
    """Requests that are equal but for their opaques, bodies, and the fields in `columns`.

    Attributes:
        first: the first of them.
        count: how many they are, at least `RUN_MIN`.
        opaques: of each.
        columns: values of the fields that are not the same in all, by name: an array of numbers, or
            a table with a row of bytes for each request.
        data: the received bytes.
        body_starts: where in them the body of each begins.
        body_sizes: bytes of the body of each.
    """

    __slots__ = (
        "_body_at",
        "_frame_size",
        "_starts",
        "body_sizes",
        "body_starts",
        "columns",
        "count",
        "data",
        "first",
        "opaques",
    )

    def __init__(
        self,
        data: bytes,
        starts: IntArray,
        sizes: IntArray,
        *,
        frame_size: int,
        first: Command,
        opaques: IntArray,
        columns: dict[str, np.ndarray[Any, Any]],
        body_at: int,
    ) -> None:
        self.data = data
        self._starts = starts
        self._frame_size = frame_size  # 0: they differ in size
        self._body_at = body_at  # in each frame
        self.count = len(starts)
        self.first = first
        self.opaques = opaques
        self.columns = columns
        self.body_starts = starts + body_at
        self.body_sizes = sizes - body_at

    @property
    def code(self) -> int:
        """What they ask for."""
        return self.first.code

    @property
    def begin(self) -> int:
        """Where the first frame begins in the received bytes."""
        return int(self._starts[0])

    @property
    def end(self) -> int:
        """Where the last frame ends in the received bytes."""
        return int(self._starts[-1]) + self._body_at + int(self.body_sizes[-1])

    def bodies(self, rows: IntArray | None = None) -> bytes:
        """Return the bodies of the requests numbered *rows*, back to back; None: of all."""
        if self._frame_size:
            begin = int(self._starts[0])
            table: ByteTable = np.ndarray(
                (self.count, self._frame_size), np.uint8, self.data, begin
            )
            bodies = table[:, self._body_at :]
            return (bodies if rows is None else bodies[rows]).tobytes()
        begins = self.body_starts
        ends = begins + self.body_sizes
        if rows is not None:
            begins, ends = begins[rows], ends[rows]
        data = self.data
        return b"".join(
            [data[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
        )

    def commands(self, rows: IntArray | None = None) -> list[Command]:
        """Return the requests numbered *rows*, each by itself; None: all."""
        starts = self._starts if rows is None else self._starts[rows]
        sizes = self.body_sizes if rows is None else self.body_sizes[rows]
        return list(self._each(starts.tolist(), sizes.tolist()))

    def _each(self, starts: list[int], body_sizes: list[int]) -> Iterator[Command]:
        data, view, body_at = self.data, memoryview(self.data), self._body_at
        for start, body_size in zip(starts, body_sizes, strict=True):
            command = decode_msgpack(data[start + PREFIX_SIZE : start + body_at])
            if not command.ext_fields:
                command.ext_fields = {}
            if body_size:
                command.body = view[start + body_at : start + body_at + body_size]
            yield command


class FrameGroup(Protocol):
    """Requests of one code, back to back, of which their handler has read more than a frame."""

    @property
    def code(self) -> int:
        """What they ask for."""
        ...

    @property
    def end(self) -> int:
        """Where the last frame ends in the received bytes."""
        ...

    def commands(self) -> list[Command]:
        """Return each request by itself."""
        ...


class FindOthers(Protocol):
    """Finds a `FrameGroup`."""

    def __call__(
        self, data: bytes, at: int, *, frame_size_max: int
    ) -> tuple[FrameGroup | None, int]:
        """Return the one that begins at *at* of *data*, and from where on to look for the next.

        None where there is none worth it.
        """
        ...


class RunFinder:
    """Finds runs in what one connection receives; remembers what its headers look like."""

    def __init__(self, find_others: FindOthers | None = None) -> None:
        """Begin with nothing seen.

        Args:
            find_others: finds requests that can be read together though no run begins with them.
        """
        self._find_others = find_others
        self._header = b""  # of which `_shape` is known
        self._shape: _Shape | None = None

    def find(self, data: bytes, at: int, *, frame_size_max: int) -> tuple[FrameGroup | None, int]:
        """Return what can be read together from *at* on; see `find_run`."""
        others_end = at
        if self._find_others is not None:
            others, others_end = self._find_others(data, at, frame_size_max=frame_size_max)
            if others is not None:
                return others, others_end
        length, _ = _PREFIX.unpack_from(data, at)
        if len(data) - at < RUN_MIN * (4 + length):
            return None, max(others_end, at + LOOK_MIN * (4 + length))
        found, seen_to = self.find_run(data, at, frame_size_max=frame_size_max)
        return found, max(seen_to, others_end)

    def find_run(self, data: bytes, at: int, *, frame_size_max: int) -> tuple[FrameRun | None, int]:
        """Return the run that begins at *at*, and from where on to look for the next one.

        None where there is no run worth it.  What was looked at in vain is not looked at again, so
        that frames which are never alike cost little more than without.

        Args:
            data: received bytes.
            at: where a frame begins that is whole, within its limits, and has a MSGPACK header.
            frame_size_max: bytes of the largest frame taken.
        """
        length, mark = _PREFIX.unpack_from(data, at)
        body_at = PREFIX_SIZE + (mark & 0xFFFFFF)
        starts, sizes, frame_size = _frames_alike(data, at, 4 + length, frame_size_max)
        seen_to = int(starts[-1] + sizes[-1])
        header = data[at + PREFIX_SIZE : at + body_at]
        if len(starts) < RUN_MIN or (shape := self._shape_of(header)) is None:
            return None, seen_to
        try:
            first = decode_msgpack(header)
        except MSGPACK_ERRORS:
            return None, seen_to  # by itself it will be refused
        count, opaques, columns = _columns(_heads(data, starts, len(header), frame_size), shape)
        if count < RUN_MIN:
            return None, seen_to
        if not first.ext_fields:
            first.ext_fields = {}
        if body_at != sizes[0]:
            first.body = memoryview(data)[at + body_at : at + int(sizes[0])]
        run = FrameRun(
            data,
            starts[:count],
            sizes[:count],
            frame_size=frame_size,
            first=first,
            opaques=opaques,
            columns=columns,
            body_at=body_at,
        )
        return run, run.end if 2 * count > len(starts) else seen_to

    def _shape_of(self, header: bytes) -> _Shape | None:
        """Return the shape of *header*, or the one remembered if it still fits."""
        if len(header) == len(self._header) and (shape := self._shape) is not None:
            known = bytearray(self._header)
            for span in (shape.opaque, *shape.fields.values()):
                if span is not None:
                    known[span.begin : span.end] = header[span.begin : span.end]
            if known == header and all(
                not span.is_small or header[span.begin] < _FIXMAP for span in shape.fields.values()
            ):
                return shape
        self._header, self._shape = header, None
        if header[:1] == bytes((MSGPACK_ARRAY,)):
            # One by one it is read, or refused, in any case.
            with contextlib.suppress(ValueError, IndexError):
                self._shape = _Shape(header)
        return self._shape


def _frames_alike(
    data: bytes, at: int, frame_size: int, frame_size_max: int
) -> tuple[IntArray, IntArray, int]:
    """Return begin and size of each frame from *at* on whose header is as long as the first's.

    At last the size of all, or 0 where they differ.
    """
    room = (len(data) - at) // frame_size
    # The first ones first: where they differ all the rest of *data* is not looked at.
    if room >= RUN_MIN and _alike_count(data, at, frame_size, RUN_MIN) == RUN_MIN:
        count = _alike_count(data, at, frame_size, room)
        return at + np.arange(count) * frame_size, np.full(count, frame_size), frame_size
    # They differ in size: from one to the next, then.
    unpack = _PREFIX.unpack_from
    _, wanted = unpack(data, at)
    least = PREFIX_SIZE - 4 + (wanted & 0xFFFFFF)
    most = frame_size_max - 4
    places = []
    end = len(data)
    while at <= end:
        places.append(at)
        if at > end - PREFIX_SIZE:
            break
        length, mark = unpack(data, at)
        if mark != wanted or not least <= length <= most:
            break
        at += 4 + length
    marks = np.array(places, np.int64)
    return marks[:-1], np.diff(marks), 0


def _alike_count(data: bytes, at: int, frame_size: int, count: int) -> int:
    """Return how many of *count* frames there would be have prefixes like the first."""
    prefixes = np.ndarray((count,), np.uint64, data, at, (frame_size,))
    differ = prefixes != prefixes[0]
    first = int(differ.argmax())
    return first if differ[first] else count


def _heads(data: bytes, starts: IntArray, size: int, frame_size: int) -> ByteTable:
    """Return the headers of the frames that begin at *starts*, a row for each."""
    if frame_size:
        at = int(starts[0]) + PREFIX_SIZE
        return np.ndarray((len(starts), size), np.uint8, data, at, (frame_size, 1))
    overlapping = np.ndarray((len(data) - size + 1,), f"V{size}", data, 0, (1,))
    return overlapping[starts + PREFIX_SIZE].view(np.uint8).reshape(-1, size)


def _columns(
    heads: ByteTable, shape: _Shape
) -> tuple[int, IntArray, dict[str, np.ndarray[Any, Any]]]:
    """Return how many headers differ from the first in values only, their opaques and fields."""
    differ = heads ^ heads[0]
    # Bits in which any differs, byte by byte: looking at each field of all took longer.
    changes = bytearray(np.bitwise_or.reduce(differ, axis=0))
    count = len(heads)
    opaques, count = _numbers(heads, shape.opaque, count)
    columns: dict[str, np.ndarray[Any, Any]] = {}
    may_change = [shape.opaque]
    for name, span in shape.fields.items():
        if not any(changes[span.begin : span.end]):
            continue
        may_change.append(span)
        if span.is_number:
            columns[name], count = _numbers(heads, span, count)
        else:
            columns[name] = heads[:, span.begin : span.end]
    for span in may_change:
        changes[span.begin : span.end] = bytes(span.end - span.begin)
    if any(changes):
        for span in may_change:
            differ[:, span.begin : span.end] = 0
        count = min(count, int(differ.any(axis=1).argmax()))
    # Opaques have a bound, as `Command` says.
    if int(opaques.max()) > INT32_MAX:
        count = min(count, int((opaques > INT32_MAX).argmax()))
    if count < len(heads):
        opaques = opaques[:count]
        columns = {
            name: column[:count]
            for name, column in columns.items()
            if (column[:count] != column[0]).any()
        }
    return count, opaques, columns


def _numbers(heads: ByteTable, span: _Span, count: int) -> tuple[IntArray, int]:
    """Return a number of each header, and how many of *count* are of the kind of the first."""
    size = span.end - span.begin
    if size == 1:
        values = heads[:, span.begin].astype(np.int64)
        wrong = values >= _FIXMAP if span.is_small else None
    else:
        part = np.ascontiguousarray(heads[:, span.begin : span.end])
        values = part.view(f">u{size}").reshape(-1).astype(np.int64)
        wrong = values < 0 if size == 8 else None  # beyond 63 bits: not by column
    if wrong is not None and wrong.any():
        count = min(count, int(wrong.argmax()))
    return values, count


def _value(header: bytes, at: int) -> tuple[_Span | None, int]:
    """Return the span of the value at *at*, if it may differ, and where the value ends.

    Raises:
        ValueError: an array or a map.
        IndexError: it is cut off.
    """
    kind = header[at]
    if kind < _FIXMAP:
        return _Span(at, at + 1, is_number=True, is_small=True), at + 1
    if (size := _UNSIGNED_SIZES.get(kind)) is not None:
        return _Span(at + 1, at + 1 + size, is_number=True, is_small=False), at + 1 + size
    if (size := _LENGTHS.get(kind)) is not None:
        begin = at + 1 + size
        end = begin + int.from_bytes(header[at + 1 : begin], "big")
        is_binary = kind in _BINARY
        return (_Span(begin, end, is_number=False, is_small=False) if is_binary else None), end
    if _FIXSTR <= kind < _NIL:
        return None, at + 1 + (kind & 0x1F)
    if kind >= 0xE0:
        return None, at + 1
    if (size := _CONSTANT_SIZES.get(kind)) is not None:
        return None, at + size
    raise ValueError(f"a value that begins with {kind:#x}")


def _map_count(header: bytes, at: int) -> tuple[int, int]:
    """Return how many fields the map at *at* has, none for nil, and where the first begins."""
    kind = header[at]
    if kind == _NIL:
        return 0, at + 1
    if _FIXMAP <= kind < _FIXARRAY:
        return kind & 0x0F, at + 1
    raise ValueError("more fields than a header of ours has")


def _text(header: bytes, at: int, end: int) -> str:
    """Return the text whose value begins at *at*: its type and length, then UTF-8."""
    kind = header[at]
    begin = at + 1 + _LENGTHS[kind] if kind in _LENGTHS else at + 1
    return header[begin:end].decode()
