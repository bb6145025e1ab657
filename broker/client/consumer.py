"""Reads messages: ``async for`` over all queues of a topic, in order within each queue.

Messages are pulled ahead in the background and handed out batch by batch, the queues taking turns.
What their receiver has dealt with (`broker.client.progress`) is committed from time to time: after
a crash the group goes on with the messages that were not, and perhaps with a few that were.

Which queues are read is the group's to say (`broker.client.group_member`), or the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.client.handout import MessageBatches
from broker.client.starts import Start, check_start

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from broker.client.consumer_options import ConsumerOptions, Subscription
    from broker.client.handout import ConsumerStats, Handout
    from broker.client.message import Message
    from broker.client.readings import Readings


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

    def __init__(self, readings: Readings) -> None:
        self.subscription: Subscription = readings.subscription
        # Under asyncio, shared with the thread of the connections, which leaves it alone while
        # nobody waits for it.
        self.handout: Handout = readings.handout
        self._readings = readings

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
        return tuple(sorted(self._readings.of().queues))

    @property
    def paused(self) -> tuple[int, ...]:
        """Numbers of those that are paused."""
        return tuple(
            queue
            for queue, found in list(self._readings.of().queues.items())
            if found.reader.is_paused
        )

    @property
    def left(self) -> dict[int, list[int]]:
        """Offsets, by queue of `topic`, of messages that are not done and were not sent back."""
        return {
            queue: found.left
            for queue, found in list(self._readings.of().queues.items())
            if found.left
        }

    @property
    def stats(self) -> ConsumerStats:
        """What this consumer has done so far."""
        return self._readings.stats

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
        await self._readings.gather(handout, count_max, linger)

    async def fill(self) -> None:
        """Wait for messages and have them handed out."""
        await self._readings.fill()

    async def fill_within(self, wait: float | None) -> bool:
        """As `fill`, for so many seconds at most; whether there are messages."""
        return await self._readings.fill_within(wait)

    # --- where it reads -----------------------------------------------------------------------

    def position(self, queue: int, *, topic: str | None = None) -> int:
        """Return the offset of the next message to hand out from *queue*."""
        return self._readings.queue(queue, topic).handed_out

    def positions(self, *, topic: str | None = None) -> dict[int, int]:
        """Return the offset of the next message to hand out from each queue that is read now."""
        return {q: found.handed_out for q, found in list(self._readings.of(topic).queues.items())}

    def seek(self, queue: int, queue_offset: int, *, topic: str | None = None) -> None:
        """Hand out *queue* from *queue_offset* on; what was read ahead is forgotten.

        A committed offset never goes back but by a reset: after a seek backwards the group's stays
        where it was until this consumer passes it.  A message that was left is handed out again
        if it lies behind *queue_offset*; otherwise it still keeps those behind it from being
        committed, until its `Message.ack` gives it up.
        """
        if queue_offset < 0:
            raise ValueError(f"queue_offset = {queue_offset}: must be at least 0")
        self._readings.of(topic).go_to(self._readings.queue(queue, topic), queue_offset)

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
        reading = self._readings.of(topic)
        if queues is None:
            queues = start if isinstance(start, dict) else reading.queues
        wanted = tuple(queues)
        for queue in wanted:
            self._readings.queue(queue, topic)
        offsets = await self._readings.starts.find(self.group, reading.topic, wanted, start)
        for queue, queue_offset in offsets.items():
            if queue in reading.queues:  # it may have gone to another member meanwhile
                self.seek(queue, queue_offset, topic=topic)
        return offsets

    def pause(self, *queues: int, topic: str | None = None) -> None:
        """Hand out nothing from *queues*, or from any, until `resume`; nor pull more of them."""
        for progress in self._readings.named(queues, topic):
            reader = progress.reader
            reader.is_paused = True
            self._readings.prefetch.hold(reader)
            with self.handout.exclusive:
                back = self.handout.put_back(progress)
            if back:
                self._readings.prefetch.put_back(reader, back)

    def resume(self, *queues: int, topic: str | None = None) -> None:
        """Go on with *queues*, or with all that are paused."""
        for progress in self._readings.named(queues, topic):
            reader = progress.reader
            if reader.is_paused:
                reader.is_paused = False
                self._readings.prefetch.release(reader)
        self._readings.prefetch.make_room()

    async def lag(self, *, topic: str | None = None) -> dict[int, int]:
        """Return for each queue how many offsets lie between its position and its end.

        Raises:
            NoBrokerError: nobody could say where the queues end.
        """
        reading = self._readings.of(topic)
        places = {queue: found.handed_out for queue, found in reading.queues.items()}
        found = await self._readings.starts.find(self.group, reading.topic, tuple(places), "last")
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
                f"a consumer of topic {self.topic} without a group, or with broadcasting and no "
                "offset_file, commits nothing"
            )
        await self._readings.commit_all()

    # --- opening and closing ------------------------------------------------------------------

    async def __aenter__(self) -> Consumer:
        await self._readings.open()
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
        await self._readings.close(error)
