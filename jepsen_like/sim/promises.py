"""What members have told one another, held against what they know after a restart.

A lost write needs several coincidences: a promise that was not true, a failure that shows it, and
an election among just those who lack the entry.  Here the first is enough.  Nothing is asked of the
product but what it says anyway: the messages that leave it, what it publishes as committed, and
what it finds on its disk; and of the disk what of that would outlive a power loss right now.

    early-promise       a member promises a leader, votes or shows as committed what is not on the
                        platter
    broken-promise      what it has promised, voted or shown is gone when it starts again
    false-promise       it promises its leader an entry that is not the leader's
    early-voter         a member whose disk was lost votes, or counts, before it has everything that
                        was committed until then
    double-vote         one member votes for two in one term
    unbacked-commit     a leader shows as committed what no majority has promised it in its term, or
                        nothing of its own term with it
    committed-cut       a member cuts off an entry that is committed
    states-differ       two members derive other states from the same entries
    committed-differs   two members have other entries at one committed index
    incomplete-leader   a leader lacks what was committed before its term
    overstated-ack      a send is told that more members have its message, or have it on their
                        disks, than do

Source: Raft paper, figures 2, 3 and 8.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from broker.store.state_file import FILE_PREFIX
from dledger.durability import Copies
from jepsen_like.sim.ear import Ear, Word, crc_at

if TYPE_CHECKING:
    from dledger.durability import Durability
    from dledger.server import LedgerServer
    from dledger.store.ledger_store import LedgerStore
    from jepsen_like.history import History
    from jepsen_like.sim.sim_disk import SimMount

Members = dict[str, tuple[Ear, Word]]


class Promises:
    """Listens to all members of one group."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._words: dict[str, Word] = {}
        self._ears: dict[str, Ear] = {}  # of each member's last process
        self._states: dict[str, int] = {}  # file name -> CRC-32
        self._committed: dict[int, int] = {}  # index -> chain CRC
        # Term of who published it -> highest index: committed in that term or an earlier one.
        self._committed_in: dict[int, int] = {}

    def forget(self, name: str) -> None:
        """Take back what *name* has said: that it is gone cannot be blamed on it."""
        word = self._words.pop(name, None)
        if word is not None:
            self._words[name] = Word(promised=word.promised)

    def lose_disk(self, name: str) -> None:
        """Take back what *name* has said: its disk is new.  It owes to know what was committed."""
        self.forget(name)
        self._words.setdefault(name, Word()).needs = max(self._committed, default=0)

    def begin_life(self, name: str, ledger: LedgerServer, mount: SimMount) -> None:
        """Compare what *name* finds with what it has said, and listen from now on."""
        word = self._words.setdefault(name, Word())
        store = ledger.store
        if ledger.term < word.term:
            self.tell(name, "broken-promise", f"back in term {ledger.term}, spoke in {word.term}")
        if store.end_index < word.index:
            self.tell(
                name,
                "broken-promise",
                f"the log ends with entry {store.end_index}, {word.index} was promised",
            )
        elif word.index and crc_at(store, word.index) not in (None, word.chain_crc):
            self.tell(name, "broken-promise", f"entry {word.index} is not the one promised")
        self._ears[name] = Ear(self, name, word, ledger, mount)

    def written(self, name: str, path: str, data: bytes) -> None:
        """Compare a state with what others have derived from as many entries."""
        file_name = path.rpartition("/")[2]
        if file_name.startswith(FILE_PREFIX):
            crc = zlib.crc32(data)
            if self._states.setdefault(file_name, crc) != crc:
                self.tell(name, "states-differ", file_name)

    # -- what ears hear -------------------------------------------------------------------------

    def voted(self, name: str, word: Word, term: int, candidate: str) -> None:
        """Hear that *name* votes for *candidate*."""
        first = word.votes.setdefault(term, candidate)
        if first != candidate:
            self.tell(name, "double-vote", f"in term {term} for {first} and {candidate}")

    def promised(
        self, name: str, store: LedgerStore, *, leader: str, term: int, index: int
    ) -> None:
        """Hear that *name* tells the leader of *term* that it has entries up to *index*."""
        ear = self._ears.get(leader)
        if ear is not None and ear.is_leader_of(term):
            mine, theirs = crc_at(store, index), crc_at(ear.store, index)
            if None not in (mine, theirs) and mine != theirs:
                self.tell(name, "false-promise", f"has another entry {index} than {leader}")

    def committed_by_leader(self, name: str, store: LedgerStore, *, term: int, index: int) -> None:
        """Hear that the leader of *term* publishes entries up to *index*, maybe as the first."""
        if index in self._committed or not store.base.index < index <= store.end_index:
            return
        needed = max(index, store.first_index_of_term(term))
        backers = [
            other
            for other, word in self._words.items()
            if other != name and word.promised.get(term, 0) >= needed
        ]
        if 1 + len(backers) < len(self._ears) // 2 + 1:
            self.tell(
                name,
                "unbacked-commit",
                f"entry {index} in term {term}: entry {needed} was promised by "
                f"{', '.join(backers) or 'nobody'}",
            )

    def cut(self, name: str, store: LedgerStore, index: int) -> None:
        """Hear that *name* is about to cut its log from *index* on."""
        crc = crc_at(store, index)
        if crc is not None and index > store.base.index and self._committed.get(index) == crc:
            self.tell(name, "committed-cut", f"entry {index}")

    def committed(
        self, name: str, store: LedgerStore, *, behind: int, upto: int, term: int
    ) -> None:
        """Hear that *name*, in *term*, has published entries up to *upto*."""
        for index in range(max(behind, store.base.index) + 1, upto + 1):
            crc = crc_at(store, index)
            if crc is not None and self._committed.setdefault(index, crc) != crc:
                self.tell(name, "committed-differs", f"entry {index}")
                break
        self._committed_in[term] = max(self._committed_in.get(term, 0), upto)

    def leads(self, name: str, store: LedgerStore, term: int) -> None:
        """Hear that *name* has been elected."""
        index = max((i for t, i in self._committed_in.items() if t < term), default=0)
        if index > store.end_index:
            self.tell(
                name,
                "incomplete-leader",
                f"of term {term}: the log ends with entry {store.end_index}, {index} is committed",
            )
        elif index and crc_at(store, index) not in (None, self._committed.get(index)):
            self.tell(name, "incomplete-leader", f"of term {term}: has another entry {index}")

    def members_now(self) -> Members:
        """Return who is who at the moment, to be compared with later."""
        return {name: (ear, self._words[name]) for name, ear in self._ears.items()}

    def level_told(
        self, name: str, store: LedgerStore, *, index: int, reached: Durability, then: Members
    ) -> None:
        """Hear that *name*, the leader, tells a send that its entry *index* has *reached* a level.

        A member whose disk was lost since then counts: it did have the entry when it said so.  So
        does one that has died, where only its memory was promised.
        """
        crc = crc_at(store, index)
        if crc is None:
            return
        having = []
        for other, (ear, word) in self.members_now().items():
            ear_then, word_then = then.get(other, (ear, word))
            is_excused = word is not word_then or (not reached.synced and ear is not ear_then)
            if is_excused or ear.has(index, crc, on_platter=reached.synced):
                having.append(other)
        count = len(self._ears)
        wanted = {Copies.LEADER: 1, Copies.MAJORITY: count // 2 + 1, Copies.ALL: count}
        if len(having) < wanted[reached.copies]:
            self.tell(
                name,
                "overstated-ack",
                f"entry {index} as {reached}: {', '.join(having) or 'nobody'} of {count} has it so",
            )

    def tell(self, name: str, kind: str, what: str) -> None:
        """Note what is wrong."""
        self._history.note(kind, node=name, err=what)
