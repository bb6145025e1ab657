"""The log as this room sees it: `dledger.store.ledger_store.LedgerStore` fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dledger.entry import Entry, LogPoint

CHANNEL_RECORDS = 0  # body: commit-log records and producer marks, back to back
CHANNEL_METADATA = 1  # body: one msgpack array of commands


class LogView(Protocol):
    """Entries between the base and the end of one node's log; committed or not."""

    @property
    def base(self) -> LogPoint:
        """The point before the first entry."""
        ...

    @property
    def end_index(self) -> int:
        """Index of the last entry; that of `base` when the log is empty."""
        ...

    @property
    def end_position(self) -> int:
        """The byte behind the last entry."""
        ...

    def entries(self, first_index: int, last_index: int) -> Iterator[Entry]:
        """Yield the entries from *first_index* to *last_index*, both included."""
        ...

    def point_at(self, index: int) -> LogPoint:
        """Return the point behind entry *index*; the base's index is allowed."""
        ...

    def bytes_at(self, position: int, size: int) -> memoryview:
        """Return *size* bytes at *position*, all in one segment, read-only and uncopied."""
        ...

    def verify(self, first_index: int, last_index: int) -> None:
        """Check every byte of the entries *first_index* to *last_index*.

        Raises:
            CorruptStoreError: names file, position, index and field of the first damage.
        """
        ...
