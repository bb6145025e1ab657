"""Requests that only the leader can answer, taken by a node that is not it.

They are handed to the leader over one connection of this node's own, in the order in which they
came, and the answers are passed back.  While nobody leads they wait here for a bounded time: an
election is shorter than most clients' patience, so most clients never hear of it.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import trio

from broker.errors import InvalidMessageError
from broker.handlers.registry import (
    STOCK_CLIENT_HOST,
    answer,
    error_response,
    holding_cost,
    stock_client_address,
)
from broker.handlers.repeats import (
    GIVEN_KEY,
    SEND_CODES,
    SENT_AFTER,
    can_be_told_apart,
    may_be_repeated,
)
from broker.protocol.headers import LeaderHint
from broker.protocol.response_code import ResponseCode
from dledger.errors import LedgerBusyError, LedgerError, NotLeaderError, OutcomeUnknownError
from dledger.remoting.client import RemotingClient
from dledger.remoting.command import FLAG_GROUPED, FLAG_ONEWAY, Command
from dledger.remoting.errors import LocalProtocolError, NotConnectedError, RemotingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.handlers.registry import Handler
    from dledger.clock import Clock
    from dledger.remoting.network import Network
    from dledger.remoting.server import Session
    from dledger.server import LedgerServer

logger = logging.getLogger(__name__)

# On a request: it has been forwarded once.  Two nodes that each think the other leads would hand
# it to and fro for ever.
FORWARDED = "forwardedBy"
# Likewise: the term in which the node that it went to led.  What a link held back until that node
# leads again is done by somebody else in the meantime.
FORWARDED_IN = "forwardedInTerm"

_RETRY_SECONDS = 0.02
# How long a leader of the past may take to answer what it was asked while it led.
_LAST_ANSWERS_SECONDS = 0.5


class Forwarder:
    """This node's connection to the leader, and what waits for one."""

    def __init__(
        self,
        *,
        ledger: LedgerServer,
        addresses: Mapping[str, tuple[str, int]],
        advertised: Mapping[str, str],
        network: Network,
        clock: Clock,
        hold_seconds: float,
        held_count_max: int,
        held_size_max: int,
        connect_seconds: float,
        next_key: Callable[[], str],
    ) -> None:
        """Make a forwarder that holds nothing.

        Args:
            ledger: knows who leads.
            addresses: broker (host, port) of every member.
            advertised: the same as clients are told it.
            network: for the connection to the leader.
            clock: measures how long a request has waited.
            hold_seconds: longest time a request waits for a leader.
            held_count_max: most requests that wait: a node that becomes the leader handles them all
                before anything else.
            held_size_max: most bytes that wait; see `holding_cost`.
            connect_seconds: longest time to wait for a connection to the leader.
            next_key: makes unique keys for messages that have none.
        """
        self._ledger = ledger
        self._addresses = addresses
        self._advertised = advertised
        self._network = network
        self._clock = clock
        self._hold_seconds = hold_seconds
        self._held_count_max = held_count_max
        self._held_size_max = held_size_max
        self._connect_seconds = connect_seconds
        self._next_key = next_key
        self._held: deque[tuple[float, int, Session, Command]] = deque()
        self._held_size = 0
        self._client: RemotingClient | None = None
        self._client_leader: str | None = None
        self._clients: set[RemotingClient] = set()  # with those of leaders of the past
        self._complaint = ""
        self._changed = trio.Event()
        self._redispatch: Handler | None = None
        self._end_of_pass: Callable[[], None] | None = None
        self._is_serving: Callable[[], bool] = lambda: False
        self.forwarded_count = 0

    def connect_to(
        self,
        redispatch: Handler,
        end_of_pass: Callable[[], None],
        is_serving: Callable[[], bool],
    ) -> None:
        """Name what handles held requests once this node itself serves, and what knows of that."""
        self._redispatch = redispatch
        self._end_of_pass = end_of_pass
        self._is_serving = is_serving

    @property
    def held_count(self) -> int:
        """Return how many requests wait for a leader."""
        return len(self._held)

    @property
    def unanswered_count(self) -> int:
        """Return how many requests wait for a leader, or for its answer."""
        return len(self._held) + sum(client.unanswered_count for client in self._clients)

    def take(self, session: Session, command: Command) -> None:
        """Forward *command*, or let it wait for a leader.

        Raises:
            NotLeaderError: it has been forwarded already, and not to the leader.
            LedgerBusyError: too much is waiting already.
        """
        leader = self._ledger.leader_id
        mine = self._ledger.config.node_id
        if FORWARDED in command.ext_fields and (leader != mine or self.is_late(command)):
            told = "did not lead all the while" if leader == mine else "does not lead"
            raise NotLeaderError(f"node {mine} {told}", leader_id=leader)
        client = self._client
        connected = client is not None and self._client_leader == leader and not client.closed
        if client is not None and connected and not self._held:
            self._submit(client, session, command)
            return
        cost = holding_cost(command)
        if self._held and (
            self._held_size + cost > self._held_size_max or len(self._held) >= self._held_count_max
        ):
            raise LedgerBusyError(
                f"node {mine} holds {len(self._held)} requests with {self._held_size} bytes for "
                f"want of a leader; the limits are requests_held_max = {self._held_count_max} and "
                f"requests_held_size_max = {self._held_size_max}: send again later"
            )
        self._hold(session, command, cost)

    def is_late(self, command: Command) -> bool:
        """Return whether *command* was handed to this node as the leader of another term.

        Whoever handed it on has asked the next leader by now, or asks again: nothing was written.
        """
        term = command.ext_fields.get(FORWARDED_IN)
        return term is not None and term != self._ledger.term

    def _hold(self, session: Session, command: Command, cost: int) -> None:
        self._held.append((self._clock.now() + self._hold_seconds, cost, session, command))
        self._held_size += cost
        session.charge(cost)
        self._changed.set()

    def _await_next(self, session: Session, command: Command, cost: int) -> None:
        self._hold(session, command, cost)
        if self._is_serving():  # the next one is this node, and has handled what waited here
            self.serve_held()

    def leader_changed(self) -> None:
        """Look again who leads; called for every change of role."""
        self._changed.set()

    def serve_held(self) -> None:
        """Handle here what waited, as this node has become the serving leader."""
        if not self._held:
            return
        assert self._redispatch is not None
        assert self._end_of_pass is not None
        for *_, session, command in self._take_held():
            if not session.closed:
                self._redispatch(session, command)
                session.flush()
        self._end_of_pass()

    def _take_held(self) -> deque[tuple[float, int, Session, Command]]:
        held, self._held = self._held, deque()
        self._held_size = 0
        for _, cost, session, _ in held:
            session.release(cost)
        return held

    def _submit(self, client: RemotingClient, session: Session, command: Command) -> None:
        opaque, oneway = command.opaque, command.is_oneway
        ext_fields = {
            **command.ext_fields,
            FORWARDED: self._ledger.config.node_id,
            FORWARDED_IN: self._ledger.term,
        }
        if (address := stock_client_address(session, command)) is not None:
            ext_fields[STOCK_CLIENT_HOST] = address
            if command.code in SEND_CODES and GIVEN_KEY not in ext_fields:
                command.ext_fields[GIVEN_KEY] = ext_fields[GIVEN_KEY] = self._next_key()
        request = Command(
            code=command.code,
            # Answered in any case: only so it is known whether it has to wait for another leader.
            flag=command.flag & ~(FLAG_GROUPED | FLAG_ONEWAY),
            language=command.language,
            version=command.version,
            ext_fields=ext_fields,
            body=command.body,
        )
        leader = self._client_leader or ""
        cost = holding_cost(command)
        committed_index = self._ledger.committed_index

        def passed_back(result: Command | RemotingError) -> None:
            session.release(cost)
            if session.closed:
                return
            if self._is_unknown(result, leader) and may_be_repeated(session, command):
                command.ext_fields.setdefault(SENT_AFTER, committed_index)
                self._await_next(session, command, cost)
                return
            if isinstance(result, RemotingError):
                reply = error_response(
                    command,
                    OutcomeUnknownError(
                        f"the connection to the leader {leader} broke before it answered: {result}"
                    ),
                )
            elif result.code == ResponseCode.NOT_LEADER:
                # Nothing was written: wait for whoever does lead, and do not ask at once again.
                self._await_next(session, command, cost)
                return
            else:
                result.opaque = opaque
                result.serialization = command.serialization
                hint = LeaderHint(leader_id=leader, leader_address=self._advertised.get(leader))
                # Who was asked may know better: the lead it has just handed over is not its own.
                result.ext_fields = {**hint.encode(), **(result.ext_fields or {})}
                reply = result
            if not oneway:
                answer(session, command, reply)
                session.flush()

        session.charge(cost)
        try:
            client.submit(request, passed_back)
        except NotConnectedError:
            session.release(cost)
            self._await_next(session, command, cost)  # it broke just now: not sent
            return
        except LocalProtocolError as error:
            # It came in a form or size that can be read and not be passed on.
            session.release(cost)
            refusal = InvalidMessageError(
                f"the request cannot be passed on to the leader {leader}: {error}"
            )
            answer(session, command, error_response(command, refusal))
            session.flush_soon()
            return
        self.forwarded_count += 1
        client.flush()

    def _is_unknown(self, result: Command | RemotingError, leader: str) -> bool:
        """Return whether *leader* died or was deposed before it knew what came of a request."""
        if isinstance(result, RemotingError):
            return True
        return result.code == ResponseCode.OUTCOME_UNKNOWN and self._ledger.leader_id != leader

    def hold_again(self, session: Session, command: Command) -> None:
        """Let a request wait that was turned away unwritten; errors become its answer."""
        try:
            self.take(session, command)
        except (NotLeaderError, LedgerBusyError) as error:
            answer(session, command, error_response(command, _told(command, error)))
            session.flush()

    def ask_next(self, session: Session, command: Command) -> bool:
        """Hand what this node itself began, and lost the lead with, to the next leader.

        Return whether it is: only for RocketMQ's clients, which know no "outcome unknown", and what
        may be asked again.  One that was handed on to this node its first node asks again.
        """
        if (
            FORWARDED in command.ext_fields
            or self._is_serving()
            or not may_be_repeated(session, command)
            or not can_be_told_apart(command)
        ):
            return False
        command.ext_fields.setdefault(SENT_AFTER, self._ledger.committed_index)
        self.hold_again(session, command)
        return True

    def drop_session(self, session: Session) -> None:
        """Forget what a client waited for that is gone."""
        if not self._held:
            return
        kept: deque[tuple[float, int, Session, Command]] = deque()
        for item in self._held:
            if item[2] is session:
                self._held_size -= item[1]
                session.release(item[1])
            else:
                kept.append(item)
        self._held = kept

    # -- tasks ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a connection to the leader and let nothing wait too long, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_leader, nursery)
            nursery.start_soon(self._expire)

    async def _expire(self) -> None:
        while True:
            now = self._clock.now()
            while self._held and self._held[0][0] <= now:
                _, cost, session, command = self._held.popleft()
                self._held_size -= cost
                session.release(cost)
                if not session.closed:
                    waited = NotLeaderError(
                        f"no leader was elected for {self._hold_seconds:g} s; is a majority of the "
                        "group running?"
                    )
                    answer(session, command, error_response(command, _told(command, waited)))
                    session.flush()
            delay = self._held[0][0] - now + 0.001 if self._held else self._hold_seconds / 2
            await trio.sleep(delay)

    async def _follow_leader(self, nursery: trio.Nursery) -> None:
        while True:
            self._changed = trio.Event()
            leader = self._ledger.leader_id
            if leader is None or leader == self._ledger.config.node_id:
                await self._changed.wait()
                continue
            await self._serve_link(leader, nursery)
            with trio.move_on_after(_RETRY_SECONDS):
                await self._changed.wait()

    async def _serve_link(self, leader: str, nursery: trio.Nursery) -> None:
        """Connect to *leader* and stay connected while it leads."""
        host, port = self._addresses[leader]
        client = RemotingClient(self._network, host, port)
        self._clients.add(client)
        try:
            with trio.move_on_after(self._connect_seconds) as patience:
                await nursery.start(self._run_client, client)
        except RemotingError as error:
            self._clients.discard(client)
            self._complain(f"no connection to the leader {leader}: {error}")
            return
        if patience.cancelled_caught:
            self._clients.discard(client)
            self._complain(f"no connection to the leader {leader} in time (connect_timeout_ms)")
            return
        self._client, self._client_leader = client, leader
        self._complaint = ""
        try:
            await self._watch_leader(leader, client)
        finally:
            self._client = self._client_leader = None
            nursery.start_soon(self._let_answer, client)

    async def _run_client(
        self, client: RemotingClient, *, task_status: trio.TaskStatus[None]
    ) -> None:
        await client.run(task_status=task_status)
        self._changed.set()

    async def _watch_leader(self, leader: str, client: RemotingClient) -> None:
        """Send on what is held, now and after it has been turned away, while *leader* leads."""
        while self._ledger.leader_id in (leader, None) and not client.closed:
            self._changed = trio.Event()
            if self._ledger.leader_id == leader:
                for *_, session, command in self._take_held():
                    if not session.closed:
                        self._submit(client, session, command)
            await self._changed.wait()
            if self._ledger.leader_id == leader and not client.closed:
                await trio.sleep(_RETRY_SECONDS)  # it turned something away: let it settle

    async def _let_answer(self, client: RemotingClient) -> None:
        """Close a connection to who led, once what it was asked before is answered.

        It may have committed that already, or be about to say who leads now: a lead that was
        handed over leaves nobody without an answer.
        """
        with trio.move_on_after(_LAST_ANSWERS_SECONDS):
            while client.unanswered_count and not client.closed:  # noqa: ASYNC110 - rare and short
                await trio.sleep(_RETRY_SECONDS / 4)
        client.close()
        self._clients.discard(client)

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:  # tried every few milliseconds, said once
            self._complaint = complaint
            logger.info("%s", complaint)


def _told(command: Command, error: LedgerError) -> LedgerError:
    """Return what is told of *error*: what may be written is never told as if it were not."""
    if SENT_AFTER in command.ext_fields:
        return OutcomeUnknownError(f"a leader of before may have done it: {error}")
    return error
