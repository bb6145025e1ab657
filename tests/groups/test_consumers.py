"""Who is in a group: joining, leaving, snapshots, and what changed."""

import pytest

from broker.groups.consumers import UNKNOWN, Consumers, Origin, join_group, leave_group
from broker.metadata.state_machine import StateMachine, encode_commands
from broker.protocol.heartbeat import ConsumerData, Subscription
from dledger.errors import PoisonEntryError

DATA = ConsumerData(group="g", subscriptions=(Subscription(topic="t", expression="a || b"),))
OTHER = ConsumerData(group="h", message_model="BROADCASTING")


def apply(members, *commands):
    return StateMachine([members]).apply_entry(encode_commands(commands))


def test_members_come_and_go():
    members = Consumers()

    came = apply(members, join_group("c1", DATA), join_group("c2", DATA), join_group("c1", OTHER))
    assert came == [True, True, True]
    assert sorted(members.of("g")) == ["c1", "c2"]
    assert members.get("g", "c1") == DATA
    assert len(members) == 3

    assert apply(members, leave_group("c1", "g"), leave_group("c1", "g")) == [True, False]
    assert sorted(members.of("g")) == ["c2"]
    assert len(members) == 2


def test_the_groups_of_a_client_are_known():
    consumers, again = Consumers(), Consumers()
    apply(consumers, join_group("c1", DATA), join_group("c1", OTHER), join_group("c2", DATA))
    again.restore(consumers.snapshot())

    for found in (consumers, again):
        assert found.groups_of("c1") == ["g", "h"]
        apply(found, leave_group("c1", "g"), leave_group("c2", "g"))
        assert found.groups_of("c1") == ["h"]
        assert found.groups_of("c2") == []


def test_a_group_without_members_is_forgotten():
    members = Consumers()
    apply(members, join_group("c1", DATA), leave_group("c1", "g"))

    assert members.groups() == []
    assert members.snapshot() == []


def test_only_what_is_new_is_a_change():
    members = Consumers()
    apply(members, join_group("c1", DATA))
    assert members.take_changed() == {"g"}
    assert members.take_changed() == set()

    assert apply(members, join_group("c1", DATA)) == [False]
    assert members.take_changed() == set()

    reads_more = ConsumerData(group="g", subscriptions=())
    assert apply(members, join_group("c1", reads_more)) == [True]
    assert members.take_changed() == {"g"}


def test_a_snapshot_brings_back_the_same():
    members, again = Consumers(), Consumers()
    apply(members, join_group("c2", DATA), join_group("c1", DATA), join_group("c1", OTHER))
    again.restore(members.snapshot())

    assert again.snapshot() == members.snapshot()
    assert again.get("g", "c2") == DATA
    assert len(again) == 3


def test_what_a_snapshot_takes_away_has_changed_too():
    """A node that was behind takes over the state whole: its clients must hear of it."""
    members = Consumers()
    apply(members, join_group("c1", DATA))
    members.take_changed()
    other = Consumers()
    apply(other, join_group("c1", OTHER))

    members.restore(other.snapshot())

    assert members.take_changed() == {"g", "h"}


@pytest.mark.parametrize(
    "spoilt", [{"group": 1}, {"client": None}, {"subscriptions": [["t", "TAG", 3]]}, {"type": b""}]
)
def test_a_command_of_another_form_is_none(spoilt):
    command = join_group("c", DATA)
    with pytest.raises(PoisonEntryError):
        apply(Consumers(), command._replace(args={**command.args, **spoilt}))


@pytest.mark.parametrize(
    "row", [["g"], ["g", "c", "t", "m", 5, []], ["g", "c", "t", "m", "w", [1]]]
)
def test_a_snapshot_of_another_form_is_none(row):
    with pytest.raises((ValueError, TypeError)):
        Consumers().restore([row])


ORIGIN = Origin(0, 409, "10.0.0.1:5")


def test_what_a_consumer_is_comes_along_and_goes_with_it():
    """Of two groups it may be two programs that go by one id."""
    consumers, again = Consumers(), Consumers()
    other = Origin(1, 300, "10.0.0.1:6")
    apply(consumers, join_group("c1", DATA, ORIGIN), join_group("c1", OTHER, other))
    again.restore(consumers.snapshot())

    for found in (consumers, again):
        assert found.origin("g", "c1") == ORIGIN
        apply(found, leave_group("c1", "g"))
        assert found.origin("g", "c1") == UNKNOWN
        assert found.origin("h", "c1") == other


def test_a_new_origin_alone_is_no_change_that_others_hear_of():
    consumers = Consumers()
    apply(consumers, join_group("c1", DATA))
    consumers.take_changed()

    assert apply(consumers, join_group("c1", DATA, ORIGIN)) == [False]
    assert consumers.take_changed() == set()
    assert consumers.origin("g", "c1") == ORIGIN


def test_rows_from_before_there_were_origins_are_read():
    consumers = Consumers()
    row = ["g", "c1", "CONSUME_PASSIVELY", "CLUSTERING", "CONSUME_FROM_LAST_OFFSET", []]
    consumers.restore([row])

    assert consumers.origin("g", "c1") == UNKNOWN
    assert consumers.snapshot() == [row]


@pytest.mark.parametrize("origin", [[1, 2], ["1", 2, "x"], [1, 2, 3], 7])
def test_an_origin_that_is_none_is_refused(origin):
    row = ["g", "c1", "CONSUME_PASSIVELY", "CLUSTERING", "CONSUME_FROM_LAST_OFFSET", [], origin]
    with pytest.raises((ValueError, TypeError)):
        Consumers().restore([row])


def test_the_groups_that_read_a_topic():
    consumers = Consumers()
    apply(consumers, join_group("c1", DATA), join_group("c1", OTHER))

    assert consumers.readers_of("t") == ["g"]
    assert consumers.readers_of("u") == []
