"""Reads messages: ``async for`` over all queues of a topic, in order within each queue.

Messages are pulled ahead in the background and handed out batch by batch, the queues taking turns.
The *position* of a queue is the offset of the next message to hand out.  A message is *done* when
its receiver comes back for the next one, and what is done is committed from time to time, so that
after a crash the group goes on with the messages that were not, and perhaps with a few that were.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from broker.client.errors import ClientError, ClosedError
from broker.client.queue_reader import QueueReader
from broker.errors import InvalidMessageError, NoPermissionError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from broker.client.offsets import Offsets
    from broker.client.records import Message
    from broker.client.requests import Requests
    from broker.client.routes import RouteCache

PULL_SIZE_MIN = 64 * 1024  # bytes of records one pull may bring
PULL_SIZE_MAX = 4 * 1024 * 1024

_LOG = logging.getLogger("broker.client")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """Where a consumer starts, how far it reads ahead, and how often it commits."""

    start: str | int = "committed"  # or "first", "last", or an offset for every queue
    prefetch_bytes: int = 4 * 1024 * 1024  # bytes pulled ahead, all queues together
    commit_interval: float = 1.0  # seconds
    poll_wait: float = 15.0  # seconds a node may hold a pull until something arrives

    def __post_init__(self) -> None:
        if isinstance(self.start, str) and self.start not in ("committed", "first", "last"):
            raise ValueError(
                f'start = {self.start!r}: use "committed", "first", "last" or a queue offset'
            )
        if isinstance(self.start, int) and self.start < 0:
            raise ValueError(f"start = {self.start}: a queue offset is at least 0")
        for name in ("prefetch_bytes", "commit_interval", "poll_wait"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")


class _Queue:
    """How far one queue has come on its way through the consumer."""

    __slots__ = ("committed", "done", "handed_out", "reader")

    def __init__(self, reader: QueueReader, start: int) -> None:
        self.reader = reader
        self.handed_out = start  # the position: offset of the next message to hand out
        self.done = start  # everything below has been dealt with
        self.committed = start  # what the group's leader has been told


class Consumer:
    """Reads one topic for one group; open one with ``async with client.consumer(...) as consumer``.

    One task iterates: ``async for message in consumer``.
    """

    def __init__(
        self,
        group: str,
        topic: str,
        *,
        queues: Iterable[int] | None,
        nursery: trio.Nursery,
        requests: Requests,
        routes: RouteCache,
        offsets: Offsets,
        options: ConsumerOptions,
    ) -> None:
        self.group = group
        self.topic = topic
        self.options = options
        self._wanted_queues = None if queues is None else tuple(queues)
        self._nursery = nursery
        self._requests = requests
        self._routes = routes
        self._offsets = offsets
        self._queues: dict[int, _Queue] = {}
        self._turns: deque[QueueReader] = deque()  # readers with batches, in order of arrival
        self._prefetched = 0  # bytes waiting to be handed out
        self._arrival = trio.Event()
        self._scope = trio.CancelScope()
        self._is_closed = False
        self._commit_lock = trio.Lock()
        # The batch being handed out.
        self._batch: list[Message] = []
        self._batch_at = 0
        self._current: _Queue | None = None

    @property
    def queues(self) -> tuple[int, ...]:
        """Numbers of the queues this consumer reads."""
        return tuple(self._queues)

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> Message:
        """Return the next message; what was handed out before is done.

        Raises:
            TopicNotFoundError, NoPermissionError: the topic cannot be read any more.
            CorruptAnswerError: no node has records that pass their checks.
            ClosedError: the consumer is closed.
        """
        current = self._current
        if current is not None:
            current.done = current.handed_out
            at = self._batch_at
            if at < len(self._batch):
                message = self._batch[at]
                self._batch_at = at + 1
                current.handed_out = message.queue_offset + 1
                return message
        await self._next_batch()
        return await self.__anext__()

    async def commit(self) -> None:
        """Commit everything handed out so far, the last message included.

        Raises:
            NoBrokerError: nobody took it in time; the automatic commit goes on trying.
        """
        for queue in self._queues.values():
            queue.done = queue.handed_out
        await self._commit_done()

    def position(self, queue: int) -> int:
        """Return the offset of the next message to hand out from *queue*."""
        return self._queue(queue).handed_out

    def seek(self, queue: int, queue_offset: int) -> None:
        """Hand out *queue* from *queue_offset* on; what was read ahead is forgotten.

        A committed offset never goes back: after a seek backwards the group's stays where it was
        until this consumer passes it.
        """
        if queue_offset < 0:
            raise ValueError(f"queue_offset = {queue_offset}: must be at least 0")
        state = self._queue(queue)
        reader = state.reader
        self._prefetched -= sum(size for _, size in reader.batches)
        if reader in self._turns:
            self._turns.remove(reader)
        if state is self._current:
            self._batch, self._batch_at, self._current = [], 0, None
        reader.seek(queue_offset)
        state.handed_out = state.done = queue_offset
        self._make_room()

    async def __aenter__(self) -> Consumer:
        route = await self._routes.get(self.topic)
        if not route.is_readable:
            raise NoPermissionError(
                f"topic {self.topic} may not be read: perm {route.perm}, "
                f"{route.read_queue_count} queues for reading"
            )
        wanted = self._wanted_queues
        if wanted is None:
            wanted = tuple(range(route.read_queue_count))
        for queue_id in wanted:
            if not 0 <= queue_id < route.read_queue_count:
                raise InvalidMessageError(
                    f"topic {self.topic} has no queue {queue_id}: it has 0 to "
                    f"{route.read_queue_count - 1}"
                )
        pull_size = self.options.prefetch_bytes // (2 * max(len(wanted), 1))
        starts: dict[int, int] = {}
        await self._offsets.starts(
            self.group, self.topic, wanted, start=self.options.start, result=starts
        )
        for queue_id in wanted:
            reader = QueueReader(
                group=self.group,
                topic=self.topic,
                queue_id=queue_id,
                requests=self._requests,
                pull_size_max=min(max(pull_size, PULL_SIZE_MIN), PULL_SIZE_MAX),
                poll_wait=self.options.poll_wait,
                on_arrival=self._on_arrival,
                has_room=self._has_room,
            )
            reader.seek(starts[queue_id])
            self._queues[queue_id] = _Queue(reader, starts[queue_id])
        await self._nursery.start(self._run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop reading and commit: all that was handed out, or without the last after an error."""
        self._is_closed = True
        self._scope.cancel()
        if error is None:
            await self.commit()
            return
        try:
            with trio.move_on_after(self._requests.request_timeout, shield=True):
                await self._commit_done()
        except ClientError as failure:
            _LOG.warning("last commit of group %s: %s", self.group, failure)

    # --- inside -------------------------------------------------------------------------------

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        finder = self._requests.leader
        finder.listen(self._on_leader)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for queue in self._queues.values():
                        nursery.start_soon(queue.reader.run)
                    task_status.started()
                    await self._commit_regularly()
        finally:
            finder.unlisten(self._on_leader)

    async def _next_batch(self) -> None:
        """Wait for messages and make them the batch being handed out."""
        self._batch, self._batch_at, self._current = [], 0, None
        while not self._turns:
            if self._is_closed:
                raise ClosedError(
                    f"consumer of topic {self.topic} for {self.group} is closed; open another one"
                )
            for queue in self._queues.values():
                if queue.reader.error is not None:
                    raise queue.reader.error
            self._arrival = trio.Event()
            await self._arrival.wait()
        # Also when there is plenty: others want their turn, and a cancellation its effect.
        await trio.lowlevel.checkpoint()
        reader = self._turns.popleft()
        messages, size = reader.batches.popleft()
        if reader.batches:
            self._turns.append(reader)
        self._prefetched -= size
        self._make_room()
        self._batch = messages
        self._current = self._queues[reader.queue_id]

    def _on_arrival(self, reader: QueueReader) -> None:
        if reader.error is None:
            self._prefetched += reader.batches[-1][1]
            if len(reader.batches) == 1:
                self._turns.append(reader)
        self._arrival.set()

    def _has_room(self) -> bool:
        return self._prefetched < self.options.prefetch_bytes

    def _make_room(self) -> None:
        if self._has_room():
            for queue in self._queues.values():
                queue.reader.make_room()

    def _on_leader(self) -> None:
        for queue in self._queues.values():
            queue.reader.on_leader()

    def _queue(self, queue: int) -> _Queue:
        found = self._queues.get(queue)
        if found is None:
            raise ValueError(
                f"queue {queue} of topic {self.topic} is not read here; these are: "
                f"{', '.join(map(str, self._queues))}"
            )
        return found

    async def _commit_regularly(self) -> None:
        while True:
            await trio.sleep(self.options.commit_interval)
            try:
                await self._commit_done()
            except ClientError as error:
                _LOG.warning("commit of group %s: %s", self.group, error)

    async def _commit_done(self) -> None:
        async with self._commit_lock:
            for queue_id, queue in self._queues.items():
                done = queue.done
                if done > queue.committed:
                    await self._offsets.commit(self.group, self.topic, queue_id, done)
                    queue.committed = max(queue.committed, done)
