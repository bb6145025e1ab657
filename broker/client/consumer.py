"""Reads messages: ``async for`` over all queues of a topic, in order within each queue.

Messages are pulled ahead in the background and handed out batch by batch, the queues taking turns.
What their receiver has dealt with (`broker.client.progress`) is committed from time to time: after
a crash the group goes on with the messages that were not, and perhaps with a few that were.

Which queues are read is the group's to say (`broker.client.group_member`), or the caller's.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

import trio

from broker.client.errors import ClosedError
from broker.client.group_member import Seat
from broker.client.handout import ConsumerStats, Handout, MessageBatches
from broker.client.prefetch import Prefetch
from broker.client.send_backs import SendBacks
from broker.client.starts import Start, check_start
from broker.client.topic_reading import Surroundings, TopicReading
from broker.errors import BrokerError, InvalidMessageError, NoPermissionError
from broker.message.limits import RETRY_PREFIX
from broker.message.tags import parse_tag_expression

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from broker.client.consumer_options import ConsumerOptions, Subscription
    from broker.client.membership import Membership
    from broker.client.offsets import Offsets
    from broker.client.progress import QueueProgress
    from broker.client.records import Message
    from broker.client.requests import Requests
    from broker.client.routes import RouteCache
    from broker.client.starts import Starts

_LOG = logging.getLogger("broker.client")


class Consumer:
    """Reads for one group; open one with ``async with client.consumer(...) as consumer``.

    Consumers of one group share its queues, wherever they run; a consumer that is told its *queues*
    reads these and leaves the group alone.

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
        subscription: Subscription,
        *,
        nursery: trio.Nursery,
        requests: Requests,
        routes: RouteCache,
        offsets: Offsets,
        starts: Starts,
        membership: Membership,
        chance: Callable[[], float],
        handout: Handout | None = None,
    ) -> None:
        options = subscription.options
        self.subscription = subscription
        self.handout = handout or Handout()
        self._stats = ConsumerStats()
        self._nursery = nursery
        self._requests = requests
        self._routes = routes
        self._starts = starts
        self._membership = membership
        self._prefetch = Prefetch(
            size_max=options.prefetch_bytes,
            count_max=options.prefetch_count,
            one_by_one=options.ordered,
        )
        self._keeper: SendBacks | None = None
        if subscription.is_shared:
            self._keeper = SendBacks(
                requests,
                group=subscription.group,
                retries_max=options.retries_max,
                call_soon=self._call_soon,
                prefetch=self._prefetch if options.ordered else None,
            )
        self._readings = self._make_readings(offsets, chance)
        self._seat: Seat | None = None
        self._inner: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._is_closed = False
        self._commit_wanted = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread = 0

    def _make_readings(
        self, offsets: Offsets, chance: Callable[[], float]
    ) -> dict[str, TopicReading]:
        subscription = self.subscription
        around = Surroundings(
            subscription=subscription,
            requests=self._requests,
            offsets=offsets,
            starts=self._starts,
            chance=chance,
            stats=self._stats,
            prefetch=self._prefetch,
            handout=self.handout,
            keeper=self._keeper,
            on_settled=self._note_settled if subscription.is_shared else None,
        )
        tags = parse_tag_expression(self.options.tags)
        found = {
            topic: TopicReading(topic, around, tags=tags, on_parted=self._on_parted)
            for topic in subscription.topics
        }
        if subscription.is_shared:
            retry_topic = RETRY_PREFIX + subscription.group
            found[retry_topic] = TopicReading(
                retry_topic, around, tags=None, is_retry=True, on_parted=self._on_parted
            )
        return found

    @property
    def group(self) -> str:
        """The consumer group; "" for none."""
        return self.subscription.group

    @property
    def topic(self) -> str:
        """What is read; of several topics the first."""
        return self.subscription.topics[0]

    @property
    def topics(self) -> tuple[str, ...]:
        """All topics that are read."""
        return self.subscription.topics

    @property
    def options(self) -> ConsumerOptions:
        """How it reads."""
        return self.subscription.options

    @property
    def queues(self) -> tuple[int, ...]:
        """Numbers of the queues of `topic` that this consumer reads now."""
        return tuple(sorted(self._reading().queues))

    @property
    def paused(self) -> tuple[int, ...]:
        """Numbers of those that are paused."""
        return tuple(
            queue for queue, found in list(self._reading().queues.items()) if found.reader.is_paused
        )

    @property
    def left(self) -> dict[int, list[int]]:
        """Offsets, by queue of `topic`, of messages that are not done and were not sent back."""
        return {
            queue: found.left for queue, found in list(self._reading().queues.items()) if found.left
        }

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
            elif self._prefetch.is_ready:
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
        prefetch = self._prefetch
        while not prefetch.is_ready:
            if self._is_closed:
                raise ClosedError(
                    f"consumer of topic {self.topic} for group {self.group} is closed; "
                    "open another one"
                )
            for progress in prefetch.progresses:
                reader = progress.reader
                if reader.error is not None:
                    raise reader.error
            self._pass_over()
            if self._is_parting():
                self._commit_wanted.set()
            await prefetch.wait()
        # Also when there is plenty: others want their turn, and a cancellation its effect.
        await trio.lowlevel.checkpoint()
        self._take_turn()

    async def fill_within(self, wait: float | None) -> bool:
        """As `fill`, for so many seconds at most; whether there are messages."""
        if wait is None:
            await self.fill()
            return True
        if wait <= 0 and not self._prefetch.is_ready:
            await trio.lowlevel.checkpoint()
            return False
        with trio.move_on_after(max(wait, 0.001)) as scope:
            await self.fill()
        return not scope.cancelled_caught

    # --- where it reads -----------------------------------------------------------------------

    def position(self, queue: int, *, topic: str | None = None) -> int:
        """Return the offset of the next message to hand out from *queue*."""
        return self._queue(queue, topic).handed_out

    def positions(self, *, topic: str | None = None) -> dict[int, int]:
        """Return the offset of the next message to hand out from each queue that is read now."""
        return {q: found.handed_out for q, found in list(self._reading(topic).queues.items())}

    def seek(self, queue: int, queue_offset: int, *, topic: str | None = None) -> None:
        """Hand out *queue* from *queue_offset* on; what was read ahead is forgotten.

        A committed offset never goes back but by a reset: after a seek backwards the group's stays
        where it was until this consumer passes it.  A message that was left is handed out again
        if it lies behind *queue_offset*; otherwise it still keeps those behind it from being
        committed, until its `Message.ack` gives it up.
        """
        if queue_offset < 0:
            raise ValueError(f"queue_offset = {queue_offset}: must be at least 0")
        self._reading(topic).go_to(self._queue(queue, topic), queue_offset)

    async def seek_to(
        self, start: Start, *, queues: Iterable[int] | None = None, topic: str | None = None
    ) -> dict[int, int]:
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
            topic: whose queues; None for the first.

        Raises:
            NoBrokerError: nobody could say which offsets these are; nothing has changed.
        """
        check_start(start)
        reading = self._reading(topic)
        if queues is None:
            queues = start if isinstance(start, dict) else reading.queues
        wanted = tuple(queues)
        for queue in wanted:
            self._queue(queue, topic)
        offsets = await self._starts.find(self.group, reading.topic, wanted, start)
        for queue, queue_offset in offsets.items():
            if queue in reading.queues:  # it may have gone to another member meanwhile
                self.seek(queue, queue_offset, topic=topic)
        return offsets

    def pause(self, *queues: int, topic: str | None = None) -> None:
        """Hand out nothing from *queues*, or from any, until `resume`; nor pull more of them."""
        for progress in self._named(queues, topic):
            reader = progress.reader
            reader.is_paused = True
            self._prefetch.hold(reader)
            back = self.handout.put_back(progress)
            if back:
                self._prefetch.put_back(reader, back)

    def resume(self, *queues: int, topic: str | None = None) -> None:
        """Go on with *queues*, or with all that are paused."""
        for progress in self._named(queues, topic):
            reader = progress.reader
            if reader.is_paused:
                reader.is_paused = False
                self._prefetch.release(reader)
        self._prefetch.make_room()

    async def lag(self, *, topic: str | None = None) -> dict[int, int]:
        """Return for each queue how many offsets lie between its position and its end.

        Raises:
            NoBrokerError: nobody could say where the queues end.
        """
        reading = self._reading(topic)
        places = {queue: found.handed_out for queue, found in reading.queues.items()}
        found = await self._starts.find(self.group, reading.topic, tuple(places), "last")
        return {queue: max(end - places[queue], 0) for queue, end in found.items()}

    # --- committing ---------------------------------------------------------------------------

    async def commit(self) -> None:
        """Commit everything handed out so far, the last message included.

        Messages that are inside ``async with message:``, or were left by an error there, are not
        committed, nor is what lies behind them in their queues.

        Raises:
            NoBrokerError: nobody took it in time; the automatic commit goes on trying.
            ValueError: the consumer commits nothing.
        """
        if not self.subscription.commits:
            raise ValueError(
                f"a consumer of topic {self.topic} without a group, or with broadcasting, commits "
                "nothing"
            )
        self._settle_all()
        self._pass_over(settled=True)
        await self._commit_done()

    # --- opening and closing ------------------------------------------------------------------

    async def __aenter__(self) -> Consumer:
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()
        counts = {topic: await self._readable_count(topic) for topic in self.topics}
        wanted = self._check_queues(counts[self.topic])
        await self._nursery.start(self._run)
        assert self._inner is not None
        try:
            if self.subscription.is_member:
                seat = Seat(
                    subscription=self.subscription, readings=self._readings, nursery=self._inner
                )
                await self._membership.join(seat)
                self._seat = seat
            else:
                await self._reading().add(wanted, self.subscription.start, self._inner)
        except BaseException:
            self._is_closed = True
            self._scope.cancel()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop reading, commit what is done, and let the other members have the queues.

        With ``auto_commit`` all that was handed out is done, or all without the last after an
        error.
        """
        self._is_closed = True
        self._prefetch.wake()
        for reading in self._readings.values():
            reading.stop()
        try:
            if error is None:
                await self._finish()
                return
            try:
                with trio.move_on_after(self._requests.request_timeout, shield=True):
                    await self._finish(is_after_error=True)
            except BrokerError as failure:
                _LOG.warning(
                    "last commit of group %s in topic %s: %s", self.group, self.topic, failure
                )
        finally:
            await self._leave()
            self._scope.cancel()

    async def _finish(self, *, is_after_error: bool = False) -> None:
        if self._keeper is not None:
            with trio.move_on_after(self._requests.group_timeout):
                await self._keeper.drain()
        if self.options.auto_commit and not is_after_error:
            self._settle_all()
            self._pass_over(settled=True)
        await self._commit_done()

    async def _leave(self) -> None:
        seat, self._seat = self._seat, None
        if seat is not None:
            with trio.move_on_after(self._requests.request_timeout, shield=True):
                await self._membership.leave(seat)

    async def _readable_count(self, topic: str) -> int:
        route = await self._routes.get(topic)
        if not route.is_readable:
            raise NoPermissionError(
                f"topic {topic} may not be read: perm {route.perm}, "
                f"{route.read_queue_count} queues for reading; alter the topic first"
            )
        return route.read_queue_count

    def _check_queues(self, count: int) -> tuple[int, ...]:
        wanted = self.subscription.queues
        if wanted is None:
            wanted = tuple(range(count))
        for queue_id in wanted:
            if not 0 <= queue_id < count:
                raise InvalidMessageError(
                    f"topic {self.topic} has no queue {queue_id}: it has 0 to "
                    f"{count - 1}; name others, or none to read all"
                )
        return wanted

    # --- inside -------------------------------------------------------------------------------

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        finder = self._requests.leader
        finder.listen(self._on_leader)
        try:
            with self._scope:
                async with trio.open_nursery() as self._inner:
                    for reading in self._readings.values():
                        self._inner.start_soon(reading.run)
                    if self._keeper is not None:
                        self._inner.start_soon(self._keeper.run)
                    task_status.started()
                    await self._commit_regularly()
        finally:
            finder.unlisten(self._on_leader)
            self._is_closed = True
            self._prefetch.wake()  # whoever waits hears that nothing comes any more

    def _take_turn(self) -> None:
        taken = self._prefetch.take()
        if taken is not None:
            self.handout.take_up(*taken)

    def _on_leader(self) -> None:
        for progress in self._prefetch.progresses:
            progress.reader.on_leader()

    def _is_parting(self) -> bool:
        return any(reading.parting for reading in self._readings.values())

    def _on_parted(self, topic: str, queue: int) -> None:
        if self._seat is not None and self.options.ordered:
            self._membership.look_again(self.group)

    def _note_settled(self) -> None:
        """Hear, in whichever thread, that a message was dealt with."""
        if self.options.ordered or self._is_parting():
            self._call_soon(self._on_settled)

    def _on_settled(self) -> None:
        if self._is_parting():
            self._commit_wanted.set()
        self._prefetch.wake()

    def _call_soon(self, function: Callable[[], object]) -> None:
        if threading.get_ident() == self._thread:
            function()
        elif self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):  # closed: nothing more is to be done
                self._token.run_sync_soon(function)

    def _reading(self, topic: str | None = None) -> TopicReading:
        topic = self.topic if topic is None else topic
        if topic not in self.subscription.topics:
            raise ValueError(f"topic {topic} is not read here; these are: {', '.join(self.topics)}")
        return self._readings[topic]

    def _queue(self, queue: int, topic: str | None) -> QueueProgress:
        reading = self._reading(topic)
        found = reading.queues.get(queue)
        if found is None:
            raise ValueError(
                f"queue {queue} of topic {reading.topic} is not read here; these are: "
                f"{', '.join(map(str, reading.queues)) or 'none'}"
            )
        return found

    def _named(self, queues: tuple[int, ...], topic: str | None) -> list[QueueProgress]:
        if queues or topic is not None:
            return [self._queue(queue, topic) for queue in queues or self._reading(topic).queues]
        return self._prefetch.progresses

    def _settle_all(self) -> None:
        for reading in self._readings.values():
            reading.settle_all()

    def _pass_over(self, *, settled: bool = False) -> None:
        """Have what a filter passed over count as done, where nobody has a message before it.

        Args:
            settled: whether the message in the receiver's hand is done, too.
        """
        if self.options.tags is None:
            return
        handout = self.handout
        with handout.exclusive:
            for progress in self._prefetch.progresses:
                reader = progress.reader
                if (
                    progress.handed_out < reader.next_offset
                    and not reader.batches
                    and not handout.has(progress, settled=settled)
                ):
                    progress.skip_to(reader.next_offset)

    async def _commit_regularly(self) -> None:
        while True:
            with trio.move_on_after(self.options.commit_interval):
                await self._commit_wanted.wait()
            self._commit_wanted = trio.Event()
            self._pass_over()
            try:
                await self._commit_done()
            except BrokerError as error:
                # The topic is gone, say: the readers hear of it themselves.
                _LOG.warning("commit of group %s in topic %s: %s", self.group, self.topic, error)

    async def _commit_done(self) -> None:
        for reading in self._readings.values():
            await reading.commit()
