"""What an open client consists of: connections to one group, and everything made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from broker.client.admin import Admin
from broker.client.consumer import Consumer
from broker.client.dead_letters import DeadLetters
from broker.client.handout import Handout
from broker.client.leader_finder import LeaderFinder
from broker.client.links import Links
from broker.client.lookup import Lookup
from broker.client.membership import Membership
from broker.client.offsets import Offsets
from broker.client.producer import Producer
from broker.client.readings import Readings
from broker.client.requests import Requests
from broker.client.routes import RouteCache
from broker.client.starts import Starts
from broker.client.unique_ids import UniqueIds
from dledger.remoting.errors import ConnectionClosedError

if TYPE_CHECKING:
    import random

    from broker.client.consumer_options import MemberTimes, Subscription
    from broker.client.links import Link
    from broker.client.producer import ProducerOptions
    from dledger.clock import Clock
    from dledger.remoting.errors import RemotingError
    from dledger.remoting.network import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Where a client finds its group, how long it waits, and what it has of the world."""

    addresses: tuple[str, ...]
    group_timeout: float  # seconds a request other than a send may take, all attempts together
    request_timeout: float  # seconds one node may say nothing
    connect_timeout: float  # seconds
    auto_create_topic: bool
    network: Network
    clock: Clock
    chance: random.Random
    client_id: str | None = None  # how the broker knows this client; None: by host and process
    member_times: MemberTimes


class Session(Protocol):
    """An open client's inside; one for each kind of event loop."""

    @property
    def finder(self) -> LeaderFinder:
        """Who leads."""

    @property
    def client_id(self) -> str:
        """How the broker knows this client."""

    @property
    def admin(self) -> Admin:
        """What an operator does."""

    @property
    def messages(self) -> Lookup:
        """Messages found by what is known of them."""

    def dead_letters(self, group: str) -> DeadLetters:
        """Messages that a group has given up."""

    def producer(self, name: str, options: ProducerOptions) -> Producer:
        """Return a producer that is not open yet."""

    def consumer(self, subscription: Subscription) -> Consumer:
        """Return a consumer that is not open yet."""

    async def open(self) -> None:
        """Begin."""

    async def close(self) -> None:
        """Close every connection."""


class TrioSession:
    """The connections, in a loop of trio."""

    def __init__(self, options: ClientOptions) -> None:
        chance = options.chance
        self._options = options
        self.finder = LeaderFinder(
            options.addresses, request_timeout=options.request_timeout, chance=chance.random
        )
        # In the place of the client's address, which it may not know: unique all the same.
        self._unique_ids = UniqueIds(chance.randbytes(4), chance)
        # Shielded: when the block is cancelled, its consumers can still commit on their way out.
        self._services = trio.CancelScope(shield=True)

    async def open(self) -> None:
        """Begin to look for the leader."""
        options = self._options
        self._manager = trio.open_nursery()
        nursery = await self._manager.__aenter__()
        # Nothing is waited for here.  Without the shield a block that is cancelled already would
        # leave the services in the nursery of `start`, shielded and for ever.
        with trio.CancelScope(shield=True):
            services: trio.Nursery = await nursery.start(self._serve)
        self._nursery = services
        self._links = Links(
            network=options.network,
            nursery=services,
            connect_timeout=options.connect_timeout,
            on_lost=self._on_lost,
            on_request=lambda link, command: self._membership.on_request(link, command),
        )
        self.finder.use(self._links)
        self._requests = Requests(
            self._links,
            self.finder,
            request_timeout=options.request_timeout,
            group_timeout=options.group_timeout,
            chance=options.chance.random,
        )
        self._routes = RouteCache(self._requests, auto_create_topic=options.auto_create_topic)
        self._membership = Membership(
            options.client_id,
            self._requests,
            self._routes,
            nursery=services,
            chance=options.chance,
            times=options.member_times,
        )
        services.start_soon(self.finder.run)
        services.start_soon(self._membership.run)

    @property
    def client_id(self) -> str:
        """How the broker knows this client."""
        return self._membership.client_id

    async def close(self) -> None:
        """Close every connection."""
        self._membership.close()
        self._services.cancel()
        self.finder.close()
        self._links.close(ConnectionClosedError("the client was closed"))
        # The block's own error is not passed in, so that it comes out as it is and not in a group.
        await self._manager.__aexit__(None, None, None)

    @property
    def admin(self) -> Admin:
        """What an operator does."""
        return Admin(self._requests, self._routes, Offsets(self._requests))

    @property
    def messages(self) -> Lookup:
        """Messages found by what is known of them."""
        return Lookup(self._requests)

    def dead_letters(self, group: str) -> DeadLetters:
        """Messages that a group has given up."""
        return DeadLetters(group, self._requests, Offsets(self._requests))

    def producer(self, name: str, options: ProducerOptions) -> Producer:
        """Return a producer that is not open yet."""
        return Producer(
            name,
            nursery=self._nursery,
            links=self._links,
            leader=self.finder,
            routes=self._routes,
            clock=self._options.clock,
            chance=self._options.chance,
            unique_ids=self._unique_ids,
            options=options,
        )

    def consumer(self, subscription: Subscription, *, handout: Handout | None = None) -> Consumer:
        """Return a consumer that is not open yet; *handout* is another one than usual."""
        offsets = Offsets(self._requests)
        return Consumer(
            Readings(
                subscription,
                nursery=self._nursery,
                requests=self._requests,
                routes=self._routes,
                offsets=offsets,
                starts=Starts(offsets, Lookup(self._requests), self._options.clock),
                membership=self._membership,
                chance=self._options.chance.random,
                handout=handout or Handout(),
            )
        )

    def _on_lost(self, link: Link, error: RemotingError) -> None:
        self.finder.on_lost(link, error)
        self._membership.on_lost(link)

    async def _serve(self, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        with self._services:
            async with trio.open_nursery() as nursery:
                task_status.started(nursery)
                await trio.sleep_forever()
