"""Name servers among the addresses a client was given, and the broker groups that they know.

A name server that is a process of its own (``dledger nameserver``) refuses to say how a group
stands.  It is asked for the list of brokers then, and which of them have a topic; all else is asked
of the nodes.

Source: RocketMQ ``MQClientInstance.updateTopicRouteInfoFromNameServer``.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import trio

from broker.client.requests import failure_text
from broker.client.routes import decode_route
from broker.protocol.name_headers import RouteRequest
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command
from dledger.remoting.errors import ConnectionLostError, RemotingError, RequestTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from broker.client.links import Links

FIRST_INTERVAL = 0.100  # seconds between questions while no name server knows a group
NEED_INTERVAL = 1.0  # while a group in use has no leader: its nodes may be others by now
CALM_INTERVAL = 30.0  # Source: RocketMQ ``ClientConfig.pollNameServerInterval``

# A group that a name server lists no more stays known for so long.  One that was started again
# hears of the nodes one after another, and what it lists meanwhile is not all there is.
# Source: RocketMQ ``RouteInfoManager.BROKER_CHANNEL_EXPIRED_TIME``, after which it forgets a node.
GONE_AFTER = 120.0

NO_LIST = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
_LOG = logging.getLogger("broker.client")


class NameServers:
    """Asks them all; what one does not know, another one may."""

    def __init__(
        self,
        addresses: Iterable[str],
        links: Links,
        *,
        request_timeout: float,
        on_groups: Callable[[], None],
        is_in_need: Callable[[], bool],
    ) -> None:
        """Know nothing yet.

        Args:
            addresses: ``host:port`` of each; one that is a node will do, it is a name server too.
            links: connections of their own.
            request_timeout: seconds one may say nothing.
            on_groups: hears that groups, or their nodes, are known or are others.
            is_in_need: whether a group is sought that cannot be found where it was.
        """
        self.addresses = tuple(addresses)
        self.without_groups: set[str] = set()  # addresses that answered, and knew of none
        self._links = links
        self._request_timeout = request_timeout
        self._on_groups = on_groups
        self._is_in_need = is_in_need
        self._told: dict[str, dict[str, tuple[str, ...]]] = {}  # by address: nodes by group
        self._listed_at: dict[tuple[str, str], float] = {}  # by address and group: trio seconds
        self._asked_at = float("-inf")  # trio seconds

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Addresses of each group's nodes, by its name, as far as any of them has told."""
        found: dict[str, dict[str, None]] = {}
        for told in self._told.values():
            for name, nodes in told.items():
                found.setdefault(name, {}).update(dict.fromkeys(nodes))
        return {name: tuple(found[name]) for name in sorted(found)}

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            now = trio.current_time()
            if not self._told or now >= self._asked_at + (
                NEED_INTERVAL if self._is_in_need() else CALM_INTERVAL
            ):
                await self.refresh()
            await trio.sleep(NEED_INTERVAL if self._told else FIRST_INTERVAL)

    async def refresh(self) -> None:
        """Ask which groups there are; who does not answer is waited for no longer than usual."""
        self._asked_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            for address in self.addresses:
                nursery.start_soon(self._ask_groups, address)

    async def groups_with(self, topic: str) -> tuple[tuple[str, ...] | None, str]:
        """Return the names of the groups that have *topic*, or None when nobody answered, and why.

        A name server that has just started may not know what another one knows.
        """
        header = RouteRequest(topic=topic)
        answered, why = False, ""
        # Those that have answered before come first: one that is down costs a while.
        for address in sorted(self.addresses, key=lambda address: address not in self._told):
            answer = await self._ask(
                address,
                Command(RequestCode.GET_ROUTEINFO_BY_TOPIC.value, ext_fields=header.encode()),
            )
            if isinstance(answer, str):
                why = answer
            elif answer.code == ResponseCode.SUCCESS:
                try:
                    route = decode_route(topic, bytes(answer.body))  # type: ignore[arg-type]
                except NO_LIST as error:
                    why = f"{address}: the answer is no route: {type(error).__name__}: {error}"
                    continue
                return tuple(sorted({broker.name for broker in route.brokers})), ""
            elif answer.code == ResponseCode.TOPIC_NOT_EXIST:
                answered = True
            else:
                why = f"{address}: {failure_text(answer)}"
        return (() if answered else None), why

    async def _ask_groups(self, address: str) -> None:
        answer = await self._ask(address, Command(RequestCode.GET_BROKER_CLUSTER_INFO.value))
        if isinstance(answer, str) or answer.code != ResponseCode.SUCCESS:
            return
        try:
            groups = decode_groups(bytes(answer.body))  # type: ignore[arg-type]
        except NO_LIST:
            _LOG.warning("%s sent a list of brokers that is none", address)
            return
        if not groups:
            # One that has just started: what it said before, or others say, is more likely.
            self.without_groups.add(address)
            return
        self.without_groups.discard(address)
        now = trio.current_time()
        self._listed_at |= {(address, name): now for name in groups}
        before = self._told.get(address, {})
        for name in before.keys() - groups.keys():
            if now < self._listed_at[address, name] + GONE_AFTER:
                groups[name] = before[name]
            else:
                del self._listed_at[address, name]
        if before != groups:
            self._told[address] = groups
            self._on_groups()

    async def _ask(self, address: str, request: Command) -> Command | str:
        """Return the answer, or why there is none."""
        link = self._links[address]
        try:
            return await link.request(request, timeout_seconds=self._request_timeout)
        except RequestTimeoutError as error:
            link.close(ConnectionLostError(str(error)))  # a new connection may find another way
            return str(error)
        except RemotingError as error:
            return str(error)


def decode_groups(body: bytes) -> dict[str, tuple[str, ...]]:
    """Return the addresses of each broker group that *body* lists, the leader's first.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError: it is no list.

    Source: RocketMQ ``ClusterInfo``.
    """
    table: Mapping[str, Mapping[str, Mapping[str, str]]] = json.loads(body)["brokerAddrTable"]
    found = {}
    for name, broker in table.items():
        addresses = {int(number): str(address) for number, address in broker["brokerAddrs"].items()}
        found[str(name)] = tuple(addresses[number] for number in sorted(addresses))
    return {name: addresses for name, addresses in found.items() if addresses}
