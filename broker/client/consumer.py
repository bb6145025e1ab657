"""Reads messages: ``async for`` over all queues of a topic, in order within each queue.

Messages are pulled ahead in the background and handed out batch by batch, the queues taking turns.
What their receiver has dealt with (`broker.client.progress`) is committed from time to time: after
a crash the group goes on with the messages that were not, and perhaps with a few that were.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from broker.client.errors import ClosedError
from broker.client.handout import ConsumerStats, Handout, MessageBatches
from broker.client.progress import QueueProgress
from broker.client.queue_reader import QueueReader
from broker.client.resets import ResetFollower
from broker.client.starts import Start, check_start
from broker.errors import BrokerError, InvalidMessageError, NoPermissionError
from broker.message.limits import check_group, check_topic
from broker.message.tags import parse_tag_expression

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from broker.client.offsets import Offsets
    from broker.client.records import Message
    from broker.client.requests import Requests
    from broker.client.routes import RouteCache
    from broker.client.starts import Starts

PULL_SIZE_MIN = 64 * 1024  # bytes of records one pull may bring
PULL_SIZE_MAX = 4 * 1024 * 1024

_LOG = logging.getLogger("broker.client")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """Where a consumer starts, what it wants, how far it reads ahead, and how it commits."""

    start: Start = "committed"
    tags: str | None = None  # "A || B"; None or "*" for all messages
    prefetch_bytes: int = 4 * 1024 * 1024  # bytes pulled ahead, all queues together
    prefetch_count: int = 100_000  # messages pulled ahead, all queues together
    auto_commit: bool = True  # coming back for the next message means that the last one is done
    commit_interval: float = 1.0  # seconds
    poll_wait: float = 15.0  # seconds a node may hold a pull until something arrives

    def __post_init__(self) -> None:
        check_start(self.start)
        parse_tag_expression(self.tags)
        for name in ("prefetch_bytes", "prefetch_count", "commit_interval", "poll_wait"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")


class Consumer:
    """Reads one topic for one group; open one with ``async with client.consumer(...) as consumer``.

    One task iterates: ``async for message in consumer``.  Messages may be dealt with by others, in
    any order, if each does it in ``async with message:``; give ``auto_commit=False`` then.

    >>> async def main() -> None:
    ...     async with broker.connect("127.0.0.1:9876") as mq:
    ...         async with mq.producer() as producer:
    ...             await producer.send("parcels", b"to be opened", queue=0)
    ...         async with mq.consumer("openers", "parcels") as consumer:
    ...             async for message in consumer:
    ...                 async with message:
    ...                     print(message.body)
    ...                 break
    ...         print(await mq.admin.committed_offset("openers", "parcels", 0))
    >>> trio.run(main)
    b'to be opened'
    1
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
        starts: Starts,
        chance: Callable[[], float],
        options: ConsumerOptions,
        handout: Handout | None = None,
    ) -> None:
        if group:
            check_group(group)
        elif options.auto_commit or options.start == "committed":
            raise InvalidMessageError(
                "consumer group '': a consumer without one has nothing to commit to; name one, or "
                'give auto_commit=False and a start other than "committed"'
            )
        check_topic(topic)
        self.group = group
        self.topic = topic
        self.options = options
        self._wanted_queues = None if queues is None else tuple(queues)
        self._nursery = nursery
        self._requests = requests
        self._routes = routes
        self._offsets = offsets
        self._starts = starts
        self._chance = chance
        self._stats = ConsumerStats()
        self._queues: dict[int, QueueProgress] = {}
        self._turns: deque[QueueReader] = deque()  # readers with batches, in order of arrival
        self._prefetched = 0  # bytes waiting to be handed out
        self._prefetched_count = 0  # messages, likewise
        self._arrival = trio.Event()
        self._scope = trio.CancelScope()
        self._is_closed = False
        self._commit_lock = trio.Lock()
        self.handout = handout or Handout()
        self._resets = ResetFollower(
            group=group, topic=topic, offsets=offsets, queues=self._queues, seek=self._put_elsewhere
        )

    @property
    def queues(self) -> tuple[int, ...]:
        """Numbers of the queues this consumer reads."""
        return tuple(self._queues)

    @property
    def paused(self) -> tuple[int, ...]:
        """Numbers of those that are paused."""
        return tuple(queue for queue, found in self._queues.items() if found.reader.is_paused)

    @property
    def left(self) -> dict[int, list[int]]:
        """Offsets, by queue, of messages whose ``async with message:`` ended with an error."""
        return {queue: found.left for queue, found in self._queues.items() if found.left}

    @property
    def stats(self) -> ConsumerStats:
        """What this consumer has done so far."""
        return self._stats

    # --- receiving ----------------------------------------------------------------------------

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> Message:
        """Return the next message; with ``auto_commit`` what was handed out before is done.

        Raises:
            TopicNotFoundError, NoPermissionError: the topic cannot be read any more.
            CorruptAnswerError: no node has records that pass their checks.
            ClosedError: the consumer is closed.
        """
        message = self.handout.next()
        while message is None:
            await self.fill()
            message = self.handout.next()
        return message

    async def get(self, wait: float | None = None) -> Message | None:
        """Return the next message as ``async for`` does, or None when none came.

        Args:
            wait: seconds to wait for one at most; 0 takes what is there; None waits for ever.

        Raises:
            Exception: as ``async for`` does.
        """
        message = self.handout.next()
        if message is None and await self.fill_within(wait):
            message = self.handout.next()
        return message

    def batches(self, count_max: int = 500, *, linger: float = 0.0) -> MessageBatches:
        """Return an iterator over lists of messages: ``async for batch in consumer.batches(100)``.

        With ``auto_commit`` a batch is done when its receiver comes back for the next one.

        >>> async def main() -> None:
        ...     async with broker.connect("127.0.0.1:9876") as mq:
        ...         async with mq.producer() as producer:
        ...             await producer.send_many("boxes", [broker.OutMessage(b"x", queue=0)] * 5)
        ...         async with mq.consumer("movers", "boxes", queues=[0]) as consumer:
        ...             async for batch in consumer.batches(3):
        ...                 print(len(batch))
        ...                 if len(batch) < 3:
        ...                     break
        >>> trio.run(main)
        3
        2

        Args:
            count_max: most messages of a batch.
            linger: seconds to wait for more once there is one; 0: a batch is what is there.
        """
        if count_max < 1:
            raise ValueError(f"count_max = {count_max}: must be at least 1")
        return MessageBatches(self, self.handout, count_max=count_max, linger=linger)

    async def gather(self, handout: Handout, count_max: int, linger: float) -> None:
        """Gather a batch; what `batches` does is based on it."""
        while not handout.gather(count_max):
            if not handout.gathered_count:
                await self.fill()
            elif self._turns:
                self._take_turn()
            elif linger <= 0:
                break
            else:
                with trio.move_on_after(linger):
                    while not handout.gather(count_max):
                        await self.fill()
                break

    async def fill(self) -> None:
        """Wait for messages and have them handed out."""
        self.handout.use_up()
        while not self._turns:
            if self._is_closed:
                raise ClosedError(
                    f"consumer of topic {self.topic} for group {self.group} is closed; "
                    "open another one"
                )
            for progress in self._queues.values():
                reader = progress.reader
                if reader.error is not None:
                    raise reader.error
            self._pass_over()
            self._arrival = trio.Event()
            await self._arrival.wait()
        # Also when there is plenty: others want their turn, and a cancellation its effect.
        await trio.lowlevel.checkpoint()
        self._take_turn()

    async def fill_within(self, wait: float | None) -> bool:
        """As `fill`, for so many seconds at most; whether there are messages."""
        if wait is None:
            await self.fill()
            return True
        if wait <= 0 and not self._turns:
            await trio.lowlevel.checkpoint()
            return False
        with trio.move_on_after(max(wait, 0.001)) as scope:
            await self.fill()
        return not scope.cancelled_caught

    # --- where it reads -----------------------------------------------------------------------

    def position(self, queue: int) -> int:
        """Return the offset of the next message to hand out from *queue*."""
        return self._queue(queue).handed_out

    def positions(self) -> dict[int, int]:
        """Return the offset of the next message to hand out from each queue."""
        return {queue: found.handed_out for queue, found in self._queues.items()}

    def seek(self, queue: int, queue_offset: int) -> None:
        """Hand out *queue* from *queue_offset* on; what was read ahead is forgotten.

        A committed offset never goes back but by a reset: after a seek backwards the group's stays
        where it was until this consumer passes it.  A message that was left is handed out again
        if it lies behind *queue_offset*; otherwise it still keeps those behind it from being
        committed, until its `Message.ack` gives it up.
        """
        if queue_offset < 0:
            raise ValueError(f"queue_offset = {queue_offset}: must be at least 0")
        self._go_to(self._queue(queue), queue_offset, forget=False)

    def _go_to(self, progress: QueueProgress, queue_offset: int, *, forget: bool) -> None:
        reader = progress.reader
        for messages, size, _ in reader.batches:
            self._prefetched -= size
            self._prefetched_count -= len(messages)
        if reader in self._turns:
            self._turns.remove(reader)
        with self.handout.exclusive:
            self.handout.forget(progress)
            reader.seek(queue_offset)
            if forget:
                progress.reset(queue_offset)
            else:
                progress.seek(queue_offset)
        self._make_room()

    async def seek_to(self, start: Start, *, queues: Iterable[int] | None = None) -> dict[int, int]:
        """Hand out from *start* on, as `seek` does, and return the offsets that came to.

        >>> async def main() -> dict[int, int]:
        ...     async with broker.connect("127.0.0.1:9876") as mq:
        ...         await mq.admin.create_topic("places", 2)
        ...         async with mq.consumer("readers", "places") as consumer:
        ...             return await consumer.seek_to({1: 7})
        >>> trio.run(main)
        {1: 7}

        Args:
            start: as for `Client.consumer`: "first", "last", "committed", a time, how long ago, an
                offset for all queues, or one for each of some.
            queues: numbers of the queues; None for all that are read here, or all in *start*.

        Raises:
            NoBrokerError: nobody could say which offsets these are; nothing has changed.
        """
        check_start(start)
        if queues is None:
            queues = start if isinstance(start, dict) else self._queues
        wanted = tuple(queues)
        for queue in wanted:
            self._queue(queue)
        offsets = await self._starts.find(self.group, self.topic, wanted, start)
        for queue, queue_offset in offsets.items():
            self.seek(queue, queue_offset)
        return offsets

    def pause(self, *queues: int) -> None:
        """Hand out nothing from *queues*, or from any, until `resume`; nor pull more of them."""
        for progress in self._named(queues):
            reader = progress.reader
            reader.is_paused = True
            if reader in self._turns:
                self._turns.remove(reader)
            back = self.handout.put_back(progress)
            if back:
                end = reader.batches[0][0][0].queue_offset if reader.batches else reader.next_offset
                reader.batches.appendleft((back, 0, end))
                self._prefetched_count += len(back)

    def resume(self, *queues: int) -> None:
        """Go on with *queues*, or with all that are paused."""
        for progress in self._named(queues):
            reader = progress.reader
            if reader.is_paused:
                reader.is_paused = False
                if reader.batches:
                    self._turns.append(reader)
                    self._arrival.set()
        self._make_room()

    async def lag(self) -> dict[int, int]:
        """Return for each queue how many offsets lie between its position and its end.

        Raises:
            NoBrokerError: nobody could say where the queues end.
        """
        found = await self._starts.find(self.group, self.topic, tuple(self._queues), "last")
        return {queue: max(end - self._queues[queue].handed_out, 0) for queue, end in found.items()}

    # --- committing ---------------------------------------------------------------------------

    async def commit(self) -> None:
        """Commit everything handed out so far, the last message included.

        Messages that are inside ``async with message:``, or were left by an error there, are not
        committed, nor is what lies behind them in their queues.

        Raises:
            NoBrokerError: nobody took it in time; the automatic commit goes on trying.
            ValueError: the consumer has no group.
        """
        if not self.group:
            raise ValueError(f"a consumer of topic {self.topic} without a group commits nothing")
        for progress in self._queues.values():
            progress.settle_all()
        self._pass_over(settled=True)
        await self._commit_done()

    # --- opening and closing ------------------------------------------------------------------

    async def __aenter__(self) -> Consumer:
        route = await self._routes.get(self.topic)
        if not route.is_readable:
            raise NoPermissionError(
                f"topic {self.topic} may not be read: perm {route.perm}, "
                f"{route.read_queue_count} queues for reading; alter the topic first"
            )
        wanted = self._wanted_queues
        if wanted is None:
            wanted = tuple(range(route.read_queue_count))
        for queue_id in wanted:
            if not 0 <= queue_id < route.read_queue_count:
                raise InvalidMessageError(
                    f"topic {self.topic} has no queue {queue_id}: it has 0 to "
                    f"{route.read_queue_count - 1}; name others, or none to read all"
                )
        options = self.options
        share = 2 * max(len(wanted), 1)
        pull_size = min(max(options.prefetch_bytes // share, PULL_SIZE_MIN), PULL_SIZE_MAX)
        if wanted and self.group:
            await self._resets.begin(wanted[0])
        starts = await self._starts.find(self.group, self.topic, wanted, options.start)
        for queue_id in wanted:
            reader = QueueReader(
                group=self.group,
                topic=self.topic,
                queue_id=queue_id,
                requests=self._requests,
                pull_size_max=pull_size,
                pull_count_max=max(options.prefetch_count // share, 1),
                poll_wait=options.poll_wait,
                on_arrival=self._on_arrival,
                has_room=self._has_room,
                chance=self._chance,
                tags=parse_tag_expression(options.tags),
                stats=self._stats,
                resets=self._resets,
            )
            reader.seek(starts[queue_id])
            self._queues[queue_id] = QueueProgress(
                reader, starts[queue_id], is_auto=options.auto_commit
            )
        await self._nursery.start(self._run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop reading and commit what is done.

        With ``auto_commit`` that is all that was handed out, or without the last after an error.
        """
        self._is_closed = True
        self._scope.cancel()
        if error is None:
            if self.options.auto_commit:
                await self.commit()
            else:
                await self._commit_done()
            return
        try:
            with trio.move_on_after(self._requests.request_timeout, shield=True):
                await self._commit_done()
        except BrokerError as failure:
            _LOG.warning("last commit of group %s in topic %s: %s", self.group, self.topic, failure)

    # --- inside -------------------------------------------------------------------------------

    def _put_elsewhere(self, queue: int, queue_offset: int) -> None:
        """Follow a reset of the group."""
        self._go_to(self._queues[queue], queue_offset, forget=True)

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        finder = self._requests.leader
        finder.listen(self._on_leader)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for progress in self._queues.values():
                        nursery.start_soon(progress.reader.run)
                    nursery.start_soon(self._resets.run, self._commit_lock)
                    task_status.started()
                    await self._commit_regularly()
        finally:
            finder.unlisten(self._on_leader)
            self._is_closed = True
            self._arrival.set()  # whoever waits hears that nothing comes any more

    def _take_turn(self) -> None:
        if not self._turns:  # paused meanwhile
            return
        reader = self._turns.popleft()
        messages, size, end = reader.batches.popleft()
        if reader.batches:
            self._turns.append(reader)
        self._prefetched -= size
        self._prefetched_count -= len(messages)
        self._make_room()
        self.handout.take_up(self._queues[reader.queue_id], messages, end)

    def _on_arrival(self, reader: QueueReader, count: int) -> None:
        if count:
            self._prefetched += reader.batches[-1][1]
            self._prefetched_count += count
            if not reader.is_paused and reader not in self._turns:
                self._turns.append(reader)
        self._arrival.set()

    def _has_room(self) -> bool:
        return (
            self._prefetched < self.options.prefetch_bytes
            and self._prefetched_count < self.options.prefetch_count
        )

    def _make_room(self) -> None:
        if self._has_room():
            for progress in self._queues.values():
                progress.reader.make_room()

    def _on_leader(self) -> None:
        for progress in self._queues.values():
            progress.reader.on_leader()

    def _queue(self, queue: int) -> QueueProgress:
        found = self._queues.get(queue)
        if found is None:
            raise ValueError(
                f"queue {queue} of topic {self.topic} is not read here; these are: "
                f"{', '.join(map(str, self._queues)) or 'none, as the consumer is not open'}"
            )
        return found

    def _named(self, queues: tuple[int, ...]) -> list[QueueProgress]:
        return [self._queue(queue) for queue in queues or self._queues]

    def _pass_over(self, *, settled: bool = False) -> None:
        """Have what a filter passed over count as done, where nobody has a message before it.

        Args:
            settled: whether the message in the receiver's hand is done, too.
        """
        if self.options.tags is None:
            return
        handout = self.handout
        with handout.exclusive:
            for progress in self._queues.values():
                reader = progress.reader
                if (
                    progress.handed_out < reader.next_offset
                    and not reader.batches
                    and not handout.has(progress, settled=settled)
                ):
                    progress.skip_to(reader.next_offset)

    async def _commit_regularly(self) -> None:
        while True:
            await trio.sleep(self.options.commit_interval)
            self._pass_over()
            try:
                await self._commit_done()
            except BrokerError as error:
                # The topic is gone, say: the readers hear of it themselves.
                _LOG.warning("commit of group %s in topic %s: %s", self.group, self.topic, error)

    async def _commit_done(self) -> None:
        if not self.group:
            return
        async with self._commit_lock:
            for queue_id, progress in self._queues.items():
                done = progress.done
                if done > progress.committed:
                    if not await self._offsets.commit(
                        self.group, self.topic, queue_id, done, epoch=self._resets.epoch
                    ):
                        self._resets.notice()  # put elsewhere: what was done before is void
                        return
                    progress.committed = max(progress.committed, done)
                    self._stats.commits += 1
