"""What an open client consists of: connections to one group, and everything made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from broker.client.admin import Admin
from broker.client.broker_groups import BrokerGroups
from broker.client.consumer import Consumer
from broker.client.dead_letters import DeadLetters
from broker.client.handout import Handout
from broker.client.lookup import Lookup
from broker.client.producer import Producer
from broker.client.readings import Readings
from broker.client.unique_ids import UniqueIds

if TYPE_CHECKING:
    import random

    from broker.client.consumer_options import MemberTimes, Subscription
    from broker.client.leader_finder import LeaderFinder
    from broker.client.producer_options import ProducerOptions
    from dledger.clock import Clock
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
        self._groups = BrokerGroups(options)
        # In the place of the client's address, which it may not know: unique all the same.
        self._unique_ids = UniqueIds(chance.randbytes(4), chance)
        # Shielded: when the block is cancelled, its consumers can still commit on their way out.
        self._services = trio.CancelScope(shield=True)

    async def open(self) -> None:
        """Begin to look for the leader."""
        self._manager = trio.open_nursery()
        nursery = await self._manager.__aenter__()
        # Nothing is waited for here.  Without the shield a block that is cancelled already would
        # leave the services in the nursery of `start`, shielded and for ever.
        with trio.CancelScope(shield=True):
            services: trio.Nursery = await nursery.start(self._serve)
        self._nursery = services
        self._groups.open(services)

    @property
    def finder(self) -> LeaderFinder:
        """Who leads; of several groups the first in use."""
        return self._groups.first.finder

    @property
    def client_id(self) -> str:
        """How the broker knows this client."""
        return self._groups.client_id

    async def close(self) -> None:
        """Close every connection."""
        self._groups.close()
        self._services.cancel()
        self._groups.close_links()
        # The block's own error is not passed in, so that it comes out as it is and not in a group.
        await self._manager.__aexit__(None, None, None)

    @property
    def admin(self) -> Admin:
        """What an operator does."""
        return Admin(self._groups)

    @property
    def messages(self) -> Lookup:
        """Messages found by what is known of them."""
        return Lookup(self._groups)

    def dead_letters(self, group: str) -> DeadLetters:
        """Messages that a group has given up."""
        return DeadLetters(group, self._groups)

    def producer(self, name: str, options: ProducerOptions) -> Producer:
        """Return a producer that is not open yet."""
        return Producer(
            name,
            nursery=self._nursery,
            groups=self._groups,
            clock=self._options.clock,
            chance=self._options.chance,
            unique_ids=self._unique_ids,
            options=options,
        )

    def consumer(self, subscription: Subscription, *, handout: Handout | None = None) -> Consumer:
        """Return a consumer that is not open yet; *handout* is another one than usual."""
        return Consumer(
            Readings(
                subscription,
                nursery=self._nursery,
                groups=self._groups,
                chance=self._options.chance.random,
                handout=handout or Handout(),
            )
        )

    async def _serve(self, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        with self._services:
            async with trio.open_nursery() as nursery:
                task_status.started(nursery)
                await trio.sleep_forever()
