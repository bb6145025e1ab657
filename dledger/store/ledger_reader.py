"""Reading the log between its base and its end.

Nothing is copied: what is returned are views over the mapped segments.  They stay readable for as
long as they are held, even when retention unlinks the file under them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dledger.entry import (
    FILLER_SIZE,
    HEADER_SIZE,
    Entry,
    EntryRef,
    LogPoint,
    check_entry,
    decode_header,
    point_behind,
)
from dledger.errors import CorruptEntryError, CorruptStoreError
from dledger.store.entry_index import EntryNotFoundError
from dledger.store.slot_file import REMEDY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dledger.store.entry_index import EntryIndex
    from dledger.store.mapped_file_queue import MappedFileQueue


class LedgerReader:
    """The half of `LedgerStore` that changes nothing.

    Attributes:
        base: the point before the first entry: that of the last entry dropped, or the log's start.
        end: the point behind the last entry.
        end_index: index of the last entry; ``base.index`` when the log is empty.
    """

    # Plain, though only `LedgerStore` may set them: they are read several times for each message.
    base: LogPoint
    end: LogPoint
    end_index: int

    def __init__(
        self, log: MappedFileQueue, index: EntryIndex, *, base: LogPoint, end: LogPoint
    ) -> None:
        self._log = log
        self._index = index
        self.base = base
        self._move_end(end)
        # Where the last few entries appended lie: these are asked for again and again at once.
        self._recent: dict[int, EntryRef] = {}

    def _move_end(self, end: LogPoint) -> None:
        """Let the log end with *end*: the one place where it does."""
        self.end = end
        self.end_index = end.index

    @property
    def begin_index(self) -> int:
        """Index of the first entry, were there one: ``base.index + 1``."""
        return self.base.index + 1

    @property
    def end_term(self) -> int:
        """Term of the last entry; the base's when the log is empty."""
        return self.end.term

    @property
    def end_position(self) -> int:
        """The byte behind the last entry."""
        return self.end.position

    @property
    def last_chain_crc(self) -> int:
        """Chain CRC of the last entry."""
        return self.end.chain_crc

    def term_at(self, index: int) -> int:
        """Return the term of entry *index*; the base's index is allowed.

        Raises:
            EntryNotFoundError: *index* lies before the base or behind the end.
        """
        if index == self.end.index:
            return self.end.term
        if index == self.base.index:
            return self.base.term
        return self.locate(index).term

    def locate(self, index: int) -> EntryRef:
        """Return where entry *index* lies.

        Raises:
            EntryNotFoundError: *index* lies outside the log.
            CorruptStoreError: the index file is damaged.
        """
        ref = self._recent.get(index)
        if ref is not None:
            return ref
        self._check_index(index)
        return self._index.read(index)

    def view(self, index: int) -> Entry:
        """Return entry *index*; its body is a read-only view, valid for as long as it is held.

        The bytes are not checked again; `verify` does that.

        Raises:
            EntryNotFoundError: *index* lies outside the log.
            CorruptStoreError: the header is not that of entry *index*.
        """
        ref = self.locate(index)
        raw = self._view(index, ref.position, ref.size)
        header = decode_header(raw)
        if header.index != index or header.position != ref.position or header.size != ref.size:
            raise CorruptStoreError(
                f"{self._log.find(ref.position).path}: entry {index} at position {ref.position} is "
                f"damaged; {REMEDY}"
            )
        return Entry(
            index=index,
            term=header.term,
            position=header.position,
            size=header.size,
            kind=header.kind,
            channel=header.channel,
            chain_crc=header.chain_crc,
            body=raw[HEADER_SIZE:],
        )

    def entries(self, first_index: int, last_index: int) -> Iterator[Entry]:
        """Yield the entries from *first_index* to *last_index*, both included."""
        for index in range(first_index, last_index + 1):
            yield self.view(index)

    def raw_range(self, first_index: int, *, size_max: int) -> tuple[memoryview, int]:
        """Return whole entries back to back, beginning with *first_index*, and the last's index.

        At least one entry, however large; otherwise no more than *size_max* bytes, and never
        beyond the segment of the first.

        Raises:
            EntryNotFoundError: *first_index* lies outside the log.
            CorruptStoreError: the index file is damaged.
        """
        if first_index == self.end_index and (last := self._recent.get(first_index)) is not None:
            # Mostly: what was appended just now, whose place nobody had to read.
            return self._log.last.newest(last.position, last.size), first_index
        first = self.locate(first_index)
        self._view(first_index, first.position, first.size)
        segment = self._log.find(first.position)
        limit = min(first.position + max(size_max, first.size), segment.end)
        last_index, end = self.end.index, self.end.position
        if end > limit:
            last = self._index.last_within(first_index, last_index, end_max=limit)
            last_index, end = last.index, last.end
        return self._view(first_index, first.position, end - first.position), last_index

    def bytes_at(self, position: int, size: int) -> memoryview:
        """Return *size* bytes of the log at *position*; they must lie in one segment.

        Raises:
            EntryNotFoundError: the range is not all between base and end, or in two segments.
        """
        if position % self._log.file_size + size > self._log.file_size:
            raise EntryNotFoundError(
                f"bytes {position} to {position + size} are in more than one segment"
            )
        if not self.base.position <= position <= position + size <= self.end.position:
            raise EntryNotFoundError(
                f"bytes {position} to {position + size} are not in the log, which holds "
                f"{self.base.position} to {self.end.position}"
            )
        return self._log.view(position, size)

    def point_at(self, index: int) -> LogPoint:
        """Return the point behind entry *index*; the base's index is allowed.

        Raises:
            EntryNotFoundError: *index* lies outside the log.
        """
        if index == self.base.index:
            return self.base
        entry = self.view(index)
        return LogPoint(index, entry.term, entry.end, entry.chain_crc)

    def first_index_of_term(self, term: int) -> int:
        """Return the first index whose term is at least *term*; ``end_index + 1`` if there is none.

        Terms never fall along the log, so this is a binary search.
        """
        return self._index.first_of_term(term, self.begin_index, self.end_index)

    def find_index_at_position(self, position: int) -> int:
        """Return the index of the entry that holds byte *position*.

        For a byte of a filler it is the entry behind the filler.

        Raises:
            EntryNotFoundError: *position* is not between base and end.
        """
        if not self.base.position <= position < self.end.position:
            raise EntryNotFoundError(
                f"position {position} is not in the log, which holds {self.base.position} to "
                f"{self.end.position}"
            )
        return self._index.first_ending_after(position, self.begin_index, self.end_index)

    def verify(self, first_index: int, last_index: int) -> None:
        """Check every byte of the entries *first_index* to *last_index*; blocking.

        Raises:
            CorruptStoreError: names file, position, index and field of the first damage.
        """
        point = self.point_at(first_index - 1)
        for index in range(first_index, last_index + 1):
            ref = self.locate(index)
            try:
                header = check_entry(
                    self._view(index, ref.position, ref.size),
                    0,
                    after=point,
                    position=ref.position,
                    size_max=self._log.file_size - FILLER_SIZE,
                )
            except CorruptEntryError as error:
                raise CorruptStoreError(
                    f"{self._log.find(ref.position).path}: damage at position {ref.position}: "
                    f"{error}; {REMEDY}"
                ) from error
            point = point_behind(header)

    def _check_index(self, index: int) -> None:
        if not self.base.index < index <= self.end.index:
            raise EntryNotFoundError(
                f"entry {index} is not in the log, which holds {self.begin_index} to "
                f"{self.end_index}"
            )

    def _view(self, index: int, position: int, size: int) -> memoryview:
        """Return the bytes where the index has entry *index*, once they can be an entry's.

        The index is believed only as far as the log reaches: its units carry no checksum.
        """
        segment_size = self._log.file_size
        if not (
            self.base.position <= position <= position + size <= self.end.position
            and HEADER_SIZE <= size <= segment_size - position % segment_size
        ):
            raise CorruptStoreError(
                f"{self._index.path_of(index)}: entry {index} at position {position} with {size} "
                f"bytes cannot be; stop the node, delete the folder {self._index.files.folder} and "
                "start: it is built again from the log"
            )
        return self._log.view(position, size)
