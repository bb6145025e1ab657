"""Over slow links a group does what the paper says, in simulated time."""

from __future__ import annotations

from statistics import median

import pytest

from bench.links.__main__ import SLACK, _verdict
from bench.links.paper import Paper, Range
from bench.links.simulated import Links
from dledger.config import MIB, RaftConfig

SYNC = 0.0005


@pytest.mark.parametrize("link", [0.001, 0.05])
def test_a_message_alone_takes_two_round_trips(link):
    raft = RaftConfig()
    took = Links(link=link, home=link, sync=SYNC, raft=raft).one_in_flight(10)
    expected = Paper(link=link, home=link, sync=SYNC, raft=raft).one_in_flight
    assert expected.holds([median(took)], slack=SLACK)
    assert not expected.holds([median(took) / 2], slack=SLACK)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_one_election_over_50_ms_links_is_enough(is_frozen):
    raft = RaftConfig()
    paper = Paper(link=0.05, home=0.05, sync=SYNC, raft=raft)
    expected = paper.after_a_freeze if is_frozen else paper.after_a_kill
    for seed in range(3):
        group = Links(link=0.05, home=0.05, sync=SYNC, raft=raft, seed=seed)
        seconds, terms = group.after_the_leader_dies(is_frozen=is_frozen)
        assert expected.holds([seconds], slack=SLACK), f"seed {seed}"
        assert terms == 1, f"seed {seed}"


def test_long_links_carry_no_more_than_four_entries_a_round():
    paper = Paper(link=0.05, home=0.05, sync=0.0, raft=RaftConfig())
    assert paper.bytes_a_second == pytest.approx(4 * MIB / 0.1)
    assert paper.many_in_flight(10_000_000).most == pytest.approx(paper.bytes_a_second / 220)


def test_what_lies_a_little_beside_a_range_is_told_to_do_so():
    """A rate of 3,155 was "as reckoned" where 3,322 to 4,988 had been."""
    expected = Range(least=1.0, most=2.0)
    assert _verdict(expected, [1.0, 2.0]) == "as reckoned"
    assert _verdict(expected, [0.9, 1.5]) == "within 15% of it"
    assert _verdict(expected, [1.5, 2.5]) == "NOT AS RECKONED"
