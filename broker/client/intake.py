"""Takes messages in: each is encoded into the open batch of a queue, and counted until settled.

What is read once for all messages of a tick (the time, the prefix of their unique ids), and what is
the same for all messages of a topic, is kept, so that a message costs little more than its record.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import TYPE_CHECKING

import trio

from broker.client.acks import check_acks
from broker.client.batch import Batch, Here
from broker.client.compression import make_compressor
from broker.client.delays import encode_delay
from broker.client.destinations import Destinations
from broker.client.records import ENCODE_HEAD, encode_named_properties, with_system_flag
from broker.client.send_loop import EAGER_SIZE, ProducerStats
from broker.client.unique_ids import (
    DIGITS,
    UNIQUE_DIGITS,
    UNIQUE_DIGITS_COUNT,
    UNIQUE_ID_SIZE,
    UNIQUE_KEY_PROPERTY,
    IdBlocks,
)
from broker.errors import InvalidMessageError
from broker.message.codec import BODY_OFFSET, CRC_MASK
from broker.message.limits import BODY_SIZE_MAX, check_body_size
from broker.message.tags import java_string_hash
from dledger.checksum import crc32

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping

    from broker.client.acks import Acks, Flush
    from broker.client.batch import Waiter
    from broker.client.broker_groups import BrokerGroups
    from broker.client.producer_options import ProducerOptions
    from broker.client.queue_sender import QueueSender
    from broker.client.send_loop import SendLoop
    from broker.client.topic_queues import TopicQueues
    from broker.client.unique_ids import UniqueIds
    from broker.message.delay import Delay
    from dledger.clock import Clock

Body = bytes | bytearray | memoryview

NEVER = sys.maxsize  # bytes; no body is that large
ALONE_COUNT_MIN = 4  # ticks in a row that began with nothing under way: sends have no company
NO_HOST = b"\0\0\0\0"
UNIQUE_PROPERTY_SIZE = len(UNIQUE_KEY_PROPERTY) + UNIQUE_ID_SIZE
_UNIQUE_KEY_SIZE = UNIQUE_PROPERTY_SIZE.to_bytes(2, "big")

# Bound once: a send costs a few microseconds, and each lookup in a module a part of one.
_pack_head = ENCODE_HEAD.pack
_hash = lru_cache(maxsize=16_384)(java_string_hash)


class Intake:
    """The messages of one producer that are not settled yet, and how they come to be so.

    Attributes:
        buffered_size: bytes of their records.
        now: second of the loop's clock, as of the last message.
        destinations: where they go.
        stats: what became of those before.
    """

    def __init__(
        self,
        name: str,
        *,
        groups: BrokerGroups,
        clock: Clock,
        chance: random.Random,
        unique_ids: UniqueIds,
        options: ProducerOptions,
    ) -> None:
        """Begin with none; the arguments are those of `Producer`."""
        self.stats = ProducerStats()
        self.destinations = Destinations(
            name,
            groups=groups,
            chance=chance,
            options=options,
            stats=self.stats,
            on_settled=self._on_settled,
        )
        self.buffered_size = 0
        self.here = Here()  # for the one send that waits in place
        self._clock = clock
        self._ids = IdBlocks(unique_ids)
        self._alone_count = 0  # ticks in a row that began with nothing under way
        self._room = trio.lowlevel.ParkingLot()  # senders that wait for the buffer to shrink
        self._drained = trio.lowlevel.ParkingLot()  # who waits for it to be empty
        self._parked_count = 0  # of those who wait in either
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
        self.now = 0.0
        self._deadline = 0.0
        self._wall_ms = -1

    def open(self) -> None:
        """Begin; in the event loop that is to run everything."""
        self._time = trio.lowlevel.current_clock().current_time

    async def wait_settled(self) -> None:
        """Return some time after the last message was settled; another may be there by then."""
        await self._park(self._drained)

    async def wait_room(self) -> None:
        """Return once there may be room for another message, or nobody shall wait any longer."""
        await self._park(self._room)

    def wake_waiting(self) -> None:
        """Have those look again who wait for room."""
        self._room.unpark_all()

    async def _park(self, lot: trio.lowlevel.ParkingLot) -> None:
        self._parked_count += 1
        try:
            await lot.park()
        finally:
            self._parked_count -= 1

    def put(
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
            queues = self.destinations.waiting_queues(loop)
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
        self.buffered_size += size
        if loop.is_new_tick:
            loop.send_alone(sender, queues, batch, self.now)
        elif start < EAGER_SIZE <= batch.size:
            loop.send_now(sender, queues)
        return batch, sender.queue_id, place, start, ids.prefix, number

    def _sender_of(self, queues: TopicQueues, queue: int) -> QueueSender:
        if not 0 <= queue < queues.queue_count:
            raise InvalidMessageError(
                f"topic {queues.topic} has no queue {queue}: it has 0 to {queues.queue_count - 1}; "
                "leave the choice to the producer, or give the topic more queues"
            )
        return queues.senders[queue]

    def _on_settled(self, batch: Batch) -> None:
        self.buffered_size -= batch.size
        stats = self.stats
        if batch.is_acknowledged:
            stats.acked += len(batch.records)
            stats.latency.add_batch(batch.deadlines, batch.answered_at + self._send_timeout)
        else:
            stats.failed += len(batch.records)
        if self._parked_count:
            if self.buffered_size < self._buffer_size_max:
                self._room.unpark_all()
            if not self.buffered_size:
                self._drained.unpark_all()

    def _start_tick(self, loop: SendLoop) -> None:
        """Read the clocks for all that is sent in this tick, and have it sent in the next.

        Where one message after another has come alone, so will this one: it does not wait for the
        tick's end, and the tick begins anew with the next.
        """
        if self.buffered_size:
            self._alone_count = 0
        else:
            self._alone_count += 1
        if self._alone_count < ALONE_COUNT_MIN:
            loop.is_new_tick = False
            loop.wake()
        self.now = now = self._time()
        self._deadline = deadline = now + self._send_timeout
        if deadline < loop.timer_at:
            loop.wake_at(deadline)
        wall_ms = self._clock.wall_ms()
        if wall_ms > self._wall_ms:
            self._wall_ms = wall_ms
            if wall_ms >= self._ids.renewed_from_ms:
                self._ids.renew(wall_ms)


def _refuse_size(topic: str, size: int) -> None:
    try:
        check_body_size(size)
    except InvalidMessageError as error:
        raise InvalidMessageError(f"topic {topic}: {error}") from None


def _as_bytes(body: object) -> bytes:
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError(f"body is a {type(body).__name__}; encode it to bytes first")
    return bytes(body)
