"""A group of bare `LedgerCore`s under virtual time: no trio, no sockets, no threads.

Everything that happens is an event in one heap, so a run is a function of its seed.  The network
(`tests.fakes.cluster_wire`) keeps TCP's promises.  Syncs take time; a crash loses the process, a
power loss also what was not synced.

What must hold at every moment is checked as it happens (`SimCluster.observe`): one leader in a
term, and one entry for each committed index; what was acknowledged is looked for at the end.
"""

from __future__ import annotations

import heapq
import random
from typing import Any

from dledger.config import FlushDiskType, LedgerConfig, Member, RaftConfig, StoreConfig
from dledger.core import LedgerCore
from dledger.errors import (
    CorruptStoreError,
    LedgerError,
    LedgerFullError,
    StorageFailedError,
)
from dledger.store.ledger_store import LedgerStore
from dledger.store.vote_file import VoteFile
from tests.fakes.cluster_wire import ClusterWire
from tests.fakes.disk import FakeDisk
from tests.fakes.sim_parts import SimNode, TestProposal, VirtualClock


class SimCluster(ClusterWire):
    """The members, the wire between them and the one heap of events."""

    def __init__(
        self,
        node_count: int = 3,
        *,
        seed: int = 0,
        latency: tuple[float, float] = (0.0005, 0.001),
        store: StoreConfig | None = None,
        raft: RaftConfig | None = None,
        flush: FlushDiskType = FlushDiskType.SYNC_FLUSH,
        core_class: type[LedgerCore] = LedgerCore,
    ) -> None:
        super().__init__(latency)
        self.chance = random.Random(seed)
        self.clock = VirtualClock()
        self.core_class = core_class
        self.store_config = store or StoreConfig(segment_size=64 * 1024, flush_disk_type=flush)
        self.raft_config = raft or RaftConfig()
        self.ids = [f"n{n + 1}" for n in range(node_count)]
        self.members = tuple(
            Member(node_id=node_id, host="127.0.0.1", port=9000 + n)
            for n, node_id in enumerate(self.ids)
        )
        self.nodes = {node_id: SimNode(node_id, FakeDisk()) for node_id in self.ids}
        self._events: list[tuple[float, int, Any]] = []
        self._event_count = 0
        self.leaders: dict[int, str] = {}
        self.committed: dict[int, tuple[int, int]] = {}  # index -> (term, chain crc)
        self.committed_upto: dict[int, int] = {}  # term of who knew -> last index then
        self.installed: list[tuple[str, int]] = []
        self.proposals: list[TestProposal] = []
        self.state_size = 0  # bytes of the state that a member behind retention is sent

    # -- time -----------------------------------------------------------------------------------

    def at(self, delay: float, event: Any) -> None:
        self._event_count += 1
        heapq.heappush(self._events, (self.clock.seconds + delay, self._event_count, event))

    def run(self, seconds: float) -> None:
        self.run_until(lambda: False, seconds)

    def run_until(self, holds: Any, seconds: float = 30.0) -> bool:
        """Let time pass until *holds* or *seconds* are over; return whether it held."""
        end = self.clock.seconds + seconds
        while not holds():
            if not self._events or self._events[0][0] > end:
                self.clock.seconds = end
                return bool(holds())
            at, _, event = heapq.heappop(self._events)
            self.clock.seconds = max(self.clock.seconds, at)
            event()
        return True

    # -- processes ------------------------------------------------------------------------------

    def config(self, node_id: str) -> LedgerConfig:
        return LedgerConfig(
            group="test",
            node_id=node_id,
            members=self.members,
            data_folder="/data",
            store=self.store_config,
            raft=self.raft_config,
        )

    def start(self, *node_ids: str) -> None:
        for node_id in node_ids or self.ids:
            self._start(node_id)

    def _start(self, node_id: str) -> None:
        node = self.nodes[node_id]
        assert not node.alive
        node.life += 1
        node.syncing = node.vote_syncing = node.paused = node.hold_syncs = False
        node.inbox.clear()
        node.held_syncs.clear()
        node.prepare_not_before = 0.0
        node.last_word = None
        config = self.config(node_id)
        node.disk.make_folder("/data")
        node.votes = VoteFile.open(node.disk, "/data", joining=len(self.ids) > 1)
        node.store = LedgerStore.open(node.disk, config.store, "/data")
        node.core = self.core_class(
            config=config,
            store=node.store,
            votes=node.votes,
            commit_index=node.store.checkpoint_commit_index,
            clock=self.clock,
            chance=random.Random(self.chance.random()),
            install=lambda base, state: self._install(node, base, state),
        )
        for other in self.ids:
            if other != node_id and self.nodes[other].alive:
                self.link(node_id, other)
        self._timer(node, node.life)
        self.pump(node)

    def _install(self, node: SimNode, base: Any, state: bytes) -> None:
        assert state == self._state_at(base.index), "not the state that was sent"
        assert node.store is not None
        node.store.reset_to(base)
        self.installed.append((node.node_id, base.index))

    def _state_at(self, index: int) -> bytes:
        return (b"state %d " % index).ljust(self.state_size, b".")

    def crash(self, node_id: str, *, power: bool = False) -> None:
        """Kill the process; with *power* the machine, and what was not synced with it."""
        node = self.nodes[node_id]
        for other in self.ids:
            if other != node_id:
                self.unlink(node_id, other)
        node.core = node.store = node.votes = None
        node.life += 1
        if power:
            node.disk.power_loss(self.chance)

    def wipe(self, node_id: str) -> None:
        assert not self.nodes[node_id].alive
        self.nodes[node_id].disk = FakeDisk()

    def pause(self, node_id: str) -> None:
        self.nodes[node_id].paused = True

    def resume(self, node_id: str) -> None:
        node = self.nodes[node_id]
        node.paused = False
        inbox, node.inbox = node.inbox, []
        for event in inbox:
            event()
        self.pump(node)

    # -- one node's turn ------------------------------------------------------------------------

    def guarded(self, node: SimNode, action: Any) -> None:
        """Run *action*; a node that raises stops with that as its last word, as a process does."""
        try:
            action()
        except LedgerError as error:
            node.last_word = error
            self.crash(node.node_id)

    def pump(self, node: SimNode) -> None:
        if node.alive and not node.paused:
            self.guarded(node, lambda: self._pump(node))

    def _pump(self, node: SimNode) -> None:
        core, store = node.core, node.store
        assert core is not None
        assert store is not None
        for _ in range(3):
            core.step()
            self._start_syncs(node)
            for peer_id, message in core.take_outbox():
                self._send(node, peer_id, message)
        if store.needs_prepare and self.clock.seconds >= node.prepare_not_before:
            try:
                store.prepare_next()
            except LedgerFullError as error:
                node.prepare_not_before = self.clock.seconds + 0.1
                core.fail_waiting(error)
            else:
                core.room_made()
        wanted = core.engine.snapshot_wanted
        if wanted:
            core.engine.provide_snapshot(wanted, self._state_at(wanted))
        self.observe(node)

    def _timer(self, node: SimNode, life: int) -> None:
        if node.life != life:
            return
        self.pump(node)
        if node.life != life or node.core is None:
            return
        delay = max(node.core.next_deadline() - self.clock.seconds, 0.0)
        # At most 10 ms, because deadlines move while one sleeps.
        self.at(min(delay, 0.010) + 0.001, lambda: self._timer(node, life))

    def _start_syncs(self, node: SimNode) -> None:
        assert node.store is not None
        assert node.votes is not None
        life = node.life
        if not node.vote_syncing:
            vote_ticket = node.votes.begin_sync()
            if vote_ticket is not None:
                node.vote_syncing = True
                self._disk_does(node, lambda: self._vote_synced(node, life, vote_ticket))
        if node.syncing:
            self._judge_slow_sync(node)
        else:
            ticket = node.store.begin_sync()
            if ticket is not None:
                node.syncing = True
                node.sync_started_at = self.clock.seconds
                self._disk_does(node, lambda: self._log_synced(node, life, ticket))

    def _disk_does(self, node: SimNode, job: Any) -> None:
        if node.hold_syncs:
            node.held_syncs.append(job)
        else:
            self.at(node.sync_seconds, job)

    def release_syncs(self, node_id: str) -> None:
        """Let a disk that hung go on, in the order in which it was told things."""
        node = self.nodes[node_id]
        node.hold_syncs = False
        held, node.held_syncs = node.held_syncs, []
        for job in held:
            job()

    def _judge_slow_sync(self, node: SimNode) -> None:
        """See `LogSyncs`: a leader whose disk stalls leaves the lead."""
        assert node.core is not None
        engine = node.core.engine
        limit = self.raft_config.election_timeout_max_ms / 1000
        stalled = self.clock.seconds - node.sync_started_at > limit
        if (
            stalled
            and not engine.storage_stalled
            and self.store_config.flush_disk_type is FlushDiskType.SYNC_FLUSH
        ):
            engine.storage_stalled = True
            if engine.is_leader and engine.peer_ids:
                engine.abdicate()

    def _vote_synced(self, node: SimNode, life: int, ticket: Any) -> None:
        if node.life != life:
            return

        def finish() -> None:
            ticket.run()
            node.vote_syncing = False
            assert node.votes is not None
            node.votes.finish_sync(ticket)
            assert node.core is not None
            node.core.engine.vote_synced()

        self._hear(node, finish)

    def _log_synced(self, node: SimNode, life: int, ticket: Any) -> None:
        if node.life != life:
            return

        def finish() -> None:
            ticket.run()
            node.syncing = False
            assert node.store is not None
            node.store.finish_sync(ticket)
            assert node.core is not None
            node.core.engine.storage_stalled = False
            node.core.engine.log_synced()

        self._hear(node, finish)

    def checkpoint(self, node_id: str) -> None:
        node = self.nodes[node_id]
        assert node.store is not None
        assert node.core is not None
        ticket = node.store.begin_checkpoint(node.core.committed_index)
        if ticket is not None:
            ticket.run()

    def drop(self, node_id: str, upto_index: int) -> int:
        """Drop whole segments of entries up to *upto_index*; return the new base's index."""
        store = self.nodes[node_id].store
        assert store is not None
        assert upto_index <= self.nodes[node_id].core.committed_index  # type: ignore[union-attr]
        ticket = store.begin_drop(store.locate(upto_index).end)
        if ticket is not None:
            ticket.run()
        return store.base.index

    def propose(self, body: bytes, node_id: str | None = None) -> TestProposal:
        """Propose on *node_id*, or on whoever leads; refused is an outcome, too."""
        proposal = TestProposal(body)
        self.proposals.append(proposal)
        node = self.nodes[node_id] if node_id else self.leader
        if node is None or not node.alive or node.paused:
            proposal.outcome = "refused"
            return proposal
        try:
            node.core.propose(proposal)  # type: ignore[union-attr]
        except LedgerError as error:
            proposal.outcome, proposal.error = "refused", error
            if isinstance(error, (StorageFailedError, CorruptStoreError)):
                node.last_word = error
                self.crash(node.node_id)
            return proposal
        self.pump(node)
        return proposal

    @property
    def leader(self) -> SimNode | None:
        """Return the ready leader of the highest term, if there is one."""
        ready = [
            node for node in self.nodes.values() if node.core and node.core.engine.leader_ready
        ]
        return max(ready, key=lambda node: node.core.engine.term, default=None)  # type: ignore[union-attr]

    def await_leader(self, seconds: float = 10.0) -> SimNode:
        """Run until there is a ready leader that a majority follows."""

        def led() -> bool:
            leader = self.leader
            return (
                leader is not None
                and not leader.paused
                and sum(
                    node.alive and node.core.engine.leader_id == leader.node_id  # type: ignore[union-attr]
                    for node in self.nodes.values()
                )
                > len(self.ids) // 2
            )

        assert self.run_until(led, seconds), "no leader in time"
        assert self.leader is not None
        return self.leader


__all__ = ["SimCluster", "SimNode", "TestProposal", "VirtualClock"]
