"""Topics as a state machine: created, changed, altered and deleted, with all they have."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest

from broker.errors import InvalidTopicError
from broker.metadata.consumer_offsets import commit_offsets, reset_offsets
from broker.metadata.state_machine import (
    MetadataCommand,
)
from broker.metadata.topic_config import attribute_values
from broker.metadata.topics import (
    TopicConfig,
    alter_topic,
    create_topic,
    delete_topic,
    put_topic,
)
from broker.protocol.topic_attributes import format_attributes, parse_attributes
from tests.metadata.conftest import apply, new_machine


def test_a_topic_is_created_changed_and_found(machine, topics):
    first = TopicConfig(topic="orders")
    second = TopicConfig(topic="orders", read_queue_count=8, write_queue_count=8, perm=4)

    assert apply(machine, put_topic(first)) == ["created"]
    assert apply(machine, put_topic(first), put_topic(second)) == ["exists", "changed"]

    assert topics.get("orders") == second
    assert topics.get("other") is None
    assert (len(topics), topics.version) == (1, 2)
    assert (second.is_readable, second.is_writable) == (True, False)


def test_creating_a_topic_that_is_there_changes_nothing(machine, topics):
    mine, other = (TopicConfig(topic="orders", read_queue_count=n) for n in (4, 9))

    assert apply(machine, create_topic(mine), create_topic(other)) == ["created", "exists"]
    assert topics.get("orders") == mine


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (TopicConfig(topic="a b"), "only letters"),
        (TopicConfig(topic="a", read_queue_count=0), "0 read queues; allowed are 1 to 1024"),
        (TopicConfig(topic="a", write_queue_count=1025), "1025 write queues"),
        (TopicConfig(topic="a", perm=8), "perm 8"),
    ],
)
def test_a_topic_that_may_not_exist_is_refused_before_it_is_proposed(config, complaint):
    for command in (put_topic, create_topic):
        with pytest.raises(InvalidTopicError, match=complaint):
            command(config)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"retention_ms": -1}, "retention.ms = -1"),
        ({"retention_bytes": 1 << 61}, "retention.bytes"),
        ({"acks": "one"}, "acks = 'one'; use leader, majority, all"),
        ({"flush": "never"}, "flush = 'never'; use sync, async"),
        ({"filter_type": "X"}, "filter type"),
    ],
)
def test_an_attribute_out_of_range_is_refused_before_it_is_proposed(more, complaint):
    with pytest.raises(InvalidTopicError, match=complaint):
        put_topic(TopicConfig(topic="a", **more))


EVERYTHING = TopicConfig(
    topic="orders",
    order=True,
    filter_type="MULTI_TAG",
    system_flag=1,
    retention_ms=5,
    retention_bytes=7,
    acks="all",
    flush="async",
)


def test_everything_a_topic_has_comes_back_from_a_snapshot(machine, topics):
    apply(machine, put_topic(EVERYTHING), put_topic(TopicConfig(topic="plain")))
    data = msgpack.packb(machine.snapshot())

    machine.restore(None)
    machine.restore(msgpack.unpackb(data))

    assert list(topics) == [EVERYTHING, TopicConfig(topic="plain")]


def test_a_topic_with_queues_alone_is_written_as_older_versions_wrote_it(machine):
    apply(machine, put_topic(TopicConfig(topic="a")))

    assert machine.snapshot()["topics"] == [1, [["a", 4, 4, 6]]]


def test_a_put_keeps_what_it_does_not_name(machine, topics):
    apply(machine, put_topic(EVERYTHING))
    older = MetadataCommand("topic.put", {"topic": "orders", "read": 9, "write": 9, "perm": 4})
    apply(machine, older)
    assert topics.get("orders") == replace(
        EVERYTHING, read_queue_count=9, write_queue_count=9, perm=4
    )

    wanted = TopicConfig(topic="orders", read_queue_count=9, write_queue_count=9, flush="sync")
    apply(machine, put_topic(wanted, keep=["acks", "retention_ms", "retention_bytes"]))
    assert topics.get("orders") == replace(
        wanted, acks="all", retention_ms=5, retention_bytes=7, order=False
    )


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("+retention.ms=259200000,+acks=majority", {"retention_ms": 259200000, "acks": "majority"}),
        (" -acks , +flush=sync", {"acks": "", "flush": "sync"}),
        ("-retention.bytes", {"retention_bytes": 0}),
    ],
)
def test_attributes_are_read_as_rocketmq_writes_them(text, values):
    assert attribute_values(text) == values
    assert attribute_values(format_attributes(parse_attributes(text))) == values


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("acks=all", "is none"),
        ("+acks", "is none"),
        ("-acks=all", "is none"),
        ("+acks=all,-acks", "named twice"),
        ("+colour=red", "known are retention.ms, retention.bytes, acks, flush"),
        ("+retention.ms=3d", "no whole number"),
    ],
)
def test_attributes_that_are_none_are_refused(text, complaint):
    with pytest.raises(InvalidTopicError, match=complaint):
        attribute_values(text)


def test_a_topic_never_loses_a_queue_that_can_be_read(machine, topics):
    """A late command of somebody who knew fewer queues put stored messages out of reach."""
    wide = TopicConfig(topic="orders", read_queue_count=8, write_queue_count=8)
    narrow = TopicConfig(topic="orders", read_queue_count=4, write_queue_count=4)

    apply(machine, put_topic(wide), put_topic(narrow))

    found = topics.get("orders")
    assert (found.read_queue_count, found.write_queue_count) == (8, 4)


# -- topics altered and deleted -------------------------------------------------------------------


def test_a_topic_is_altered_in_what_is_named(machine, topics):
    apply(machine, put_topic(EVERYTHING))

    assert apply(machine, alter_topic(EVERYTHING, {"perm": 4, "acks": ""})) == ["changed"]
    assert topics.get("orders") == replace(EVERYTHING, perm=4, acks="")
    missing = alter_topic(TopicConfig(topic="gone"), {"perm": 4})
    assert apply(machine, missing) == ["missing"]
    assert topics.get("gone") is None


def test_a_change_that_makes_no_topic_is_refused_before_it_is_proposed():
    with pytest.raises(InvalidTopicError, match="perm 9"):
        alter_topic(TopicConfig(topic="a"), {"perm": 9})


def test_a_deleted_topic_takes_what_was_committed_along():
    machine = new_machine()
    apply(
        machine,
        put_topic(TopicConfig(topic="t")),
        put_topic(TopicConfig(topic="u")),
        commit_offsets("g", "t", {0: 5}),
        commit_offsets("g", "u", {0: 6}),
    )

    assert apply(machine, delete_topic("t"), delete_topic("t")) == ["deleted", "missing"]
    assert machine.take_deleted_topics() == ["t"]
    assert machine.take_deleted_topics() == []
    assert machine.snapshot()["consumer_offsets"] == [["g", "u", [[0, 6]]]]
    # One that was on its way: there is no topic it could belong to.
    assert apply(machine, commit_offsets("g", "t", {0: 9}), reset_offsets("g", "t", {0: 9})) == [
        False,
        [0, []],
    ]
    assert machine.snapshot()["consumer_offsets"] == [["g", "u", [[0, 6]]]]


def test_the_queues_of_all_topics_are_counted(machine, topics):
    wide = TopicConfig(topic="a", read_queue_count=2, write_queue_count=7)
    apply(machine, put_topic(wide), put_topic(TopicConfig(topic="b")))
    assert topics.queue_count == 11
    apply(machine, put_topic(replace(wide, write_queue_count=3)), delete_topic("b"))
    assert topics.queue_count == 3
    machine.restore(machine.snapshot())
    assert topics.queue_count == 3
