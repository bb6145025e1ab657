"""What one member says: the messages that leave it, what it publishes, and its log's cuts.

An `Ear` hears one process; what a member has said in all its lives is its `Word`.  What is wrong
with it by itself the ear tells; what others have to do with, `jepsen_like.sim.promises` judges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dledger.config import FlushDiskType
from dledger.core import Role
from dledger.errors import CorruptStoreError, LedgerError
from dledger.store.slot_file import SlotFile
from dledger.store.vote_file import VoteFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from dledger.core import LedgerCore
    from dledger.durability import Durability
    from dledger.server import LedgerServer
    from dledger.store.ledger_store import LedgerStore
    from jepsen_like.sim.promises import Promises
    from jepsen_like.sim.sim_disk import SimMount

# Messages that only whoever has its term on disk may send; others tell a term and promise nothing.
_RESTS_ON_TERM = frozenset({"request_vote", "response_vote", "append_entries", "install"})


@dataclass(slots=True)
class Word:
    """What one member has said in all its lives since its disk was new."""

    term: int = 0
    index: int = 0  # up to here it has promised entries, or shown them as committed
    chain_crc: int = 0  # of that entry
    needs: int = 0  # its disk was lost: it needs that much before it counts again
    votes: dict[int, str] = field(default_factory=dict)  # term -> for whom
    # Term -> highest index promised to its leader, as a voter; outlives the disk, as the leader's
    # knowledge of it does.
    promised: dict[int, int] = field(default_factory=dict)


class Ear:
    """Hears one process of one member."""

    def __init__(
        self,
        promises: Promises,
        name: str,
        word: Word,
        ledger: LedgerServer,
        mount: SimMount,
    ) -> None:
        self._promises = promises
        self._name = name
        self._word = word
        self._ledger = ledger
        self.store = self._store = ledger.store
        self._mount = mount
        config = ledger.config
        self._folder = config.data_folder
        self._segment_size = config.store.segment_size
        self._must_sync = config.store.flush_disk_type is FlushDiskType.SYNC_FLUSH
        self._on_platter = 0  # up to this position of the log it has been seen there
        self._published = ledger.committed_index
        self._led_term = 0
        ledger.watch_commits(self._on_committed)
        ledger.watch_role(self._on_role)
        _tap(ledger.core, "take_outbox", self._on_outbox)
        self._hear_levels(ledger.core)
        _tap(
            self._store,
            "truncate_from",
            lambda _: self._on_cut(),
            before=lambda index: promises.cut(name, self.store, index),
        )
        _tap(
            self._store,
            "reset_to",
            lambda _: self._on_cut(),
            before=lambda base: promises.cut(name, self.store, base.index + 1),
        )

    def _hear_levels(self, core: LedgerCore) -> None:
        """Hear what those are told who wait for another level than that of a commit."""
        await_level = core.await_level

        def awaited(
            index: int,
            level: Durability,
            *,
            deadline: float,
            done: Callable[[Durability | None], None],
        ) -> None:
            then = self._promises.members_now()

            def told(reached: Durability | None) -> None:
                if reached is not None and self._is_alive():
                    self._promises.level_told(
                        self._name, self.store, index=index, reached=reached, then=then
                    )
                done(reached)

            await_level(index, level, deadline=deadline, done=told)

        core.await_level = awaited  # type: ignore[method-assign]

    def has(self, index: int, crc: int, *, on_platter: bool) -> bool:
        """Whether this member has that very entry, and where a power loss would leave it."""
        store = self.store
        if index <= store.base.index:
            return True  # it was committed and has been dropped since
        if crc_at(store, index) != crc:
            return False
        return not on_platter or self._unsynced_path(index) is None

    def is_leader_of(self, term: int) -> bool:
        """Whether it leads in *term*, as far as it knows."""
        return self._is_alive() and self._ledger.term == term and self._ledger.core.engine.is_leader

    def _is_alive(self) -> bool:
        return not self._mount.is_dead

    def _on_outbox(self, outbox: list[tuple[str, dict[str, Any]]]) -> None:
        if not self._is_alive():
            return
        word = self._word
        for peer_id, message in outbox:
            self._check_counts(message)
            kind, term = message["type"], message["term"]
            if kind in _RESTS_ON_TERM:
                word.term = max(word.term, term)
            if kind == "request_vote":
                self._vote(term, self._name)
            elif kind == "response_vote":
                self._vote(term, peer_id)
            elif kind == "append_answer" and message["success"]:
                word.term = max(word.term, term)
                index = message["next_index"] - 1
                self._promise(index)
                self._note_promise(message, index)
                self._promises.promised(
                    self._name, self._store, leader=peer_id, term=term, index=index
                )
            elif kind == "install_answer" and message["done"]:
                self._note_promise(message, message["base_index"])

    def _check_counts(self, message: dict[str, Any]) -> None:
        word, known = self._word, self._store.durable_index
        if known >= word.needs:
            return
        if message["type"] == "response_vote" or not message.get("joining", True):
            self._promises.tell(
                self._name, "early-voter", f"knows {known} entries of the {word.needs} committed"
            )
            word.needs = 0

    def _note_promise(self, message: dict[str, Any], index: int) -> None:
        promised, term = self._word.promised, message["term"]
        if not message["joining"]:
            promised[term] = max(promised.get(term, 0), index)

    def _on_committed(self, index: int) -> None:
        if not self._is_alive():
            return
        self._promise(index)
        if self.is_leader_of(self._ledger.term):
            self._promises.committed_by_leader(
                self._name, self._store, term=self._ledger.term, index=index
            )
        self._promises.committed(
            self._name, self._store, behind=self._published, upto=index, term=self._ledger.term
        )
        self._published = index

    def _on_role(self, role: Role, term: int, _leader_id: str | None) -> None:
        if role is Role.LEADER and term != self._led_term and self._is_alive():
            self._led_term = term
            self._promises.leads(self._name, self._store, term)

    def _vote(self, term: int, candidate: str) -> None:
        self._promises.voted(self._name, self._word, term, candidate)
        found = _vote_in(self._mount.disk.read_platter(f"{self._folder}/vote"))
        if found != (term, candidate):
            self._promises.tell(
                self._name,
                "early-promise",
                f"votes for {candidate} in term {term}, on the platter is {found}",
            )

    def _promise(self, index: int) -> None:
        if self._must_sync:
            self._look_at_platter(index)
        if index <= self._word.index:
            return
        crc = crc_at(self._store, index)
        if crc is not None:
            self._word.index, self._word.chain_crc = index, crc

    def _look_at_platter(self, index: int) -> None:
        path = self._unsynced_path(index)
        if path is not None:
            self._promises.tell(
                self._name, "early-promise", f"entry {index}: {path} is not all on the platter"
            )

    def _unsynced_path(self, index: int) -> str | None:
        """Return the first file that does not have all up to entry *index* on the platter."""
        store, size = self._store, self._segment_size
        if not store.base.index < index <= store.end_index:
            return None
        try:
            end = store.point_at(index).position
        except LedgerError:
            return None
        found = None
        start = max(self._on_platter, store.base.position)
        while start < end:
            segment = start - start % size
            stop = min(end, segment + size)
            path = f"{self._folder}/commitlog/{segment:020d}"
            if not self._mount.disk.on_platter(path, start - segment, stop - segment):
                found = path
                break
            start = stop
        if found is None:
            self._on_platter = max(self._on_platter, end)
        return found

    def _on_cut(self) -> None:
        """Take back what was promised about entries that a later leader has replaced."""
        word, end = self._word, self._store.end
        self._on_platter = min(self._on_platter, end.position)
        if end.index < word.index:
            word.index, word.chain_crc = end.index, end.chain_crc


def _tap(
    owner: object,
    name: str,
    hear: Callable[[Any], None],
    *,
    before: Callable[[Any], None] | None = None,
) -> None:
    """Have *hear* called with what a method of one object returns, *before* with its argument."""
    method = getattr(owner, name)

    def tapped(*args: Any, **options: Any) -> Any:  # noqa: ANN401
        if before is not None:
            before(args[0])
        result = method(*args, **options)
        hear(result)
        return result

    setattr(owner, name, tapped)


class _Content:
    """A file of which only the bytes are there."""

    path = "vote"

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read_all(self) -> bytes:
        return self._content


def _vote_in(content: bytes) -> tuple[int, str | None] | None:
    """Return term and vote of a vote file; None where it is damaged."""
    try:
        votes = VoteFile(SlotFile(_Content(content), magic=b"DLVT", version=1))  # type: ignore[arg-type]
    except CorruptStoreError:
        return None
    return votes.current_term, votes.voted_for


def crc_at(store: LedgerStore, index: int) -> int | None:
    """Return the chain CRC of an entry, or None where it is not held or does not read."""
    if not store.base.index <= index <= store.end_index:
        return None
    try:
        return store.point_at(index).chain_crc
    except LedgerError:
        return None
