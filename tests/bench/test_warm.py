"""Memory at hand: let go as it is taken, and the process that holds it ends with the load."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.warm import Reservoir, taken_at_most, warm_memory

MIB = 1024 * 1024


@pytest.fixture
def reservoir():
    made = Reservoir(200 * MIB + 5)
    yield made
    made.close()


def test_a_cushion_is_let_go_at_once_and_then_what_is_taken(reservoir):
    reservoir.follow(1000 * MIB)
    assert reservoir.left == 136 * MIB
    reservoir.follow(1064 * MIB)
    assert reservoir.left == 136 * MIB
    reservoir.follow(1064 * MIB - 1)
    assert reservoir.left == 135 * MIB
    reservoir.follow(1054 * MIB)
    assert reservoir.left == 125 * MIB


def test_no_more_is_let_go_than_there_is(reservoir):
    reservoir.follow(1000 * MIB)
    reservoir.follow(0)
    assert reservoir.left == 0
    reservoir.follow(0)
    assert reservoir.left == 0


def test_more_free_memory_than_at_first_is_left_alone(reservoir):
    reservoir.follow(1000 * MIB)
    reservoir.follow(5000 * MIB)
    assert reservoir.left == 136 * MIB


def test_a_process_holds_it_while_the_load_runs():
    with warm_memory(3 * MIB) as pid:
        assert pid is not None
        assert b"bench.warm" in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert not Path(f"/proc/{pid}").exists()


def test_nothing_is_started_for_nothing():
    with warm_memory(0) as pid:
        assert pid is None


def test_what_cannot_be_filled_is_told():
    with pytest.raises(OSError, match="could not be filled"), warm_memory(1 << 62):
        pytest.fail("it must not begin")


def test_machines_that_keep_their_memory_need_none(monkeypatch):
    monkeypatch.setattr("bench.warm.gives_memory_back", lambda: False)
    assert taken_at_most(100, 3.0) == 0
    monkeypatch.setattr("bench.warm.gives_memory_back", lambda: True)
    assert taken_at_most(1024, 3.0) == 2 * taken_at_most(100, 3.0) > 0
