"""One broker group, as a client reaches it: its connections, who leads it, and whom to ask what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from broker.client.leader_finder import LeaderFinder
from broker.client.links import Links
from broker.client.lookup import Lookup
from broker.client.membership import Membership
from broker.client.offsets import Offsets
from broker.client.requests import Requests
from broker.client.routes import RouteCache
from broker.client.starts import Starts
from dledger.remoting.errors import ConnectionClosedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import trio

    from broker.client.links import Link
    from broker.client.session import ClientOptions
    from dledger.remoting.errors import RemotingError


class FindsGroups(Protocol):
    """Whoever knows which broker group to ask."""

    async def of_topic(self, topic: str) -> GroupAccess:
        """Return the group that has *topic*, or is to have it."""

    async def of_node(self, address: str, what: str) -> GroupAccess:
        """Return the group with a node at *address*, or the only one, for *what*."""

    async def only(self, what: str) -> GroupAccess:
        """Return the one group there is, for *what*, which concerns no topic."""


class GroupAccess:
    """One broker group. It is also what finds groups where there is no other: itself."""

    def __init__(
        self, addresses: Iterable[str], options: ClientOptions, *, client_id: str | None
    ) -> None:
        """Prepare to reach the group whose nodes are at *addresses*; nothing is opened yet.

        Args:
            addresses: ``host:port`` of some of its nodes.
            options: how long to wait, and with which network, clock and chance.
            client_id: how the group knows this client; None: one is made up when it is needed.
        """
        self._options = options
        self._client_id = client_id
        self.finder = LeaderFinder(
            addresses, request_timeout=options.request_timeout, chance=options.chance.random
        )

    def open(self, nursery: trio.Nursery) -> None:
        """Begin to look for the leader, in tasks of *nursery*."""
        options = self._options
        self.links = Links(
            network=options.network,
            nursery=nursery,
            connect_timeout=options.connect_timeout,
            on_lost=self._on_lost,
            on_request=lambda link, command: self.membership.on_request(link, command),
        )
        self.finder.use(self.links)
        self.requests = Requests(
            self.links,
            self.finder,
            request_timeout=options.request_timeout,
            group_timeout=options.group_timeout,
            chance=options.chance.random,
        )
        self.routes = RouteCache(self.requests, auto_create_topic=options.auto_create_topic)
        self.offsets = Offsets(self.requests)
        self.starts = Starts(self.offsets, Lookup(self), options.clock)
        self.membership = Membership(
            self._client_id,
            self.requests,
            self.routes,
            nursery=nursery,
            chance=options.chance,
            times=options.member_times,
        )
        nursery.start_soon(self.finder.run)
        nursery.start_soon(self.membership.run)

    async def of_topic(self, topic: str) -> GroupAccess:
        """Return this group."""
        return self

    async def of_node(self, address: str, what: str) -> GroupAccess:
        """Return this group."""
        return self

    async def only(self, what: str) -> GroupAccess:
        """Return this group."""
        return self

    def close(self) -> None:
        """Take it from now on that connections end because the client ends them."""
        self.membership.close()
        self.finder.close()

    def close_links(self) -> None:
        """Close every connection."""
        self.links.close(ConnectionClosedError("the client was closed"))

    def _on_lost(self, link: Link, error: RemotingError) -> None:
        self.finder.on_lost(link, error)
        self.membership.on_lost(link)
