"""One `LedgerCore` whose peers are played by the test: each message in, each message out.

Where a random run needs luck to meet a flaw, a script meets it every time.  The clock stands still
unless told to move, and nothing is synced unless told to be.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from dledger.config import FlushDiskType, LedgerConfig, Member, RaftConfig, StoreConfig
from dledger.core import LedgerCore
from dledger.entry import EntryKind
from dledger.peers.messages import from_command, to_command
from dledger.remoting.connection import Connection
from dledger.remoting.frame import encode_frame
from dledger.store.ledger_store import LedgerStore
from dledger.store.vote_file import VoteFile
from tests.fakes.cluster import TestProposal, VirtualClock
from tests.fakes.disk import FakeDisk

if TYPE_CHECKING:
    from dledger.entry import LogPoint

SMALL = StoreConfig(segment_size=64 * 1024, index_file_units=512)
SMALL_MESSAGES = RaftConfig(append_size_max=16 * 1024)


def through_wire(message: dict[str, Any]) -> dict[str, Any]:
    """Return *message* as it arrives: encoded, framed, checked."""
    connection = Connection()
    connection.receive_data(b"".join(bytes(part) for part in encode_frame(to_command(message))))
    (command,) = connection.commands()
    return from_command(command)


class Log:
    """A log to copy entries from, made of nothing but the terms of its entries."""

    def __init__(
        self, *terms: int, size: int = 50, mark: bytes = b"", store: StoreConfig = SMALL
    ) -> None:
        self.store = LedgerStore.open(FakeDisk(), store, "/data")
        self._size, self._mark = size, mark
        self.extend(*terms)

    def extend(self, *terms: int) -> Log:
        for term in terms:
            body = (b"%d/%d" % (self.store.end_index + 1, term) + self._mark).ljust(
                self._size, b"."
            )
            self.store.append(
                kind=EntryKind.NORMAL, channel=0, term=term, body=[body], body_size=len(body)
            )
        return self

    @property
    def end(self) -> int:
        return self.store.end_index

    def append_message(
        self, term: int, *, after: int, upto: int | None = None, commit: int = 0, id: int = 1
    ) -> dict[str, Any]:
        """Return what a leader of *term* with this log sends of the entries behind *after*."""
        store = self.store
        upto = store.end_index if upto is None else upto
        raw = b"".join(
            bytes(store.raw_range(index, size_max=1)[0]) for index in range(after + 1, upto + 1)
        )
        return {
            "type": "append_entries",
            "term": term,
            "id": id,
            "prev_index": after,
            "prev_term": store.term_at(after),
            "last_index": upto,
            "commit_index": commit,
            "entries": raw,
        }


class LoneCore:
    """A member named n1 (or as told) in a group of which nobody else exists."""

    def __init__(
        self,
        node_count: int = 3,
        *,
        disk: FakeDisk | None = None,
        joining: bool = False,
        log: Log | None = None,
        term: int = 0,
        commit: int = 0,
        store: StoreConfig = SMALL,
        raft: RaftConfig | None = None,
        flush: FlushDiskType = FlushDiskType.SYNC_FLUSH,
        clock: VirtualClock | None = None,
    ) -> None:
        self.disk = disk or FakeDisk()
        self.clock = clock or VirtualClock()
        self.clock.seconds = max(self.clock.seconds, 100.0)
        ids = [f"n{n + 1}" for n in range(node_count)]
        self.peers = ids[1:]
        self.config = LedgerConfig(
            group="test",
            node_id="n1",
            members=tuple(
                # Machines of their own: all are sent everything at once, unless told otherwise.
                Member(node_id=node_id, host=f"10.0.0.{n + 1}", port=9000 + n)
                for n, node_id in enumerate(ids)
            ),
            data_folder="/data",
            store=store,
            raft=raft or SMALL_MESSAGES,
        )
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.installed: list[tuple[LogPoint, bytes]] = []
        self._joining = joining
        self.disk.make_folder("/data")
        if term or log is not None:
            votes = VoteFile.open(self.disk, "/data", joining=joining)
            if term > votes.current_term:
                votes.set(term, None)
            votes.sync()
            ledger = LedgerStore.open(self.disk, store, "/data")
            if log is not None:
                for entry in log.store.entries(1, log.end):
                    raw, _ = log.store.raw_range(entry.index, size_max=1)
                    ledger.append_raw(memoryview(bytes(raw)))
            ledger.sync()
            checkpoint = ledger.begin_checkpoint(commit)
            if checkpoint is not None:
                checkpoint.run()
        self.start()

    def start(self) -> None:
        """Start the process over what the disk holds."""
        self.votes = VoteFile.open(self.disk, "/data", joining=self._joining)
        self.store = LedgerStore.open(self.disk, self.config.store, "/data")
        self.core = LedgerCore(
            config=self.config,
            store=self.store,
            votes=self.votes,
            commit_index=self.store.checkpoint_commit_index,
            clock=self.clock,
            chance=random.Random(7),
            install=self._install,
        )
        self.engine = self.core.engine
        self.sent.clear()

    def restart(self, *, power: bool = False, seed: int = 0) -> None:
        """Kill the process, with *power* the machine, and start again."""
        if power:
            self.disk.power_loss(random.Random(seed))
        self.start()

    def _install(self, base: LogPoint, state: bytes) -> None:
        self.store.reset_to(base)
        self.installed.append((base, state))

    # -- events ---------------------------------------------------------------------------------

    def connect(
        self,
        *peers: str,
        joining: bool = False,
        last_index: int = 0,
        promises_synced: bool | None = None,
    ) -> None:
        if promises_synced is None:  # as this member does
            promises_synced = self.config.store.flush_disk_type is FlushDiskType.SYNC_FLUSH
        for peer_id in peers or self.peers:
            self.core.peer_connected(
                peer_id, joining=joining, last_index=last_index, promises_synced=promises_synced
            )
        self.step()

    def hear(self, peer_id: str, message: dict[str, Any] | str, **fields: Any) -> None:
        """Receive one message of a peer, given whole or as its type and fields."""
        if isinstance(message, str):
            message = {"type": message, **fields}
        self.core.receive(peer_id, through_wire(message))
        self.step()

    def answer(
        self,
        peer_id: str,
        match: int,
        *,
        id: int | None = None,
        term: int | None = None,
        success: bool = True,
        joining: bool = False,
    ) -> None:
        """Receive *peer_id*'s answer: it has everything up to *match*, or goes on from there."""
        self.hear(
            peer_id,
            "append_answer",
            term=self.engine.term if term is None else term,
            id=self.engine.leading.progress[peer_id].append_id if id is None else id,
            next_index=match + 1,
            success=success,
            reset=not success,
            joining=joining,
        )

    def step(self, seconds: float = 0.0) -> None:
        self.clock.seconds += seconds
        self.core.step()
        self.sent += self.core.take_outbox()

    def sync(self) -> None:
        """Sync vote file and log, and let that take effect."""
        self.sync_votes()
        self.sync_log()

    def sync_votes(self) -> None:
        self.votes.sync()
        self.engine.vote_synced()
        self.step()

    def sync_log(self) -> None:
        self.store.sync()
        self.engine.log_synced()
        self.step()

    def propose(self, body: bytes = b"body") -> TestProposal:
        proposal = TestProposal(body)
        self.core.propose(proposal)
        self.step()
        return proposal

    # -- what it said ---------------------------------------------------------------------------

    def take(self, kind: str | None = None, to: str | None = None) -> list[dict[str, Any]]:
        """Return what was sent since the last call, of one kind and to one peer if given."""
        sent, self.sent = self.sent, []
        return [
            message
            for peer_id, message in sent
            if kind in (None, message["type"]) and to in (None, peer_id)
        ]

    # -- ways to get somewhere ------------------------------------------------------------------

    def stand(self) -> None:
        """Let the election timer run out and win the pre-vote: now it asks for votes."""
        self.step(1.0)
        asked = self.take("pre_vote")
        assert asked, "no pre-vote was sent"
        for peer_id in self.peers[: self.engine.majority - 1]:
            self.hear(
                peer_id,
                "pre_vote_answer",
                term=self.engine.term,
                round=asked[0]["round"],
                granted=True,
            )
        self.step()

    def lead(self, *, ready: bool = True) -> None:
        """Win an election; with *ready* also commit the no-op."""
        if not self.core.connected_peers:
            self.connect()
        self.stand()
        self.sync()
        for peer_id in self.peers[: self.engine.majority - 1]:
            self.hear(peer_id, "response_vote", term=self.engine.term)
        assert self.engine.is_leader
        self.sync()
        if ready:
            for peer_id in self.peers:
                self.answer(peer_id, self.store.end_index)
            assert self.engine.leader_ready
            self.take()

    def follow(self, peer_id: str, term: int, log: Log, **fields: Any) -> None:
        """Follow *peer_id*: hear all of *log* from it and have it on disk."""
        if peer_id not in self.core.connected_peers:
            self.connect(peer_id, last_index=log.end)
        self.hear(peer_id, log.append_message(term, after=0, **fields))
        self.sync()
