"""Stock PySyncObj still has the flaws that we replace; a red test means that upstream mended one.

That would be good news: look whether the mend can go, and change ``docs/raft-engine.md``.
"""

from __future__ import annotations

import random

import pytest
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj import syncobj as library
from pysyncobj.node import Node
from pysyncobj.transport import Transport


class Outbox(Transport):
    def __init__(self):
        super().__init__(None, None, [])
        self.sent = []

    def send(self, node, message):
        self.sent.append((node.id, message))
        return True

    @property
    def ready(self):
        return True


class Stock:
    """A node as PySyncObj makes it, its journal in memory, its peers played by the test."""

    def __init__(self, monkeypatch, node_count=3):
        self.seconds = 100.0
        monkeypatch.setattr(library, "monotonicTime", lambda: self.seconds)
        monkeypatch.setattr(library, "random", random.Random(1))
        self.transport = Outbox()
        self.peers = {f"n{n}": Node(f"n{n}") for n in range(2, node_count + 1)}
        self.raft = SyncObj(
            Node("n1"),
            list(self.peers.values()),
            conf=SyncObjConf(autoTick=False, appendEntriesUseBatch=True),
            transport=self.transport,
        )
        for peer in self.peers.values():
            self.transport._onNodeConnected(peer)

    def hear(self, peer_id, **message):
        self.transport._onMessageReceived(self.peers[peer_id], message)

    def append(self, peer_id, term, previous, *entries, commit=1):
        self.hear(
            peer_id, type="append_entries", term=term, commit_index=commit, prevLogIdx=previous[0],
            prevLogTerm=previous[1], entries=[(b"\x01", index, of) for index, of in entries],
        )  # fmt: skip

    @property
    def end_index(self):
        return self.raft._SyncObj__raftLog[-1][1]

    def lead(self, votes):
        self.seconds += 10
        self.raft.doTick(0)
        for peer_id in votes:
            self.hear(peer_id, type="response_vote", term=self.raft.raftCurrentTerm)
        self.raft.doTick(0)


def test_flaw_a_stock_cuts_entries_that_match(monkeypatch):
    node = Stock(monkeypatch)
    node.append("n2", 1, (1, 0), (2, 1), (3, 1), (4, 1))
    assert node.end_index == 4
    node.append("n2", 1, (1, 0), (2, 1))
    assert node.end_index == 2, "mended upstream? then following.py may shrink"


def test_flaw_a_stock_moves_next_index_back_on_success(monkeypatch):
    node = Stock(monkeypatch)
    node.lead(["n2"])
    for _ in range(5):
        node.raft._applyCommand(b"\x01", None)
    node.seconds += 1
    node.raft.doTick(0)
    node.seconds += 1
    node.raft.doTick(0)
    ahead = node.raft._SyncObj__raftNextIndex[node.peers["n2"]]
    node.hear("n2", type="next_node_idx", next_node_idx=3, reset=False, success=True)
    assert ahead == node.end_index + 1
    assert node.raft._SyncObj__raftNextIndex[node.peers["n2"]] == 3, "mended upstream?"


def test_flaw_b_stock_counts_an_answer_without_a_term(monkeypatch):
    """The answer was meant for another leader; it has no term, so that nobody can tell."""
    node = Stock(monkeypatch, 5)
    node.lead(["n2", "n3"])
    node.hear("n4", type="next_node_idx", next_node_idx=3, reset=False, success=True)
    node.hear("n5", type="next_node_idx", next_node_idx=3, reset=False, success=True)
    node.raft.doTick(0)
    assert node.raft.raftCommitIndex == 2, "mended upstream? then answers need no term of ours"
    node.append("n2", node.raft.raftCurrentTerm + 1, (1, 0), (2, 9))
    answers = [message for _, message in node.transport.sent if message["type"] == "next_node_idx"]
    assert answers
    assert all("term" not in answer for answer in answers)


def test_flaw_d_stock_counts_two_votes_of_one_peer(monkeypatch):
    node = Stock(monkeypatch, 5)
    node.lead(["n2", "n2"])
    assert node.raft._isLeader(), "mended upstream? then standing.is_new_vote may go"


@pytest.mark.parametrize("votes", [["n2"], ["n2", "n3"]])
def test_without_the_flaw_a_majority_is_needed(monkeypatch, votes):
    """The stage is set as it should be: one vote of five is too few, and two others are enough."""
    node = Stock(monkeypatch, 5)
    node.lead(votes)
    assert node.raft._isLeader() is (len(votes) == 2)
