"""What a consumer reads of one topic: its queues as they come and go, and what is committed.

A queue that goes to another member is *parting*: nothing more of it is handed out, and what its
receiver still says of messages it has is committed, so that they need not come again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import trio

from broker.client.progress import QueueProgress
from broker.client.queue_reader import QueueReader
from broker.client.resets import ResetFollower
from broker.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.client.consumer_options import Subscription
    from broker.client.handout import ConsumerStats, Handout
    from broker.client.offsets import Offsets
    from broker.client.prefetch import Prefetch
    from broker.client.progress import Keeper
    from broker.client.requests import Requests
    from broker.client.starts import Start, Starts

PULL_SIZE_MIN = 64 * 1024  # bytes of records one pull may bring
PULL_SIZE_MAX = 4 * 1024 * 1024

_LOG = logging.getLogger("broker.client")


class Surroundings(NamedTuple):
    """What the topics of one consumer have in common."""

    subscription: Subscription
    requests: Requests
    offsets: Offsets
    starts: Starts
    chance: Callable[[], float]
    stats: ConsumerStats
    prefetch: Prefetch
    handout: Handout
    keeper: Keeper | None
    on_settled: Callable[[], None] | None


class _Parting(NamedTuple):
    queue: int
    progress: QueueProgress
    epoch: int  # of the group's offsets as it was read


class TopicReading:
    """The queues of one topic."""

    def __init__(
        self,
        topic: str,
        around: Surroundings,
        *,
        tags: frozenset[str] | None,
        is_retry: bool = False,
        on_parted: Callable[[str, int], None] | None = None,
    ) -> None:
        """Begin without a queue; *on_parted* hears of queues that are gone for good."""
        self.topic = topic
        self.queues: dict[int, QueueProgress] = {}
        self.is_retry = is_retry
        self._around = around
        self._tags = tags
        self._on_parted = on_parted
        self._parting: list[_Parting] = []
        self._scopes: dict[QueueReader, trio.CancelScope] = {}
        self._lock = trio.Lock()  # whoever holds it may commit, or change what is read
        self._knows_epoch = False
        self._is_stopped = False
        self._resets = ResetFollower(
            group=around.subscription.group,
            topic=topic,
            offsets=around.offsets,
            queues=self.queues,
            seek=self._put_elsewhere,
        )

    @property
    def parting(self) -> tuple[int, ...]:
        """Queues of which messages are still being dealt with."""
        return tuple(parting.queue for parting in self._parting)

    async def run(self) -> None:
        """Follow resets of the group until cancelled."""
        await self._resets.run(self._lock)

    # --- queues -------------------------------------------------------------------------------

    async def add(self, queues: Iterable[int], start: Start, nursery: trio.Nursery) -> None:
        """Read *queues* as well, from *start* on, in tasks of *nursery*.

        A member that begins anywhere but where its group stopped, and whose group has not begun,
        has that place committed first: else, should it be gone before it commits anything, the next
        one would begin elsewhere.

        Raises:
            NoBrokerError: nobody could say where to begin.
            TopicNotFoundError: there is no such topic or queue.
        """
        around = self._around
        subscription = around.subscription
        group = subscription.group
        wanted = [queue for queue in queues if queue not in self.queues]
        if not wanted:
            return
        async with self._lock:
            await self._commit_parting()  # it may be one that comes back
            if subscription.follows_resets and not self._knows_epoch:
                await self._resets.begin(wanted[0])
                self._knows_epoch = True
            starts = await around.starts.find(group, self.topic, wanted, start)
            # Who keeps a file of its own begins in all queues at once, so that the file has all.
            keeps_file = subscription.commits and not subscription.follows_resets
            if keeps_file or (subscription.is_shared and start not in ("committed", "first")):
                for queue in wanted:
                    if await around.offsets.committed(group, self.topic, queue) is None:
                        await around.offsets.commit(
                            group, self.topic, queue, starts[queue], epoch=self._resets.epoch
                        )
            if self._is_stopped:
                return
            share = 2 * (len(self.queues) + len(wanted))
            for queue in wanted:
                self._begin(queue, starts[queue], share, nursery)

    def _begin(self, queue: int, start: int, share: int, nursery: trio.Nursery) -> None:
        around = self._around
        options = around.subscription.options
        reader = QueueReader(
            group=around.subscription.group,
            topic=self.topic,
            queue_id=queue,
            requests=around.requests,
            pull_size_max=min(max(options.prefetch_bytes // share, PULL_SIZE_MIN), PULL_SIZE_MAX),
            pull_count_max=max(options.prefetch_count // share, 1),
            poll_wait=options.poll_wait,
            on_arrival=around.prefetch.on_arrival,
            has_room=around.prefetch.has_room,
            chance=around.chance,
            tags=self._tags,
            stats=around.stats,
            resets=self._resets if around.subscription.follows_resets else None,
            is_retry=self.is_retry,
        )
        reader.seek(start)
        progress = QueueProgress(
            reader,
            start,
            is_auto=options.auto_commit,
            keeper=around.keeper,
            on_settled=around.on_settled,
        )
        self.queues[queue] = progress
        around.prefetch.add(progress)
        nursery.start_soon(self._read, reader)

    async def _read(self, reader: QueueReader) -> None:
        with trio.CancelScope() as scope:
            found = self.queues.get(reader.queue_id)
            if found is None or found.reader is not reader:
                return  # taken away before it began
            self._scopes[reader] = scope
            try:
                await reader.run()
            finally:
                del self._scopes[reader]

    async def keep(self, queues: Iterable[int]) -> None:
        """Read no others than *queues*; commit what is done of those that go."""
        kept = frozenset(queues)
        gone = [queue for queue in self.queues if queue not in kept]
        if not gone:
            return
        for queue in gone:
            self.let_go(queue)
        async with self._lock:
            try:
                await self._commit_parting()
            except BrokerError as error:
                self._warn(error)
        self.forget_parted()

    def let_go(self, queue: int) -> None:
        """Hand out nothing more of one queue, at once."""
        progress = self.queues.pop(queue)
        around = self._around
        with around.handout.exclusive:
            around.handout.release(progress)
        around.prefetch.remove(progress.reader)
        scope = self._scopes.get(progress.reader)
        if scope is not None:
            scope.cancel()
        progress.leave_held()
        self._parting.append(_Parting(queue, progress, self._resets.epoch))

    def forget_parted(self) -> None:
        """Have done with parting queues of which everything is said and committed."""
        commits = self._around.subscription.commits
        for parting in list(self._parting):
            progress = parting.progress
            if progress.is_over and (progress.done <= progress.committed or not commits):
                self._parting.remove(parting)
                if self._on_parted is not None:
                    self._on_parted(self.topic, parting.queue)

    def set_valid_until(self, queue: int, until: float) -> None:
        """Hand out nothing of one queue after *until*, in trio seconds."""
        progress = self.queues.get(queue)
        if progress is not None:
            progress.valid_until = until
            self._around.prefetch.wake()

    def stop(self) -> None:
        """Pull nothing more, and read nothing else."""
        self._is_stopped = True
        for scope in list(self._scopes.values()):
            scope.cancel()

    def go_to(self, progress: QueueProgress, queue_offset: int, *, forget: bool = False) -> None:
        """Hand out one queue from *queue_offset* on; *forget*: whatever was before."""
        around = self._around
        around.prefetch.drop(progress.reader)
        with around.handout.exclusive:
            around.handout.forget(progress)
            progress.reader.seek(queue_offset)
            if forget:
                progress.reset(queue_offset)
            else:
                progress.seek(queue_offset)
        around.prefetch.make_room()

    def _put_elsewhere(self, queue: int, queue_offset: int) -> None:
        """Follow a reset of the group."""
        progress = self.queues.get(queue)
        if progress is not None:
            self.go_to(progress, queue_offset, forget=True)

    # --- committing ---------------------------------------------------------------------------

    def settle_all(self) -> None:
        """All that was handed out is done, but for what is open or left."""
        for progress in (*self.queues.values(), *(item.progress for item in self._parting)):
            progress.settle_all()

    async def commit(self) -> None:
        """Commit what is done.

        Raises:
            NoBrokerError: nobody took it in time.
        """
        if not self._around.subscription.commits:
            return
        async with self._lock:
            for queue, progress in list(self.queues.items()):
                if not await self._commit_one(queue, progress, self._resets.epoch):
                    self._resets.notice()  # put elsewhere: what was done before is void
                    return
            await self._commit_parting()
        self.forget_parted()

    async def _commit_parting(self) -> None:
        if not self._around.subscription.commits:
            return
        for queue, progress, epoch in list(self._parting):
            if not await self._commit_one(queue, progress, epoch):
                progress.committed = max(progress.done, progress.committed)  # void, and over

    async def _commit_one(self, queue: int, progress: QueueProgress, epoch: int) -> bool:
        done = progress.done
        if done <= progress.committed:
            return True
        around = self._around
        group = around.subscription.group
        if not await around.offsets.commit(group, self.topic, queue, done, epoch=epoch):
            return False
        progress.committed = max(progress.committed, done)
        around.stats.commits += 1
        return True

    def _warn(self, error: Exception) -> None:
        group = self._around.subscription.group
        _LOG.warning("commit of group %s in topic %s: %s", group, self.topic, error)
