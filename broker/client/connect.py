"""The way in: one client for each group of brokers, and everything else from it."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING

import sniffio

from broker.client.compression import THRESHOLD_DEFAULT, Compression
from broker.client.consumer_options import ConsumerOptions, MemberTimes, subscribe
from broker.client.errors import ClosedError
from broker.client.producer_options import ProducerOptions
from broker.client.session import ClientOptions, Session, TrioSession
from dledger.clock import Clock, SystemClock
from dledger.remoting.tcp import TcpNetwork

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from broker.client.acks import Acks, Flush
    from broker.client.admin import Admin
    from broker.client.consumer import Consumer
    from broker.client.dead_letters import DeadLetters
    from broker.client.lookup import Lookup
    from broker.client.producer import Producer
    from broker.client.rebalance import Rebalance
    from broker.client.starts import Start
    from dledger.remoting.network import Network

DEFAULT_PORT = 9876


class Client:
    """Connections to one group; use as ``async with broker.connect(...) as client``.

    It belongs to the event loop it is opened in, trio's or asyncio's.
    """

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._session: Session | None = None

    @property
    def leader_address(self) -> str | None:
        """Where the leader is, as far as is known."""
        return self._opened().finder.leader

    @property
    def nodes(self) -> tuple[str, ...]:
        """Addresses of all nodes known, the leader's first."""
        return self._opened().finder.nodes

    @property
    def client_id(self) -> str:
        """How the broker knows this client, as a member of consumer groups."""
        return self._opened().client_id

    @property
    def admin(self) -> Admin:
        """What an operator does."""
        return self._opened().admin

    @property
    def messages(self) -> Lookup:
        """Messages found by time, key, id or place."""
        return self._opened().messages

    def dead_letters(self, group: str) -> DeadLetters:
        """Return what can be done with the messages that *group* has given up.

        Raises:
            InvalidMessageError: no group can have that name.
        """
        return self._opened().dead_letters(group)

    def producer(
        self,
        name: str = "default-producer",
        *,
        send_timeout: float = 15.0,
        batch_size_max: int = 256 * 1024,
        batch_count_max: int = 1000,
        inflight_max: int = 5,
        buffer_size_max: int = 64 * 1024 * 1024,
        idempotent: bool = True,
        linger: float = 0.0,
        compression: Compression | None = None,
        compression_level: int | None = None,
        compression_threshold: int = THRESHOLD_DEFAULT,
        acks: Acks | None = None,
        flush: Flush | None = None,
    ) -> Producer:
        """Return a producer, to be opened with ``async with``.

        Args:
            name: producer group, for logs and statistics.
            send_timeout: seconds from send() to the last moment its outcome is waited for.
            batch_size_max: bytes of records in one request; a single message may be larger.
            batch_count_max: messages in one request.
            inflight_max: requests of one queue under way.
            buffer_size_max: bytes of messages not settled; beyond it send() waits for room.
            idempotent: have the broker recognise what it already has. Without, nothing that may be
                written is sent again: a lost connection or leader is an `OutcomeUnknownError` at
                once. One request of a queue is then under way at a time.
            linger: seconds a batch waits for company before it leaves; 0: a batch leaves as soon
                as nothing else of its queue is under way.
            compression: "zlib", or "lz4" and "zstd" with the extras of these names; None: bodies
                are sent as they are.
            compression_level: how hard to try; None for what is usual.
            compression_threshold: bytes of the smallest body that is compressed.
            acks: who has a copy when a send returns, unless it says otherwise itself: "leader",
                "majority" or "all"; None: as topic or broker have it, a majority by default.
            flush: whether on disk ("sync") or in memory ("async"); None: as topic or broker have
                it.

        Raises:
            ValueError: a limit makes no sense.
            MissingExtraError: the package for that compression is not installed.
        """
        return self._opened().producer(
            name,
            ProducerOptions(
                send_timeout=send_timeout,
                batch_size_max=batch_size_max,
                batch_count_max=batch_count_max,
                inflight_max=inflight_max,
                buffer_size_max=buffer_size_max,
                idempotent=idempotent,
                linger=linger,
                compression=compression,
                compression_level=compression_level,
                compression_threshold=compression_threshold,
                acks=acks,
                flush=flush,
            ),
        )

    def consumer(
        self,
        group: str,
        topic: str | Iterable[str],
        *,
        queues: Iterable[int] | None = None,
        start: Start = "committed",
        tags: str | None = None,
        prefetch_bytes: int = 4 * 1024 * 1024,
        prefetch_count: int = 100_000,
        auto_commit: bool = True,
        commit_interval: float = 1.0,
        poll_wait: float = 15.0,
        ordered: bool = False,
        broadcasting: bool = False,
        offset_file: str | os.PathLike[str] | None = None,
        rebalance: Rebalance = "averagely",
        retries_max: int | None = None,
    ) -> Consumer:
        """Return a consumer, to be opened with ``async with`` and iterated with ``async for``.

        Args:
            group: whose offsets are kept, and whose members share the queues out: each is read by
                one consumer, and goes to another when consumers come and go. "" keeps none and
                reads all, for who only wants to look: with ``auto_commit=False`` and a *start*
                other than "committed".
            topic: what to read; several, for one handler of all.
            queues: numbers of the queues to read, whatever others read; None: the group's share.
            start: "committed" goes on where the group stopped, and begins with the oldest message
                kept when it never started; "first"; "last"; an offset for every queue; a datetime,
                or a timedelta for how long ago; a dict of offsets by queue, with the queues it
                does not name where the group stopped. Queues that come from another member later
                go on where that one stopped.
            tags: only messages with one of these tags, ``"A || B"``; None or "*" for all. Nodes
                filter by the tag's hash, so what is not wanted hardly travels.
            prefetch_bytes: bytes pulled ahead, all queues together.
            prefetch_count: messages pulled ahead, all queues together.
            auto_commit: coming back for the next message means that the last one is done. False:
                only ``async with message:``, `Message.ack` and `Consumer.commit` say so.
            commit_interval: seconds between commits of what is done.
            poll_wait: seconds a node may hold a pull until something arrives.
            ordered: hand out the next message of a queue only once the last one is done, and read
                no queue that another member may still be at; a message that fails is handed out
                again at once, and its queue waits for it.
            broadcasting: read everything, as every member of the group does; nothing is committed,
                and "committed" means "last".
            offset_file: where a broadcasting consumer keeps how far it has come, for itself alone:
                "committed" is then where it stopped, and "last" the first time.
            rebalance: how queues are shared out, the same for all members: "averagely",
                "circle", "consistent-hash", or an object of `broker.client.rebalance`.
            retries_max: how often a message comes again before it goes to the dead letters; None:
                as the group has it, 16 times; with *ordered* for ever.

        Raises:
            ValueError: an option makes no sense.
            InvalidFilterError: *tags* names none.
            InvalidMessageError, InvalidTopicError: no group or topic can have that name.
        """
        options = ConsumerOptions(
            start=start,
            tags=tags,
            prefetch_bytes=prefetch_bytes,
            prefetch_count=prefetch_count,
            auto_commit=auto_commit,
            commit_interval=commit_interval,
            poll_wait=poll_wait,
            ordered=ordered,
            broadcasting=broadcasting,
            offset_file=offset_file,
            rebalance=rebalance,
            retries_max=retries_max,
        )
        return self._opened().consumer(subscribe(group, topic, queues, options))

    async def __aenter__(self) -> Client:
        if self._session is not None:
            raise RuntimeError("the client is open already; connect() once more for another one")
        session = self._make_session()
        await session.open()
        self._session = session
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        session = self._opened()
        self._session = None
        await session.close()

    def _make_session(self) -> Session:
        try:
            library = sniffio.current_async_library()
        except sniffio.AsyncLibraryNotFoundError as error:
            raise RuntimeError(
                "a client is opened inside an event loop of trio or asyncio; for code without one "
                "there is broker.sync.connect()"
            ) from error
        if library == "trio":
            return TrioSession(self._options)
        if library != "asyncio":
            raise RuntimeError(f"clients run under trio and asyncio, and not under {library}")
        # Loaded when it is needed: most have no use for both event loops.
        from broker.client.aio import AsyncioSession

        return AsyncioSession(TrioSession(self._options))

    def _opened(self) -> Session:
        if self._session is None:
            raise ClosedError("the client is not open: use it inside 'async with'")
        return self._session


