"""The half of the log that grows: entries appended, and room made for them ahead.

Nothing here waits for the disk but `LedgerWriter.prepare_next`, which a worker calls: a segment and
an index file stand ready before they are needed, and `has_room` says whether they do.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from dledger.config import FlushDiskType
from dledger.entry import (
    FILLER_SIZE,
    HEADER_SIZE,
    EntryRef,
    LogPoint,
    body_crc_of,
    check_entries,
    decode_header,
    encode_filler,
    encode_header,
    place_entry,
    point_behind,
)
from dledger.store.ledger_reader import LedgerReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dledger.config import StoreConfig
    from dledger.entry import Buffer
    from dledger.store.mapped_file import MappedFile
    from dledger.store.recovery import RecoveredLog

# The next segment is prepared when less than this is left in the last one (or less than half of
# it): twice the largest frame a peer or client may send.
_ROOM_AHEAD = 32 * 1024 * 1024
# So much of the last segment has to be filled before the next one is made, where the disk has room
# for it, and before zeros are written to that.  From there on a mebibyte and a quarter for each
# mebibyte appended: they end just before it is taken, and no moment belongs to zeros alone.
_FILLED_FIRST = 1 / 8
_ZEROS_PER_BYTE = 5 / 4
# Who has so much still to copy is far behind: twice what a leader has on its way to a follower.
_FAR_BEHIND = 32 * 1024 * 1024
# An entry of up to so many bytes may be on its way to followers before it is written here.
_LATER_SIZE_MAX = 8 * 1024
RECENT_MAX = 4  # entries of which it is kept where they lie


class LedgerWriter(LedgerReader):
    """A log that entries are appended to; see `LedgerStore`."""

    durable_index: int

    def __init__(self, config: StoreConfig, found: RecoveredLog) -> None:
        self._config = config
        self._counts_unsynced = config.flush_disk_type is FlushDiskType.ASYNC_FLUSH
        self._through_map = config.writes_through_map
        self._may_write_later = not (self._counts_unsynced or self._through_map)
        self._segment_size = config.segment_size
        self._appended_count = 0
        self._appended_size = 0
        self._spares_wanted = 1  # segments to have ready: two where an entry fills one
        self._coming_end = 0  # about up to here there are entries to be copied
        self._copied: deque[MappedFile] = deque()  # full of copies, and in the cache as yet
        super().__init__(found.log, found.index, base=found.checkpoint.base, end=found.end)

    def _move_end(self, end: LogPoint) -> None:
        self.end = end
        self.end_index = end.index
        if self._counts_unsynced:
            self.durable_index = end.index

    def position_for(self, body_size: int) -> int:
        """Return where the header of the next entry lands if its body has *body_size* bytes."""
        return place_entry(
            self.end.position,
            entry_size=HEADER_SIZE + body_size,
            segment_size=self._config.segment_size,
        )

    def append(
        self,
        *,
        kind: int,
        channel: int,
        term: int,
        body: Sequence[Buffer],
        body_size: int,
        may_wait: bool = False,
    ) -> EntryRef:
        """Append one entry as leader and return where it lies; it is not durable yet.

        Allocates (and then blocks) only when the caller ignored `has_room` and `needs_prepare`.

        Args:
            kind: an `EntryKind`.
            channel: who reads the body.
            term: the leader's; never below `end_term`.
            body: parts that follow one another, each a flat buffer of bytes.
            body_size: bytes of all parts together; at most ``segment_size - 56``.
            may_wait: with SYNC_FLUSH a small one is written by `write_out`, or as soon as it is
                read, or synced. Followers can be sent it before: they have more to do for it.

        Raises:
            LedgerFullError: nothing was appended: the disk has no room for another segment.
            StorageFailedError: the write failed; stop the process.
        """
        assert term >= self.end.term, f"term {term} falls below {self.end.term}"
        assert sum(map(len, body)) == body_size
        index = self.end.index + 1
        size = HEADER_SIZE + body_size
        position = self.position_for(body_size)
        header, chain_crc = encode_header(
            kind=kind,
            index=index,
            term=term,
            position=position,
            channel=channel,
            previous_chain_crc=self.end.chain_crc,
            body_crc=body_crc_of(body),
            body_size=body_size,
        )
        ref = EntryRef(index, term, position, size, kind)
        if may_wait and size <= _LATER_SIZE_MAX and self._may_write_later:
            part = b"".join((header, *body))
            self._write_run((part,), (ref,), is_copy=False, later=True)
        else:
            self._write_run([header, *body], [ref], is_copy=False)
        self._move_end(LogPoint(index, term, position + size, chain_crc))
        return ref

    def write_out(self) -> None:
        """Write what `append` has left to be written; nobody may be told of it before.

        Raises:
            StorageFailedError: the write failed; stop the process.
        """
        self._log.last.write_out()

    def append_raw(self, raw: memoryview, *, coming_size: int = 0) -> list[EntryRef]:
        """Append whole entries back to back, as `raw_range` of the leader gave them.

        Nothing is written unless every entry is whole and follows the one before.

        Args:
            raw: the entries.
            coming_size: bytes, about, of committed entries behind them.  Where that is much this
                is a copy that nobody waits for, in large pieces.  Unless it goes through the map
                these cost no more into blocks that were never written: they need no zeros ahead.

        Raises:
            CorruptEntryError: names the index and the first field that is wrong.
            LedgerFullError: no room for another segment; the entries before it may stand.
            StorageFailedError: the write failed; stop the process.
        """
        refs, end = check_entries(raw, after=self.end, segment_size=self._segment_size)
        is_copy = False
        if not self._through_map:
            self._coming_end = end.position + coming_size
            is_copy = coming_size >= _FAR_BEHIND
        rest = refs
        while rest and rest[0].position + len(raw) != end.position:
            # A segment ends among them.
            size, count = 0, 0
            while rest[count].position == rest[0].position + size:
                size += rest[count].size
                count += 1
            self._write_run((raw[:size],), rest[:count], is_copy=is_copy)
            self._move_end(point_behind(decode_header(raw, size - rest[count - 1].size)))
            raw, rest = raw[size:], rest[count:]
        if rest:
            self._write_run((raw,), rest, is_copy=is_copy)
            self._move_end(end)
        return refs

    def has_room(self, body_size: int) -> bool:
        """Whether an entry of *body_size*, and a no-op behind it, fit without allocating."""
        segment_size = self._segment_size
        end = self.end
        if end.position % segment_size + 2 * HEADER_SIZE + body_size + 2 * FILLER_SIZE <= (
            segment_size
        ):
            # Mostly: both fit what is left of the segment.
            self._spares_wanted = 1
            return self._index.has_room(end.index + 2)
        if HEADER_SIZE + body_size > segment_size - FILLER_SIZE:
            return False
        entry = self.position_for(body_size)
        no_op = place_entry(
            entry + HEADER_SIZE + body_size, entry_size=HEADER_SIZE, segment_size=segment_size
        )
        new_segments = (no_op - self._log.last.position) // segment_size
        # An entry as large as a segment takes one and leaves its no-op to another.
        self._spares_wanted = max(1, new_segments)
        return new_segments <= self._log.spare_count and self._index.has_room(self.end_index + 2)

    def fits(self, entry_size: int, *, entry_count: int) -> bool:
        """Whether entries of together *entry_size* bytes, in one segment, fit as they are.

        For a follower: where its entries lie, and that a no-op has room behind them, was settled
        by the leader.
        """
        end = self.end
        if end.position % self._segment_size + entry_size + FILLER_SIZE <= self._segment_size:
            self._spares_wanted = 1
            return self._index.has_room(end.index + entry_count)
        if entry_size > self._config.segment_size - FILLER_SIZE:
            return False
        position = self.position_for(entry_size - HEADER_SIZE)
        new_segments = (position - self._log.last.position) // self._config.segment_size
        self._spares_wanted = max(1, new_segments)
        return new_segments <= self._log.spare_count and self._index.has_room(
            self.end_index + entry_count
        )

    @property
    def needs_prepare(self) -> bool:
        """Whether a worker should call `prepare_next` now."""
        room = self._log.last.end - self.end.position
        ahead = max(self._config.segment_size // 2, _ROOM_AHEAD)
        return (
            self._log.spare_count < self._spares_wanted and room < ahead
        ) or self._index.needs_prepare(self.end_index)

    @property
    def may_prepare(self) -> bool:
        """Whether `prepare_next` is of use already; there is no harm if it fails."""
        return self._log.spare_count == 0 and self._filled_beyond_first > 0

    @property
    def owes_zeros(self) -> bool:
        """Whether a worker should call `zero_more`: the next segment lags behind this one."""
        log = self._log
        return log.zeroed_size < min(log.file_size, self._filled_beyond_first * _ZEROS_PER_BYTE)

    def zero_more(self) -> None:
        """Write zeros to another piece of the next segment; see `MappedFileQueue.zero_more`."""
        self._log.zero_more()

    def prepare_next(self) -> None:
        """Allocate a segment and an index file ahead of their use; blocking, any thread.

        Raises:
            LedgerFullError: no room; names path, bytes wanted and bytes free. Call again later.
        """
        # Whether all of it will be filled by what is to be copied, if that is as much as it seems.
        is_for_copies = self._coming_end >= self._log.last.end + self._segment_size
        self._log.prepare_spare(wanted=self._spares_wanted, is_for_copies=is_for_copies)
        self._index.prepare_spare()

    def take_copied(self, index: int) -> list[MappedFile]:
        """Return the segments that are full of copies, and of entries up to *index*, each once.

        They may leave the cache: whoever wants what is so old seldom comes to this very member.
        """
        taken: list[MappedFile] = []
        copied = self._copied
        if copied and index > self.base.index:
            end = self.locate(index).end
            while copied and copied[0].end <= end:
                taken.append(copied.popleft())
        return taken

    # -- inside -----------------------------------------------------------------------------------

    @property
    def _filled_beyond_first(self) -> float:
        """How many bytes of the last segment are filled beyond that part, or below 0."""
        return self.end.position - self._log.last.position - self._segment_size * _FILLED_FIRST

    def _write_run(
        self,
        parts: Sequence[Buffer],
        refs: Sequence[EntryRef],
        *,
        is_copy: bool,
        later: bool = False,
    ) -> None:
        """Write entries that lie back to back in one segment, then their index units.

        With *later* what is one part; its unit may be there before it, as it may be after a crash.
        """
        first, last = refs[0], refs[-1]
        self._index.reserve(last.index)
        file = self._log.last
        if first.position >= file.end:
            file = self._roll(file)
        file.holds_new |= not is_copy
        if later:
            (entry,) = parts
            file.write_later(first.position, entry)
        else:
            file.write(first.position, parts, through_map=self._through_map)
        self._index.write(refs)
        recent = self._recent
        if first is not last:
            recent.clear()
        recent.pop(last.index - RECENT_MAX, None)
        recent[last.index] = last
        self._appended_count += last.index - first.index + 1
        self._appended_size += last.position + last.size - first.position

    def _roll(self, full: MappedFile) -> MappedFile:
        # The new segment first: without it nothing may change.
        file = self._log.roll()
        filler = encode_filler(full.end - self.end.position)
        full.write(self.end.position, [filler], through_map=self._through_map)
        if not full.holds_new:
            self._copied.append(full)
        return file


__all__ = ["LedgerWriter"]
