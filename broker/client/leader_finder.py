"""Who leads the group, found out by asking and by listening.

Answers carry hints, and nodes say who leads and in which term when asked.  What a node says of
itself counts most; what others say of a node that just failed us counts only in a newer term, since
they may not have noticed yet.  While no leader is known, every node that can be reached is asked
who is the next one, and answers once it knows, so that the first request after an election leaves
within milliseconds of its end.  A node of an earlier version answers at once, and is asked again
every 10 ms, and less and less often in a group that stays without a leader.
"""

from __future__ import annotations

import json
import logging
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from broker.client.requests import failure_text
from broker.protocol.headers import GroupStatusRequest
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command
from dledger.remoting.errors import ConnectionLostError, RemotingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.client.links import Answer, Link, Links

POLL_INTERVAL = 0.010  # seconds between questions while no leader is known, at first
POLL_INTERVAL_MAX = 0.100  # and after a while without one
POLL_SHARE = 0.05  # of the time that has passed without a leader
RECONNECT_INTERVAL = 0.100  # seconds between tries to reach a node that refused, at first
RECONNECT_INTERVAL_MAX = 1.0  # and after a while without a leader, when another node is there
WATCH_INTERVAL = 0.050  # seconds between looks at the requests under way, at least
SUSPICION_AGE = 0.200  # seconds without an answer after which other nodes are asked who leads
SLOW_WATCH_INTERVAL = 1.0  # seconds between questions to another node while all is well
FORWARD_AFTER = 1.0  # seconds without a leader we can reach until others have to forward for us
ANSWER_WAIT_MIN = 0.100  # seconds a node may wait until it has something new to tell: it is late
ANSWER_WAIT_MAX = 1.0  # by as much as half of the least
DISTRUST_SECONDS = 2.0  # how long hints without a term cannot bring back a node that failed

_AT_ONCE = GroupStatusRequest()
_LOG = logging.getLogger("broker.client")


