"""What is judged while something lies unread: whether a leader is gone, a disk has stalled."""

from __future__ import annotations

import pytest
import trio

from dledger import server
from dledger.config import RaftConfig
from dledger.errors import StorageFailedError
from tests.fakes.cluster import VirtualClock
from tests.fakes.lone_core import Log
from tests.scenarios.test_fail_stop import Member1

ELECTION_SECONDS = RaftConfig().election_timeout_max_ms / 1000


class HandWorker:
    """Jobs run, know that they have ended, and are told of, when a test says so."""

    def __init__(self):
        self.jobs = []
        self.failure = None
        self.ends_when_asked = False

    def submit(self, job, done):
        self.jobs.append((job, done))

    def run(self):
        try:
            self.jobs[0][0]()
        except StorageFailedError as error:
            self.failure = error

    def tell(self):
        self.jobs.pop(0)[1](self.failure)

    def take_up(self):
        if self.ends_when_asked:
            self.run()


@pytest.fixture
async def follower(autojump_clock):
    """Yield a member that follows n2 and syncs what it was sent, and its clock and worker."""
    log = Log(1, 1)
    clock, worker = VirtualClock(), HandWorker()
    async with trio.open_nursery() as nursery:
        member = Member1(nursery, node_count=3, log=Log(1), clock=clock, sync_worker=worker)
        member.links = {peer_id: member.connect(peer_id) for peer_id in ("n2", "n3")}
        member.server.on_messages("n2", [log.append_message(1, after=1)])
        await trio.sleep(0.1)  # its term is on the disk
        assert worker.jobs
        yield member, clock, worker
        nursery.cancel_scope.cancel()


async def test_a_connection_of_the_leader_that_is_replaced_is_not_told_of_as_lost(
    autojump_clock, follower
):
    """A peer that cannot reach the leader was told yes, and deposed it."""
    member, _, _ = follower
    asked = {"type": "pre_vote", "term": 1, "round": 1, "last_log_index": 2, "last_log_term": 1}
    member.server.on_messages("n3", [asked])

    newer = member.connect("n2")
    member.server.on_messages("n3", [{**asked, "round": 2}])
    member.server.on_peer_lost(member.links["n2"])

    answers = [m for m in member.links["n3"].sent if m["type"] == "pre_vote_answer"]
    assert [answer["granted"] for answer in answers] == [False, False]
    assert member.server.leader_id == "n2"
    assert member.server._links["n2"] is newer


async def test_the_end_of_a_sync_judges_no_time_out_while_the_leader_lies_unread(
    autojump_clock, follower, monkeypatch
):
    """After a pause of the process both are found in one pass, and the sync may come first."""
    member, clock, worker = follower
    behind_reads = []
    monkeypatch.setattr(server, "after_reads", behind_reads.append)
    worker.run()
    clock.seconds += 2 * ELECTION_SECONDS
    member.server.core.engine.tick_wanted = True  # else it is left for later altogether

    worker.tell()
    answers = [m for m in member.links["n2"].sent if m["type"] == "append_answer"]
    assert answers[-1]["next_index"] == 3, "the leader's answer waits for nothing"
    member.server.on_messages("n2", [Log(1, 1).append_message(1, after=2, id=2)])
    for call in behind_reads:
        call()

    assert len(behind_reads) == 1
    assert not [m for m in member.links["n3"].sent if m["type"] == "pre_vote"]
    assert member.server.core.next_deadline() > clock.now()


@pytest.mark.parametrize("how", ["it is done", "it has failed", "the worker knows"])
async def test_a_sync_that_has_ended_is_not_called_stalled_because_nobody_was_told(
    autojump_clock, follower, how
):
    """The process stood still: its alarm rings before the loop hears of the worker's end."""
    member, clock, worker = follower
    if how == "it has failed":
        member.disk.failing["commitlog"] = "sync"
    if how == "the worker knows":
        worker.ends_when_asked = True
    else:
        worker.run()
    clock.seconds += 2 * ELECTION_SECONDS

    member.server.pump()

    assert not member.server.core.engine.storage_stalled
    assert (worker.failure is not None) == (how == "it has failed")


async def test_a_sync_that_has_not_ended_is_called_stalled(autojump_clock, follower):
    member, clock, worker = follower
    clock.seconds += 2 * ELECTION_SECONDS

    member.server.pump()
    assert member.server.core.engine.storage_stalled

    worker.run()
    worker.tell()
    assert not member.server.core.engine.storage_stalled
