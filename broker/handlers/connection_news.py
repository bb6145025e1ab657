"""What a node tells the leader of its clients' connections, of its own accord.

The leader knows by which nodes it has heard of each member of a group: by the heartbeats that nodes
hand to it, and by what they tell here.  That may wait for a leader, or be handed on to the next
one, and is left alone when it is no longer so by then.  What did not come through is told again.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

import trio

from broker.protocol.headers import ClientConnectionLostRequest, ClientGroupsLostRequest
from broker.protocol.heartbeat import Heartbeat, encode_heartbeat
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.errors import LedgerError
from dledger.remoting.command import Command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.handlers.connections import Connections
    from broker.handlers.forward import Forwarder
    from dledger.remoting.server import Session
    from dledger.server import LedgerServer

# On a heartbeat of a node's own making: the groups for which its client consumes by that node.
CONSUMES_FOR = "consumesFor"
_BETWEEN_GROUPS = ","  # no name has one
_UNTOLD_MAX = 16_384  # connections of which the leader has to be told again; silence tells of more
_TRY_AGAIN = frozenset(
    {
        int(ResponseCode.NOT_LEADER),
        int(ResponseCode.OUTCOME_UNKNOWN),
        int(ResponseCode.SYSTEM_BUSY),
    }
)


class Nobody:
    """Stands in for the connection of a client, where a node itself has something to tell."""

    def __init__(self, is_moot: Callable[[], bool], failed: Callable[[], None]) -> None:
        """Make it.

        Args:
            is_moot: whether there is nothing to be told any more.
            failed: called when the leader may not have heard it.
        """
        self._is_moot = is_moot
        self._failed = failed

    @property
    def closed(self) -> bool:
        """Whether what was to be told is no longer so."""
        return self._is_moot()

    def reply(self, command: Command) -> None:
        """Hear what became of it."""
        if command.code in _TRY_AGAIN:
            self._failed()

    def flush(self) -> None:
        """Do nothing."""

    def flush_soon(self) -> None:
        """Do nothing."""

    def charge(self, cost: int) -> None:
        """Do nothing: what waits for the leader is bounded by itself."""

    def release(self, cost: int) -> None:
        """Do nothing."""


class ConnectionNews:
    """Tells the leader who is connected here, and of whom the last connection has ended."""

    def __init__(
        self, *, ledger: LedgerServer, connections: Connections, forwarder: Forwarder
    ) -> None:
        """Make it; no leader has been told anything.

        Args:
            ledger: knows who leads.
            connections: who is connected here.
            forwarder: hands requests to the leader.
        """
        self._ledger = ledger
        self._connections = connections
        self._forwarder = forwarder
        # Who was told last, and in which term: a leader that begins anew has forgotten it all.
        self._told: tuple[str, int] | None = None
        # Client ids and groups of connections that have ended, of which no leader has heard.
        self._untold: dict[tuple[str, str], None] = {}
        self._has_failed = trio.Event()

    def leader_changed(self) -> None:
        """Tell a new leader who is connected here.

        It would hear that by the next heartbeats only, within 30 s, and wait for as long for one of
        a client whose connection ends meanwhile.
        """
        leader_id, term = self._ledger.leader_id, self._ledger.term
        if leader_id is None or self._told == (leader_id, term):
            return
        self._told = leader_id, term
        if leader_id == self._ledger.config.node_id:
            return  # see `ClientHandlers.began_to_serve`
        for client_id, groups in self._connections.consuming():
            # It joins none by that: it may just have left one, by way of another node.
            body = encode_heartbeat(Heartbeat(client_id=client_id))
            fields = {CONSUMES_FOR: _BETWEEN_GROUPS.join(groups)}
            self._tell(
                Command(int(RequestCode.HEART_BEAT), ext_fields=fields, body=body),
                is_moot=partial(self._is_gone, client_id, groups),
                failed=self._tell_anew,
            )

    def lost(self, client_id: str, groups: Iterable[str]) -> None:
        """Tell the leader that a client has no connection here any more for each of *groups*."""
        is_partial = self._connections.is_known(client_id)
        kind = ClientGroupsLostRequest if is_partial else ClientConnectionLostRequest
        code = RequestCode.CLIENT_GROUPS_LOST if is_partial else RequestCode.CLIENT_CONNECTION_LOST
        node_id = self._ledger.config.node_id
        # One by one: it may come again for one of them, and not for another.
        for group in groups:
            header = kind(client_id=client_id, node_id=node_id, consumes_for=group)
            self._tell(
                Command(int(code), ext_fields=header.encode()),
                is_moot=partial(self._connections.is_listening, client_id, group),
                failed=partial(self._lose_again, client_id, group),
            )

    async def until_failed(self) -> None:
        """Wait until something did not come through."""
        await self._has_failed.wait()

    def take_untold(self) -> list[tuple[str, str]]:
        """Return the client ids and groups that are to be told as lost once more."""
        self._has_failed = trio.Event()
        untold, self._untold = self._untold, {}
        return [lost for lost in untold if not self._connections.is_listening(*lost)]

    def _tell_anew(self) -> None:
        self._told = None
        self._has_failed.set()

    def _lose_again(self, client_id: str, group: str) -> None:
        if len(self._untold) < _UNTOLD_MAX:
            self._untold[client_id, group] = None
        self._has_failed.set()

    def _tell(
        self, request: Command, *, is_moot: Callable[[], bool], failed: Callable[[], None]
    ) -> None:
        try:
            self._forwarder.take(cast("Session", Nobody(is_moot, failed)), request)
        except LedgerError:  # too much waits here
            failed()

    def _is_gone(self, client_id: str, groups: Iterable[str]) -> bool:
        return not any(self._connections.is_listening(client_id, group) for group in groups)


def groups_told(told: str) -> list[str]:
    """Return the groups that are named in *told*, as nodes write them."""
    return told.split(_BETWEEN_GROUPS)
