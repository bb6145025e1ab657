"""Delivers what was to wait, on the serving leader, when its time has come.

How far each level is delivered stands in the log with the messages themselves: the mark before them
(`broker.message.batch`) has the number of the last one in the queue it waited in.  So there is no
moment at which a leader could be lost between the two, and each message comes once.  An internal
group commits the same, for messages that came to nothing and for people who look.

Source: RocketMQ ``ScheduleMessageService``, whose offsets are a file of each broker, written every
ten seconds.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import trio

from broker.errors import BrokerError
from broker.message.batch import encode_sizes, own_producer_id
from broker.message.codec import decode_record, encode_record
from broker.message.delay import DELAY_LEVELS_MS, SCHEDULE_TOPIC, Delay, delay_until, hide, reveal
from broker.message.properties import encode_properties
from broker.metadata.consumer_offsets import commit_offsets
from broker.metadata.topics import TopicConfig, create_topic
from broker.store.chunk import SYSTEM_FLAGS_ALLOWED, check_chunk
from broker.store.reader import PullStatus
from dledger.errors import LedgerBusyError, LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from broker.message.limits import MessageLimits
    from broker.message.model import StoredMessage
    from broker.metadata.consumer_offsets import ConsumerOffsets
    from broker.metadata.topics import Topics
    from broker.store.append_queue import AppendQueue
    from broker.store.commit_log import Receipt
    from broker.store.consume_queue import ConsumeQueue
    from broker.store.proposals import Put
    from broker.store.reader import Reader
    from dledger.clock import Clock
    from dledger.durability import Durability

logger = logging.getLogger(__name__)

PROGRESS_GROUP = "CID_RMQ_SYS_SCHEDULE"
BATCH_COUNT = 128  # messages of a level delivered before another has its turn
BATCH_SIZE = 1024 * 1024  # bytes of them
BUSY_SECONDS = 0.1  # until the next try when too much is under way
CLOCK_SECONDS = 1.0  # between two looks at the wall clock, which may be set, while anything waits


class _Nobody:
    """Hears what became of a message that was delivered; the log tells all there is to know."""

    def succeeded(self, receipt: Receipt, reached: Durability) -> None:
        """See `Put`."""

    def failed(self, error: LedgerError) -> None:
        """See `Put`: this node serves no longer, or anew; either begins from what is committed."""


class Outgoing(NamedTuple):
    """One message on its way into the log."""

    topic: str
    queue_id: int
    message: StoredMessage  # body, flags and times are this one's
    properties: Mapping[str, str]
    reconsume_times: int


class Schedule:
    """The messages that wait."""

    def __init__(
        self,
        *,
        queue: AppendQueue,
        reader: Reader,
        topics: Topics,
        offsets: ConsumerOffsets,
        clock: Clock,
        limits: MessageLimits,
        is_serving: Callable[[], bool],
        is_being_deleted: Callable[[str], bool],
        last_delivered: Callable[[int], int],
    ) -> None:
        """Make one that delivers nothing yet.

        Args:
            queue: where messages and progress go.
            reader: finds what waits.
            topics: where messages may go to.
            offsets: how far each level is delivered.
            clock: the time of day.
            limits: largest body and properties.
            is_serving: whether this node is the leader and lags behind nobody.
            is_being_deleted: whether a topic is about to go: nothing is written to it any more.
            last_delivered: returns the highest number in the log by a producer id, or -1.
        """
        self._queue = queue
        self._reader = reader
        self._topics = topics
        self._offsets = offsets
        self._clock = clock
        self._limits = limits
        self._is_serving = is_serving
        self._is_being_deleted = is_being_deleted
        self._last_delivered = last_delivered
        self._next: list[int] = []  # offset of each level; empty: this node does not deliver
        self._wake = trio.Event()
        self.delivered_count = 0

    def ensure_topic(self) -> None:
        """Propose the topic that messages wait in unless it is there; it comes before them.

        Raises:
            LedgerError: nothing can be written now.
        """
        if self._topics.get(SCHEDULE_TOPIC) is None:
            count = len(DELAY_LEVELS_MS)
            config = TopicConfig(
                topic=SCHEDULE_TOPIC, read_queue_count=count, write_queue_count=count, perm=0
            )
            self._queue.put_command(create_topic(config), lambda _index, _error: None)

    def put(
        self,
        outgoing: Outgoing,
        delay: Delay | None,
        put: Put,
        *,
        producer_id: int = 0,
        sequence: int = 0,
    ) -> None:
        """Append a message: to its topic, or to where it waits.

        Args:
            outgoing: the message.
            delay: for how long it waits; None: not at all.
            put: hears what becomes of it.
            producer_id: of the broker's own, when it has waited already.
            sequence: where it waited.

        Raises:
            LedgerError, BrokerError: it was not taken.
        """
        topic, queue_id, message, properties, times = outgoing
        if delay is not None:
            self.ensure_topic()
            properties = hide(properties, delay, topic=topic, queue_id=queue_id)
            topic, queue_id = SCHEDULE_TOPIC, delay.queue_id
        record = encode_record(
            topic=topic.encode(),
            queue_id=queue_id,
            body=message.body,
            properties=encode_properties(properties),
            flag=message.flag,
            system_flag=message.system_flag & SYSTEM_FLAGS_ALLOWED,
            born_timestamp_ms=message.born_timestamp_ms,
            born_host=message.born_host,
            reconsume_times=times,
            limits=self._limits,
        )
        chunk = check_chunk(
            record,
            encode_sizes([len(record)]),
            topic=topic,
            queue_id=queue_id,
            limits=self._limits,
        )
        self._queue.put_chunk(chunk, put, producer_id=producer_id, first_sequence=sequence)

    # -- what happens ---------------------------------------------------------------------------

    def began_to_serve(self) -> None:
        """Go on where the log says the last leader came to."""
        self._next = [
            max(
                self._offsets.get(PROGRESS_GROUP, SCHEDULE_TOPIC, level) or 0,
                self._last_delivered(own_producer_id(level)) + 1,
            )
            for level in range(len(DELAY_LEVELS_MS))
        ]
        if self._topics.get(SCHEDULE_TOPIC) is not None:
            self._wake.set()

    def arrived(self, queues: Iterable[ConsumeQueue]) -> None:
        """Look again when something new waits in one of *queues*."""
        for queue in queues:
            if queue.key[0] == SCHEDULE_TOPIC:
                self._wake.set()
                return

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            self._wake = trio.Event()
            seconds = self._deliver_due() if self._is_serving() and self._next else None
            if seconds is None:
                await self._wake.wait()
                continue
            with trio.move_on_after(seconds):
                await self._wake.wait()

    def _deliver_due(self) -> float | None:
        """Deliver what is due; return in how many seconds to look again, None: when told to."""
        soonest: float | None = None
        for level in range(len(DELAY_LEVELS_MS)):
            try:
                seconds = self._deliver_level(level)
            except LedgerError as error:
                logger.debug("delivery of delay level %d has to wait: %s", level + 1, error)
                seconds = BUSY_SECONDS
            if seconds is not None and (soonest is None or seconds < soonest):
                soonest = seconds
        self._queue.seal()
        return soonest

    def _deliver_level(self, level: int) -> float | None:
        """Deliver what is due of one level; return in how many seconds its next is due."""
        begin = self._next[level]
        found = self._reader.get_messages(
            SCHEDULE_TOPIC, level, begin, count_max=BATCH_COUNT, size_max=BATCH_SIZE
        )
        if found.status is PullStatus.OFFSET_TOO_SMALL:
            logger.warning(
                "messages %d to %d of delay level %d are lost: retention took them while they "
                "waited; raise log_size_max",
                begin,
                found.min_offset - 1,
                level + 1,
            )
            self._next[level] = found.min_offset
            return 0.0
        if found.status is not PullStatus.FOUND:
            return None
        now = self._clock.wall_ms()
        wait_ms: int | None = 0  # until the next; 0: there may be more that are due
        at = begin
        try:
            for message in _messages(found.views):
                wait_ms = message.store_timestamp_ms + DELAY_LEVELS_MS[level] - now
                if wait_ms > 0:
                    break
                self._deliver(message, now, level)
                at += 1
                wait_ms = 0
        finally:
            if at > begin:
                self._next[level] = at
                self._queue.put_command(
                    commit_offsets(PROGRESS_GROUP, SCHEDULE_TOPIC, {level: at}),
                    lambda _index, _error: None,
                )
        return min(wait_ms / 1000 + 0.001, CLOCK_SECONDS) if wait_ms else 0.0

    def _deliver(self, message: StoredMessage, now_ms: int, level: int) -> None:
        """Bring one message to its topic, or drop it.

        Raises:
            LedgerError: nothing can be written now, or not to that topic; try again.
        """
        try:
            hidden = reveal(message.properties)
        except (KeyError, ValueError):
            logger.warning("%r waited for nothing: it says not where to go", message)
            return
        delay = delay_until(hidden.out_ms, now_ms=now_ms) if hidden.out_ms else None
        config = self._topics.get(hidden.topic)
        if config is None:
            logger.warning("a message that waited is dropped: topic %s is gone", hidden.topic)
            return
        if self._is_being_deleted(hidden.topic):
            # It may yet stay, should the deletion fail: what became of it is known in a moment.
            raise LedgerBusyError(f"topic {hidden.topic!r} is being deleted")
        queue_id = hidden.queue_id % config.write_queue_count
        try:
            self.put(
                Outgoing(
                    hidden.topic, queue_id, message, hidden.properties, message.reconsume_times
                ),
                delay,
                _Nobody(),
                producer_id=own_producer_id(level),
                sequence=message.queue_offset,
            )
        except BrokerError as error:
            logger.warning("a message that waited for topic %s is dropped: %s", hidden.topic, error)
            return
        self.delivered_count += 1


def _messages(views: list[memoryview]) -> list[StoredMessage]:
    found = []
    for view in views:
        at = 0
        while at < len(view):
            message = decode_record(view, at, check_crc=False)
            found.append(message)
            at += message.size
    return found
