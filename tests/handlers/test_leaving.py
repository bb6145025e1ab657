"""Members that are being taken out of their groups."""

from __future__ import annotations

import pytest

from broker.groups.presence import Member
from broker.handlers.leaving import Leaving
from dledger.errors import NotLeaderError

ONE = Member("c1", "g")


class Queue:
    """Takes commands; their ends are told by the test."""

    def __init__(self):
        self.ends = []

    def put_command(self, command, done):
        self.ends.append(done)


@pytest.fixture
def queue():
    return Queue()


@pytest.fixture
def log():
    """How far the log is applied."""
    return {"dispatched": 0}


@pytest.fixture
def leaving(queue, log):
    return Leaving(queue, lambda: log["dispatched"])


def test_a_member_leaves_from_when_that_is_proposed_until_it_is_applied(leaving, queue, log):
    heard = []
    leaving.propose(ONE, lambda index, error: heard.append((index, error)))
    assert ONE in leaving
    (end,) = queue.ends
    end(7, None)
    assert heard == [(7, None)]
    leaving.dispatched()
    assert ONE in leaving
    log["dispatched"] = 7
    leaving.dispatched()
    assert ONE not in leaving


def test_what_is_applied_already_when_it_is_known_to_be_committed_is_over(leaving, queue, log):
    leaving.propose(ONE)
    log["dispatched"] = 9
    queue.ends[0](7, None)
    assert ONE not in leaving


def test_what_failed_is_over(leaving, queue):
    heard = []
    leaving.propose(ONE, lambda index, error: heard.append(error))
    error = NotLeaderError("no more")
    queue.ends[0](0, error)
    assert ONE not in leaving
    assert heard == [error]


@pytest.mark.parametrize("first", ["applied", "failed"])
def test_of_two_the_last_counts(leaving, queue, log, first):
    leaving.propose(ONE)
    leaving.propose(ONE)
    queue.ends[0](3, None if first == "applied" else NotLeaderError("no more"))
    log["dispatched"] = 3
    leaving.dispatched()
    assert ONE in leaving
    queue.ends[1](4, None)
    log["dispatched"] = 4
    leaving.dispatched()
    assert ONE not in leaving
