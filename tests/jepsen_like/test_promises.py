"""What a member has said and no longer knows is told; what it may take back is not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dledger.config import StoreConfig
from dledger.core import Role
from dledger.durability import Copies, Durability
from dledger.store.vote_file import VoteFile
from jepsen_like.history import History
from jepsen_like.sim.promises import Promises
from tests.fakes.disk import FakeDisk


class Log:
    """Entries by index, each with a chain CRC."""

    def __init__(self, *crcs: int) -> None:
        self.crcs = list(crcs)
        self.first_of_term = 1
        self.base = SimpleNamespace(index=0, position=0)

    @property
    def end_index(self) -> int:
        return len(self.crcs)

    @property
    def durable_index(self) -> int:
        return self.end_index

    @property
    def end(self):
        return self.point_at(self.end_index)

    def point_at(self, index: int):
        return SimpleNamespace(
            index=index, chain_crc=([0, *self.crcs])[index], position=100 * index
        )

    def first_index_of_term(self, term: int) -> int:
        return self.first_of_term

    def truncate_from(self, index: int) -> None:
        del self.crcs[index - 1 :]

    def reset_to(self, base) -> None:
        raise AssertionError("not in these tests")


class Ledger:
    """One life of a member that says what it is told to."""

    def __init__(self, *crcs: int, term: int = 1) -> None:
        self.term = term
        self.store = Log(*crcs)
        self.disk = Disk()
        self.config = SimpleNamespace(
            data_folder="/data", store=StoreConfig(segment_size=16 * 1024, index_file_units=128)
        )
        self.committed_index = 0
        self.commit = self.become = None
        self.outbox: list[tuple[str, dict[str, object]]] = []
        self.engine = SimpleNamespace(is_leader=False)
        self.core = SimpleNamespace(
            take_outbox=lambda: self.outbox, engine=self.engine, await_level=self._await_level
        )
        self.told = []

    def _await_level(self, index, level, *, deadline, done) -> None:
        self.told.append(done)

    def tell_level(self, index: int, level: str, before=lambda: None) -> None:
        """Have somebody wait for *level*, let *before* happen, and tell that it is reached."""
        copies, flush = level.split("/")
        wanted = Durability(Copies[copies.upper()], synced=flush == "sync")
        self.core.await_level(index, wanted, deadline=1.0, done=lambda _: None)
        before()
        self.told.pop()(wanted)

    def watch_commits(self, watcher) -> None:
        self.commit = watcher

    def watch_role(self, watcher) -> None:
        self.become = watcher

    def say(self, peer: str, kind: str, **fields) -> None:
        self.outbox = [(peer, {"type": kind, "term": self.term, **fields})]
        if kind == "response_vote":
            self.disk.vote = self.term, peer
        elif kind == "request_vote":
            self.disk.vote = self.term, "n2"
        self.core.take_outbox()

    def promise(self, index: int, *, joining: bool = False) -> None:
        fields = {"success": True, "next_index": index + 1, "joining": joining}
        self.say("n1", "append_answer", **fields)


@pytest.fixture
def history() -> History:
    return History(lambda: 0.0)


@pytest.fixture
def promises(history) -> Promises:
    return Promises(history)


class Disk:
    """What outlives a power loss: a vote, and the log up to some byte."""

    def __init__(self) -> None:
        self.vote = (0, None)
        self.log_size = 1 << 30

    def on_platter(self, path: str, start: int, end: int) -> bool:
        assert path == f"/data/commitlog/{start - start % 16384:020d}"
        return end <= self.log_size

    def read_platter(self, path: str) -> bytes:
        assert path == "/data/vote"
        term, voted_for = self.vote
        disk = FakeDisk()
        disk.make_folder("/data")
        votes = VoteFile.open(disk, "/data", joining=False)
        votes.set(term, voted_for)
        votes.sync()
        return disk.read_file(path)


def begin(promises, name: str, ledger: Ledger, *, alive: bool = True, disk=None) -> Ledger:
    promises.begin_life(name, ledger, SimpleNamespace(is_dead=not alive, disk=disk or ledger.disk))
    return ledger


def kinds(history: History) -> list[str]:
    return [event.f for event in history.events]


def test_a_log_that_ends_before_what_was_promised_breaks_it(promises, history) -> None:
    begin(promises, "n2", Ledger(11, 12)).promise(2)

    begin(promises, "n2", Ledger(11))

    assert kinds(history) == ["broken-promise"]


def test_another_entry_in_the_place_of_the_promised_one_breaks_it(promises, history) -> None:
    begin(promises, "n2", Ledger(11, 12)).promise(2)

    begin(promises, "n2", Ledger(11, 13, 14))

    assert kinds(history) == ["broken-promise"]


def test_what_a_later_leader_has_replaced_is_no_promise_any_more(promises, history) -> None:
    first = begin(promises, "n2", Ledger(11, 12))
    first.promise(2)
    first.store.truncate_from(2)

    begin(promises, "n2", Ledger(11))

    assert kinds(history) == []


def test_what_is_not_promised_may_be_lost(promises, history) -> None:
    begin(promises, "n2", Ledger(11, 12)).promise(1)

    begin(promises, "n2", Ledger(11))

    assert kinds(history) == []


def test_a_new_disk_owes_nothing(promises, history) -> None:
    begin(promises, "n2", Ledger(11, 12, term=3)).promise(2)
    promises.forget("n2")

    begin(promises, "n2", Ledger())

    assert kinds(history) == []


def test_the_dead_say_nothing(promises, history) -> None:
    begin(promises, "n2", Ledger(11, 12), alive=False).promise(2)

    begin(promises, "n2", Ledger(11))

    assert kinds(history) == []


def test_who_spoke_in_a_term_may_not_come_back_in_an_older_one(promises, history) -> None:
    begin(promises, "n2", Ledger(term=4)).say("n1", "response_vote")

    begin(promises, "n2", Ledger(term=3))

    assert kinds(history) == ["broken-promise"]


def test_a_term_told_without_a_promise_may_be_forgotten(promises, history) -> None:
    begin(promises, "n2", Ledger(term=4)).say("n1", "pre_vote_answer")

    begin(promises, "n2", Ledger(term=3))

    assert kinds(history) == []


def test_two_votes_in_one_term_are_told_also_over_a_restart(promises, history) -> None:
    begin(promises, "n2", Ledger(term=4)).say("n1", "response_vote")

    begin(promises, "n2", Ledger(term=4)).say("n1", "request_vote")

    assert kinds(history) == ["double-vote"]


def test_the_same_vote_may_be_told_twice(promises, history) -> None:
    ledger = begin(promises, "n2", Ledger(term=4))
    ledger.say("n1", "response_vote")
    ledger.say("n1", "response_vote")

    assert kinds(history) == []


def test_two_entries_at_one_committed_index_are_told(promises, history) -> None:
    begin(promises, "n1", Ledger(11, 12)).commit(2)
    begin(promises, "n2", Ledger(11, 13)).commit(2)

    assert kinds(history) == ["committed-differs"]


@pytest.mark.parametrize(("crcs", "told"), [((11,), 1), ((11, 13), 1), ((11, 12, 14), 0)])
def test_a_leader_has_what_was_committed_before_its_term(promises, history, crcs, told) -> None:
    begin(promises, "n1", Ledger(11, 12, term=3)).commit(2)

    begin(promises, "n2", Ledger(*crcs, term=4)).become(Role.LEADER, 4, "n2")

    assert kinds(history) == ["incomplete-leader"] * told


def test_an_older_leader_may_lack_what_was_committed_after_it(promises, history) -> None:
    begin(promises, "n1", Ledger(11, 12, term=5)).commit(2)

    begin(promises, "n2", Ledger(11, term=4)).become(Role.LEADER, 4, "n2")

    assert kinds(history) == []


def test_what_is_not_on_the_platter_may_not_be_promised(promises, history) -> None:
    ledger = begin(promises, "n2", Ledger(11, 12, 13))
    ledger.disk.log_size = 200
    ledger.promise(2)
    assert kinds(history) == []

    ledger.promise(3)

    assert kinds(history) == ["early-promise"]


def test_what_took_the_place_of_a_promise_is_looked_at_again(promises, history) -> None:
    ledger = begin(promises, "n2", Ledger(11, 12))
    ledger.promise(2)
    ledger.store.truncate_from(2)
    ledger.store.crcs.append(13)
    ledger.disk.log_size = 100

    ledger.promise(2)

    assert kinds(history) == ["early-promise"]


def test_what_is_shown_as_committed_is_on_the_platter(promises, history) -> None:
    ledger = begin(promises, "n2", Ledger(11, 12))
    ledger.disk.log_size = 100

    ledger.commit(2)

    assert kinds(history) == ["early-promise"]


def test_a_vote_is_on_the_platter_when_it_leaves(promises, history) -> None:
    ledger = begin(promises, "n2", Ledger(term=4), disk=Disk())

    ledger.say("n1", "response_vote")

    assert kinds(history) == ["early-promise"]


def leading(promises, *crcs: int, term: int, first: int = 1) -> Ledger:
    """n1 leads n2 and n3, who know nothing yet."""
    ledger = begin(promises, "n1", Ledger(*crcs, term=term))
    ledger.engine.is_leader = True
    ledger.store.first_of_term = first
    begin(promises, "n3", Ledger(term=term))
    return ledger


def test_a_promise_is_about_the_leaders_own_entries(promises, history) -> None:
    leading(promises, 11, 12, 14, term=1)
    follower = begin(promises, "n2", Ledger(11, 13, term=1))
    follower.promise(1)
    assert kinds(history) == []

    follower.promise(2)

    assert kinds(history) == ["false-promise"]


def test_a_leader_commits_with_a_majority_that_has_promised(promises, history) -> None:
    leader = leading(promises, 11, 12, term=1)
    begin(promises, "n2", Ledger(11, term=1)).promise(1)

    leader.commit(1)
    assert kinds(history) == []
    leader.commit(2)

    assert kinds(history) == ["unbacked-commit"]


def test_who_may_not_vote_yet_backs_nothing(promises, history) -> None:
    leader = leading(promises, 11, term=1)
    begin(promises, "n2", Ledger(11, term=1)).promise(1, joining=True)

    leader.commit(1)

    assert kinds(history) == ["unbacked-commit"]


def test_a_promise_of_another_term_backs_nothing(promises, history) -> None:
    leader = leading(promises, 11, term=2)
    begin(promises, "n2", Ledger(11, term=1)).promise(1)

    leader.commit(1)

    assert kinds(history) == ["unbacked-commit"]


def test_entries_of_older_terms_are_committed_with_one_of_this_term(promises, history) -> None:
    """Raft paper, figure 8."""
    leader = leading(promises, 11, 12, term=2, first=2)
    follower = begin(promises, "n2", Ledger(11, 12, term=2))
    follower.promise(1)

    leader.commit(1)

    assert kinds(history) == ["unbacked-commit"]


def test_what_is_committed_is_not_cut(promises, history) -> None:
    begin(promises, "n1", Ledger(11, 12)).commit(1)
    follower = begin(promises, "n2", Ledger(11, 12))
    follower.store.truncate_from(2)
    assert kinds(history) == []

    follower.store.truncate_from(1)

    assert kinds(history) == ["committed-cut"]


def test_who_lost_its_disk_counts_again_with_all_that_was_committed(promises, history) -> None:
    begin(promises, "n1", Ledger(11, 12)).commit(2)
    promises.lose_disk("n2")
    reborn = begin(promises, "n2", Ledger(11))
    reborn.promise(1, joining=True)
    assert kinds(history) == []

    reborn.promise(1)

    assert kinds(history) == ["early-voter"]


def test_who_has_filled_its_new_disk_may_vote(promises, history) -> None:
    begin(promises, "n1", Ledger(11, 12)).commit(2)
    promises.lose_disk("n2")

    begin(promises, "n2", Ledger(11, 12)).say("n1", "response_vote")

    assert kinds(history) == []


def test_states_of_the_same_entries_are_the_same(promises, history) -> None:
    promises.written("n1", "/data/derived/state-00000000000000000007", b"one")
    promises.written("n2", "/data/derived/state-00000000000000000008", b"two")
    promises.written("n2", "/data/vote", b"mine")
    promises.written("n1", "/data/vote", b"yours")
    assert kinds(history) == []

    promises.written("n2", "/data/derived/state-00000000000000000007", b"other")

    assert kinds(history) == ["states-differ"]


# -- levels of durability -------------------------------------------------------------------------


def group_of(promises, *logs: tuple[int, ...]) -> list[Ledger]:
    return [begin(promises, f"n{n + 1}", Ledger(*crcs)) for n, crcs in enumerate(logs)]


@pytest.mark.parametrize(
    ("level", "logs", "told"),
    [
        ("all/sync", ((11,), (11,), (11,)), 0),
        ("all/sync", ((11,), (11,), ()), 1),
        ("all/async", ((11,), (11,), (12,)), 1),
        ("majority/sync", ((11,), (11,), ()), 0),
        ("majority/sync", ((11,), (), ()), 1),
        ("leader/async", ((11,), (), ()), 0),
    ],
)
def test_no_more_members_may_be_told_than_have_it(promises, history, level, logs, told) -> None:
    leader, *_ = group_of(promises, *logs)
    leader.tell_level(1, level)
    assert kinds(history) == ["overstated-ack"] * told


def test_what_a_power_loss_would_take_is_not_synced(promises, history) -> None:
    leader, second, _ = group_of(promises, (11,), (11,), ())
    second.disk.log_size = 50
    leader.tell_level(1, "majority/async")
    assert kinds(history) == []
    leader.tell_level(1, "majority/sync")
    assert kinds(history) == ["overstated-ack"]


def test_a_disk_that_was_lost_since_did_have_it(promises, history) -> None:
    leader, *_ = group_of(promises, (11,), (11,), (11,))

    def lose_a_disk() -> None:
        promises.lose_disk("n3")
        begin(promises, "n3", Ledger())

    leader.tell_level(1, "all/sync", lose_a_disk)
    assert kinds(history) == []
    leader.tell_level(1, "all/sync")
    assert kinds(history) == ["overstated-ack"]
