"""`connect` and the client it returns, which runs a session in a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Unpack

from broker.client.connect import make_options
from broker.client.consumer_options import ConsumerOptions, subscribe
from broker.client.errors import ClosedError
from broker.client.handout import SharedHandout
from broker.client.portal import ATEXIT_SECONDS, Portal
from broker.client.producer_options import ProducerOptions
from broker.client.session import ClientOptions, TrioSession
from broker.sync.consumer import ConsumerKeywords, SyncConsumer
from broker.sync.operations import SyncAdmin, SyncDeadLetters, SyncLookup
from broker.sync.producer import ProducerKeywords, SyncProducer

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime
    from types import TracebackType

    from broker.client.acks import Acks, Flush
    from broker.client.consumer_options import MemberTimes
    from broker.client.delays import Seconds
    from broker.client.intake import Body
    from broker.client.message import Message
    from broker.client.results import SendResult
    from dledger.clock import Clock
    from dledger.remoting.network import Network


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
