"""Sends messages: many tasks send one each, few requests carry them all.

A call of `Producer.send` has its message encoded into the open batch of a queue
(`broker.client.intake`) and parks.  One task of the producer (`broker.client.send_loop`) sends the
batches; answers wake the parked tasks.  Nothing is built, scheduled or sent for a single message
but its record and its result.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable
from functools import partial
from typing import TYPE_CHECKING

import trio

from broker.client.delays import delay_wanted
from broker.client.errors import USE_WITH, ClosedError, NotWrittenError
from broker.client.intake import Intake
from broker.client.send_many import ManySends, OutMessage
from broker.client.unique_ids import DIGIT_TEXTS
from broker.errors import BrokerError, InvalidMessageError
from broker.message.delay import SCHEDULE_TOPIC
from dledger.remoting.errors import RemotingError

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from types import TracebackType

    from broker.client.acks import Acks, Flush
    from broker.client.batch import Place
    from broker.client.broker_groups import BrokerGroups
    from broker.client.delays import Seconds
    from broker.client.intake import Body
    from broker.client.producer_options import ProducerOptions
    from broker.client.results import SendResult
    from broker.client.send_loop import ProducerStats
    from broker.client.topic_queues import TopicQueues
    from broker.client.unique_ids import UniqueIds
    from dledger.clock import Clock

CHECKPOINT_EVERY = 256  # messages of one `send_many` until others have their turn

# Bound once: a send costs a few microseconds, and each lookup in a module a part of one.
_current_task = trio.lowlevel.current_task
_park = trio.lowlevel.wait_task_rescheduled


class Producer:
    """Sends messages; open one with ``async with client.producer(...) as producer``.

    All tasks of an event loop may send through one producer.  What one task sends to one queue,
    each message after the send before has returned, is stored in that order.  So are messages of
    many tasks, in the order of their calls, unless a call has to wait for the topic or for room.
    """

    def __init__(
        self,
        name: str,
        *,
        nursery: trio.Nursery,
        groups: BrokerGroups,
        clock: Clock,
        chance: random.Random,
        unique_ids: UniqueIds,
        options: ProducerOptions,
    ) -> None:
        self.name = name
        self.options = options
        self._nursery = nursery
        self._clock = clock
        self._intake = Intake(
            name,
            groups=groups,
            clock=clock,
            chance=chance,
            unique_ids=unique_ids,
            options=options,
        )
        self._destinations = self._intake.destinations
        # Topics for whose queues nobody waits any more, and all whose queues are known.
        self._topics = self._destinations.topics
        self._routed = self._destinations.routed
        self._is_closed = True  # until it is opened
        self._was_opened = False
        self._scope = trio.CancelScope()
        self._buffer_size_max = options.buffer_size_max

    @property
    def stats(self) -> ProducerStats:
        """What this producer has done so far."""
        return self._intake.stats

    @property
    def buffered_size(self) -> int:
        """Bytes of records that are not settled yet."""
        return self._intake.buffered_size

    async def send(
        self,
        topic: str,
        body: Body,
        *,
        key: str | Iterable[str] | None = None,
        tag: str | None = None,
        properties: Mapping[str, str] | None = None,
        queue: int | None = None,
        ordering_key: str | None = None,
        acks: Acks | None = None,
        flush: Flush | None = None,
        delay: Seconds | None = None,
        deliver_at: datetime | None = None,
        delay_level: int | None = None,
    ) -> SendResult:
        """Send one message and return where it is, once the group has it for good.

        For good: on the disks of a majority, unless broker, topic or *acks* and *flush* say
        otherwise. `SendResult.durability` says what has been reached.

        A call that is cancelled leaves its message behind: it may be written or not.

        >>> async def main() -> broker.SendResult:
        ...     async with broker.connect("127.0.0.1:9876") as mq, mq.producer() as producer:
        ...         return await producer.send("steps", b"paid", key="order-17", queue=2)
        >>> sent = trio.run(main)
        >>> sent.topic, sent.queue_id, sent.queue_offset
        ('steps', 2, 0)

        Args:
            topic: created with four queues when there is none, unless the client is told not to.
            body: at most 4 MiB.
            key: one or several words to find the message by.
            tag: one word consumers can filter by.
            properties: named strings of your own.
            queue: number of the queue; None lets the producer choose.
            ordering_key: messages with the same key go to the same queue, in order.
            acks: who has to have it first: the "leader" alone (quick, and lost if the lead changes
                before a majority has it), a "majority", or "all" members.
            flush: whether they have to have it on disk ("sync") or in memory ("async").
            delay: seconds, or a timedelta, until consumers get it; 40 days at most. The result says
                where it waits.
            deliver_at: when consumers get it, instead; without a time zone it is local time.
            delay_level: RocketMQ's level instead, 1 (1 s) to 18 (2 h).

        Raises:
            LessDurableError: it is stored, and not kept as well as was asked for in time.
            InvalidMessageError, InvalidTopicError: the message breaks a limit; nothing was sent.
            MessageRefusedError: the broker will not have this message.
            TopicNotFoundError, NoPermissionError: the topic does not take messages.
            NotWrittenError: the time is up, and the message is not written and never will be.
            OutcomeUnknownError: the time is up, and the message may be written.
            NoBrokerError: the topic's queues are not known yet, and nobody says them.
            ClosedError: the producer is closed, or was not opened yet.
        """
        queues, intake = self._topics.get(topic), self._intake
        if queues is None or intake.buffered_size >= self._buffer_size_max or self._is_closed:
            queues = await self._prepare(topic)
        wait = None
        if delay is not None or deliver_at is not None or delay_level is not None:
            now_ms = self._clock.wall_ms()
            wait = delay_wanted(delay, deliver_at, delay_level, now_ms=now_ms)
            if wait is not None:
                topic = SCHEDULE_TOPIC
        # No await from here to the parking: a record and its waiter go in together.
        task = _current_task()
        batch, queue_id, place, start, id_prefix, number = intake.put(
            task, queues, body, key, tag, properties, queue, ordering_key, acks, flush, wait
        )
        unique_id = id_prefix + DIGIT_TEXTS[number]  # here and now: an answer is not there yet
        if queues.loop.is_new_tick and batch.in_flight:
            here = intake.here
            here.unique_id = unique_id
            if queues.loop.wait_in_place(batch, here, intake.now):
                settled, here.settled_with = here.settled_with, None
                here.custom_sleep_data = None
                if settled is None:
                    return batch.result(topic, queue_id, place, start, unique_id)
                if isinstance(settled, Exception):
                    raise settled
                return settled
        moved: SendResult | None = await _park(partial(_stop_waiting, task))
        if moved is not None:
            return moved
        return batch.result(topic, queue_id, place, start, unique_id)

    async def send_many(
        self,
        topic: str,
        messages: Iterable[Body | OutMessage] | AsyncIterable[Body | OutMessage],
    ) -> list[SendResult]:
        """Send all *messages*, and return where each is, in their order, once all are there.

        Faster than a task for each, and they need not all fit in memory: while the buffer is full
        nothing is taken from *messages*.  What goes to one queue is stored in their order.

        >>> async def main() -> list[broker.SendResult]:
        ...     messages = [broker.OutMessage(b"%d" % n, queue=0, tag="T") for n in range(3)]
        ...     async with broker.connect("127.0.0.1:9876") as mq, mq.producer() as producer:
        ...         return await producer.send_many("numbers", messages)
        >>> [result.queue_offset for result in trio.run(main)]
        [0, 1, 2]

        A call that is cancelled leaves behind the messages it has taken: written or not.

        Args:
            topic: as for `send`.
            messages: bodies, or `OutMessage`s for those with more than a body; any iterable or
                asynchronous iterable.

        Raises:
            SendManyError: not all are acknowledged; `results` says for each what became of it.
            Exception: what *messages* raised; those taken before may be written.
        """
        many = ManySends(topic)
        if isinstance(messages, AsyncIterable):
            async for message in messages:
                if not await self._put_all(many, (message,)):
                    break
        else:
            await self._put_all(many, messages)
        return await many.wait()

    def submit(self, place: Place, topic: str, message: OutMessage) -> bool:
        """Take *message* in without waiting, and have *place* told what becomes of it.

        The way of those who are no trio tasks.  Returns False, and has done nothing, when
        `make_ready` has to be awaited first.

        Raises:
            InvalidMessageError, TypeError, ValueError: nothing was taken in.
        """
        queues, intake = self._routed.get(topic), self._intake
        if queues is None or intake.buffered_size >= self._buffer_size_max or self._is_closed:
            return False
        _, _, _, _, id_prefix, number = intake.put(
            place,
            queues,
            message.body,
            message.key,
            message.tag,
            message.properties,
            message.queue,
            message.ordering_key,
            message.acks,
            message.flush,
            message.wait(self._clock) if message.is_delayed else None,
        )
        place.unique_id = id_prefix + DIGIT_TEXTS[number]
        return True

    async def put_chunk(self, many: ManySends, messages: list[Body | OutMessage]) -> bool:
        """Take in some messages of *many*; return whether more may follow."""
        return await self._put_all(many, messages)

    async def make_ready(self, topic: str) -> None:
        """Wait until `submit` can take a message of *topic*. Raises as `send` does."""
        await self._prepare(topic)

    async def flush(self) -> None:
        """Return once nothing is under way any more; no batch lingers meanwhile.

        Waits for every message sent before, and for those other tasks send meanwhile.
        """
        await trio.lowlevel.checkpoint()
        with contextlib.ExitStack() as stack:
            for loop in self._destinations.loops:
                stack.enter_context(loop.no_lingering())
            while self._intake.buffered_size:
                await self._intake.wait_settled()

    async def close(self) -> None:
        """Take no more messages, and return once those under way are settled."""
        self._is_closed = True
        self._intake.wake_waiting()
        try:
            await self.flush()
        finally:
            self._destinations.close("the producer was closed")
            self._scope.cancel()

    async def __aenter__(self) -> Producer:
        await self._nursery.start(self._run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _put_all(self, many: ManySends, messages: Iterable[Body | OutMessage]) -> bool:
        """Take messages in, one after the other; return whether more may follow."""
        topic = many.topic
        for given in messages:
            message = given if isinstance(given, OutMessage) else OutMessage(given)
            place = many.next_place()
            try:
                if not self.submit(place, topic, message):
                    await self.make_ready(topic)
                    assert self.submit(place, topic, message), "it was just made ready"
            except (InvalidMessageError, TypeError, ValueError) as error:
                place.settle(error)
            except (BrokerError, RemotingError) as error:
                place.settle(error)
                return False
            if many.count % CHECKPOINT_EVERY == 0:
                await trio.lowlevel.checkpoint()
        return True

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as inner:
                    self._intake.open()
                    self._is_closed = False
                    self._was_opened = True
                    task_status.started()
                    await self._destinations.run(inner)
        finally:
            # Also when the whole client is closed first: whoever waits shall hear of it.
            self._is_closed = True
            self._intake.wake_waiting()
            self._destinations.close("the client was closed")

    async def _prepare(self, topic: str) -> TopicQueues:
        """Wait until the topic's queues are known and the buffer has room."""
        self._check_open()
        deadline = trio.current_time() + self.options.send_timeout
        queues = await self._destinations.prepare(topic)
        intake = self._intake
        with trio.move_on_at(deadline) as scope:
            while intake.buffered_size >= self._buffer_size_max and not self._is_closed:
                await intake.wait_room()
        if scope.cancelled_caught:
            raise NotWrittenError(
                f"topic {topic}: {intake.buffered_size} bytes wait to be acknowledged, and "
                f"buffer_size_max is {self._buffer_size_max}; there was no room for "
                f"{self.options.send_timeout:g} s: it is not written, send it again later"
            )
        self._check_open()
        return queues

    def _check_open(self) -> None:
        if self._is_closed:
            if not self._was_opened:
                raise ClosedError(f"producer {self.name} is not open: {USE_WITH}")
            raise ClosedError(f"producer {self.name} is closed; open another one")


def _stop_waiting(task: trio.lowlevel.Task, _: object) -> trio.lowlevel.Abort:
    """Leave the message in its batch, and wake nobody for it."""
    task.custom_sleep_data.forget(task)
    return trio.lowlevel.Abort.SUCCEEDED
