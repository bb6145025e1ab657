"""Who holds a queue: commands in order, what goes with a topic, snapshots."""

import pytest

from broker.groups.locks import NOBODY, QueueLock, QueueLocks, free_locks, take_locks
from broker.metadata.state_machine import StateMachine, encode_commands
from broker.metadata.subscription_groups import SubscriptionGroups, create_group, delete_group
from broker.metadata.topics import TopicConfig, Topics, create_topic, delete_topic
from broker.protocol.subscription_group import SubscriptionGroupConfig
from dledger.errors import PoisonEntryError

ONE, TWO = QueueLock("g", "t", 0), QueueLock("g", "t", 1)


def apply(locks, *commands):
    machine = StateMachine([locks, Topics(), SubscriptionGroups()])
    return machine.apply_entry(encode_commands(commands))


def test_the_first_in_the_log_gets_it():
    locks = QueueLocks()

    results = apply(
        locks,
        take_locks("a", "g", {ONE: NOBODY, TWO: NOBODY}),
        take_locks("b", "g", {ONE: NOBODY}),
    )

    assert results == [2, 0]
    assert locks.holder(ONE) == "a"


def test_a_lock_that_has_run_out_is_taken_from_whom_it_was():
    locks = QueueLocks()
    apply(locks, take_locks("a", "g", {ONE: NOBODY}))

    assert apply(locks, take_locks("b", "g", {ONE: "a"}), take_locks("c", "g", {ONE: "a"})) == [
        1,
        0,
    ]
    assert locks.holder(ONE) == "b"


def test_only_its_holder_frees_it():
    locks = QueueLocks()
    apply(locks, take_locks("a", "g", {ONE: NOBODY}))

    assert apply(locks, free_locks("b", "g", [ONE]), free_locks("a", "g", [ONE])) == [0, 1]
    assert locks.holder(ONE) == NOBODY


def test_who_wanted_what_is_given_back_is_named_once():
    locks = QueueLocks()
    apply(locks, take_locks("a", "g", {ONE: NOBODY}))
    apply(locks, free_locks("a", "g", [ONE], ["c", "b", "c"]))

    assert locks.take_wanted_by() == {("g", "b"), ("g", "c")}
    assert locks.take_wanted_by() == set()
    assert "wanted_by" not in free_locks("a", "g", [ONE]).args, "as before there was one"


def test_who_wanted_what_is_free_already_is_named_by_a_command_that_frees_nothing():
    locks = QueueLocks()
    apply(locks, take_locks("a", "g", {ONE: NOBODY}))

    assert apply(locks, free_locks("a", "g", [], ["b"])) == [0]
    assert locks.take_wanted_by() == {("g", "b")}
    assert locks.holder(ONE) == "a"


def test_groups_lock_the_same_queue_each_for_itself():
    locks = QueueLocks()
    apply(locks, take_locks("a", "g", {ONE: NOBODY}))
    other = QueueLock("h", "t", 0)
    apply(locks, take_locks("b", "h", {other: NOBODY}))

    assert (locks.holder(ONE), locks.holder(other)) == ("a", "b")


@pytest.mark.parametrize("gone", [delete_topic("t"), delete_group("g")])
def test_what_is_gone_needs_no_lock(gone):
    locks = QueueLocks()
    apply(locks, take_locks("a", "g", {ONE: NOBODY}))
    apply(locks, gone)

    assert locks.all() == []


@pytest.mark.parametrize("gone", [delete_topic("t"), delete_group("g")])
def test_a_lock_on_its_way_behind_a_deletion_is_none(gone):
    """It stayed, with nobody left to free it, and a group made again began with it."""
    topics, groups = Topics(), SubscriptionGroups()
    locks = QueueLocks(topics=topics, group_exists=groups.__contains__)
    machine = StateMachine([locks, topics, groups])
    create = create_topic(TopicConfig(topic="t", read_queue_count=1, write_queue_count=1))
    found = create_group(SubscriptionGroupConfig(group="g"))

    *_, kept, _, late = machine.apply_entry(
        encode_commands(
            [
                create,
                found,
                take_locks("a", "g", {TWO: NOBODY}),
                gone,
                take_locks("a", "g", {ONE: NOBODY}),
            ]
        )
    )

    assert (kept, late) == (1, 0)
    assert locks.all() == []


def test_a_snapshot_brings_back_the_same():
    locks, again = QueueLocks(), QueueLocks()
    apply(locks, take_locks("b", "g", {TWO: NOBODY}), take_locks("a", "g", {ONE: NOBODY}))
    again.restore(locks.snapshot())

    assert again.snapshot() == locks.snapshot()
    assert again.holder(TWO) == "b"


@pytest.mark.parametrize("row", [["g", "t", 0], ["g", "t", "0", "c"], [1, "t", 0, "c"]])
def test_a_snapshot_of_another_form_is_none(row):
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        QueueLocks().restore([row])


def test_a_command_of_another_form_is_none():
    command = take_locks("a", "g", {ONE: NOBODY})
    with pytest.raises(PoisonEntryError):
        apply(QueueLocks(), command._replace(args={**command.args, "client": 5}))


def test_who_asks_again_takes_it_from_itself_and_how_is_kept():
    locks, copy = QueueLocks(), QueueLocks()
    results = apply(
        locks,
        take_locks("a", "g", {ONE: NOBODY, TWO: NOBODY}, {ONE: {"n1": 1.0}, TWO: {"n1": 1.0}}),
        take_locks("a", "g", {ONE: "a"}, {ONE: {"n1": 1.0, "n2": 5.5}}),
        take_locks("b", "g", {ONE: NOBODY}, {ONE: {"n3": 9.0}}),
        free_locks("a", "g", [TWO]),
    )
    copy.restore(locks.snapshot())

    assert results == [2, 1, 0, 1]
    for found in (locks, copy):
        assert found.all() == [ONE]
        assert found.asked() == {ONE: {"n1": 1.0, "n2": 5.5}}


def test_a_lock_of_an_older_state_tells_not_how_it_was_asked_for():
    locks = QueueLocks()
    locks.restore([["g", "t", 0, "a"]])

    assert (locks.holder(ONE), locks.asked()) == ("a", {})


@pytest.mark.parametrize("asked", [{"n1": "x"}, {1: 1.0}, [], 7])
def test_how_a_lock_was_asked_for_is_checked(asked):
    with pytest.raises(ValueError, match="asked for"):
        QueueLocks().restore([["g", "t", 0, "a", asked]])
