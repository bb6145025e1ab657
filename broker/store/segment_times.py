"""When the newest record of a segment was stored, as retention wants to know it.

The newest is the last one: an earlier record with a later time was stored by a leader whose clock
was ahead.  All records of an entry have one store time (`broker.store.commit_log`), so the last
entry with records tells; behind it there may be metadata and no-ops.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from broker.message import codec
from broker.message.batch import MARK_MAGIC, MARK_SIZE
from broker.store.log_view import CHANNEL_RECORDS
from dledger.entry import EntryKind
from dledger.store.retention import NEWEST_UNKNOWN

if TYPE_CHECKING:
    from broker.store.log_view import LogView
    from dledger.entry import Entry

LOOKED_AT_MAX = 2000  # entries at a time: some 5 ms of the event loop
KNOWN_MAX = 10_000  # segments

_MAGIC = struct.Struct(">4xI")
_TIME = struct.Struct(">q")


class SegmentTimes:
    """Looks from the end of a segment backwards, and remembers what it found."""

    def __init__(self, log: LogView) -> None:
        self._log = log
        # By the entries before the first and the last.
        self._known: dict[tuple[int, int], int | None] = {}
        self._looked_to: dict[tuple[int, int], int] = {}  # likewise: where to look on
        self._oldest_at = 0  # the entry to look at for the oldest record

    def newest_ms(self, after_index: int, upto_index: int) -> int | None:
        """See `dledger.store.housekeeping.StateKeeper`.

        Raises:
            CorruptStoreError: the entry is damaged: its age would be anything.
        """
        key = after_index, upto_index
        if key in self._known:
            return self._known[key]
        index = self._looked_to.pop(key, upto_index)
        least = max(after_index, index - LOOKED_AT_MAX)
        newest: int | None = None
        while index > least and newest is None:
            (entry,) = self._log.entries(index, index)
            newest = time_of(entry)
            index -= 1
        if newest is not None:
            self._log.verify(index + 1, index + 1)
        elif index > after_index:
            self._looked_to[key] = index
            return NEWEST_UNKNOWN
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[key] = newest
        return newest

    def oldest_ms(self) -> int | None:
        """Return when the oldest record of the log was stored, in ms since 1970 UTC.

        None without any, or as long as it has not been found among metadata.
        """
        first = max(self._oldest_at, self._log.base.index + 1)
        last = min(self._log.end_index, first + LOOKED_AT_MAX)
        for index in range(first, last + 1):
            (entry,) = self._log.entries(index, index)
            self._oldest_at = index
            if (oldest := time_of(entry)) is not None:
                return oldest
        return None

    def forget(self) -> None:
        """Take note that the log is another one, or begins elsewhere."""
        self._oldest_at = 0
        self._known.clear()
        self._looked_to.clear()


def time_of(entry: Entry) -> int | None:
    """Return when the records of *entry* were stored, in ms since 1970 UTC; None without any."""
    if entry.channel != CHANNEL_RECORDS or entry.kind == EntryKind.NOOP or not len(entry.body):
        return None
    (magic,) = _MAGIC.unpack_from(entry.body)
    at = MARK_SIZE if magic == MARK_MAGIC else 0
    (time_ms,) = _TIME.unpack_from(entry.body, at + codec.STORE_TIMESTAMP_OFFSET)
    return int(time_ms)
