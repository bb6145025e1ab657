"""Levels of durability: told when they are reached, and never sooner."""

from __future__ import annotations

from typing import Any

import pytest

from dledger.config import FlushDiskType, StoreConfig
from dledger.durability import BEST_FIRST, Copies, Durability
from tests.fakes.cluster import SimCluster
from tests.fakes.lone_core import Log, LoneCore

SYNC, ASYNC = FlushDiskType.SYNC_FLUSH, FlushDiskType.ASYNC_FLUSH


def level(text: str) -> Durability:
    copies, flush = text.split("/")
    return Durability(Copies[copies.upper()], synced=flush == "sync")


ALL_LEVELS = [str(each) for each in BEST_FIRST]


class Waiter:
    """Waits for one entry to reach one level."""

    def __init__(self, core: Any, index: int, wanted: str, *, deadline: float) -> None:
        self.heard: list[str | None] = []
        core.await_level(index, level(wanted), deadline=deadline, done=self._hear)

    def _hear(self, reached: Durability | None) -> None:
        assert not self.heard, "told twice"
        self.heard.append(None if reached is None else str(reached))


def leader(flush: FlushDiskType = SYNC, *, node_count: int = 3, **options: Any) -> LoneCore:
    store = StoreConfig(segment_size=64 * 1024, index_file_units=512, flush_disk_type=flush)
    core = LoneCore(node_count, store=store, **options)
    core.lead()
    return core


def propose(core: LoneCore, *wanted: str, seconds: float = 2.0) -> list[Waiter]:
    """Append one entry; return who waits for it to reach each of these levels."""
    proposal = core.propose()
    deadline = core.clock.seconds + seconds
    waiters = [Waiter(core.core, proposal.index, text, deadline=deadline) for text in wanted]
    core.step()
    return waiters


def tell(core: LoneCore, peer_id: str, match: int, *, written: int, synced: int) -> None:
    """Receive an answer of a follower that was asked for more than its promise."""
    core.hear(
        peer_id,
        "append_answer",
        term=core.engine.term,
        id=core.engine.leading.progress[peer_id].append_id,
        next_index=match + 1,
        success=True,
        reset=False,
        joining=False,
        written_index=written,
        synced_index=synced,
    )


def heard(waiters: list[Waiter]) -> list[Any]:
    return [waiter.heard[0] if waiter.heard else "" for waiter in waiters]


# -- the values ---------------------------------------------------------------------------------


def test_a_level_covers_what_is_no_better_in_either_respect():
    assert level("all/sync").covers(level("leader/async"))
    assert level("majority/sync").covers(level("majority/async"))
    assert not level("majority/sync").covers(level("all/async"))
    assert not level("all/async").covers(level("majority/sync"))
    assert not level("leader/sync").covers(level("majority/async"))


# -- when each is reached -----------------------------------------------------------------------


def test_the_copy_of_the_leader_is_told_at_once_and_its_disk_after_its_sync():
    core = leader()
    in_memory, on_disk = propose(core, "leader/async", "leader/sync")

    assert heard([in_memory, on_disk]) == ["leader/async", ""]
    core.sync_log()
    assert heard([on_disk]) == ["leader/sync"]


def test_the_copy_of_the_leader_is_in_the_systems_memory_when_it_is_told():
    """The process may be killed a moment later; a small entry is sent before it is written."""
    core = leader()
    (waiter,) = propose(core, "leader/async")
    end = core.store.locate(core.store.end_index).end

    assert heard([waiter]) == ["leader/async"]
    content = core.disk.files()["/data/commitlog/00000000000000000000"]
    assert any(content[end - 8 : end])


def test_a_majority_in_memory_is_told_before_the_commit_where_disks_are_synced():
    core = leader()
    core.take()
    (waiter,) = propose(core, "majority/async")
    index = core.store.end_index

    core.step(0.1)  # the next message asks for it
    assert any(message.get("tell_written") for message in core.take("append_entries"))
    tell(core, "n2", index - 1, written=index, synced=index - 1)

    assert heard([waiter]) == ["majority/async"]
    assert core.core.committed_index == index - 1, "an ack commits nothing"


def test_all_is_told_when_the_last_member_has_it_and_not_before():
    core = leader()
    on_disks, in_memory = propose(core, "all/sync", "all/async")
    index = core.store.end_index
    core.sync_log()
    core.answer("n2", index)
    assert core.core.committed_index == index
    assert heard([on_disks, in_memory]) == ["", ""]

    core.answer("n3", index)
    assert heard([on_disks, in_memory]) == ["all/sync", "all/async"]


def test_a_majority_on_disk_is_asked_for_where_a_commit_does_not_need_it():
    core = leader(ASYNC)
    core.take()
    (waiter,) = propose(core, "majority/sync")
    index = core.store.end_index
    assert core.engine.sync_wanted == index, "this node's server syncs at once, too"
    for peer_id in core.peers:
        core.answer(peer_id, index)
    assert core.core.committed_index == index
    core.step(0.1)
    assert {message.get("sync_index") for message in core.take("append_entries")} >= {index}

    tell(core, "n2", index, written=index, synced=index)
    assert heard([waiter]) == [""], "one disk of three"
    core.sync_log()
    assert heard([waiter]) == ["majority/sync"]


def test_the_disks_of_two_followers_are_a_majority_too():
    core = leader(ASYNC)
    (waiter,) = propose(core, "majority/sync")
    index = core.store.end_index
    for peer_id in core.peers:
        tell(core, peer_id, index, written=index, synced=index)
    assert core.store.synced_index < index
    assert heard([waiter]) == ["majority/sync"]


