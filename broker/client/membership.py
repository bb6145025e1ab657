"""The groups that a client is a member of: it tells the nodes, and hears when a group changes.

A client is one member of each of its groups, however many consumers it has; these share out among
themselves what is the member's.  Heartbeats go to every node: each tells the client of changes, and
one connection that breaks does not make the leader think that the client is gone.

Source: RocketMQ ``MQClientInstance``.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

import trio

from broker.client.group_member import GroupMember
from broker.errors import BrokerError
from broker.protocol.headers import UnregisterClientRequest
from broker.protocol.heartbeat import Heartbeat, encode_heartbeat
from broker.protocol.request_code import ClientRequestCode, RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command, response
from dledger.remoting.errors import RemotingError

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from broker.client.consumer_options import MemberTimes
    from broker.client.group_member import Seat
    from broker.client.links import Link
    from broker.client.requests import Requests
    from broker.client.routes import RouteCache

AGAIN_INTERVAL = 1.0  # seconds until a node is told again that could not be told

_LOG = logging.getLogger("broker.client")


def make_client_id(chance: random.Random) -> str:
    """Return a name for a client that no other has, which says where it runs."""
    return f"{socket.gethostname()[:64]}@{os.getpid()}#{chance.getrandbits(32):08x}"


class Membership:
    """What one client is a member of."""

    def __init__(
        self,
        client_id: str | None,
        requests: Requests,
        routes: RouteCache,
        *,
        nursery: trio.Nursery,
        chance: random.Random,
        times: MemberTimes,
    ) -> None:
        """Be in no group; *client_id* None: one is made up when it is needed."""
        self._client_id = client_id
        self._nursery = nursery
        self._chance = chance
        self._times = times
        self._requests = requests
        self._routes = routes
        self._groups: dict[str, GroupMember] = {}
        self._leaving: set[str] = set()  # groups that the leader may think it is in
        self._untold: set[str] = set()  # nodes that do not know all of it
        self._all_told_at = float("-inf")  # trio seconds; when all nodes were last told
        self._wake = trio.Event()
        self._is_closed = False

    @property
    def client_id(self) -> str:
        """How the broker knows this client."""
        if self._client_id is None:
            self._client_id = make_client_id(self._chance)
        return self._client_id

    def close(self) -> None:
        """Tell nobody anything more: nodes see that the connections are gone."""
        self._is_closed = True

    async def join(self, seat: Seat) -> None:
        """Have *seat* be given queues of its group; returns once it has its first.

        Raises:
            InvalidMessageError: another consumer of this client reads otherwise for the group.
            GroupNotFoundError, NoPermissionError: the group may not be consumed for.
            NoBrokerError: the leader could not be told.
        """
        group = seat.subscription.group
        member = self._groups.get(group)
        if member is None:
            member = GroupMember(
                group,
                self.client_id,
                self._requests,
                self._routes,
                times=self._times,
                rejoin=self._announce,
            )
            self._groups[group] = member
            self._nursery.start_soon(member.run)
        member.add(seat)
        try:
            if not member.is_announced:
                await self._announce()
                member.is_announced = True
            await member.balance()
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(self._requests.request_timeout):
                await self.leave(seat)
            raise

    async def leave(self, seat: Seat) -> None:
        """Let the others have the queues of *seat*, whose offsets are committed."""
        group = seat.subscription.group
        member = self._groups.get(group)
        if member is None or seat not in member.seats or self._is_closed:
            return
        member.remove(seat)
        if member.seats:
            member.look_again()
            return
        member.stop()
        del self._groups[group]
        # Until it is certain; the background goes on with it when this is cancelled.
        self._leaving.add(group)
        self._wake.set()
        try:
            await member.free_locks()
            await self._unregister(group)
        except BrokerError as error:
            _LOG.warning("leaving group %s: %s", group, error)

    def look_again(self, group: str) -> None:
        """Share out the queues of *group* anew, soon."""
        member = self._groups.get(group)
        if member is not None:
            member.look_again()

    def on_request(self, link: Link, command: Command) -> None:
        """Take a request of a node: so far they are about changes of groups."""
        if command.code == ClientRequestCode.NOTIFY_CONSUMER_IDS_CHANGED:
            self.look_again(str(command.ext_fields.get("consumerGroup", "")))
        elif not command.is_oneway:
            link.reply(
                response(
                    command,
                    int(ResponseCode.REQUEST_CODE_NOT_SUPPORTED),
                    f"this client does not do {command.code}",
                )
            )

    def on_lost(self, link: Link) -> None:
        """Take note that a connection broke: its node thinks that this client is gone."""
        if self._groups:
            self._untold.add(link.address)
            self._wake.set()

    async def run(self) -> None:
        """Tell nodes until cancelled."""
        finder = self._requests.leader
        finder.listen(self._on_leader)
        while True:
            self._wake = trio.Event()
            with trio.move_on_at(self._next_at()):
                await self._wake.wait()
            for group in list(self._leaving - self._groups.keys()):
                try:
                    await self._unregister(group)
                except BrokerError as error:
                    _LOG.warning("leaving group %s: %s", group, error)
            if not self._groups:
                continue
            if trio.current_time() >= self._all_told_at + self._times.heartbeat:
                self._all_told_at = trio.current_time()
                self._untold.update(finder.nodes)
            await self._tell(tuple(self._untold))

    def _next_at(self) -> float:
        if self._leaving or (self._groups and self._untold):
            return trio.current_time() + AGAIN_INTERVAL
        return self._all_told_at + self._times.heartbeat if self._groups else float("inf")

    def _on_leader(self) -> None:
        if self._groups:
            # A new leader knows the members, and not by which nodes it can hear them: until it
            # does, it takes a broken connection for the end of a client, or for nothing.
            self._untold.update(self._requests.leader.nodes)
            self._wake.set()

    async def _announce(self) -> None:
        """Tell the leader, which has taken it in when this returns, and have all others told."""
        await self._requests.ask_leader(self._heartbeat, f"heartbeat of client {self.client_id}")
        self._all_told_at = float("-inf")
        self._wake.set()

    async def _tell(self, nodes: Iterable[str]) -> None:
        async def tell(node: str) -> None:
            try:
                answer = await self._requests.links[node].request(
                    self._heartbeat(), timeout_seconds=self._requests.request_timeout
                )
            except RemotingError:
                return  # it is told again
            if answer.code == ResponseCode.SUCCESS:
                self._untold.discard(node)

        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(tell, node)
        self._untold.intersection_update(self._requests.leader.nodes)

    def _heartbeat(self) -> Command:
        heartbeat = Heartbeat(
            client_id=self.client_id,
            consumers=tuple(member.consumer_data for member in self._groups.values()),
        )
        return Command(RequestCode.HEART_BEAT.value, body=encode_heartbeat(heartbeat))

    async def _unregister(self, group: str) -> None:
        if group in self._groups:
            self._leaving.discard(group)  # in it again
            return
        header = UnregisterClientRequest(client_id=self.client_id, consumer_group=group)
        await self._requests.ask_leader(
            lambda: Command(RequestCode.UNREGISTER_CLIENT.value, ext_fields=header.encode()),
            f"client {self.client_id} leaving group {group}",
        )
        self._leaving.discard(group)