class LeaderFinder:
    """Knows the nodes of the group and which of them leads."""

    def __init__(
        self,
        addresses: Iterable[str],
        *,
        request_timeout: float,
        chance: Callable[[], float] = lambda: 0.5,
    ) -> None:
        """Start with the nodes at *addresses*, ``host:port`` each.

        A leader that says nothing at all for *request_timeout* seconds is given up.  *chance*
        returns a number from 0 to below 1: clients that lost the same node come back one by one.
        """
        self.seeds = tuple(dict.fromkeys(addresses))
        assert self.seeds
        self.leader: str | None = None  # address; None while nobody is known to lead
        self.term = -1  # of the leader; -1 while unknown
        self.last_failure = "no node has been asked yet"
        # Told when a node says how its group stands, and when an address is no node's.
        self.on_node: Callable[[], None] = lambda: None
        self.on_stranger: Callable[[], None] = lambda: None
        self._strangers: set[str] = set()  # addresses that are no node's
        self._refused: dict[str, str] = {}  # by address: why it would not say how the group stands
        self._links: Links | None = None
        self._addresses: dict[str, str] = {}  # by node id, as the nodes say
        self._listeners: list[Callable[[], None]] = []
        self._changed = trio.Event()
        self._asked: dict[str, float] = {}  # by address, nodes that have not answered yet
        self._distrusted: dict[str, tuple[int, float]] = {}  # address: term of its lead, since when
        self._turn = 0
        self._request_timeout = request_timeout
        self._has_heard = False  # what some node said of the group
        self._chance = chance
        self._lost_at = float("inf")  # trio seconds; since when no leader has been known
        self._is_closing = False
        self._scope = trio.CancelScope()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Addresses of all nodes known, the leader first."""
        known = dict.fromkeys((*self._addresses.values(), *self.seeds))
        if self.leader is not None:
            known = dict.fromkeys((self.leader, *known))
        if self._strangers:
            nodes = tuple(address for address in known if address not in self._strangers)
            return nodes or tuple(known)
        return tuple(known)

    def use(self, links: Links) -> None:
        """Ask over *links*; call once, before anything else."""
        self._links = links

    def close(self) -> None:
        """Take it from now on that connections end because the client ends them."""
        self._is_closing = True

    def stop(self) -> None:
        """Look for nobody any more."""
        assert self._links is not None
        self.close()
        self._scope.cancel()
        self._links.close(ConnectionLostError("these are no nodes of a group"))

    def reseed(self, addresses: Iterable[str]) -> None:
        """Take *addresses* for those of nodes as well, in the place of those named at first."""
        found = tuple(dict.fromkeys(addresses))
        if found:
            self.seeds = found

    def listen(self, listener: Callable[[], None]) -> None:
        """Call *listener* whenever another leader is known, or the same one again."""
        self._listeners.append(listener)

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Call *listener* no more."""
        self._listeners.remove(listener)

    async def wait(self) -> str:
        """Return the leader's address as soon as there is one."""
        while self.leader is None:
            await self._changed.wait()
        return self.leader

    # --- what is learnt -----------------------------------------------------------------------

    def hint(self, address: str) -> None:
        """Take note that some node names *address*, or a node's id, as the leader."""
        address = self._addresses.get(address, address)
        if ":" not in address:
            return  # the id of a node we know nothing of
        if not address or address == self.leader:
            return
        distrusted = self._distrusted.get(address)
        if distrusted is not None and trio.current_time() < distrusted[1] + DISTRUST_SECONDS:
            return
        self._follow(address, self.term)

    def suspect(self, address: str, reason: str) -> None:
        """Take note that *address* does not lead, or cannot be asked to."""
        self.last_failure = reason
        if address == self.leader:
            self._distrusted[address] = (self.term, trio.current_time())
            self.leader = None
            self._lost_at = trio.current_time()
            if not self._is_closing:
                _LOG.info("leader %s lost: %s", address, reason)
            self._wake()

    def on_lost(self, link: Link, error: RemotingError) -> None:
        """Take note that *link* broke or could not be opened."""
        self._asked.pop(link.address, None)
        # A node that said why it would not have the connection ended it for that reason.
        self.suspect(link.address, self._refused.pop(link.address, "") or str(error))

    def take_status(self, address: str, status: dict[str, Any]) -> None:
        """Learn from the group status that the node at *address* gave."""
        term = _number(status.get("term"))
        members = status.get("members")
        if isinstance(members, list):
            found = dict(map(_identity, members))
            if all(found.values()) and found:
                self._addresses = found
        if str(status.get("role", "")).lower() == "leader":
            named = address
            if term < self.term:
                return  # deposed and has not noticed
        else:
            named = str(status.get("leader_address") or "")
            if not named or term < self.term:
                return
            distrusted = self._distrusted.get(named)
            if distrusted is not None and term <= distrusted[0]:
                if self.leader is not None or trio.current_time() < self._may_be_forwarded_at:
                    return
                named = address  # it reaches the leader and we do not: it forwards
        if named == self.leader:
            self.term = term
        elif self.leader is None or term > self.term:
            failed = self._distrusted.get(named)
            # Whoever has just failed us is asked again after a pause, whatever is said of it.
            if failed is None or trio.current_time() >= failed[1] + POLL_INTERVAL:
                self._follow(named, term)

    def _follow(self, address: str, term: int) -> None:
        assert self._links is not None
        self.leader, self.term = address, term
        self._distrusted.pop(address, None)
        _LOG.info("leader is %s, term %d", address, term)
        self._links[address].open()
        self._wake()
        self._drop_silent()
        for listener in list(self._listeners):
            listener()

    def _drop_silent(self) -> None:
        """Close links to nodes that do not lead and do not answer: nothing they could say helps."""
        assert self._links is not None
        now = trio.current_time()
        for link in self._links.all():
            if link.address != self.leader and (
                now - link.oldest_quick_request_at() > SUSPICION_AGE
            ):
                link.close(ConnectionLostError(f"{link.address} does not lead and does not answer"))

    @property
    def _may_be_forwarded_at(self) -> float:
        return self._lost_at + FORWARD_AFTER

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- asking -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look for the leader whenever none is known; watch the one that is."""
        self._lost_at = trio.current_time()
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._find)
                nursery.start_soon(self._watch)

    async def _find(self) -> None:
        while True:
            if self.leader is not None:
                await self._changed.wait()
                continue
            question = self._question()
            for address in self.nodes:
                self._ask(address, question)
            with trio.move_on_after(self._pause(POLL_INTERVAL, POLL_INTERVAL_MAX)):
                await self._changed.wait()

    def _pause(self, first: float, longest: float) -> float:
        """Return how long to wait until the next try: longer, the longer nobody has led."""
        passed = trio.current_time() - self._lost_at if self.leader is None else 0.0
        return min(max(first, POLL_SHARE * passed), longest) * (0.75 + 0.5 * self._chance())

    async def _watch(self) -> None:
        links = self._links
        assert links is not None
        asked_at = trio.current_time()
        pause = WATCH_INTERVAL
        while True:
            await trio.sleep(pause)
            pause = WATCH_INTERVAL
            if self.leader is None:
                continue
            self._drop_silent()
            now = trio.current_time()
            link = links[self.leader]
            age = now - link.oldest_quick_request_at()
            if age > SUSPICION_AGE:
                # The leader too: one that waits for its disk still answers this.
                question = self._question()
                for address in self.nodes:
                    self._ask(address, question)
                if min(age, now - link.received_at) > self._request_timeout:
                    link.close(
                        ConnectionLostError(f"{link.address} has said nothing for {age:.1f} s")
                    )
            elif now - asked_at >= SLOW_WATCH_INTERVAL and len(self.nodes) > 1:
                asked_at = now
                self._turn += 1
                self._ask(self.nodes[1 + self._turn % (len(self.nodes) - 1)])
            else:
                # What is under way, or begins right now, can be suspicious no earlier.
                pause = max(SUSPICION_AGE - max(age, 0.0), WATCH_INTERVAL)

    def _question(self) -> GroupStatusRequest:
        """Return what is asked while no leader is known, or the one that is known says nothing.

        A node may wait until it can name another one than that.
        """
        seconds = min(ANSWER_WAIT_MAX, self._request_timeout / 2)
        if not self._has_heard or seconds < ANSWER_WAIT_MIN:
            return _AT_ONCE  # whoever begins is told how it stands
        newer_than = self.term
        if self.leader is None:
            left = self._may_be_forwarded_at - trio.current_time()
            if left > 0:
                seconds = min(seconds, left)
            else:
                newer_than = -1  # that one, too: others may reach it
        return GroupStatusRequest(
            newer_than=newer_than, suspend_timeout_millis=math.ceil(seconds * 1000)
        )

    def _ask(self, address: str, question: GroupStatusRequest = _AT_ONCE) -> None:
        """Ask the node at *address* how the group stands, unless it still owes an answer."""
        links = self._links
        assert links is not None
        now = trio.current_time()
        link = links[address]
        asked_at = self._asked.get(address)
        if asked_at is not None:
            silence = now - max(asked_at, link.received_at)
            if silence > self._request_timeout:
                # A route that was lost: no answer will come, and a new connection may find another.
                link.close(ConnectionLostError(f"{address} has said nothing for {silence:.1f} s"))
            return
        if not link.is_open:
            # A node that can be reached will tell who leads, and from where; else one may be back.
            is_any_open = any(other.is_open for other in links.all())
            longest = RECONNECT_INTERVAL_MAX if is_any_open else RECONNECT_INTERVAL
            if now - link.failed_at >= self._pause(RECONNECT_INTERVAL, longest):
                link.open()
            return
        self._asked[address] = now
        request = Command(RequestCode.GET_GROUP_STATUS, ext_fields=question.encode())
        may_wait = question.suspend_timeout_millis > 0
        link.submit(request, partial(self._on_status, address), is_slow=may_wait)
        link.flush()

    def _on_status(self, address: str, answer: Answer) -> None:
        self._asked.pop(address, None)
        if not isinstance(answer, Command):
            return
        if answer.code != ResponseCode.SUCCESS:
            reason = f"{address}: {failure_text(answer)}"
            self._refused[address] = self.last_failure = reason
            if answer.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED:
                self._strangers.add(address)
                self.on_stranger()
            return
        self._refused.pop(address, None)
        self._strangers.discard(address)
        try:
            status = json.loads(bytes(answer.body))  # type: ignore[arg-type]
        except (ValueError, RecursionError):
            _LOG.warning("%s sent a group status that is no JSON", address)
            return
        if isinstance(status, dict):
            self._has_heard = True
            if self.leader is None:
                self.last_failure = f"{address} knows no leader"
            self.take_status(address, status)
            self.on_node()


def _number(value: object) -> int:
    return value if type(value) is int else -1


def _identity(member: object) -> tuple[str, str]:
    """Return a member's id and its address for clients; "" for what is missing."""
    if not isinstance(member, dict):
        return "", ""
    return str(member.get("node_id", "")), str(member.get("address", ""))
