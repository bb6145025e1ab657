"""Requests to free a lock that are older than the last one that asked for it."""

import pytest

from broker.groups.lock_paths import LATE_SECONDS_MAX, Arrival, LockPaths
from broker.groups.locks import QueueLock

LOCK = QueueLock("g", "t", 0)


class Clock:
    def __init__(self):
        self.seconds = 100.0

    def now(self):
        return self.seconds

    def wall_ms(self):
        return 0


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def paths(clock):
    found = LockPaths(clock, lock_seconds=60.0)
    clock.seconds += LATE_SECONDS_MAX + 1
    return found


def test_of_one_node_the_order_is_known(paths):
    paths.asked(LOCK, Arrival("n1", 7.0))

    assert not paths.may_free(LOCK, Arrival("n1", 6.9))
    assert paths.may_free(LOCK, Arrival("n1", 7.0)), "one behind the other in one receive"


def test_a_late_request_for_the_lock_makes_no_older_one_young(paths):
    paths.asked(LOCK, Arrival("n1", 7.0))
    paths.asked(LOCK, Arrival("n1", 5.0))

    assert not paths.may_free(LOCK, Arrival("n1", 6.0))


def test_by_another_node_it_frees_once_it_cannot_be_late(paths, clock):
    paths.asked(LOCK, Arrival("n1", 7.0))

    assert not paths.may_free(LOCK, Arrival("n2", 900.0))
    clock.seconds += LATE_SECONDS_MAX + 1
    assert paths.may_free(LOCK, Arrival("n2", 900.0))


def test_a_late_request_for_the_lock_by_another_node_makes_no_older_one_young(paths):
    """Both to lock and to free it waited at n1, while its client asked by n2."""
    paths.asked(LOCK, Arrival("n2", 900.0))
    paths.asked(LOCK, Arrival("n1", 5.0))

    assert not paths.may_free(LOCK, Arrival("n1", 6.0))


def test_a_node_s_clock_that_began_anew_is_believed_in_the_end(paths, clock):
    paths.asked(LOCK, Arrival("n1", 7000.0))
    for _ in range(3):
        clock.seconds += LATE_SECONDS_MAX / 2
        paths.asked(LOCK, Arrival("n1", clock.seconds - 130))

    assert paths.may_free(LOCK, Arrival("n1", clock.seconds - 129))


def test_a_lock_asked_for_behind_such_a_start_is_believed_in_as_any_other(paths, clock):
    paths.asked(LOCK, Arrival("n1", 7000.0))
    clock.seconds += LATE_SECONDS_MAX - 1
    paths.asked(LOCK, Arrival("n1", 10.0))
    clock.seconds += 2

    assert not paths.may_free(LOCK, Arrival("n2", 900.0)), "it may have been asked for before"
    clock.seconds += LATE_SECONDS_MAX
    assert paths.may_free(LOCK, Arrival("n2", 900.0))


def test_a_new_leader_knows_what_the_log_tells(paths, clock):
    written = paths.asked(LOCK, Arrival("n1", 7.0))
    other = LockPaths(clock, lock_seconds=60.0)
    other.begin({LOCK: written})

    assert other.may_free(LOCK, Arrival("n1", 7.5))
    assert not other.may_free(LOCK, Arrival("n1", 6.5))
    assert not other.may_free(LOCK, Arrival("n2", 900.0))


def test_what_nobody_can_be_late_behind_any_more_is_not_remembered(paths, clock):
    assert paths.asked(LOCK, Arrival("n1", 7.0)) == {"n1": 7.0}
    clock.seconds += LATE_SECONDS_MAX
    assert paths.asked(LOCK, Arrival("n2", 3.0)) == {"n1": 7.0, "n2": 3.0}
    clock.seconds += 1
    assert paths.asked(LOCK, Arrival("n2", 4.0)) == {"n2": 4.0}


def test_a_new_leader_has_not_heard_what_was_asked_before_it(paths, clock):
    """Where that is not written: by a node of an older release."""
    paths.begin({})

    assert not paths.may_free(LOCK, Arrival("n1", 7.0))
    clock.seconds += LATE_SECONDS_MAX + 1
    assert paths.may_free(LOCK, Arrival("n1", 7.0))


def test_a_short_lock_is_freed_by_another_node_once_it_would_have_run_out(clock):
    """Until then the holder had to be silent for others to get it, however often it gave it back.

    A simulated member of a group that gave back its queue, and asked for it again just before it
    ran out, kept another from it for 40 s (seed 142779).
    """
    paths = LockPaths(clock, lock_seconds=6.0)
    clock.seconds += 6.1
    paths.asked(LOCK, Arrival("n1", 7.0))
    clock.seconds += 5.9
    paths.asked(LOCK, Arrival("n2", 900.0))
    assert not paths.may_free(LOCK, Arrival("n2", 900.5))

    clock.seconds += 0.2

    assert paths.may_free(LOCK, Arrival("n2", 900.5))
