"""The client for code without an event loop: everything blocks.

>>> import broker.sync
>>> with broker.sync.connect("127.0.0.1:9876") as mq:
...     sent = mq.send("chairs", b"two green ones", key="order-17")
...     for message in mq.consume("billing", "chairs"):
...         with message:
...             print(message.key, message.body)
...         break
order-17 b'two green ones'

Each client has a thread of its own for its connections.  Producers may be used by many threads at
once; of a consumer one thread receives, and others may deal with the messages, each in a
``with message:`` (give ``auto_commit=False`` then).  Ctrl-C interrupts whatever waits.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypedDict, TypeVar, Unpack

from broker.client.admin import Admin
from broker.client.connect import make_options
from broker.client.consumer import Consumer
from broker.client.consumer_options import ConsumerOptions, subscribe
from broker.client.dead_letters import DeadLetters
from broker.client.errors import ClosedError
from broker.client.handout import SharedHandout
from broker.client.lookup import Lookup
from broker.client.portal import (
    ATEXIT_SECONDS,
    Portal,
    SendJob,
    SendPumps,
    call_blocking,
    close_blocking,
    open_blocking,
)
from broker.client.producer import CHECKPOINT_EVERY, Body, Producer
from broker.client.producer_options import ProducerOptions
from broker.client.send_many import ManySends, OutMessage
from broker.client.session import ClientOptions, TrioSession

if TYPE_CHECKING:
    import os
    import random
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
    from datetime import datetime
    from types import TracebackType

    from broker.client.acks import Acks, Flush
    from broker.client.compression import Compression
    from broker.client.consumer_options import MemberTimes, Subscription
    from broker.client.delays import Seconds
    from broker.client.handout import ConsumerStats
    from broker.client.rebalance import Rebalance
    from broker.client.records import Message
    from broker.client.results import SendResult
    from broker.client.send_loop import ProducerStats
    from broker.client.starts import Start
    from dledger.clock import Clock
    from dledger.remoting.network import Network

__all__ = [
    "SyncAdmin",
    "SyncClient",
    "SyncConsumer",
    "SyncDeadLetters",
    "SyncLookup",
    "SyncProducer",
    "connect",
]

P = ParamSpec("P")
T = TypeVar("T")


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


def _blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    """Return a method that calls the method of that name in the portal's thread, and waits."""

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **options: P.kwargs) -> T:  # noqa: ANN401 - a mirror
        result: T = call_blocking(self._portal, method, self._real, *args, **options)
        return result

    return call


def _passing(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[Any, P], T]:
    """Return a method that calls one that does not wait, in the portal's thread all the same."""

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **options: P.kwargs) -> T:  # noqa: ANN401 - a mirror
        result: T = call_blocking(self._portal, method, self._real, *args, **options)
        return result

    return call


class _Mirror:
    def __init__(self, portal: Portal, real: Any) -> None:  # noqa: ANN401 - what it mirrors
        self._portal = portal
        self._real = real


class SyncAdmin(_Mirror):
    """See `broker.Admin`."""

    create_topic = _blocking(Admin.create_topic)
    alter_topic = _blocking(Admin.alter_topic)
    delete_topic = _blocking(Admin.delete_topic)
    list_topics = _blocking(Admin.list_topics)
    describe_topic = _blocking(Admin.describe_topic)
    delete_group = _blocking(Admin.delete_group)
    list_groups = _blocking(Admin.list_groups)
    describe_group = _blocking(Admin.describe_group)
    group_progress = _blocking(Admin.group_progress)
    reset_offsets = _blocking(Admin.reset_offsets)
    group_status = _blocking(Admin.group_status)
    transfer_leadership = _blocking(Admin.transfer_leadership)
    max_offset = _blocking(Admin.max_offset)
    min_offset = _blocking(Admin.min_offset)
    committed_offset = _blocking(Admin.committed_offset)
    commit_offset = _blocking(Admin.commit_offset)

    # Types of keywords that are not named cannot be passed on by `_blocking`.

    def create_group(self, name: str, **settings: Any) -> None:  # noqa: ANN401 - as there
        """See `broker.Admin.create_group`."""
        call_blocking(self._portal, self._real.create_group, name, **settings)

    def alter_group(self, name: str, **settings: Any) -> None:  # noqa: ANN401 - as there
        """See `broker.Admin.alter_group`."""
        call_blocking(self._portal, self._real.alter_group, name, **settings)


class SyncLookup(_Mirror):
    """See `broker.Lookup`."""

    at = _blocking(Lookup.at)
    by_id = _blocking(Lookup.by_id)
    by_key = _blocking(Lookup.by_key)
    by_unique_key = _blocking(Lookup.by_unique_key)
    offset_at = _blocking(Lookup.offset_at)
    earliest_store_time = _blocking(Lookup.earliest_store_time)


class SyncDeadLetters(_Mirror):
    """See `broker.DeadLetters`."""

    @property
    def group(self) -> str:
        """Whose they are."""
        return str(self._real.group)

    @property
    def topic(self) -> str:
        """Where they lie."""
        return str(self._real.topic)

    count = _blocking(DeadLetters.count)
    read = _blocking(DeadLetters.read)
    resend = _blocking(DeadLetters.resend)
    done = _blocking(DeadLetters.done)
    resend_all = _blocking(DeadLetters.resend_all)


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

    flush = _blocking(Producer.flush)

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

    seek = _passing(Consumer.seek)
    seek_to = _blocking(Consumer.seek_to)
    pause = _passing(Consumer.pause)
    resume = _passing(Consumer.resume)
    lag = _blocking(Consumer.lag)
    commit = _blocking(Consumer.commit)

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


