"""A log in memory, and records to fill it with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.message.batch import encode_sizes
from broker.message.codec import encode_record
from broker.message.properties import encode_properties
from broker.store.chunk import Chunk, check_chunk
from broker.store.commit_log import RecordGroup
from broker.store.producers import ProducerTable
from dledger.entry import (
    HEADER_SIZE,
    LOG_START,
    Entry,
    EntryKind,
    LogPoint,
    body_crc_of,
    encode_header,
    place_entry,
)
from dledger.store.entry_index import EntryNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from broker.store.append_state import AppendState

STORE_HOST = bytes([127, 0, 0, 1, 0, 0, 0x2A, 0x9F])


class FixedClock:
    """Stands still unless a test moves it."""

    def __init__(self, wall_ms: int = 1_700_000_000_000) -> None:
        self.ms = wall_ms

    def now(self) -> float:
        return self.ms / 1000

    def wall_ms(self) -> int:
        return self.ms

    def local_hour(self) -> int:
        return self.wall_ms() // 3_600_000 % 24


class MemoryLog:
    """Entries in a list; see `broker.store.log_view.LogView`."""

    def __init__(self, *, segment_size: int = 1 << 20) -> None:
        self.segment_size = segment_size
        self.base = LOG_START
        self._entries: list[Entry] = []
        self._bytes: dict[int, bytearray] = {}

    @property
    def end(self) -> LogPoint:
        if not self._entries:
            return self.base
        last = self._entries[-1]
        return LogPoint(last.index, last.term, last.end, last.chain_crc)

    @property
    def end_index(self) -> int:
        return self.end.index

    @property
    def end_position(self) -> int:
        return self.end.position

    def position_for(self, body_size: int) -> int:
        return place_entry(
            self.end.position,
            entry_size=HEADER_SIZE + body_size,
            segment_size=self.segment_size,
        )

    def append(
        self,
        body: bytes | bytearray,
        *,
        channel: int = 0,
        kind: int = EntryKind.NORMAL,
        term: int = 1,
    ) -> Entry:
        position = self.position_for(len(body))
        end = self.end
        segment = self._bytes.setdefault(
            position // self.segment_size, bytearray(self.segment_size)
        )
        at = position % self.segment_size + HEADER_SIZE
        segment[at : at + len(body)] = body
        header, chain_crc = encode_header(
            kind=kind,
            index=end.index + 1,
            term=term,
            position=position,
            channel=channel,
            previous_chain_crc=end.chain_crc,
            body_crc=body_crc_of([body]),
            body_size=len(body),
        )
        segment[at - HEADER_SIZE : at] = header
        view = memoryview(segment).toreadonly()[at : at + len(body)]
        entry = Entry(
            index=end.index + 1,
            term=term,
            position=position,
            size=HEADER_SIZE + len(body),
            kind=kind,
            channel=channel,
            chain_crc=chain_crc,
            body=view,
        )
        self._entries.append(entry)
        return entry

    def entries(self, first_index: int, last_index: int) -> Iterator[Entry]:
        for index in range(first_index, last_index + 1):
            yield self._entries[index - self.base.index - 1]

    def point_at(self, index: int) -> LogPoint:
        if index == self.base.index:
            return self.base
        (entry,) = self.entries(index, index)
        return LogPoint(entry.index, entry.term, entry.end, entry.chain_crc)

    def bytes_at(self, position: int, size: int) -> memoryview:
        if (
            not self.base.position <= position <= position + size <= self.end.position
            or position % self.segment_size + size > self.segment_size
        ):
            raise EntryNotFoundError(f"bytes {position} to {position + size} are not in the log")
        segment = self._bytes[position // self.segment_size]
        at = position % self.segment_size
        return memoryview(segment).toreadonly()[at : at + size]

    def verify(self, first_index: int, last_index: int) -> None:
        """Nothing in memory is ever damaged."""

    def truncate_from(self, index: int) -> None:
        del self._entries[index - self.base.index - 1 :]

    def drop_before(self, position: int) -> None:
        """Drop whole segments below *position*."""
        start = position // self.segment_size * self.segment_size
        while self._entries and self._entries[0].position < start:
            entry = self._entries.pop(0)
            self.base = LogPoint(entry.index, entry.term, entry.end, entry.chain_crc)
        self._bytes = {
            number: data
            for number, data in self._bytes.items()
            if number * self.segment_size >= start
        }


class NothingDispatched:
    """Dispatch that has not begun; see `broker.store.append_state.Dispatched`."""

    def __init__(self) -> None:
        self.dispatched_index = 0
        self.producers = ProducerTable()

    def next_queue_offset(self, topic: str, queue_id: int) -> int:
        return 0


def make_record(
    body: bytes = b"hello",
    *,
    topic: str = "orders",
    queue_id: int = 0,
    properties: dict[str, str] | None = None,
    system_flag: int = 0,
) -> bytes:
    return encode_record(
        topic=topic.encode(),
        queue_id=queue_id,
        body=body,
        properties=encode_properties(properties or {}),
        system_flag=system_flag,
        born_timestamp_ms=1_600_000_000_000,
    )


def make_chunk(
    bodies: Sequence[bytes],
    *,
    topic: str = "orders",
    queue_id: int = 0,
    properties: dict[str, str] | Sequence[dict[str, str]] | None = None,
) -> Chunk:
    """Return records with *properties*: the same for all, or those of each."""
    each = properties if isinstance(properties, list) else [properties] * len(bodies)
    records = [
        make_record(body, topic=topic, queue_id=queue_id, properties=own)
        for body, own in zip(bodies, each, strict=True)
    ]
    return check_chunk(
        b"".join(records),
        encode_sizes([len(record) for record in records]),
        topic=topic,
        queue_id=queue_id,
    )


def new_group(state: AppendState, clock: FixedClock | None = None) -> RecordGroup:
    return RecordGroup(
        state, clock=clock or FixedClock(), store_host=STORE_HOST, body_size_max=1 << 22
    )


def append_group(log: MemoryLog, group: RecordGroup) -> Entry:
    position = log.position_for(group.body_size)
    (body,) = group.encode(position)
    return log.append(body)


def damage_units(queue, at, data):
    """Put *data* over units that are written and still in memory, *at* bytes into them."""
    damaged = bytearray(queue._kept)
    damaged[at : at + len(data)] = data
    queue._kept = bytes(damaged)
