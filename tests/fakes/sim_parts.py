"""What a simulated group is made of: a clock, proposals that remember their end, members."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dledger.errors import (
    LedgerError,
    NotLeaderError,
)

if TYPE_CHECKING:
    from dledger.core import LedgerCore
    from dledger.store.ledger_store import LedgerStore
    from dledger.store.vote_file import VoteFile
    from tests.fakes.disk import FakeDisk


class VirtualClock:
    """Time that moves when the cluster says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + int(self.seconds * 1000)

    def local_hour(self) -> int:
        return self.wall_ms() // 3_600_000 % 24


@dataclass
class TestProposal:
    """One entry to append; remembers its end."""

    __test__ = False

    body: bytes
    channel: int = 0
    index: int = 0
    term: int = 0
    outcome: str = "pending"  # acked, unknown, not written, refused
    error: LedgerError | None = None
    position: int = 0

    @property
    def body_size(self) -> int:
        return len(self.body)

    def encode(self, body_position: int) -> list[bytes]:
        self.position = body_position
        return [self.body]

    def on_appended(self, index: int, term: int) -> None:
        self.index, self.term = index, term

    def on_committed(self, index: int, term: int) -> None:
        assert self.outcome == "pending", "a proposal hears its end once"
        assert (index, term) == (self.index, self.term)
        self.outcome = "acked"

    def on_failed(self, error: LedgerError) -> None:
        assert self.outcome == "pending", "a proposal hears its end once"
        self.outcome = "not written" if isinstance(error, NotLeaderError) else "unknown"
        self.error = error


@dataclass
class SimNode:
    """One member: its disk outlives its process."""

    node_id: str
    disk: FakeDisk
    core: LedgerCore | None = None
    store: LedgerStore | None = None
    votes: VoteFile | None = None
    life: int = 0  # counts starts; events of an earlier life are void
    syncing: bool = False
    vote_syncing: bool = False
    paused: bool = False
    sync_seconds: float = 0.001
    hold_syncs: bool = False  # the disk hangs: what it has been told waits in `held_syncs`
    held_syncs: list[Any] = field(default_factory=list)
    sync_started_at: float = 0.0
    prepare_not_before: float = 0.0  # the disk was full: look again then
    inbox: list[Any] = field(default_factory=list)  # what arrived while paused
    last_word: BaseException | None = None  # why it stopped by itself
    observed_index: tuple[int, int] = (0, 0)  # (life, committed index) when last looked at
    observed_lead: tuple[int, int] = (0, 0)  # (term, life) of the last leadership looked at

    @property
    def alive(self) -> bool:
        return self.core is not None
