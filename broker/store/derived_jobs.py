"""The work of derived state that blocks, done beside the event loop.

A job has three steps: it is made on the loop of what is there now, runs in a thread and touches
files only, and finishes on the loop, when what it wrote is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.store.checkpoint import StateFiles
    from broker.store.consume_queue import DroppedUnits
    from broker.store.consume_queues import ConsumeQueues
    from broker.store.growing_files import GrowingFiles
    from broker.store.key_index import KeyIndex
    from broker.store.queue_files import QueueFiles, QueueKey


class Job(Protocol):
    """Work that blocks. Jobs run one at a time, in the order they were handed out."""

    def run(self) -> None:
        """Do it; blocking, beside the event loop.

        Raises:
            StorageFailedError: stop the node.
            LedgerFullError: there is no room; run the same job again when there may be. Until
                then messages are found through memory.
        """
        ...

    def finish(self) -> None:
        """Take note on the event loop that `run` is done."""
        ...


class FlushedSize:
    """Behind flushes: takes note that what they held is written."""

    def __init__(self, size: int, flushed: Callable[[int], None]) -> None:
        self._size = size
        self._flushed = flushed

    def run(self) -> None:
        """See `Job.run`; those before it did it."""

    def finish(self) -> None:
        """See `Job.finish`."""
        self._flushed(self._size)


class StateJob:
    """Writes the queues' units and the index's entries, then the state that counts on them."""

    def __init__(
        self,
        flushes: list[Job],
        files: list[QueueFiles | GrowingFiles],
        states: StateFiles,
        index: int,
        data: bytes,
        is_boundary: bool,
    ) -> None:
        self._flushes = flushes
        self._files = files
        self._states = states
        self._index = index
        self._data = data
        self._is_boundary = is_boundary
        self._superseded = states.take_superseded()

    def run(self) -> None:
        """See `Job.run`."""
        for flush in self._flushes:
            flush.run()
        for files in self._files:
            files.sync()
        self._states.write(self._index, self._data)
        self._states.unlink(self._superseded)

    def finish(self) -> None:
        """See `Job.finish`."""
        for flush in self._flushes:
            flush.finish()
        self._states.add(self._index, is_boundary=self._is_boundary)


class FindDroppedJob:
    """Finds where the queues begin since the log was dropped, before anything is removed.

    Removed by a second job, when the event loop has taken note and looks into no file any more that
    goes.
    """

    def __init__(
        self,
        queues: ConsumeQueues,
        dropped: list[DroppedUnits],
        then: Callable[[list[tuple[QueueKey, int]]], None],
    ) -> None:
        """Make it; *then* is called on the event loop with the queues that begin further on."""
        self._queues = queues
        self._dropped = dropped
        self._then = then
        self._found: list[tuple[int, int]] = []

    def run(self) -> None:
        """See `Job.run`."""
        self._found = self._queues.find_dropped(self._dropped)

    def finish(self) -> None:
        """See `Job.finish`."""
        self._then(self._queues.settle_dropped(self._dropped, self._found))


class DropJob:
    """Removes what belongs to records that are not held any more, by the log or by their queue."""

    def __init__(
        self,
        queues: ConsumeQueues,
        dropped: list[tuple[QueueKey, int]],
        states: StateFiles,
        state_indexes: list[int],
        key_index: KeyIndex,
        index_paths: list[str],
    ) -> None:
        self._queues = queues
        self._dropped = dropped
        self._states = states
        self._state_indexes = state_indexes
        self._key_index = key_index
        self._index_paths = index_paths
        self._unlinked: list[str] = []

    def run(self) -> None:
        """See `Job.run`."""
        self._unlinked = self._queues.unlink_dropped(self._dropped)
        self._key_index.files.unlink(self._index_paths)
        self._states.unlink(self._state_indexes)

    def finish(self) -> None:
        """See `Job.finish`."""
        self._queues.forget_files(self._unlinked)
