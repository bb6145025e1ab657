"""On the leader: topics that keep less than the log are trimmed, by commands in the log.

The messages before a queue's new beginning can be pulled no more, on any node; their bytes go with
the segment of the log that holds them.

Source: RocketMQ has no such thing; Kafka's ``retention.ms`` and ``retention.bytes`` for the idea.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from broker.metadata.queue_trims import trim_queues
from broker.store.retention import TopicBounds, TopicRetention
from dledger.errors import LedgerError

if TYPE_CHECKING:
    from broker.metadata.topics import TopicConfig, Topics
    from broker.store.append_queue import AppendQueue
    from broker.store.consume_queues import ConsumeQueues
    from broker.store.retention import SearchableLog
    from dledger.clock import Clock

logger = logging.getLogger(__name__)

TOLD_SECONDS = 60.0  # between two lines about one topic; a busy one is trimmed all the time


class TopicRetentionService:
    """Looks at every topic with a bound of its own, time and again."""

    def __init__(
        self,
        *,
        log: SearchableLog,
        queues: ConsumeQueues,
        topics: Topics,
        append: AppendQueue,
        clock: Clock,
        interval_seconds: float,
    ) -> None:
        """Make one that has not begun.

        Args:
            log: tells when messages were stored.
            queues: to be trimmed.
            topics: their bounds.
            append: takes the commands; open on the serving leader only.
            clock: tells how old messages are.
            interval_seconds: between two looks.
        """
        self._planner = TopicRetention(log, queues)
        self._topics = topics
        self._append = append
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._tell_at: dict[str, float] = {}

    async def run(self) -> None:
        """Trim until cancelled.

        Raises:
            CorruptStoreError: an entry that decides is damaged here; the node has to stop.
        """
        while True:
            await trio.sleep(self._interval_seconds)
            bounded = {
                config.topic: _bounds_of(config)
                for config in self._topics
                if config.retention_ms or config.retention_bytes
            }
            self._planner.forget(bounded)
            self._tell_at = {name: at for name, at in self._tell_at.items() if name in bounded}
            for bounds in bounded.values():
                if not self._append.is_open:
                    break
                await self._look_at(bounds)
                await trio.lowlevel.checkpoint()  # there may be thousands

    async def _look_at(self, bounds: TopicBounds) -> None:
        steps = self._planner.plan(bounds, self._clock.wall_ms())
        offsets: dict[int, int] | None = None
        while offsets is None:
            try:
                next(steps)
            except StopIteration as end:
                offsets = end.value
            else:
                await trio.lowlevel.checkpoint()
                if not self._append.is_open:
                    return
        # While others ran, the topic may have been told to keep more.
        config = self._topics.get(bounds.topic)
        if offsets and config is not None and _bounds_of(config) == bounds:
            self._trim(bounds, offsets)

    def _trim(self, bounds: TopicBounds, offsets: dict[int, int]) -> None:

        def done(_index: int, error: LedgerError | None) -> None:
            now = self._clock.now()
            if error is None and now >= self._tell_at.get(bounds.topic, now):
                self._tell_at[bounds.topic] = now + TOLD_SECONDS
                logger.info(
                    "trimmed topic %s (%s): queues %s begin at offset %s now",
                    bounds.topic,
                    ", ".join(_told(bounds)),
                    ", ".join(map(str, offsets)),
                    ", ".join(map(str, offsets.values())),
                )

        try:
            self._append.put_command(trim_queues(bounds.topic, offsets), done)
        except LedgerError as error:
            logger.debug("topic %s is trimmed later: %s", bounds.topic, error)
        else:
            self._append.seal()


def _bounds_of(config: TopicConfig) -> TopicBounds:
    return TopicBounds(
        topic=config.topic,
        queue_count=max(config.read_queue_count, config.write_queue_count),
        retention_ms=config.retention_ms,
        retention_bytes=config.retention_bytes,
    )


def _told(bounds: TopicBounds) -> list[str]:
    told = []
    if bounds.retention_ms:
        told.append(f"retention.ms = {bounds.retention_ms}")
    if bounds.retention_bytes:
        told.append(f"retention.bytes = {bounds.retention_bytes}")
    return told
