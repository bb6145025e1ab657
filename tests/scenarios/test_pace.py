"""A member far behind is sent the old at a pace, while anything new is committed."""

from __future__ import annotations

from dledger.config import RaftConfig, StoreConfig
from dledger.durability import Copies, Durability
from tests.fakes.cluster import SimCluster
from tests.fakes.lone_core import LoneCore
from tests.fakes.mutants import against

PIECE = 32 * 1024
RAFT = RaftConfig(append_size_max=PIECE)
STORE = StoreConfig(segment_size=1024 * 1024, index_file_units=4096)
BODY = bytes(4000)
IN_FLIGHT = 4
MISSED_COUNT = 250
BYTES_PER_SECOND = 20e6


class SharedDisk(SimCluster):
    """A group whose members share one disk, as they share the processors of a small machine.

    It does one sync after another, each in the time that its bytes take.
    """

    def __init__(self, **options):
        super().__init__(store=STORE, raft=RAFT, latency=(0.0001, 0.0002), **options)
        self.is_free_at = 0.0
        self._synced = dict.fromkeys(self.ids, 0)
        self._sending = False
        self.acked_count = 0

    def _disk_does(self, node, job):
        end = node.store.end_position
        seconds = 0.0001 + max(end - self._synced[node.node_id], 0) / BYTES_PER_SECOND
        self._synced[node.node_id] = end
        self.is_free_at = max(self.is_free_at, self.clock.seconds) + seconds
        self.at(self.is_free_at - self.clock.seconds, job)

    def send(self, in_flight=IN_FLIGHT):
        """Keep *in_flight* proposals under way from now on."""
        self._sending = True
        for _ in range(in_flight):
            self._send_one()

    def _send_one(self):
        if not self._sending:
            return
        proposal = self.propose(BODY)
        acked = proposal.on_committed

        def on_committed(index, term):
            acked(index, term)
            self.acked_count += 1
            self.at(0.0001, self._send_one)

        proposal.on_committed = on_committed

    def stop_sending(self):
        self._sending = False
        self.run(0.5)

    def rate(self, holds, seconds):
        """Return the acknowledgements a second until *holds*."""
        began, before = self.clock.seconds, self.acked_count
        self.run_until(holds, seconds)
        return (self.acked_count - before) / (self.clock.seconds - began)


def group_with_one_far_behind():
    """Return it, the member that missed much, and the rate of all three in step."""
    cluster = SharedDisk(seed=3)
    cluster.start()
    leader = cluster.await_leader()
    cluster.send()
    cluster.run(0.05)
    in_step = cluster.rate(lambda: False, 0.1)
    behind = next(node_id for node_id in cluster.ids if node_id != leader.node_id)
    cluster.crash(behind)
    end = leader.store.end_index + MISSED_COUNT
    cluster.run_until(lambda: leader.store.end_index >= end)
    return cluster, behind, in_step


def is_near(cluster, node_id):
    node, leader = cluster.nodes[node_id], cluster.leader
    return lambda: node.alive and node.store.end_position + 2 * PIECE > leader.store.end_position


@against("nobody_far_behind_rests", "who_is_far_behind_rests_for_ever")
def test_a_member_that_catches_up_costs_the_group_little_and_arrives():
    cluster, behind, in_step = group_with_one_far_behind()

    cluster.start(behind)
    meanwhile = cluster.rate(is_near(cluster, behind), 1.0)

    assert is_near(cluster, behind)(), "it did not arrive"
    assert meanwhile > in_step * 2 / 3, (meanwhile, in_step)
    cluster.stop_sending()
    cluster.converge()


def leader_with_one_far_behind(*, took=0.060, appended=BODY):
    """Return a leader that has sent n3 a piece of the old and heard after *took* that it is there.

    *appended* was committed meanwhile, with n2, which is in step.
    """
    leader = LoneCore(store=STORE, raft=RAFT)
    leader.lead()
    leader.core.peer_lost("n3")
    for _ in range(100):
        commit_one(leader, BODY)
    leader.take()
    leader.connect("n3", last_index=1)
    assert len(pieces(leader)) == 1
    leader.step(took)
    if appended:
        commit_one(leader, appended)
    promise(leader)
    return leader


def commit_one(leader, body=b"new"):
    proposal = leader.propose(body)
    leader.sync_log()
    leader.answer("n2", leader.store.end_index)
    assert proposal.outcome == "acked"


def promise(leader):
    """Have n3 promise all that it was sent."""
    leader.answer("n3", leader.engine.leading.progress["n3"].next_index - 1)


def pieces(leader):
    """Return what n3 was sent of the log since this was asked last."""
    return [message for message in leader.take("append_entries", to="n3") if message["entries"]]


def pieces_amid_commits(leader, seconds):
    """Return what n3 is sent while something is committed every ten milliseconds."""
    for _ in range(round(seconds * 100)):
        leader.step(0.010)
        commit_one(leader)
    return pieces(leader)


def test_a_piece_is_followed_by_a_rest_as_long_as_it_took():
    leader = leader_with_one_far_behind(took=0.060)
    assert pieces_amid_commits(leader, 0.050) == []

    assert len(pieces_amid_commits(leader, 0.011)) == 1


