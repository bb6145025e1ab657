"""The group itself: how each member is, and a planned change of its leader."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from broker.handlers.registry import answer, error_response, handles
from broker.handlers.until_leader import UntilLeader
from broker.protocol.bodies import GroupStatus, MemberStatus
from broker.protocol.headers import GroupStatusRequest, LeaderHint, LeadershipTransferRequest
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.core import Role
from dledger.machine import resident_size
from dledger.remoting.command import Command, response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.metadata.topics import Topics
    from broker.store.derived import DerivedState
    from dledger.clock import Clock
    from dledger.errors import LedgerError
    from dledger.remoting.server import Session
    from dledger.server import LedgerServer

_RESIDENT_SECONDS = 0.25  # between two looks at the memory; some tools ask all the time


class GroupHandlers:
    """The family of the group."""

    def __init__(
        self,
        *,
        ledger: LedgerServer,
        derived: DerivedState,
        topics: Topics,
        clock: Clock,
        advertised: Mapping[str, str],
        is_serving: Callable[[], bool],
        connection_count: Callable[[], int],
        held_pull_count: Callable[[], int],
        oldest_ms: Callable[[], int | None],
    ) -> None:
        self._ledger = ledger
        self._derived = derived
        self._topics = topics
        self._clock = clock
        self._advertised = advertised
        self._is_serving = is_serving
        self._connection_count = connection_count
        self._held_pull_count = held_pull_count
        self._oldest_ms = oldest_ms
        self._started_at = clock.now()
        self._version = version("dledger")
        self._resident_size = 0
        self._resident_size_until = float("-inf")  # the clock's second at which it is looked up
        self.until_leader = UntilLeader(
            clock, knows_newer=self._knows_newer, answer=self._answer_status
        )

    @handles(RequestCode.GET_GROUP_STATUS)
    def status(self, session: Session, command: Command) -> None:
        """Answer how this node is and what it sees of the others, or wait for a leader."""
        header = GroupStatusRequest.decode(command.ext_fields)
        seconds = header.suspend_timeout_millis / 1000
        self.until_leader.ask(session, command, header.newer_than, seconds)

    def _knows_newer(self, term: int) -> bool:
        if self._ledger.core.role is Role.LEADER:
            return True
        return self._ledger.leader_id is not None and self._ledger.term > term

    def _answer_status(self, questions: list[tuple[Session, Command]]) -> None:
        body = self.current_status().encode()
        for session, command in questions:
            answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))
            if not session.closed:
                session.flush_soon()

    def current_status(self) -> GroupStatus:
        """Return the status of this moment."""
        ledger = self._ledger
        core, store = ledger.core, ledger.store
        leads = core.role is Role.LEADER
        leader, usage = ledger.leader_id, ledger.files.disk_usage
        members = tuple(
            MemberStatus(
                node_id=node_id,
                address=self._advertised[node_id],
                is_connected=node_id == core.config.node_id or node_id in core.connected_peers,
                match_index=self._match_index(node_id) if leads else -1,
            )
            for node_id in sorted(self._advertised)
        )
        return GroupStatus(
            group=core.config.group,
            node_id=core.config.node_id,
            role=core.role.name,
            term=ledger.term,
            leader_id=leader,
            leader_address=None if leader is None else self._advertised[leader],
            is_ready=self._is_serving() if leads else self._follows(),
            begin_index=store.begin_index,
            end_index=store.end_index,
            durable_index=store.durable_index,
            commit_index=ledger.committed_index,
            dispatched_index=self._derived.dispatched_index,
            begin_position=store.base.position,
            end_position=store.end_position,
            flush_disk_type=core.config.store.flush_disk_type.value,
            topic_count=len(self._topics),
            connection_count=self._connection_count(),
            held_pull_count=self._held_pull_count(),
            rss_bytes=self._recent_resident_size(),
            uptime_seconds=round(self._clock.now() - self._started_at, 3),
            sync_seconds_last=round(ledger.syncs.seconds_last, 6),
            version=self._version,
            members=members,
            begin_time_ms=-1 if (oldest := self._oldest_ms()) is None else oldest,
            disk_used=-1 if usage is None else usage.used,
            disk_available=-1 if usage is None else usage.available,
            disk_percent=-1.0 if usage is None else round(usage.percent, 1),
            write_refusal="" if ledger.write_refusal is None else str(ledger.write_refusal),
            wall_ms=self._clock.wall_ms(),
        )

    def _recent_resident_size(self) -> int:
        """Return how much memory the process has, or had a moment ago: it is read from a file."""
        now = self._clock.now()
        if now >= self._resident_size_until:
            self._resident_size_until = now + _RESIDENT_SECONDS
            self._resident_size = resident_size()
        return self._resident_size

    def _match_index(self, node_id: str) -> int:
        engine = self._ledger.core.engine
        if node_id == engine.node_id:
            return self._ledger.store.durable_index
        return engine.leading.progress[node_id].match_index

    def _follows(self) -> bool:
        """Whether this follower has taken in all it knows to be committed."""
        return (
            self._ledger.core.role is Role.FOLLOWER
            and self._ledger.leader_id is not None
            and self._derived.dispatched_index >= self._ledger.core.engine.commit_index
        )

    @handles(RequestCode.LEADERSHIP_TRANSFER, on_leader=True)
    def transfer(self, session: Session, command: Command) -> None:
        """Hand the leadership over; answered when another leads, or when that failed."""
        header = LeadershipTransferRequest.decode(command.ext_fields)

        def done(error: LedgerError | None) -> None:
            if error is None:
                leader = self._ledger.leader_id
                reply = response(
                    command,
                    int(ResponseCode.SUCCESS),
                    None,
                    LeaderHint(
                        leader_id=leader, leader_address=self._advertised.get(leader or "")
                    ).encode(),
                )
            else:
                reply = error_response(command, error)
            answer(session, command, reply)
            if not session.closed:
                session.flush_soon()

        self._ledger.begin_transfer(header.transferee_id or None, done)