def make_options(
    addresses: str | Iterable[str],
    *,
    group_timeout: float,
    request_timeout: float,
    connect_timeout: float,
    auto_create_topic: bool,
    network: Network | None = None,
    clock: Clock | None = None,
    chance: random.Random | None = None,
    client_id: str | None = None,
    member_times: MemberTimes | None = None,
) -> ClientOptions:
    """Return what `connect` was told, with the machine's own time, chance and network."""
    return ClientOptions(
        addresses=tuple(parse_addresses(addresses)),
        group_timeout=group_timeout,
        request_timeout=request_timeout,
        connect_timeout=connect_timeout,
        auto_create_topic=auto_create_topic,
        network=network or TcpNetwork(),
        clock=clock or SystemClock(),
        chance=chance or random.Random(secrets.randbits(128)),
        client_id=client_id,
        member_times=member_times or MemberTimes(),
    )


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
) -> Client:
    """Return a client of the group at *addresses*, to be opened with ``async with``.

    It runs under trio and under asyncio; `broker.sync.connect` is for code without an event loop.
    Nothing is sent before it is needed; a group that is down shows at the first request.

    >>> async def main() -> None:
    ...     async with broker.connect("127.0.0.1:9876") as mq:
    ...         async with mq.producer() as producer:
    ...             await producer.send("hello", b"world")
    ...         async with mq.consumer("readers", "hello") as consumer:
    ...             print((await anext(consumer)).body)
    >>> trio.run(main)
    b'world'

    Args:
        addresses: ``host:port`` of one or several nodes, as a list or with "," or ";" between;
            the others of the group are learnt from them. Name servers' will do, too: of several
            groups behind one a topic is found in the one that has it. Port 9876 when none is given.
        group_timeout: seconds a request other than a send may take, all attempts together.
        request_timeout: seconds one node may say nothing before another one is tried.
        connect_timeout: seconds to wait for a connection.
        auto_create_topic: create a topic with four queues when it is first used.
        network: where connections come from; TCP when None.
        clock: the one source of wall time; the system's when None.
        chance: the one source of chance; seeded by the system when None.
        client_id: how the broker knows the client among the members of its groups, which are
            sorted by it; by host and process when None. Two clients never have the same.
        member_times: how often members of groups are heard and look around; to be made shorter
            together with the brokers' `client_silent_max_ms` and `queue_lock_max_ms`.

    Raises:
        ValueError: *addresses* holds none, or something that is no address.
    """
    return Client(
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


def parse_addresses(addresses: str | Iterable[str]) -> list[str]:
    """Return ``host:port`` texts, IPv6 hosts in brackets.

    >>> parse_addresses("127.0.0.1:9876, broker-2")
    ['127.0.0.1:9876', 'broker-2:9876']
    >>> parse_addresses("ns1:9876;ns2:9876")
    ['ns1:9876', 'ns2:9876']
    >>> parse_addresses(["[::1]:9877", "::1"])
    ['[::1]:9877', '[::1]:9876']

    Raises:
        ValueError: there is none, or one of them is no address.
        TypeError: they are no text.
    """
    if not isinstance(addresses, Iterable):
        raise TypeError(
            f"the address is a {type(addresses).__name__}; write host:port, such as 127.0.0.1:9876"
        )
    if isinstance(addresses, str):
        texts = addresses.replace(";", ",").split(",")  # as in RocketMQ's NAMESRV_ADDR
    else:
        texts = list(addresses)
    result: list[str] = []
    for text in filter(None, (text.strip() for text in texts)):
        if text.startswith("[") and text.endswith("]"):
            host, port = text[1:-1], str(DEFAULT_PORT)
        elif text.startswith("[") or text.count(":") == 1:
            host, _, port = text.rpartition(":")
            host = host.removeprefix("[").removesuffix("]")
        else:
            host, port = text, str(DEFAULT_PORT)
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is no address; write host:port, such as 127.0.0.1:9876")
        result.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    if not result:
        raise ValueError("no address given; write host:port, such as 127.0.0.1:9876")
    return result