def test_one_follower_that_promises_its_memory_makes_no_commit_synced():
    """The leader counts what n2 promises, and n2 has ASYNC_FLUSH."""
    core = leader()
    assert str(core.engine.levels.of_commit) == "majority/sync"
    core.connect("n2", last_index=core.store.end_index, promises_synced=False)
    assert str(core.engine.levels.of_commit) == "majority/async"

    (waiter,) = propose(core, "majority/sync")
    index = core.store.end_index
    core.sync_log()
    core.answer("n2", index)
    assert core.core.committed_index == index
    assert heard([waiter]) == [""]
    tell(core, "n2", index, written=index, synced=index)
    assert heard([waiter]) == ["majority/sync"]


def test_a_member_that_may_not_vote_yet_is_not_counted_among_all():
    core = leader()
    core.connect("n3", joining=True)
    (waiter,) = propose(core, "all/sync")
    index = core.store.end_index
    core.sync_log()
    core.answer("n2", index)
    core.answer("n3", index, joining=True)
    assert heard([waiter]) == [""]
    core.answer("n3", index)
    assert heard([waiter]) == ["all/sync"]


def test_a_group_of_one_is_all_of_itself():
    core = LoneCore(1)
    core.step(1.0)
    core.sync()
    core.step()
    waiters = propose(core, *ALL_LEVELS)
    core.sync_log()
    core.step()
    assert all(
        level(found).covers(level(asked))
        for found, asked in zip(heard(waiters), ALL_LEVELS, strict=True)
    )


# -- when it is not reached ---------------------------------------------------------------------


def test_what_was_reached_is_told_when_the_time_is_up():
    core = leader()
    (waiter,) = propose(core, "all/sync", seconds=0.3)
    index = core.store.end_index
    core.sync_log()
    core.answer("n2", index)
    core.step(0.29)
    assert heard([waiter]) == [""]
    assert core.core.next_deadline() <= core.clock.seconds + 0.011
    core.step(0.02)
    assert heard([waiter]) == ["majority/sync"]
    core.answer("n3", index)  # and not a second time


def test_nothing_is_told_of_an_entry_that_is_not_committed_however_late():
    core = leader()
    (waiter,) = propose(core, "all/sync", seconds=0.05)
    index = core.store.end_index
    core.step(0.1)
    assert heard([waiter]) == [""]
    core.sync_log()
    core.answer("n2", index)
    assert heard([waiter]) == ["majority/sync"]


def test_a_lost_lead_leaves_open_what_was_not_committed_and_tells_what_was():
    core = leader()
    (committed,) = propose(core, "all/sync")
    core.sync_log()
    core.answer("n2", core.store.end_index)
    (open_end,) = propose(core, "leader/sync")

    core.hear("n2", Log(1).append_message(core.engine.term + 1, after=0, upto=0))

    assert not core.engine.is_leader
    assert heard([committed, open_end]) == ["majority/sync", None]


def test_a_lead_lost_in_the_step_that_commits_leaves_nothing_open():
    """Nobody may be told that it is unknown, and ask the next leader for it behind its place."""
    core = leader()
    (waiter,) = propose(core, "all/sync")
    core.sync_log()
    end, term = core.store.end_index, core.engine.term
    assert core.engine.applied_index < end
    message = Log(1).append_message(term + 1, after=0, upto=0, commit=end)
    message |= {"prev_index": end, "prev_term": term, "last_index": end}

    core.hear("n2", message)

    assert not core.engine.is_leader
    assert heard([waiter]) == ["majority/sync"]


# -- the follower -------------------------------------------------------------------------------


def follower(flush: FlushDiskType) -> tuple[LoneCore, Log]:
    store = StoreConfig(segment_size=64 * 1024, index_file_units=512, flush_disk_type=flush)
    core = LoneCore(store=store, log=Log(1, 1), term=1, commit=1)
    core.connect("n2", last_index=5)
    log = Log(1, 1)
    log.extend(1)
    core.take()
    return core, log


@pytest.mark.parametrize("flush", [SYNC, ASYNC])
def test_a_follower_says_no_more_than_its_promise_unless_asked(flush):
    core, log = follower(flush)
    core.hear("n2", log.append_message(1, after=0))
    core.sync_log()
    for answer in core.take("append_answer"):
        assert "synced_index" not in answer


def test_a_follower_that_is_asked_says_what_it_has_written_before_its_sync():
    core, log = follower(SYNC)
    core.hear("n2", log.append_message(1, after=0) | {"tell_written": True})
    (first,) = core.take("append_answer")
    assert (first["next_index"], first["written_index"], first["synced_index"]) == (3, 3, 2)
    core.sync_log()
    (second,) = core.take("append_answer")
    assert (second["next_index"], second["synced_index"]) == (4, 3)


def test_a_follower_that_is_asked_to_syncs_at_once_and_says_so():
    core, log = follower(ASYNC)
    core.hear("n2", log.append_message(1, after=0) | {"sync_index": 99})
    (first,) = core.take("append_answer")
    assert (first["next_index"], first["synced_index"]) == (4, 2)
    assert core.engine.sync_wanted == 3, "no further than what it has"
    core.sync_log()
    (second,) = core.take("append_answer")
    assert second["synced_index"] == 3


# -- whole groups -------------------------------------------------------------------------------


@pytest.mark.parametrize("flush", [SYNC, ASYNC])
@pytest.mark.parametrize("wanted", ALL_LEVELS)
def test_every_level_is_reached_in_a_healthy_group(flush, wanted):
    cluster = SimCluster(3, flush=flush, seed=3)
    cluster.start()
    cluster.await_leader()
    cluster.run(0.5)
    core = cluster.leader.core
    proposal = cluster.propose(b"one")
    waiter = Waiter(core, proposal.index, wanted, deadline=cluster.clock.seconds + 2.0)
    cluster.run(1.0)
    assert level(waiter.heard[0] or "leader/async").covers(level(wanted))