def test_a_second_piece_waits_for_the_promise_of_the_first():
    leader = leader_with_one_far_behind(took=0.060)
    assert len(pieces_amid_commits(leader, 0.070)) == 1

    assert pieces_amid_commits(leader, 0.200) == []


def test_answers_that_tell_nothing_new_do_not_make_the_rest_longer():
    leader = leader_with_one_far_behind(took=0.060)
    assert pieces_amid_commits(leader, 0.040) == []
    promise(leader)

    assert len(pieces_amid_commits(leader, 0.021)) == 1


def test_the_deadline_is_the_end_of_the_rest():
    """Also where the leader has nothing else to do until then."""
    leader = leader_with_one_far_behind(took=0.010)
    assert leader.core.next_deadline() <= leader.clock.seconds + 0.010


def test_a_busy_group_makes_the_member_gain_on_it():
    """Three bytes of the old for each two that are appended, whatever the rest."""
    leader = leader_with_one_far_behind(took=0.200)
    before, sent = leader.store.end_position, 0
    for _ in range(50):
        commit_one(leader, BODY)
        sent += sum(len(message["entries"]) for message in pieces(leader))
        promise(leader)
    appended = leader.store.end_position - before

    assert sent >= appended * 3 / 2 - PIECE


def test_what_is_appended_in_one_go_calls_for_several_pieces():
    leader = leader_with_one_far_behind(took=0.200)

    commit_one(leader, bytes(2 * PIECE))

    assert len(pieces(leader)) == 3


def test_no_rest_is_longer_than_an_election_timeout():
    """A piece that took ten seconds waited for a stalled disk; that is no work to recover from."""
    leader = leader_with_one_far_behind(took=0.060)
    assert len(pieces_amid_commits(leader, 0.061)) == 1
    for _ in range(200):
        leader.step(0.05)
        commit_one(leader)
    assert pieces(leader) == []
    promise(leader)
    longest = RAFT.election_timeout_max_ms / 1000

    assert len(pieces_amid_commits(leader, longest + 0.011)) == 1


def test_nobody_rests_where_hardly_anything_is_appended():
    """Over a slow link the way is most of a piece's time, and is nobody's work."""
    leader = leader_with_one_far_behind(took=0.200, appended=b"new")

    assert len(pieces(leader)) == 1


def test_nobody_rests_while_a_send_waits_for_every_copy():
    leader = leader_with_one_far_behind(took=0.200)
    assert pieces_amid_commits(leader, 0.010) == []
    leader.propose()
    waited_for = leader.store.end_index
    every = Durability(Copies.ALL, synced=True)
    leader.core.await_level(
        waited_for, every, deadline=leader.clock.seconds + 2, done=lambda *_: None
    )
    leader.sync_log()
    leader.answer("n2", waited_for)

    assert len(pieces_amid_commits(leader, 0.020)) > 0


def test_nobody_rests_while_nobody_sends():
    leader = leader_with_one_far_behind(took=0.200, appended=b"")

    assert len(pieces(leader)) == RAFT.append_window


@against("rests_however_few_the_others_are")
def test_a_member_rests_no_more_when_a_commit_needs_it():
    """Another one's connection breaks during the rest."""
    leader = leader_with_one_far_behind(took=0.200)
    assert pieces_amid_commits(leader, 0.010) == []

    leader.core.peer_lost("n2")
    leader.step()

    assert len(pieces(leader)) == RAFT.append_window


@against("rests_though_nothing_is_committed")
def test_a_member_rests_no_more_when_another_falls_silent():
    """Nothing breaks, but nothing is committed any more: a heartbeat interval later it goes on."""
    leader = leader_with_one_far_behind(took=0.200)
    waiting = leader.propose()
    leader.sync_log()
    leader.take()

    leader.step(RAFT.heartbeat_interval_ms / 1000)

    assert len(pieces(leader)) == RAFT.append_window
    while leader.engine.leading.progress["n3"].match_index < leader.store.end_index:
        promise(leader)
        leader.step()
    assert waiting.outcome == "acked"


def test_a_new_connection_ends_the_rest():
    leader = leader_with_one_far_behind(took=0.200)
    leader.core.peer_lost("n3")

    leader.connect("n3", last_index=leader.engine.leading.progress["n3"].match_index)

    assert len(pieces(leader)) == 1  # to see where the logs part
    promise(leader)
    assert leader.engine.leading.progress["n3"].pace.resting_until < leader.clock.seconds + 1


@against("rests_however_few_the_others_are")
def test_a_second_death_meanwhile_delays_no_commit():
    """What is left to send then goes at once, as fast as the member takes it."""
    cluster, behind, _ = group_with_one_far_behind()
    cluster.start(behind)
    node, leader = cluster.nodes[behind], cluster.leader
    half = (node.store.end_position + leader.store.end_position) // 2
    assert cluster.run_until(lambda: node.store.end_position > half, 2.0)
    other = next(n for n in cluster.ids if n not in (behind, leader.node_id))

    cluster.crash(other)
    left, acked = leader.store.end_position - node.store.end_position, cluster.acked_count
    began = cluster.clock.seconds
    assert cluster.run_until(lambda: cluster.acked_count > acked, 5.0)

    assert cluster.leader is leader
    assert cluster.clock.seconds - began < 1.3 * left / BYTES_PER_SECOND + 0.010
