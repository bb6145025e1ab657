"""When each member of a group was last heard, and through which nodes; on the leader only.

A client sends heartbeats to every address it knows, each 30 s, and each node hands them to the
leader.  It is gone from a group when it is silent for too long, or at once when the last of its
connections for that group which is known of breaks: then its queues go to the others without delay.
Group by group, as clients of two groups may go by the same id: programs of one machine that were
told the same name.

A new leader has heard nobody yet.  Everyone counts as heard when it begins, through nodes unknown:
a connection that breaks before the client was heard gives it the time of a heartbeat, and no more.

Source: RocketMQ ``ConsumerManager.scanNotActiveChannel`` and ``ClientHousekeepingService``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dledger.clock import Clock

# Of a client that lost a connection, and is perhaps connected elsewhere: RocketMQ's interval of
# heartbeats, 30 s, and a little for its sender's timers.
HEARTBEAT_SECONDS = 35.0


class Member(NamedTuple):
    """A client in one of its groups."""

    client_id: str
    group: str


class _Heard:
    __slots__ = ("deadline", "nodes")

    def __init__(self, deadline: float, nodes: set[str] | None) -> None:
        self.deadline = deadline
        self.nodes = nodes  # None: unknown


class Presence:
    """The members of groups, as the serving leader has heard them."""

    def __init__(self, clock: Clock, *, silent_seconds_max: float) -> None:
        """Know nobody yet; who is silent for longer than *silent_seconds_max* will be gone."""
        self._clock = clock
        self._silent_seconds_max = silent_seconds_max
        self._members: dict[Member, _Heard] = {}

    @property
    def is_anybody_there(self) -> bool:
        """Return whether anybody may become silent."""
        return bool(self._members)

    def knows(self, member: Member) -> bool:
        """Return whether a member has been heard, and not been forgotten since."""
        return member in self._members

    def begin(self, members: Iterable[Member], *, is_known: bool = False) -> None:
        """Give every member the time to be heard.

        Args:
            members: all there are.
            is_known: whether what was known of them is true still, also of those that are about to
                join; who was not known is new.
        """
        deadline = self._clock.now() + self._silent_seconds_max
        if not is_known:
            self._members.clear()
        for member in members:
            self._members.setdefault(member, _Heard(deadline, None))

    def heard(self, member: Member, node_id: str) -> None:
        """Take note of a heartbeat that came in at *node_id*."""
        deadline = self._clock.now() + self._silent_seconds_max
        known = self._members.get(member)
        if known is None:
            self._members[member] = _Heard(deadline, {node_id})
            return
        known.deadline = deadline
        if known.nodes is None:
            known.nodes = {node_id}
        else:
            known.nodes.add(node_id)

    def lost(self, member: Member, node_id: str, *, reachable: frozenset[str]) -> bool:
        """Take note that a connection at *node_id* broke; return whether the member is gone.

        Args:
            member: whose connection.
            node_id: where it was.
            reachable: nodes that are there, which are the only ones to hold connections.
        """
        known = self._members.get(member)
        if known is None:
            return True
        if known.nodes is None:
            known.deadline = min(known.deadline, self._clock.now() + HEARTBEAT_SECONDS)
            return False
        known.nodes.discard(node_id)
        return not known.nodes & reachable

    def left(self, member: Member, node_id: str) -> None:
        """Take note of a goodbye that came in at *node_id*: a connection there is none of its."""
        known = self._members.get(member)
        if known is not None and known.nodes is not None:
            known.nodes.discard(node_id)

    def forget(self, member: Member) -> None:
        """Take note that a client is in a group no more."""
        self._members.pop(member, None)

    def stayed(self, member: Member) -> None:
        """Take note that a member which is gone could not be taken out of its group.

        It counts as silent at the next look, unless it is heard until then.
        """
        now = self._clock.now()
        self._members.setdefault(member, _Heard(now, None)).deadline = now

    def take_silent(self) -> list[Member]:
        """Return the members that have been silent for too long, and forget them."""
        now = self._clock.now()
        silent = [member for member, known in self._members.items() if known.deadline < now]
        for member in silent:
            del self._members[member]
        return silent
