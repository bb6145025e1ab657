"""What a node's derived state lies in: taken up from the disk, or made anew where that fails.

    <folder>/state-<index>      metadata, producers and ends of queues after that entry
    <folder>/consumequeue/...   the units of the queues
    <folder>/keyindex/...       which records have which key

On start the newest usable state is taken and dispatch goes on behind it.  When the files of queues
or key index do not hold what the state says, everything is built again from the state at the log's
base, or from nothing when the log is whole: delete a folder, and the same bytes come back.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.store.checkpoint import StateFiles
from broker.store.consume_queues import ConsumeQueues
from broker.store.key_index import KeyIndex, shape_for
from broker.store.producers import ProducerTable
from broker.store.queue_files import QueueFiles
from broker.store.state_file import (
    CorruptStateError,
    decode_state,
    encode_state,
    payload_of_state,
)
from dledger.errors import CorruptStoreError

if TYPE_CHECKING:
    from broker.store.dispatch import MetadataMachine
    from broker.store.growing_files import GrowingFiles
    from broker.store.index_file import IndexShape
    from broker.store.log_view import LogView
    from broker.store.queue_files import QueueKey
    from broker.store.state_file import DerivedSnapshot
    from dledger.entry import LogPoint
    from dledger.store.disk import Disk

_log = logging.getLogger("broker.store")


class DerivedParts:
    """Queues, key index, producers, metadata, and the states of all of them on the disk."""

    def __init__(
        self,
        disk: Disk,
        folder: str,
        log: LogView,
        *,
        segment_size: int,
        metadata: MetadataMachine,
        units_per_file: int,
        index_shape: IndexShape | None,
    ) -> None:
        """Make empty ones; `take_up` is what is wanted."""
        self._folder = folder
        self._log = log
        self._segment_size = segment_size
        self._queue_files = QueueFiles(
            disk, f"{folder}/consumequeue", units_per_file=units_per_file
        )
        self.metadata = metadata
        self.queues = ConsumeQueues(self._queue_files)
        self.key_index = KeyIndex(
            disk,
            f"{folder}/keyindex",
            index_shape or shape_for(segment_size),
            segment_size=segment_size,
        )
        self.producers = ProducerTable()
        self.states = StateFiles(disk, folder)

    @property
    def files(self) -> list[QueueFiles | GrowingFiles]:
        """All that must be durable before a state may say what is in them."""
        return [self._queue_files, self.key_index.files]

    def state_after(self, point: LogPoint) -> bytes:
        """Return the state as it is now, *point* being where the last entry taken in ends."""
        return encode_state(
            point,
            queues=list(self.queues.snapshot()),
            producers=self.producers.snapshot(),
            metadata=self.metadata.snapshot(),
            floors=list(self.queues.floors()),
            key_index=self.key_index.snapshot(),
        )

    def read_state(self, index: int) -> bytes:
        """Return the state at one of `boundary_indexes`, for a peer; blocking.

        Raises:
            CorruptStoreError: it is damaged: a peer would take it for what the log amounts to.
        """
        data = self.states.read(index)
        try:
            payload_of_state(data)
        except CorruptStateError as error:
            raise CorruptStoreError(
                f"{self.states.path(index)}: {error}; stop the node, move its data folder aside "
                "and start it again: it is filled from its peers"
            ) from error
        return data

    def save_state_of_peer(self, data: bytes) -> LogPoint:
        """Keep a state a peer sent, durably, and return the point it leads to; blocking.

        Only when the log begins at that point, too, is `reopen` to be called.

        Raises:
            CorruptStateError: *data* is no state of this version.
        """
        try:
            point = decode_state(data).point
        except CorruptStateError as error:
            raise CorruptStateError(f"the state that the leader sent: {error}") from error
        self.states.write(point.index, data)
        self.states.add(point.index, is_boundary=True)
        return point

    def take_up(self, commit_index: int) -> LogPoint:
        """Forget everything in memory, take up what the disk holds, and return how far it goes.

        Blocking.  Entries up to *commit_index* are known to be committed.

        Raises:
            CorruptStoreError: the log begins behind its first entry and no state leads there.
        """
        base = self._log.base
        self.states.look(self._log, segment_size=self._segment_size)
        at_base = self._state_at(base)
        for index in self.states.indexes:
            if base.index <= index <= commit_index:
                snapshot = at_base
                if index != base.index:
                    snapshot = self.states.load(index, self._log.point_at(index))
                if snapshot is not None:
                    if self._load_files(snapshot, base, at_base):
                        self._restore(snapshot)
                        return snapshot.point
                    _log.warning(
                        "%s: the consume queues or the key index hold less; taking an older state",
                        self.states.path(index),
                    )
        return self._rebuild(base, at_base)

    def close(self) -> None:
        """Let go of the files."""
        self._queue_files.let_go()
        self.key_index.files.close()

    def _state_at(self, base: LogPoint) -> DerivedSnapshot | None:
        """Return the state that leads to *base*; None when there is no sound one, or no need."""
        if base.index == 0 or base.index not in self.states.indexes:
            return None
        return self.states.load(base.index, base)

    def _load_files(
        self, snapshot: DerivedSnapshot, base: LogPoint, at_base: DerivedSnapshot | None
    ) -> bool:
        """Take up queues and key index of *snapshot*, if their files hold as much; blocking."""
        index_files: int | None = 0  # begun before the base
        if base.index > 0 and at_base is None:
            index_files = None
        elif at_base is not None and at_base.key_index is not None:
            index_files = at_base.key_index.file_count
        return (
            snapshot.key_index is not None
            and self.queues.load(
                snapshot.queues,
                self._log,
                begins=_begins(at_base) if base.index else {},
                floors=snapshot.floors,
            )
            and self.key_index.load(
                snapshot.key_index,
                files_before=index_files,
                begin_position=base.position,
                end_position=snapshot.point.position,
            )
        )

    def _rebuild(self, base: LogPoint, snapshot: DerivedSnapshot | None) -> LogPoint:
        if base.index > 0 and snapshot is None:
            raise CorruptStoreError(
                f"{self._folder}: the log begins behind entry {base.index} and there is no sound "
                f"{self.states.path(base.index)}; stop the node, move its data folder aside and "
                "start it again: it is filled from its peers"
            )
        _log.info("%s: deriving everything from entry %d on", self._folder, base.index + 1)
        self.key_index.restart(None if snapshot is None else snapshot.key_index)
        if snapshot is None:
            self.queues.restart(())
            self.producers.restore([0, []])
            self.metadata.restore(None)
            return base
        self.queues.restart(snapshot.queues, floors=snapshot.floors)
        self._restore(snapshot)
        return snapshot.point

    def _restore(self, snapshot: DerivedSnapshot) -> None:
        try:
            self.producers.restore(snapshot.producers)
            self.metadata.restore(snapshot.metadata)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise CorruptStoreError(
                f"{self.states.path(snapshot.point.index)}: sound, yet not what this version "
                f"writes ({type(error).__name__}: {error}); start the version that wrote it"
            ) from error


def _begins(snapshot: DerivedSnapshot | None) -> dict[QueueKey, int] | None:
    """Return the first offset of each queue behind a state; None without a sound one."""
    if snapshot is None:
        return None
    return {(topic, queue_id): offset for topic, queue_id, offset in snapshot.queues}
