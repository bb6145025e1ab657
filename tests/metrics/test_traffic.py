"""What is counted of messages as they pass, and that strangers cannot make it grow."""

import struct

from broker.metrics.traffic import OTHER, PAIRS_MAX, TOPICS_MAX, Traffic
from broker.store.runs import RecordRun


def run(topic, *sizes):
    units = b"".join(struct.pack(">qiq", 0, size, 0) for size in sizes)
    return RecordRun(topic, 0, len(sizes), 0, 0, 0, units, None, sum(sizes), max(sizes), (), ())


def leading():
    traffic = Traffic()
    traffic.leads = lambda: True
    return traffic


def test_messages_and_bytes_are_counted_by_topic():
    traffic = leading()

    traffic.dispatch_runs([run("a", 100)], None)
    traffic.dispatch_runs([run("a", *[200] * 10)], None)
    traffic.dispatch_runs([run("b", *range(1000, 3000, 100))], None)

    assert (traffic.arrived["a"].messages, traffic.arrived["a"].size) == (11, 2100)
    assert (traffic.arrived["b"].messages, traffic.arrived["b"].size) == (20, 39_000)
    assert traffic.sizes.count == 31
    assert traffic.sizes.sum == 41_100
    assert traffic.sizes.cumulative()[0] == 12  # up to 1 KiB: all of a, and one of b


def test_a_node_that_does_not_lead_counts_nothing_that_comes_in():
    traffic = Traffic()

    traffic.dispatch_runs([run("a", 100)], None)

    assert not traffic.arrived
    assert not traffic.sizes.count


def test_names_beyond_the_bound_share_one():
    traffic = leading()

    for number in range(TOPICS_MAX + 10):
        traffic.dispatch_runs([run(f"t{number}", 1)], None)
    for number in range(PAIRS_MAX + 10):
        traffic.serve("t", f"g{number}", messages=1, size=1)

    assert len(traffic.arrived) == TOPICS_MAX + 1
    assert traffic.arrived[OTHER].messages == 10
    assert len(traffic.served) == PAIRS_MAX + 1
    assert traffic.served[OTHER, OTHER].messages == 10


def test_names_that_wait_are_shared_and_bounded():
    traffic = Traffic()
    first = traffic.shared_name("billing")

    assert traffic.shared_name("".join(["bill", "ing"])) is first
    for number in range(PAIRS_MAX + 10):
        traffic.shared_name(f"g{number}")
    assert traffic.shared_name("one too many") == OTHER
    assert traffic.shared_name("billing") is first


def test_topics_that_are_gone_make_room():
    traffic = leading()
    traffic.dispatch_runs([run("old", 1)], None)
    traffic.serve("old", "g", messages=1, size=1)
    traffic.dispatch_runs([run("new", 1)], None)

    traffic.forget_all_but({"new"})

    assert list(traffic.arrived) == ["new"]
    assert not traffic.served