class SyncClient:
    """Connections to one group; use as ``with broker.sync.connect(...) as client``."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._session: TrioSession | None = None
        self._portal: Portal | None = None
        self._own_producer: SyncProducer | None = None
        self._lock = threading.Lock()

    @property
    def leader_address(self) -> str | None:
        """Where the leader is, as far as is known."""
        return self._opened()[1].finder.leader

    @property
    def nodes(self) -> tuple[str, ...]:
        """Addresses of all nodes known, the leader's first."""
        return self._opened()[1].finder.nodes

    @property
    def client_id(self) -> str:
        """How the broker knows this client, as a member of consumer groups."""
        return self._opened()[1].client_id

    @property
    def admin(self) -> SyncAdmin:
        """What an operator does."""
        portal, session = self._opened()
        return SyncAdmin(portal, session.admin)

    @property
    def messages(self) -> SyncLookup:
        """Messages found by time, key, id or place."""
        portal, session = self._opened()
        return SyncLookup(portal, session.messages)

    def dead_letters(self, group: str) -> SyncDeadLetters:
        """Return what can be done with the messages that *group* has given up."""
        portal, session = self._opened()
        return SyncDeadLetters(portal, session.dead_letters(group))

    def producer(
        self, name: str = "default-producer", **options: Unpack[ProducerKeywords]
    ) -> SyncProducer:
        """Return a producer, to be opened with ``with``. See `broker.Client.producer`."""
        portal, session = self._opened()
        return SyncProducer(portal, session.producer(name, ProducerOptions(**options)))

    def consumer(
        self,
        group: str,
        topic: str | Iterable[str],
        *,
        queues: Iterable[int] | None = None,
        **options: Unpack[ConsumerKeywords],
    ) -> SyncConsumer:
        """Return a consumer, to be opened with ``with``. See `broker.Client.consumer`."""
        portal, session = self._opened()
        subscription = subscribe(group, topic, queues, ConsumerOptions(**options))
        real = session.consumer(subscription, handout=SharedHandout())
        return SyncConsumer(portal, real)

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
        """Send one message through a producer that this client keeps for it."""
        with self._lock:
            producer = self._own_producer
            if producer is None:
                producer = self.producer().__enter__()
                self._own_producer = producer
        return producer.send(
            topic,
            body,
            key=key,
            tag=tag,
            properties=properties,
            queue=queue,
            ordering_key=ordering_key,
            acks=acks,
            flush=flush,
            delay=delay,
            deliver_at=deliver_at,
            delay_level=delay_level,
        )

    def consume(
        self,
        group: str,
        topic: str | Iterable[str],
        *,
        queues: Iterable[int] | None = None,
        **options: Unpack[ConsumerKeywords],
    ) -> Iterator[Message]:
        """Yield messages for ever; whoever breaks off has dealt with the last one, too.

        An error in the body of ``for message in client.consume(...)`` looks like a ``break`` from
        here, so that the message that failed is committed: deal with each in a ``with message:``,
        which leaves it to be handed out again.

        The consumer is closed, and commits, when the generator is: at the latest when nobody has it
        any more. Open a `consumer` yourself to have a say in that.
        """
        with (
            self.consumer(group, topic, queues=queues, **options) as consumer,
            contextlib.suppress(GeneratorExit),  # broken off, which is no error
        ):
            yield from consumer

    def __enter__(self) -> SyncClient:
        if self._portal is not None:
            raise RuntimeError("the client is open already; connect() once more for another one")
        session = TrioSession(self._options)
        portal = Portal(session)
        begun = threading.Event()
        failures: list[BaseException] = []

        def on_begun(error: BaseException | None) -> None:
            if error is not None:
                failures.append(error)
            begun.set()

        try:
            portal.begin(on_begun)
            begun.wait()
            if failures:
                raise failures[0]
            self._session, self._portal = session, portal
        except BaseException:  # Ctrl-C, most likely: nobody will close what nobody has opened
            self._session = self._portal = None
            portal.end_and_join(ATEXIT_SECONDS)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        portal, _ = self._opened()
        try:
            if self._own_producer is not None:
                self._own_producer.close()
        finally:
            self._session = self._portal = self._own_producer = None
            portal.end_and_join()

    def _opened(self) -> tuple[Portal, TrioSession]:
        if self._portal is None or self._session is None:
            raise ClosedError("the client is not open: use it inside 'with'")
        return self._portal, self._session


def connect(
    addresses: str | Iterable[str],
    *,
    group_timeout: float = 10.0,
    request_timeout: float = 1.0,
    connect_timeout: float = 1.0,
    auto_create_topic: bool = True,
    network: Network | None = None,
    clock: Clock | None = None,
    chance: random.Random | None = None,
    client_id: str | None = None,
    member_times: MemberTimes | None = None,
) -> SyncClient:
    """Return a client of the group at *addresses*, to be opened with ``with``.

    Takes what `broker.connect` takes.

    Raises:
        ValueError: *addresses* holds none, or something that is no address.
    """
    return SyncClient(
        make_options(
            addresses,
            group_timeout=group_timeout,
            request_timeout=request_timeout,
            connect_timeout=connect_timeout,
            auto_create_topic=auto_create_topic,
            network=network,
            clock=clock,
            chance=chance,
            client_id=client_id,
            member_times=member_times,
        )
    )
