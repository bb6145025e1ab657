"""A producer for many threads at once: each waits for what it has sent.

A `send` is handed to the client's thread as a job, many at a time, and takes no task there.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypedDict

from broker.client.portal import (
    Portal,
    SendJob,
    SendPumps,
    call_blocking,
    close_blocking,
    open_blocking,
)
from broker.client.producer import CHECKPOINT_EVERY, Producer
from broker.client.send_many import ManySends, OutMessage
from broker.sync.mirror import blocking

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from types import TracebackType

    from broker.client.acks import Acks, Flush
    from broker.client.compression import Compression
    from broker.client.delays import Seconds
    from broker.client.intake import Body
    from broker.client.results import SendResult
    from broker.client.send_loop import ProducerStats


class ProducerKeywords(TypedDict, total=False):
    """See `broker.Client.producer`."""

    send_timeout: float
    batch_size_max: int
    batch_count_max: int
    inflight_max: int
    buffer_size_max: int
    idempotent: bool
    linger: float
    compression: Compression | None
    compression_level: int | None
    compression_threshold: int
    acks: Acks | None
    flush: Flush | None


class _BlockingSend(SendJob):
    __slots__ = ("_result", "_settled")

    def __init__(self, pumps: SendPumps, topic: str, message: OutMessage) -> None:
        super().__init__(pumps, topic, message)
        self._result: SendResult | Exception | None = None
        # A lock that its waiter takes twice costs a fraction of an Event.
        self._settled = threading.Lock()
        self._settled.acquire()

    def settle(self, result: SendResult | Exception) -> None:
        self._result = result
        self._settled.release()

    def run(self, portal: Portal) -> SendResult:
        try:
            portal.submit(self)
            self._settled.acquire()
        except BaseException:  # KeyboardInterrupt
            self.is_abandoned = True
            raise
        result = self._result
        assert result is not None
        if isinstance(result, Exception):
            raise result
        return result


class SyncProducer:
    """See `broker.Producer`; open one with ``with client.producer(...) as producer``.

    Threads that send at the same time share requests, as tasks do; one thread alone is faster with
    `send_many`, as it waits for every message of `send`.
    """

    def __init__(self, portal: Portal, real: Producer) -> None:
        self.name = real.name
        self.options = real.options
        self._portal = portal
        self._real = real
        self._pumps = SendPumps(real)

    @property
    def stats(self) -> ProducerStats:
        """What this producer has done so far."""
        return self._real.stats

    @property
    def buffered_size(self) -> int:
        """Bytes of records that are not settled yet."""
        return self._real.buffered_size

    def send(
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
        """Send one message and return where it is. See `broker.Producer.send`.

        A call that is interrupted leaves its message behind: it may be written or not.
        """
        message = OutMessage(
            body,
            key,
            tag,
            properties,
            queue,
            ordering_key,
            acks,
            flush,
            delay,
            deliver_at,
            delay_level,
        )
        return _BlockingSend(self._pumps, topic, message).run(self._portal)

    def send_many(self, topic: str, messages: Iterable[Body | OutMessage]) -> list[SendResult]:
        """Send all *messages* and return where each is. See `broker.Producer.send_many`."""
        many = ManySends(topic)
        chunk: list[Body | OutMessage] = []
        for message in messages:
            chunk.append(message)
            if len(chunk) == CHECKPOINT_EVERY:
                if not call_blocking(self._portal, self._real.put_chunk, many, chunk):
                    chunk = []
                    break
                chunk = []
        call_blocking(self._portal, self._real.put_chunk, many, chunk)
        results: list[SendResult] = call_blocking(self._portal, many.wait)
        return results

    flush = blocking(Producer.flush)

    def close(self) -> None:
        """See `broker.Producer.close`."""
        close_blocking(self._portal, self._real.close)

    def __enter__(self) -> SyncProducer:
        open_blocking(self._portal, self._real)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
