"""Which broker group a request is for: the one whose nodes were named, or one behind name servers.

A client is given addresses, and does not ask what they are before it needs something.  Mostly they
are nodes of one group.  Where they are name servers' the groups are learnt from them: what concerns
a topic goes to the group that has it, all else to the only group there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from broker.client.errors import NoBrokerError, SeveralGroupsError
from broker.client.group_access import GroupAccess
from broker.client.links import Links
from broker.client.name_servers import NameServers
from broker.client.routes import ROUTE_AGE_MAX
from broker.errors import TopicNotFoundError
from broker.message.limits import check_topic
from dledger.remoting.errors import ConnectionClosedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker.client.session import ClientOptions

ROUTE_RETRY_DELAY = 0.100  # seconds until name servers are asked again that did not answer
GROUPS_NAMED_MAX = 5  # in an error


class BrokerGroups:
    """All groups that one client speaks to."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._home = GroupAccess(options.addresses, options, client_id=options.client_id)
        self._home.finder.on_node = self._on_node
        self._home.finder.on_stranger = self._on_stranger
        self._is_home = False  # whether the addresses are nodes'
        self._names: NameServers | None = None
        self._name_links: Links | None = None
        self._by_name: dict[str, GroupAccess] = {}  # groups in use
        self._of_topic: dict[str, tuple[str, float]] = {}  # where it was found, good until when
        self._settled = trio.Event()
        self._asking = trio.CancelScope()  # of name servers, until a node says what is meant

    def open(self, nursery: trio.Nursery) -> None:
        """Begin to find out what the addresses are, in tasks of *nursery*."""
        self._nursery = nursery
        self._home.open(nursery)

    def close(self) -> None:
        """Take it from now on that connections end because the client ends them."""
        for group in (self._home, *self._by_name.values()):
            group.close()

    def close_links(self) -> None:
        """Close every connection."""
        for group in (self._home, *self._by_name.values()):
            group.close_links()
        self._close_name_links()

    def _close_name_links(self) -> None:
        if self._name_links is not None:
            self._name_links.close(ConnectionClosedError("nobody is asked by it any more"))

    @property
    def first(self) -> GroupAccess:
        """The group in use, or of several the first; before that what the addresses are."""
        return next(iter(self._by_name.values()), self._home)

    @property
    def client_id(self) -> str:
        """How every group knows this client."""
        return self._home.membership.client_id

    # --- which one ----------------------------------------------------------------------------

    async def only(self, what: str) -> GroupAccess:
        """Return the one group there is, for *what*, which concerns no topic.

        Raises:
            SeveralGroupsError: there is more than one.
            NoBrokerError: nobody said in time what groups there are.
        """
        names = await self._know(what)
        if names is None:
            return self._home
        groups = names.groups
        if len(groups) == 1:
            return self._open(next(iter(groups)))
        raise SeveralGroupsError(
            f"{what}: behind {self._servers()} there are {len(groups)} broker groups, and this is "
            f"asked of one: {list_groups(groups)}; give the nodes of one of them instead of the "
            "name server"
        )

    async def of_node(self, address: str, what: str) -> GroupAccess:
        """Return the group with a node at *address*; where none says so, as `only`."""
        names = await self._know(what)
        if names is not None:
            for name, nodes in names.groups.items():
                if address in nodes:
                    return self._open(name)
        return await self.only(what)

    async def of_topic(self, topic: str) -> GroupAccess:
        """Return the group that has *topic*; where there is one group only it need not be there.

        Raises:
            InvalidTopicError: no topic can have that name.
            SeveralGroupsError: more than one group has it.
            TopicNotFoundError: there are several groups, and none has it.
            NoBrokerError: nobody said in time where it is.
        """
        names = await self._know(f"topic {topic}")
        if names is None:
            return self._home
        known = self._of_topic.get(topic)
        if known is None or trio.current_time() >= known[1]:
            if len(names.groups) > 1:
                check_topic(topic)
            name, is_there = await self._find(names, topic, None if known is None else known[0])
            # Where there is one group only it stays there: nobody has to be asked again.
            is_settled = is_there and len(names.groups) == 1
            until = float("inf") if is_settled else trio.current_time() + ROUTE_AGE_MAX
            known = self._of_topic[topic] = name, until
        return self._open(known[0])

    async def of_topics(self, topics: Iterable[str]) -> GroupAccess:
        """Return the group that has all *topics*. Raises as `of_topic`.

        Raises:
            SeveralGroupsError: they are not all in one group.
        """
        found = {topic: await self.of_topic(topic) for topic in topics}
        if len(set(found.values())) > 1:
            places = ", ".join(f"{topic} in {self._name_of(at)}" for topic, at in found.items())
            raise SeveralGroupsError(
                f"the topics lie in several broker groups: {places}; open a consumer for the "
                "topics of each"
            )
        return next(iter(found.values()))

    async def _find(self, names: NameServers, topic: str, known: str | None) -> tuple[str, bool]:
        """Return the group that has *topic*, and whether it is there.

        Where nobody answers that is *known*; with one group only it may have it yet to come.

        Raises:
            SeveralGroupsError, TopicNotFoundError, NoBrokerError: as `of_topic`.
        """
        why = ""
        with trio.move_on_after(self._options.group_timeout):
            while True:
                found, why = await names.groups_with(topic)
                if found is None and known is not None:
                    return known, False
                if not found and len(names.groups) == 1:
                    return next(iter(names.groups)), False
                if found is not None and len(found) == 1 and found[0] not in names.groups:
                    await names.refresh()  # it has registered since they were asked
                if found is not None and (len(found) != 1 or found[0] in names.groups):
                    break
                if found:
                    why = f"it is in group {found[0]}, of which no name server lists a node"
                await trio.sleep(ROUTE_RETRY_DELAY)
            groups = names.groups
            if not found:
                raise TopicNotFoundError(
                    f"topic {topic} is in none of the {len(groups)} broker groups behind "
                    f"{self._servers()}: {list_groups(groups)}; create it in one of them, by way "
                    f"of its nodes: `dledger topic create {topic} -s HOST:PORT`"
                )
            if len(found) > 1:
                here = {name: groups.get(name, ()) for name in found}
                raise SeveralGroupsError(
                    f"topic {topic} has queues in {len(found)} broker groups, and this client "
                    f"reads and writes those of one: {list_groups(here)}; give the nodes of one "
                    "of them instead of the name server, or have a client for each"
                )
            return found[0], True
        raise NoBrokerError(
            f"topic {topic}: no name server said within {self._options.group_timeout:g} s where it "
            f"is; last: {why}"
        )

    def _open(self, name: str) -> GroupAccess:
        group = self._by_name.get(name)
        if group is None:
            assert self._names is not None
            nodes = self._names.groups[name]
            group = GroupAccess(nodes, self._options, client_id=self.client_id)
            group.open(self._nursery)
            self._by_name[name] = group
        return group

    def _name_of(self, group: GroupAccess) -> str:
        return next((name for name, found in self._by_name.items() if found is group), "")

    # --- what the addresses are ---------------------------------------------------------------

    async def _know(self, what: str) -> NameServers | None:
        """Return the name servers, of which one at least knows a group; None: nodes were named."""
        if not self._settled.is_set():
            with trio.move_on_after(self._options.group_timeout):
                await self._settled.wait()
        if self._is_home:
            return None
        if self._names is None or not (self._settled.is_set() or self._names.without_groups):
            raise self._home.requests.no_broker(what)  # also for what is no name server either
        if not self._settled.is_set():
            raise NoBrokerError(
                f"{what}: {self._servers()} is a name server, and no broker group has registered "
                f"with it for {self._options.group_timeout:g} s; {how_to_register(self._servers())}"
            )
        return self._names

    def _servers(self) -> str:
        assert self._names is not None
        names = self._names
        silent = [each for each in names.addresses if each in names.without_groups]
        return ", ".join(silent or names.addresses)

    def _on_node(self) -> None:
        """Take note that an address is that of a node: all of them are nodes of its group."""
        if not self._settled.is_set():
            self._is_home = True
            self._settled.set()
            self._asking.cancel()
            self._close_name_links()

    def _on_stranger(self) -> None:
        """Take note that an address is that of no node: a name server's, then."""
        if self._is_home or self._names is not None:
            return
        options = self._options
        self._name_links = Links(
            network=options.network,
            nursery=self._nursery,
            connect_timeout=options.connect_timeout,
            on_lost=lambda _link, _error: None,
        )
        self._names = NameServers(
            options.addresses,
            self._name_links,
            request_timeout=options.request_timeout,
            on_groups=self._on_groups,
            is_in_need=self._is_in_need,
        )
        self._nursery.start_soon(self._ask_names, self._names)

    async def _ask_names(self, names: NameServers) -> None:
        with self._asking:
            await names.run()

    def _on_groups(self) -> None:
        assert self._names is not None
        if self._is_home:
            return
        if not self._settled.is_set():
            # What is asked from now on is asked of the groups; nobody has asked anything before.
            self._home.finder.stop()
            self._settled.set()
        groups = self._names.groups
        for name, group in self._by_name.items():
            group.finder.reseed(groups.get(name, ()))

    def _is_in_need(self) -> bool:
        return any(group.finder.leader is None for group in self._by_name.values())


def how_to_register(servers: str) -> str:
    """Return what makes a group known to the name servers at *servers*."""
    return (
        f'give its nodes [nameserver] addresses = "{servers.replace(", ", ";")}" in node.toml '
        "(`dledger up --name-server` on one machine), or name a node instead"
    )


def list_groups(groups: Mapping[str, tuple[str, ...]]) -> str:
    """Return the names of *groups*, and where their nodes are, to be told to a user."""
    named = [f"{name} at {','.join(nodes)}" if nodes else name for name, nodes in groups.items()]
    more = len(named) - GROUPS_NAMED_MAX
    return "; ".join(named[:GROUPS_NAMED_MAX]) + (f"; and {more} more" if more > 0 else "")
