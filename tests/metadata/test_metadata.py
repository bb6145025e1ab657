"""Consumer offsets and groups as state machines; commands, snapshots, requests that come again."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import InvalidMessageError
from broker.metadata.consumer_offsets import commit_offsets, reset_offsets
from broker.metadata.queue_trims import trim_queues
from broker.metadata.state_machine import (
    ONCE_MAX,
    MetadataCommand,
    decode_commands,
    encode_commands,
)
from broker.metadata.subscription_groups import (
    create_group,
    delete_group,
    put_group,
)
from broker.metadata.topics import (
    TopicConfig,
    alter_topic,
    create_topic,
    delete_topic,
    put_topic,
)
from broker.protocol.subscription_group import SubscriptionGroupConfig
from dledger.errors import PoisonEntryError
from tests.metadata.conftest import apply, new_machine

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
    st.builds(
        lambda offsets, epoch, at: commit_offsets("g", "a", offsets, epoch=epoch, at_ms=at),
        st.dictionaries(st.integers(0, 3), st.integers(-1, 20)),
        st.one_of(st.none(), st.integers(0, 3)),
        st.integers(0, 9),
    ),
    st.builds(
        lambda topic, read: alter_topic(TopicConfig(topic=topic), {"read_queue_count": read}),
        st.sampled_from("abc"),
        st.integers(1, 9),
    ),
    st.builds(delete_topic, st.sampled_from("abct")),
    st.builds(delete_group, st.sampled_from("gh")),
    st.builds(
        lambda put, group, times: put(SubscriptionGroupConfig(group=group, retry_times_max=times)),
        st.sampled_from([put_group, create_group]),
        st.sampled_from("gh"),
        st.integers(0, 3),
    ),
)


def test_offsets_never_go_backwards_unless_reset(machine, offsets):
    assert apply(machine, commit_offsets("g", "t", {0: 5, 1: 7})) == [True]
    assert apply(machine, commit_offsets("g", "t", {0: 4, 1: 7})) == [False]
    assert offsets.get("g", "t", 0) == 5

    assert apply(machine, reset_offsets("g", "t", {0: 2})) == [[1, [[0, 2]]]]
    assert offsets.queues_of("g", "t") == {0: 2, 1: 7}
    assert apply(machine, reset_offsets("g", "t", {0: 2})) == [[2, [[0, 2]]]]


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
    one, other = new_machine(), new_machine(is_reversed=True)
    results = [apply(one, command) for command in some]
    again = []
    for number, command in enumerate(some):
        if number == restored_after:
            data = msgpack.packb(other.snapshot())
            other = new_machine()
            other.restore(msgpack.unpackb(data, strict_map_key=False))
        again.append(apply(other, command))

    assert again == results
    assert msgpack.packb(one.snapshot()) == msgpack.packb(other.snapshot())


def test_restoring_nothing_empties_every_part(machine, topics, offsets):
    apply(machine, put_topic(TopicConfig(topic="a")), commit_offsets("g", "t", {0: 1}))

    machine.restore(None)

    assert machine.snapshot() == new_machine().snapshot()


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
        msgpack.packb(
            [["offset.commit", {"group": "g", "topic": "t", "queues": [], "epoch": "1"}]]
        ),
        msgpack.packb([["topic.alter", {"read": 1}]]),
        msgpack.packb([["topic.alter", {"topic": "a", "colour": 1}]]),
        msgpack.packb([["topic.delete", {"topic": 1}]]),
        msgpack.packb([["topic.delete", {}]]),
        msgpack.packb([["group.put", {"group": "g", "colour": 1}]]),
        msgpack.packb([["group.put", {"group": "g", "retry_delays_ms": ["1"]}]]),
        msgpack.packb([["group.delete", {"group": 1}]]),
        msgpack.packb([["group.delete", {"group": "g", "once": "7"}]]),
    ],
)
def test_commands_this_version_does_not_know_are_poison(machine, body):
    with pytest.raises(PoisonEntryError):
        machine.apply_entry(body)


def test_commands_come_back_from_an_entry():
    some = [MetadataCommand("a", {"b": [1, 2]}), MetadataCommand("c", {})]

    assert decode_commands(memoryview(encode_commands(some))) == some


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
        {"consumer_offsets": [["g", "t", [[0, 5]], 1]]},
        {"consumer_offsets": [["g", "t", [[0, 5]], "1", 0]]},
        {"consumer_offsets": [1, [["g", "t"]]]},
        {"consumer_offsets": [1]},
        {"subscription_groups": [1, [["g"]]]},
        {"subscription_groups": [1, [["g", {"colour": 1}]]]},
        {"subscription_groups": [1, [[1, {}]]]},
        {"once": [["7", 1]]},
        {"once": [[7, [1]]]},
        {"once": [[7, [1, [[0]]]]]},
        {"once": [[7, [1, [[0, "1"]]]]]},
        {"once": [7]},
    ],
)
def test_a_snapshot_with_what_nobody_writes_is_refused(snapshot):
    """Taken as it is it would stop the node later, wherever it is used."""
    with pytest.raises((ValueError, TypeError)):
        new_machine().restore(snapshot)


# -- epochs ---------------------------------------------------------------------------------------


def test_a_late_commit_does_not_undo_a_reset(machine, offsets):
    apply(machine, commit_offsets("g", "t", {0: 50}, epoch=0))
    apply(machine, reset_offsets("g", "t", {0: 3}))

    assert apply(machine, commit_offsets("g", "t", {0: 60}, epoch=0)) == [False]
    assert offsets.get("g", "t", 0) == 3
    assert apply(machine, commit_offsets("g", "t", {0: 4}, epoch=1)) == [True]
    # Who knows nothing of epochs is taken as ever.
    assert apply(machine, commit_offsets("g", "t", {0: 9})) == [True]


def test_an_epoch_never_comes_again(machine, offsets):
    apply(machine, reset_offsets("g", "t", {0: 3}), delete_group("g"))
    assert (offsets.epoch("g", "t"), offsets.has_group("g")) == (0, False)

    apply(machine, reset_offsets("h", "t", {0: 3}), reset_offsets("g", "t", {0: 4}))

    assert (offsets.epoch("h", "t"), offsets.epoch("g", "t")) == (2, 3)


def test_the_last_commit_is_remembered(machine, offsets):
    apply(machine, commit_offsets("g", "t", {0: 3}, at_ms=70), commit_offsets("g", "t", {0: 4}))
    apply(machine, commit_offsets("g", "t", {1: 4}, at_ms=60))  # by the clock of another leader

    assert offsets.committed_ms("g", "t") == 70
    assert machine.snapshot()["consumer_offsets"] == [["g", "t", [[0, 4], [1, 4]], 0, 70]]


# -- groups ---------------------------------------------------------------------------------------


def test_a_group_is_created_changed_and_deleted():
    machine = new_machine()
    groups = machine._parts["subscription_groups"]
    mine = SubscriptionGroupConfig(group="g", retry_delays_ms=(1, 5), consume_enable=False)

    assert apply(machine, create_group(SubscriptionGroupConfig(group="g"))) == ["created"]
    assert apply(machine, create_group(mine), put_group(mine), put_group(mine)) == [
        "exists",
        "changed",
        "exists",
    ]
    assert machine.snapshot()["subscription_groups"] == [
        2,
        [["g", {"consume_enable": False, "retry_delays_ms": [1, 5]}]],
    ]
    machine.restore(msgpack.unpackb(msgpack.packb(machine.snapshot())))
    assert list(groups) == [mine]
    assert apply(machine, delete_group("g"), delete_group("g")) == ["deleted", "missing"]
    assert len(groups) == 0


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"group": "a b"}, "only letters"),
        ({"retry_times_max": -2}, "retryMaxTimes = -2"),
        ({"retry_queue_count": 1025}, "retryQueueNums"),
        ({"retry_delays_ms": (1,) * 65}, "number of retry delays"),
        ({"retry_delays_ms": (-1,)}, "a retry delay"),
    ],
)
def test_a_group_that_may_not_exist_is_refused_before_it_is_proposed(more, complaint):
    with pytest.raises(InvalidMessageError, match=complaint):
        put_group(SubscriptionGroupConfig(**{"group": "g", **more}))


# -- trimmed queues -------------------------------------------------------------------------------


def test_trims_are_handed_on_once_and_leave_no_piece_of_the_snapshot(machine):
    apply(machine, trim_queues("t", {1: 5, 0: 7}), trim_queues("u", {0: 1}))

    assert machine.take_trimmed_queues() == [("t", 0, 7), ("t", 1, 5), ("u", 0, 1)]
    assert machine.take_trimmed_queues() == []
    assert "queue_trims" not in machine.snapshot(), "older nodes would not know it"


@pytest.mark.parametrize(
    "args",
    [
        {"topic": "t"},
        {"topic": 5, "queues": []},
        {"topic": "t", "queues": [[0]]},
        {"topic": "t", "queues": [[0, "x"]]},
        {"topic": "t", "queues": [[-1, 5]]},
        {"topic": "t", "queues": [[0, -5]]},
        {"topic": "t", "queues": 7},
    ],
)
def test_a_trim_of_another_form_stops_the_node(machine, args):
    with pytest.raises(PoisonEntryError, match=r"queue\.trim"):
        apply(machine, MetadataCommand("queue.trim", args))


# -- requests that come again ----------------------------------------------------------------------


def test_a_request_that_comes_again_changes_nothing_and_comes_to_the_same(machine, offsets):
    """Resets that were sent again took a group back to where an earlier one had put it."""
    first = reset_offsets("g", "t", {0: 14}).only_once(7)
    done = [1, [[0, 14]]]
    second = reset_offsets("g", "t", {0: 1}).only_once(8)
    assert apply(machine, first, second) == [done, [2, [[0, 1]]]]

    assert apply(machine, first) == [done]
    assert (offsets.get("g", "t", 0), offsets.epoch("g", "t")) == (1, 2)
    machine.restore(msgpack.unpackb(msgpack.packb(machine.snapshot())))
    assert apply(machine, first) == [done]
    assert offsets.get("g", "t", 0) == 1


def test_a_deletion_that_comes_again_leaves_a_topic_created_since():
    machine = new_machine()
    topic = put_topic(TopicConfig(topic="t"))
    delete = delete_topic("t").only_once(7)
    assert apply(machine, topic, delete, topic, delete) == ["created", "deleted"] * 2

    assert machine.take_deleted_topics() == ["t"]
    assert machine.snapshot()["topics"][1] == [["t", 4, 4, 6]]


def test_so_many_requests_are_remembered_and_no_more(machine):
    for number in range(ONCE_MAX + 1):
        apply(machine, reset_offsets("g", "t", {0: 1}).only_once(number))

    assert apply(machine, reset_offsets("g", "t", {0: 1}).only_once(1)) == [[2, [[0, 1]]]]
    again = reset_offsets("g", "t", {0: 1}).only_once(0)
    assert apply(machine, again) == [[ONCE_MAX + 2, [[0, 1]]]]
    assert len(machine.snapshot()["once"]) == ONCE_MAX
