"""What becomes one entry of the log, and who waits for it.

Most sends hear at the commit.  Those that asked for another level of durability hear when their
own level is reached, before the commit or after it, whatever else is in the entry.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import msgpack

from broker.store.log_view import CHANNEL_METADATA, CHANNEL_RECORDS
from dledger.entry import HEADER_SIZE
from dledger.errors import LedgerError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.store.append_queue import AppendQueue
    from broker.store.commit_log import Receipt, RecordGroup
    from dledger.durability import Durability
    from dledger.remoting.command import Buffer

logger = logging.getLogger(__name__)


class Put(Protocol):
    """Somebody whose records are to be appended; hears the end by exactly one of the two calls."""

    def succeeded(self, receipt: Receipt, reached: Durability) -> None:
        """Hear where the records are, and how well they are kept: no less than *reached*.

        That may be less than what was asked for, where it was not to be had in time.
        """
        ...

    def failed(self, error: LedgerError) -> None:
        """Hear that they were not written, or that nobody knows (`OutcomeUnknownError`)."""
        ...


class ManyPut(Protocol):
    """As `Put`, of sends that were read together."""

    def succeeded(self, receipts: list[Receipt], reached: Durability) -> None:
        """Hear where the records of each send are, in their order."""
        ...

    def failed(self, error: LedgerError) -> None:
        """See `Put`."""
        ...


class RecordProposal:
    """One entry of records, and those who wait for it."""

    channel = CHANNEL_RECORDS

    def __init__(self, queue: AppendQueue, group: RecordGroup) -> None:
        self._queue = queue
        self.group = group
        self.body_size = group.body_size  # see `Proposal`; asked for again and again
        self._puts: list[Put | ManyPut] = []
        self._levels: list[Durability | None] | None = None  # None: all hear at the commit
        self._told: set[Durability] = set()  # levels whose puts have heard
        self._is_acknowledged = False  # some of them that all is well

    def add(self, put: Put | ManyPut, level: Durability | None) -> None:
        """Take the put whose chunk the group took last; *level* None: it hears at the commit.

        A `ManyPut` where that were sends read together.
        """
        if level is not None and self._levels is None:
            self._levels = [None] * len(self._puts)
        self.body_size = self.group.body_size
        self._puts.append(put)
        if self._levels is not None:
            self._levels.append(level)

    @property
    def put_count(self) -> int:
        """How many have put records in."""
        return len(self._puts)

    def encode(self, body_position: int) -> Sequence[Buffer]:
        """See `Proposal`."""
        return self.group.encode(body_position - HEADER_SIZE)

    def on_appended(self, index: int, term: int) -> None:
        """See `Proposal`."""
        if self._levels is not None:
            for level in dict.fromkeys(level for level in self._levels if level is not None):
                self._queue.await_level(index, level, self._level_reached(level))

    def _level_reached(self, level: Durability) -> Callable[[Durability | None], None]:
        def reached(found: Durability | None) -> None:
            self._told.add(level)
            self._is_acknowledged |= found is not None
            assert self._levels is not None
            for put, own, receipt in zip(
                self._puts, self._levels, self.group.receipts, strict=True
            ):
                if own != level:
                    continue
                if found is None:
                    put.failed(_lost(level))
                else:
                    put.succeeded(receipt, found)
            self._queue.told_some()

        return reached

    def on_committed(self, index: int, term: int) -> None:
        """See `AppendProposal`."""
        reached = self._queue.commit_durability
        receipts = self.group.receipts
        if self._levels is None:
            for put, receipt in zip(self._puts, receipts, strict=True):
                put.succeeded(receipt, reached)
        else:
            for put, level, receipt in zip(self._puts, self._levels, receipts, strict=True):
                if level is None:
                    put.succeeded(receipt, reached)
        self._queue.group_finished()

    def on_failed(self, error: LedgerError) -> None:
        """See `AppendProposal`."""
        for number, put in enumerate(self._puts):
            level = None if self._levels is None else self._levels[number]
            # Waits end when the lead is lost, which is before this, and tell nobody twice.
            if level is None or level not in self._told:
                put.failed(error)
        if self._is_acknowledged:
            logger.warning(
                "sends were acknowledged with the copy of this leader, and may be lost: %s", error
            )
        self._queue.group_failed()


def _lost(level: Durability) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"the lead was lost before the message had reached {level}; it may still be written"
    )


class CommandProposal:
    """One entry of metadata commands, and those who wait for it."""

    channel = CHANNEL_METADATA

    def __init__(self, queue: AppendQueue) -> None:
        self._queue = queue
        self._packed: list[bytes] = []
        self._size = 0
        self._waiting: list[Callable[[int, LedgerError | None], None]] = []

    @property
    def body_size(self) -> int:
        """See `Proposal`."""
        return self._size + len(self._head())

    def _head(self) -> bytes:
        return msgpack.Packer().pack_array_header(len(self._packed))

    def add(self, packed: bytes, done: Callable[[int, LedgerError | None], None]) -> int:
        """Take one command that is packed already; return its number in the entry, from 0."""
        self._packed.append(packed)
        self._size += len(packed)
        self._waiting.append(done)
        return len(self._packed) - 1

    def encode(self, body_position: int) -> Sequence[Buffer]:
        """See `Proposal`."""
        return [b"".join([self._head(), *self._packed])]

    def on_appended(self, index: int, term: int) -> None:
        """See `Proposal`."""

    def on_committed(self, index: int, term: int) -> None:
        """See `AppendProposal`."""
        for done in self._waiting:
            done(index, None)
        self._queue.group_finished()

    def on_failed(self, error: LedgerError) -> None:
        """See `AppendProposal`."""
        for done in self._waiting:
            done(0, error)
        self._queue.group_failed()
