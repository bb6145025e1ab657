"""Ledger servers in one event loop under virtual time, each over a disk in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trio

from dledger.config import KIB, LedgerConfig, Member, RaftConfig, StoreConfig
from dledger.server import LedgerServer
from dledger.store.data_folder import DataFolder
from dledger.store.ledger_store import LedgerStore
from tests.fakes.nodes import FakeMember, FakeMembers, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from dledger.core import Role
    from dledger.entry import LogPoint
    from dledger.errors import LedgerError
    from tests.fakes.worker import FakeWorker

PEER_PORT = 7000


class Keeper:
    """A state keeper whose state is the number of its entry; it outlives the process."""

    def __init__(self) -> None:
        self.server: LedgerServer | None = None
        self.installed: list[tuple[int, bytes]] = []
        self.replaced: list[int] = []
        self.drops = 0
        self.applied: int | None = None  # None: all that is committed
        self.states_kept: set[int] | None = None  # None: of every entry
        self.stored_ms: int | None = None  # when every record was stored

    def has_state(self, index: int) -> bool:
        return self.states_kept is None or index in self.states_kept

    def load_state(self, index: int) -> bytes:
        assert self.has_state(index)
        return b"state %d" % index

    def install_state(self, base: LogPoint, state: bytes) -> None:
        self.installed.append((base.index, state))

    def log_replaced(self, base: LogPoint) -> None:
        self.replaced.append(base.index)

    def log_dropped(self) -> Callable[[], None]:
        def base_is_durable() -> None:
            self.drops += 1

        return base_is_durable

    def newest_ms(self, after_index: int, upto_index: int) -> int | None:
        assert after_index <= upto_index
        return self.stored_ms

    def applied_index(self) -> int:
        assert self.server is not None
        return self.server.committed_index if self.applied is None else self.applied


@dataclass
class Wish:
    """An entry to append; remembers its end."""

    body: bytes
    channel: int = 0
    committed: list[tuple[int, int]] = field(default_factory=list)
    errors: list[LedgerError] = field(default_factory=list)
    then: Callable[[], None] | None = None  # called when it is committed

    @property
    def body_size(self) -> int:
        return len(self.body)

    @property
    def is_over(self) -> bool:
        return bool(self.committed or self.errors)

    def encode(self, body_position: int) -> list[bytes]:
        return [self.body]

    def on_appended(self, index: int, term: int) -> None:
        pass

    def on_committed(self, index: int, term: int) -> None:
        assert not self.is_over, "a proposal hears its end once"
        self.committed.append((index, term))
        if self.then is not None:
            self.then()

    def on_failed(self, error: LedgerError) -> None:
        assert not self.is_over, "a proposal hears its end once"
        self.errors.append(error)


class Ledgers(FakeMembers):
    """A group of ledger servers."""

    def __init__(
        self,
        nursery: trio.Nursery,
        count: int = 3,
        *,
        store: dict[str, Any] | None = None,
        raft: dict[str, Any] | None = None,
        seed: int = 1,
    ) -> None:
        super().__init__(nursery, count, seed=seed)
        self.store = StoreConfig(**{"segment_size": 64 * KIB, **(store or {})})
        self.raft = RaftConfig(**(raft or {}))
        self.keepers = {member.name: Keeper() for member in self}
        self.roles: dict[str, list[tuple[Role, int, str | None]]] = {m.name: [] for m in self}
        self.commits: dict[str, list[int]] = {member.name: [] for member in self}
        self.folders: dict[str, DataFolder] = {}

    def config(self, name: str) -> LedgerConfig:
        return LedgerConfig(
            group="g",
            node_id=name,
            members=tuple(
                Member(node_id=other, host=f"{other}-host.my-group", port=PEER_PORT + number)
                for number, other in enumerate(self.members)
            ),
            data_folder="/data",
            store=self.store,
            raft=self.raft,
        )

    def build(self, member: FakeMember, make_worker: Callable[[str], FakeWorker]) -> LedgerServer:
        config = self.config(member.name)
        folder = DataFolder.open(
            member.disk,
            "/data",
            group=config.group,
            node_id=config.node_id,
            config=config.store,
            joining=len(self.members) > 1,
        )
        self.folders[member.name] = folder
        keeper = self.keepers[member.name]
        server = LedgerServer(
            config=config,
            store=LedgerStore.open(member.disk, config.store, "/data"),
            votes=folder.vote,
            network=self.wires.of(member.name),
            clock=self.clock,
            chance=member.chance(),
            sync_worker=make_worker("sync"),
            vote_worker=make_worker("vote"),
            file_worker=make_worker("file"),
            state_keeper=keeper,
        )
        keeper.server = server
        server.watch_role(lambda *role: self.roles[member.name].append(role))
        server.watch_commits(self.commits[member.name].append)
        return server

    def bury(self, member: FakeMember, dead: LedgerServer | None) -> None:
        if dead is not None:
            dead.store.close()
        if (folder := self.folders.pop(member.name, None)) is not None:
            folder.close()

    # -- what tests ask -------------------------------------------------------------------------

    @property
    def leader_now(self) -> FakeMember | None:
        leaders = [member for member in self.alive if member.running.is_leader]
        return max(leaders, key=lambda member: member.running.term, default=None)

    async def leader(self, *, other_than: FakeMember | None = None) -> FakeMember:
        """Wait for a ready leader that every member alive, but for *other_than*, follows."""

        def led() -> FakeMember | None:
            leader = self.leader_now
            if leader is None or leader is other_than:
                return None
            follow = [
                member
                for member in self.alive
                if member is other_than or member.running.leader_id == leader.name
            ]
            return leader if len(follow) == len(self.alive) else None

        return await until("a leader that all follow", led)

    async def put(self, body: bytes = b"x", member: FakeMember | None = None) -> Wish:
        """Append one entry on the leader and wait for its end."""
        wish = Wish(body)
        (member or await self.leader()).running.propose(wish)
        await until("the entry has an end", lambda: wish.is_over)
        return wish

    async def equal(self) -> None:
        """Wait until all members alive have committed one log."""

        def are_equal() -> bool:
            servers = [member.running for member in self.alive]
            ends = {server.store.end_index for server in servers}
            return len(ends) == 1 and ends == {server.committed_index for server in servers}

        await until("all logs are equal", are_equal)
        points = {member.running.store.last_chain_crc for member in self.alive}
        assert len(points) == 1


@pytest.fixture
async def nursery_of_members(autojump_clock):
    """Every test names autojump_clock as well: pytest-trio looks for it only there."""
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


@pytest.fixture
async def ledgers(nursery_of_members):
    """Return a group of three that is running."""
    group = Ledgers(nursery_of_members)
    await group.start()
    return group


@pytest.fixture
def make_ledgers(nursery_of_members):
    """Return what makes a group that is not running yet."""

    def make(count: int = 3, **settings: Any) -> Ledgers:
        return Ledgers(nursery_of_members, count, **settings)

    return make
