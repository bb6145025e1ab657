"""Topics and consumer offsets as state machines."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import InvalidTopicError
from broker.metadata.consumer_offsets import ConsumerOffsets, commit_offsets, reset_offsets
from broker.metadata.state_machine import (
    MetadataCommand,
    StateMachine,
    decode_commands,
    encode_commands,
)
from broker.metadata.topic_config import attribute_values
from broker.metadata.topics import TopicConfig, Topics, create_topic, put_topic
from broker.protocol.topic_attributes import format_attributes, parse_attributes
from dledger.errors import PoisonEntryError

commands = st.one_of(
    st.builds(
        lambda put, topic, read, perm: put(
            TopicConfig(topic=topic, read_queue_count=read, perm=perm)
        ),
        st.sampled_from([put_topic, create_topic]),
        st.sampled_from("abc"),
        st.integers(1, 9),
        st.integers(0, 7),
    ),
    st.builds(
        lambda commit, group, offsets: commit(group, "t", offsets),
        st.sampled_from([commit_offsets, reset_offsets]),
        st.sampled_from("gh"),
        st.dictionaries(st.integers(0, 3), st.integers(-1, 20)),
    ),
)


@pytest.fixture
def topics():
    return Topics()


@pytest.fixture
def offsets():
    return ConsumerOffsets()


@pytest.fixture
def machine(topics, offsets):
    return StateMachine([topics, offsets])


def apply(machine, *some):
    return machine.apply_entry(encode_commands(some))


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


def test_offsets_never_go_backwards_unless_reset(machine, offsets):
    assert apply(machine, commit_offsets("g", "t", {0: 5, 1: 7})) == [True]
    assert apply(machine, commit_offsets("g", "t", {0: 4, 1: 7})) == [False]
    assert offsets.get("g", "t", 0) == 5

    assert apply(machine, reset_offsets("g", "t", {0: 2})) == [True]
    assert offsets.queues_of("g", "t") == {0: 2, 1: 7}
    assert apply(machine, reset_offsets("g", "t", {0: 2})) == [False]


def test_groups_and_topics_do_not_mix(machine, offsets):
    apply(machine, commit_offsets("g", "t", {0: 5}), commit_offsets("h", "t", {0: 1}))

    assert offsets.get("g", "t", 0) == 5
    assert offsets.get("g", "t", 1) is None
    assert offsets.get("g", "u", 0) is None
    assert list(offsets.groups()) == [("g", "t"), ("h", "t")]


def test_a_commit_of_offset_0_is_one_and_of_minus_1_is_none(machine, offsets):
    apply(machine, commit_offsets("g", "t", {0: 0, 1: -1}))

    assert offsets.queues_of("g", "t") == {0: 0}


@given(st.lists(commands, max_size=30), st.integers(0, 30))
def test_a_snapshot_says_everything_and_is_the_same_on_every_node(some, restored_after):
    one = StateMachine([Topics(), ConsumerOffsets()])
    other = StateMachine([ConsumerOffsets(), Topics()])
    results = [apply(one, command) for command in some]
    again = []
    for number, command in enumerate(some):
        if number == restored_after:
            data = msgpack.packb(other.snapshot())
            other = StateMachine([Topics(), ConsumerOffsets()])
            other.restore(msgpack.unpackb(data, strict_map_key=False))
        again.append(apply(other, command))

    assert again == results
    assert msgpack.packb(one.snapshot()) == msgpack.packb(other.snapshot())


def test_restoring_nothing_empties_every_part(machine, topics, offsets):
    apply(machine, put_topic(TopicConfig(topic="a")), commit_offsets("g", "t", {0: 1}))

    machine.restore(None)

    assert machine.snapshot() == StateMachine([Topics(), ConsumerOffsets()]).snapshot()


def test_a_snapshot_with_a_part_of_a_newer_version_is_refused(machine):
    with pytest.raises(ValueError, match="timers"):
        machine.restore({"timers": []})


def test_a_part_an_older_snapshot_does_not_have_begins_empty(machine, topics):
    machine.restore({"topics": [3, [["a", 1, 2, 6]]]})

    assert topics.version == 3
    assert machine.snapshot()["consumer_offsets"] == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgpack.packb(5),
        msgpack.packb([5]),
        msgpack.packb([[1, {}]]),
        msgpack.packb([["topic.put", []]]),
        msgpack.packb([["no.such", {}]]),
        msgpack.packb([["topic.put", {"name": "a"}]]),
        msgpack.packb([["topic.put", {"topic": "a", "read": 1, "write": 1}]]),
        msgpack.packb(
            [["topic.put", {"topic": "a", "read": 1, "write": 1, "perm": 6, "colour": 1}]]
        ),
        msgpack.packb([["offset.commit", {"group": "g", "topic": "t", "queues": [1]}]]),
    ],
)
def test_commands_this_version_does_not_know_are_poison(machine, body):
    with pytest.raises(PoisonEntryError):
        machine.apply_entry(body)


def test_commands_come_back_from_an_entry():
    some = [MetadataCommand("a", {"b": [1, 2]}), MetadataCommand("c", {})]

    assert decode_commands(memoryview(encode_commands(some))) == some


def test_a_topic_never_loses_a_queue_that_can_be_read(machine, topics):
    """A late command of somebody who knew fewer queues put stored messages out of reach."""
    wide = TopicConfig(topic="orders", read_queue_count=8, write_queue_count=8)
    narrow = TopicConfig(topic="orders", read_queue_count=4, write_queue_count=4)

    apply(machine, put_topic(wide), put_topic(narrow))

    found = topics.get("orders")
    assert (found.read_queue_count, found.write_queue_count) == (8, 4)


@pytest.mark.parametrize(
    "snapshot",
    [
        7,
        {"topics": [1, [["t", "4", 4, 6]]]},
        {"topics": [1, [[["t"], 4, 4, 6]]]},
        {"topics": [1, [["t", 4, 4]]]},
        {"topics": [1, [["t", 4, 4, 6, {"colour": 1}]]]},
        {"topics": [1, [["t", 4, 4, 6, {"acks": 1}]]]},
        {"topics": [1, [["t", 4, 4, 6, {"read": 1}]]]},
        {"topics": [1, [["t", 4, 4, 6, 7]]]},
        {"topics": [1, [["t", 4, 4, 6, {}, {}]]]},
        {"topics": 7},
        {"consumer_offsets": [["g", "t", [[0, "5"]]]]},
        {"consumer_offsets": [[1, "t", [[0, 5]]]]},
        {"consumer_offsets": [["g", "t", [[[0], 5]]]]},
        {"consumer_offsets": [["g", "t"]]},
    ],
)
def test_a_snapshot_with_what_nobody_writes_is_refused(snapshot):
    """Taken as it is it would stop the node later, wherever it is used."""
    machine = StateMachine([Topics(), ConsumerOffsets()])

    with pytest.raises((ValueError, TypeError)):
        machine.restore(snapshot)
