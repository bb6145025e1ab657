"""Sends that were read together, a row each, on their way to the append queue.

What is the same for every send to one queue by one producer is a *target*, made with the first of
them; so nothing is put together or looked up twice for those that follow.  Sends to one target
whose numbers follow one another are a *run*: it is checked, appended and acknowledged as one.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

from broker.store import compiled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.store.producers import ProducerKey
    from dledger.durability import Durability

TARGETS_MAX = 65_536  # about 400 bytes each

# Where the records of a send begin in what was received, their bytes, how many they are, the opaque
# of the request, and its number among those that were read.
_ROW = struct.Struct("=qIIII")


class Target:
    """One producer and queue, as sends name them."""

    __slots__ = ("key", "level", "opened_as", "topic")

    def __init__(self, key: ProducerKey) -> None:
        self.key = key
        self.topic = key[1]
        # The configuration of the topic by which the queue was found to be open to sends.
        self.opened_as: object = None
        self.level: Durability | None = None  # that it asks for


class Targets:
    """The targets that were seen lately, by their bytes."""

    def __init__(self) -> None:
        self.by_bytes: dict[bytes, Target] = {}

    def make(self, packed: bytes, producer_id: int, topic: str, queue_id: int) -> Target:
        """Return a new target and remember it."""
        if len(self.by_bytes) >= TARGETS_MAX:
            self.by_bytes.clear()
        # Of all targets one object.
        target = self.by_bytes[packed] = Target((producer_id, sys.intern(topic), queue_id))
        return target


class SendRun(NamedTuple):
    """Sends to one target, each the next of its producer there behind the one before."""

    target: Target
    first_sequence: int  # the producer's number of the first record
    record_count: int
    size: int  # bytes of the records
    at: int  # where the records of the first send begin in what was received
    begin: int  # its row
    end: int  # behind the last one's


class SendRow(NamedTuple):
    """One send."""

    begin: int  # of its records in what was received
    size: int  # their bytes
    record_count: int
    opaque: int
    number: int  # among all that were read together, from 0


class ReadSends:
    """Sends whose records are sound, as runs; those of one target in their order."""

    __slots__ = ("data", "rows", "runs", "view")

    def __init__(self, data: bytes, runs: list[SendRun], rows: bytes) -> None:
        self.data = data
        self.view = memoryview(data)
        self.runs = runs
        self.rows = rows

    @property
    def count(self) -> int:
        """How many sends they are."""
        return len(self.rows) // _ROW.size

    def records(self, run: SendRun) -> memoryview | RunRecords:
        """Return the records of a run, not copied yet."""
        if run.end - run.begin == 1:
            return self.view[run.at : run.at + run.size]
        return RunRecords(self, run)

    def rows_of(self, run: SendRun) -> Iterator[SendRow]:
        """Yield each send of a run."""
        part = self.rows[run.begin * _ROW.size : run.end * _ROW.size]
        return map(SendRow._make, _ROW.iter_unpack(part))


class RunRecords:
    """The records of a run; see `Scattered`.

    What was received is kept until they are answered, as they may have to be handed on. Copied out
    of it at once they would lie in memory twice while they wait for room in the log.
    """

    __slots__ = ("_run", "_sends")

    def __init__(self, sends: ReadSends, run: SendRun) -> None:
        self._sends = sends
        self._run = run

    def __len__(self) -> int:
        return self._run.size

    def tobytes(self) -> bytes:
        """See `Scattered`."""
        sends, run = self._sends, self._run
        assert compiled.loops is not None, "nothing else reads them"
        return compiled.loops.records_of(sends.data, sends.rows, run.begin, run.end)
