"""Sends messages: many tasks send one each, few requests carry them all.

A call of `Producer.send` encodes its message into the open batch of a queue and parks.  One task of
the producer (`broker.client.send_loop`) sends the batches; answers wake the parked tasks.  Nothing
is built, scheduled or sent for a single message but its record and its result.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterable
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import trio

from broker.client.acks import check_acks
from broker.client.batch import Batch
from broker.client.compression import make_compressor
from broker.client.delays import delay_wanted, encode_delay
from broker.client.destinations import Destinations
from broker.client.errors import USE_WITH, ClosedError, NotWrittenError
from broker.client.records import ENCODE_HEAD, encode_named_properties, with_system_flag
from broker.client.send_loop import EAGER_SIZE, ProducerStats, SendLoop
from broker.client.send_many import ManySends, OutMessage
from broker.client.unique_ids import (
    DIGIT_TEXTS,
    DIGITS,
    UNIQUE_DIGITS,
    UNIQUE_DIGITS_COUNT,
    UNIQUE_ID_SIZE,
    UNIQUE_KEY_PROPERTY,
    IdBlocks,
)
from broker.errors import (
    BrokerError,
    InvalidMessageError,
)
from broker.message.codec import BODY_OFFSET, CRC_MASK
from broker.message.delay import SCHEDULE_TOPIC
from broker.message.limits import BODY_SIZE_MAX, check_body_size
from broker.message.tags import java_string_hash
from dledger.checksum import crc32
from dledger.remoting.errors import RemotingError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime
    from types import TracebackType

    from broker.client.acks import Acks, Flush
    from broker.client.batch import Place, Waiter
    from broker.client.broker_groups import BrokerGroups
    from broker.client.delays import Seconds
    from broker.client.producer_options import ProducerOptions
    from broker.client.queue_sender import QueueSender
    from broker.client.results import SendResult
    from broker.client.topic_queues import TopicQueues
    from broker.client.unique_ids import UniqueIds
    from broker.message.delay import Delay
    from dledger.clock import Clock

Body = bytes | bytearray | memoryview

NEVER = sys.maxsize  # bytes; no body is that large
ALONE_COUNT_MIN = 4  # ticks in a row that began with nothing under way: sends have no company
CHECKPOINT_EVERY = 256  # messages of one `send_many` until others have their turn
NO_HOST = b"\0\0\0\0"
UNIQUE_PROPERTY_SIZE = len(UNIQUE_KEY_PROPERTY) + UNIQUE_ID_SIZE
_UNIQUE_KEY_SIZE = UNIQUE_PROPERTY_SIZE.to_bytes(2, "big")

# Bound once: a send costs a few microseconds, and each lookup in a module a part of one.
_pack_head = ENCODE_HEAD.pack
_current_task = trio.lowlevel.current_task
_hash = lru_cache(maxsize=16_384)(java_string_hash)
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
        self._stats = ProducerStats()
        self._destinations = Destinations(
            name,
            groups=groups,
            chance=chance,
            options=options,
            stats=self._stats,
            on_settled=self._on_settled,
        )
        # Topics for whose queues nobody waits any more, and all whose queues are known.
        self._topics = self._destinations.topics
        self._routed = self._destinations.routed
        self._ids = IdBlocks(unique_ids)
        self._buffered_size = 0  # bytes of records not settled
        self._alone_count = 0  # ticks in a row that began with nothing under way
        self._room = trio.lowlevel.ParkingLot()  # senders that wait for the buffer to shrink
        self._drained = trio.lowlevel.ParkingLot()  # flush() waits here
        self._parked_count = 0  # of those who wait in either
        self._is_closed = True  # until it is opened
        self._was_opened = False
        self._scope = trio.CancelScope()
        # Limits, where the hot path finds them quickest.
        self._batch_size_max = options.batch_size_max
        self._batch_count_max = options.batch_count_max
        self._buffer_size_max = options.buffer_size_max
        self._send_timeout = options.send_timeout
        self._acks: str = options.acks or ""
        self._flush: str = options.flush or ""
        self._compress: Callable[[Body], bytes] | None = None
        self._compression_flag = 0
        self._compression_threshold = NEVER
        if options.compression is not None:
            self._compression_flag, self._compress = make_compressor(
                options.compression, options.compression_level
            )
            self._compression_threshold = options.compression_threshold
        self._time = trio.current_time  # quicker once the producer is open
        # Read once for each tick: what one tick sends has one time.
        self._now = 0.0
        self._deadline = 0.0
        self._wall_ms = -1

    @property
    def stats(self) -> ProducerStats:
        """What this producer has done so far."""
        return self._stats

    @property
    def buffered_size(self) -> int:
        """Bytes of records that are not settled yet."""
        return self._buffered_size

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
        queues = self._topics.get(topic)
        if queues is None or self._buffered_size >= self._buffer_size_max or self._is_closed:
            queues = await self._prepare(topic)
        wait = None
        if delay is not None or deliver_at is not None or delay_level is not None:
            now_ms = self._clock.wall_ms()
            wait = delay_wanted(delay, deliver_at, delay_level, now_ms=now_ms)
            if wait is not None:
                topic = SCHEDULE_TOPIC
        # No await from here to the parking: a record and its waiter go in together.
        task = _current_task()
        batch, queue_id, place, start, id_prefix, number = self._put(
            task, queues, body, key, tag, properties, queue, ordering_key, acks, flush, wait
        )
        moved: SendResult | None = await _park(partial(_stop_waiting, task))
        if moved is not None:
            return moved
        return batch.result(topic, queue_id, place, start, id_prefix + DIGIT_TEXTS[number])

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
        queues = self._routed.get(topic)
        if queues is None or self._buffered_size >= self._buffer_size_max or self._is_closed:
            return False
        _, _, _, _, id_prefix, number = self._put(
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
            while self._buffered_size:
                self._parked_count += 1
                try:
                    await self._drained.park()
                finally:
                    self._parked_count -= 1

    async def close(self) -> None:
        """Take no more messages, and return once those under way are settled."""
        self._is_closed = True
        self._room.unpark_all()
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

    # --- inside -------------------------------------------------------------------------------

    def _put(
        self,
        waiter: Waiter,
        queues: TopicQueues,
        body: Body,
        key: str | Iterable[str] | None,
        tag: str | None,
        properties: Mapping[str, str] | None,
        queue: int | None,
        ordering_key: str | None,
        acks: Acks | None,
        flush: Flush | None,
        wait: Delay | None,
    ) -> tuple[Batch, int, int, int, str, int]:
        """Encode one message into the open batch of a queue.

        Returns its batch, queue, number in the batch, first byte in the batch, and its unique id:
        a prefix and the number of its last digits.
        """
        loop = queues.loop
        if loop.is_new_tick:
            self._start_tick(loop)
        else:
            self._alone_count = 0
        if type(body) is not bytes:
            body = _as_bytes(body)
        body_size = len(body)
        if body_size > BODY_SIZE_MAX:
            _refuse_size(queues.topic, body_size)
        if ordering_key is not None:
            if queue is not None:
                raise ValueError("give either queue or ordering_key: the key chooses the queue")
            sender = queues.senders[abs(_hash(ordering_key)) % queues.queue_count]
        elif queue is not None:
            sender = self._sender_of(queues, queue)
        else:
            sender = queues.sticky
        extra = b""
        if key is not None or tag is not None or properties is not None:
            try:
                extra = encode_named_properties(key, tag, properties)
            except InvalidMessageError as error:
                raise InvalidMessageError(f"topic {queues.topic}: {error}") from None
        if wait is not None:
            extra += encode_delay(wait, topic=queues.topic, queue_id=sender.queue_id)
            if sender is queues.sticky:
                queues.rotate()  # what waits for it makes no queue busy
            queues = self._destinations.waiting_queues(loop)
            queue = wait.queue_id
            sender = queues.senders[queue]
        system_flag = 0
        if body_size >= self._compression_threshold:
            assert self._compress is not None
            smaller = self._compress(body)
            if len(smaller) < body_size:
                body, body_size, system_flag = smaller, len(smaller), self._compression_flag
        ids = self._ids
        number = ids.number
        if number == UNIQUE_DIGITS_COUNT:
            ids.go_on()
            number = 0
        ids.number = number + 1
        if queues.tail_stamp != ids.stamp:
            queues.tail_stamp = ids.stamp
            queues.tail = b"%s%s%s" % (queues.encoded_name, _UNIQUE_KEY_SIZE, ids.property)
        tail = queues.tail
        if extra:
            properties_size = UNIQUE_PROPERTY_SIZE + len(extra)
            tail = b"%s%s%s" % (
                queues.encoded_name,
                properties_size.to_bytes(2, "big"),
                ids.property,
            )
        size = BODY_OFFSET + body_size + len(tail) + UNIQUE_DIGITS + len(extra)
        if acks is None and flush is None:
            wanted_acks, wanted_flush = self._acks, self._flush
        else:
            check_acks(acks, flush)
            wanted_acks, wanted_flush = acks or self._acks, flush or self._flush
        pending = sender.pending
        batch = pending[-1] if pending else None
        if (
            batch is None
            or batch.acks != wanted_acks
            or batch.flush != wanted_flush
            or batch.size + size > self._batch_size_max
            or len(batch.records) >= self._batch_count_max
        ):
            if batch is not None and queue is None and ordering_key is None:
                queues.rotate()
                sender = queues.sticky
            batch = Batch(wanted_acks, wanted_flush)
            if not loop.is_new_tick:
                sender.pending.append(batch)
                loop.add(sender, queues)
        head = _pack_head(
            size,
            queues.magic,
            crc32(body) & CRC_MASK,
            sender.queue_id,
            self._wall_ms,
            NO_HOST,
            body_size,
        )
        if system_flag:
            head = with_system_flag(head, system_flag)
        waiter.custom_sleep_data = batch
        place = len(batch.records)
        start = batch.size
        batch.records.append(b"".join((head, body, tail, DIGITS[number], extra)))
        batch.waiters.append(waiter)
        batch.deadlines.append(self._deadline)
        batch.size = start + size
        self._buffered_size += size
        if loop.is_new_tick:
            loop.send_alone(sender, queues, batch, self._now)
        elif start < EAGER_SIZE <= batch.size:
            loop.send_now(sender, queues)
        return batch, sender.queue_id, place, start, ids.prefix, number

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
                    self._time = trio.lowlevel.current_clock().current_time
                    self._is_closed = False
                    self._was_opened = True
                    task_status.started()
                    await self._destinations.run(inner)
        finally:
            # Also when the whole client is closed first: whoever waits shall hear of it.
            self._is_closed = True
            self._room.unpark_all()
            self._destinations.close("the client was closed")

    async def _prepare(self, topic: str) -> TopicQueues:
        """Wait until the topic's queues are known and the buffer has room."""
        self._check_open()
        deadline = trio.current_time() + self.options.send_timeout
        queues = await self._destinations.prepare(topic)
        with trio.move_on_at(deadline) as scope:
            while self._buffered_size >= self._buffer_size_max and not self._is_closed:
                self._parked_count += 1
                try:
                    await self._room.park()
                finally:
                    self._parked_count -= 1
        if scope.cancelled_caught:
            raise NotWrittenError(
                f"topic {topic}: {self._buffered_size} bytes wait to be acknowledged, and "
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

    def _sender_of(self, queues: TopicQueues, queue: int) -> QueueSender:
        if not 0 <= queue < queues.queue_count:
            raise InvalidMessageError(
                f"topic {queues.topic} has no queue {queue}: it has 0 to {queues.queue_count - 1}; "
                "leave the choice to the producer, or give the topic more queues"
            )
        return queues.senders[queue]

    def _on_settled(self, batch: Batch) -> None:
        self._buffered_size -= batch.size
        stats = self._stats
        if batch.is_acknowledged:
            stats.acked += len(batch.records)
            stats.latency.add_batch(batch.deadlines, batch.answered_at + self._send_timeout)
        else:
            stats.failed += len(batch.records)
        if self._parked_count:
            if self._buffered_size < self._buffer_size_max:
                self._room.unpark_all()
            if not self._buffered_size:
                self._drained.unpark_all()

    def _start_tick(self, loop: SendLoop) -> None:
        """Read the clocks for all that is sent in this tick, and have it sent in the next.

        Where one message after another has come alone, so will this one: it does not wait for the
        tick's end, and the tick begins anew with the next.
        """
        if self._buffered_size:
            self._alone_count = 0
        else:
            self._alone_count += 1
        if self._alone_count < ALONE_COUNT_MIN:
            loop.is_new_tick = False
            loop.wake()
        self._now = now = self._time()
        self._deadline = deadline = now + self._send_timeout
        if deadline < loop.timer_at:
            loop.wake_at(deadline)
        wall_ms = self._clock.wall_ms()
        if wall_ms > self._wall_ms:
            self._wall_ms = wall_ms
            if wall_ms >= self._ids.renewed_from_ms:
                self._ids.renew(wall_ms)


def _stop_waiting(task: trio.lowlevel.Task, _: object) -> trio.lowlevel.Abort:
    """Leave the message in its batch, and wake nobody for it."""
    task.custom_sleep_data.forget(task)
    return trio.lowlevel.Abort.SUCCEEDED


def _refuse_size(topic: str, size: int) -> None:
    try:
        check_body_size(size)
    except InvalidMessageError as error:
        raise InvalidMessageError(f"topic {topic}: {error}") from None


def _as_bytes(body: object) -> bytes:
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError(f"body is a {type(body).__name__}; encode it to bytes first")
    return bytes(body)
