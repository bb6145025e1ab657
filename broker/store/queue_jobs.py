"""The work of consume queues that blocks; see `broker.store.derived_jobs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.store.runs import UNIT_SIZE

if TYPE_CHECKING:
    from broker.store.consume_queue import ConsumeQueue
    from broker.store.queue_files import QueueFiles, QueueKey


class QueueFlush:
    """Units on their way to the files; see `ConsumeQueues.begin_flush`."""

    def __init__(
        self,
        files: QueueFiles,
        parts: list[tuple[QueueKey, int, bytearray]],
        queues: list[ConsumeQueue],
        kept_count: int,
    ) -> None:
        """Make it.

        Args:
            files: where the units go.
            parts: key, first queue offset and units of each queue.
            queues: those in *parts*, in the same order.
            kept_count: units of each that stay in memory once they are written.
        """
        self._files = files
        self._parts = parts
        self._queues = queues
        self._kept_count = kept_count

    def run(self) -> None:
        """Write the units; blocking, beside the event loop.

        Raises:
            StorageFailedError: stop the node.
        """
        parts = sorted(self._parts)
        size = sum(len(units) for _, _, units in parts)
        # One after the other: all at once were half a kilobyte for each of thousands of queues.
        pieces = (piece for part in parts for piece in self._files.pieces(*part))
        self._files.write(pieces, size=size)

    def finish(self) -> None:
        """Take note on the event loop that `run` is done."""
        for queue, (_, begin, units) in zip(self._queues, self._parts, strict=True):
            queue.finish_flush(begin + len(units) // UNIT_SIZE, kept_count=self._kept_count)


class DeletedFiles:
    """Files of queues whose topic was deleted; see `ConsumeQueues.begin_unlink`."""

    def __init__(self, files: QueueFiles, keys: list[QueueKey]) -> None:
        self._files = files
        self._keys = keys
        self._unlinked: list[str] = []

    def run(self) -> None:
        """Remove them; blocking, beside the event loop."""
        self._unlinked = self._files.unlink_queues(self._keys)

    def finish(self) -> None:
        """Let go of the mappings on the event loop, now that `run` is done."""
        for path in self._unlinked:
            self._files.forget(path)
