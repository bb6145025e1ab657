"""Queues become one stream, in the order of their store times as far as that can be known."""

import random
from types import SimpleNamespace

import pytest

from broker.cli import merge as merge_module
from broker.cli.merge import STALL_SECONDS, Merge

WINDOW = 0.2


def message(queue_id, queue_offset, stored_ms):
    return SimpleNamespace(
        queue_id=queue_id, queue_offset=queue_offset, store_timestamp_ms=stored_ms
    )


def times(messages):
    return [item.store_timestamp_ms for item in messages]


def make(places):
    merge = Merge(places, window=WINDOW)
    merge.start(0.0)
    return merge


def test_what_was_there_comes_out_in_exact_order_however_it_comes_in():
    """Each queue at its own pace: nothing is let go before all that is older has come."""
    chance = random.Random(3)
    queues = {queue: sorted(chance.sample(range(10_000), 200)) for queue in range(4)}
    merge = make({queue: (0, len(stored)) for queue, stored in queues.items()})
    left = {queue: list(enumerate(stored)) for queue, stored in queues.items()}
    out = []
    while any(left.values()):
        queue = chance.choice([queue for queue in left if left[queue]])
        for _ in range(chance.randrange(1, 60)):
            if left[queue]:
                merge.add(message(queue, *left[queue].pop(0)), 0.0)
        out += merge.take(0.0)

    assert merge.is_at_end
    assert times(out) == sorted(stored for queue in queues.values() for stored in queue)
    assert merge.disorder_count == 0


def test_what_arrives_later_waits_a_window_for_older_ones():
    merge = make({0: (5, 5), 1: (7, 7)})
    merge.add(message(0, 5, 1000), 10.0)

    assert merge.take(10.1) == []
    assert merge.next_time(10.1) == pytest.approx(10.2)
    merge.add(message(1, 7, 990), 10.15)
    assert times(merge.take(10.21)) == []  # the older one came later, and waits as long
    assert times(merge.take(10.36)) == [990, 1000]
    assert merge.disorder_count == 0


def test_one_that_comes_too_late_is_let_go_and_counted():
    merge = make({0: (0, 0), 1: (0, 0)})
    merge.add(message(0, 0, 1000), 1.0)
    assert times(merge.take(1.3)) == [1000]
    merge.add(message(1, 0, 900), 2.0)
    merge.add(message(0, 1, 1100), 2.0)

    assert times(merge.take(2.3)) == [900, 1100]
    assert merge.disorder_count == 1


def test_the_order_within_a_queue_is_the_queue_s_whatever_the_clock_says():
    merge = make({0: (0, 3)})
    for offset, stored in enumerate((30, 10, 20)):
        merge.add(message(0, offset, stored), 0.0)

    assert [item.queue_offset for item in merge.take(0.0)] == [0, 1, 2]
    assert merge.disorder_count == 2


def test_a_queue_that_falls_silent_holds_the_others_back_for_a_while_only():
    """Retention may have taken what it still had to bring."""
    merge = make({0: (0, 1), 1: (0, 10)})
    merge.add(message(0, 0, 50), 0.5)

    assert merge.take(1.0) == []
    assert merge.give_up_on_silent(1.0) == []
    assert merge.next_time(1.0) == 0.5 + STALL_SECONDS
    assert merge.give_up_on_silent(0.5 + STALL_SECONDS) == [1]
    assert times(merge.take(3.0)) == [50]
    assert merge.is_at_end


def test_only_so_many_are_held_back(monkeypatch):
    monkeypatch.setattr(merge_module, "COUNT_MAX", 10)
    merge = make({0: (0, 100), 1: (0, 100)})
    for offset in range(15):
        merge.add(message(0, offset, offset), 0.0)

    assert len(merge.take(0.0)) == 5
    assert merge.count == 10


def test_the_end_lets_everything_go():
    merge = make({0: (0, 0), 1: (0, 0)})
    merge.add(message(0, 0, 2), 0.0)
    merge.add(message(1, 0, 1), 0.0)

    assert times(merge.take_all()) == [1, 2]
