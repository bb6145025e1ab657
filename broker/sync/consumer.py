"""A consumer for one thread: what is at hand is handed out without crossing to the client's."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from broker.client.consumer import Consumer
from broker.client.portal import Portal, call_blocking, close_blocking, open_blocking
from broker.sync.mirror import blocking, passing

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from types import TracebackType

    from broker.client.consumer_options import ConsumerOptions, Subscription
    from broker.client.handout import ConsumerStats
    from broker.client.message import Message
    from broker.client.rebalance import Rebalance
    from broker.client.starts import Start


class ConsumerKeywords(TypedDict, total=False):
    """See `broker.Client.consumer`."""

    start: Start
    tags: str | None
    prefetch_bytes: int
    prefetch_count: int
    auto_commit: bool
    commit_interval: float
    poll_wait: float
    ordered: bool
    broadcasting: bool
    offset_file: str | os.PathLike[str] | None
    rebalance: Rebalance
    retries_max: int | None


class SyncConsumer:
    """See `broker.Consumer`; open one with ``with client.consumer(...) as consumer``."""

    def __init__(self, portal: Portal, real: Consumer) -> None:
        self._portal = portal
        self._real = real
        # Shared with the other thread, which leaves it alone while nobody waits for it.
        self._handout = real.handout

    @property
    def subscription(self) -> Subscription:
        """For which group it reads what."""
        return self._real.subscription

    @property
    def group(self) -> str:
        """The consumer group; "" for none."""
        return self._real.group

    @property
    def topic(self) -> str:
        """What is read; of several topics the first."""
        return self._real.topic

    @property
    def topics(self) -> tuple[str, ...]:
        """All topics that are read."""
        return self._real.topics

    @property
    def options(self) -> ConsumerOptions:
        """How it reads."""
        return self._real.options

    @property
    def queues(self) -> tuple[int, ...]:
        """Numbers of the queues of `topic` that this consumer reads now."""
        return self._real.queues

    @property
    def paused(self) -> tuple[int, ...]:
        """Numbers of those that are paused."""
        return self._real.paused

    @property
    def left(self) -> dict[int, list[int]]:
        """Offsets, by queue, of messages whose ``with message:`` ended with an error."""
        return self._real.left

    @property
    def stats(self) -> ConsumerStats:
        """What this consumer has done so far."""
        return self._real.stats

    def __iter__(self) -> SyncConsumer:
        return self

    def __next__(self) -> Message:
        """Return the next message; with ``auto_commit`` what was handed out before is done."""
        message = self._handout.next()
        while message is None:
            call_blocking(self._portal, self._real.fill)
            message = self._handout.next()
        return message

    def get(self, wait: float | None = None) -> Message | None:
        """Return the next message, or None when none came. See `broker.Consumer.get`."""
        message = self._handout.next()
        if message is None and call_blocking(self._portal, self._real.fill_within, wait):
            message = self._handout.next()
        return message

    def batches(self, count_max: int = 500, *, linger: float = 0.0) -> Iterator[list[Message]]:
        """Return an iterator over lists of messages. See `broker.Consumer.batches`."""
        if count_max < 1:
            raise ValueError(f"count_max = {count_max}: must be at least 1")
        handout = self._handout
        while True:
            handout.settle_taken()
            call_blocking(self._portal, self._real.gather, handout, count_max, linger)
            yield handout.take_gathered(count_max)

    def position(self, queue: int, *, topic: str | None = None) -> int:
        """Return the offset of the next message to hand out from *queue*."""
        return self._real.position(queue, topic=topic)

    def positions(self, *, topic: str | None = None) -> dict[int, int]:
        """Return the offset of the next message to hand out from each queue that is read now."""
        return self._real.positions(topic=topic)

    seek = passing(Consumer.seek)
    seek_to = blocking(Consumer.seek_to)
    pause = passing(Consumer.pause)
    resume = passing(Consumer.resume)
    lag = blocking(Consumer.lag)
    commit = blocking(Consumer.commit)

    def __enter__(self) -> SyncConsumer:
        open_blocking(self._portal, self._real)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        close_blocking(self._portal, self._real.__aexit__, kind, error, traceback)
