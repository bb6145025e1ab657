"""How queues are shared out, as RocketMQ's clients do it."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from broker.client.rebalance import (
    Averagely,
    ByCircle,
    ByConfig,
    ByMachineRoom,
    ConsistentHash,
    MachineRoomNearby,
    QueueName,
    strategy_of,
)

MEMBERS = ["10.0.0.1@1", "10.0.0.1@2", "10.0.0.2@1"]


def queues(count, broker="g", topic="t"):
    return [QueueName(topic, broker, number) for number in range(count)]


def shares(strategy, members, found):
    return {name: [q.queue_id for q in strategy.share(name, members, found)] for name in members}


def test_averagely_gives_the_first_members_one_more():
    assert list(shares(Averagely(), MEMBERS, queues(8)).values()) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert list(shares(Averagely(), MEMBERS, queues(6)).values()) == [[0, 1], [2, 3], [4, 5]]
    assert list(shares(Averagely(), MEMBERS, queues(2)).values()) == [[0], [1], []]
    assert list(shares(Averagely(), MEMBERS, []).values()) == [[], [], []]


def test_by_circle_deals_them_out():
    assert list(shares(ByCircle(), MEMBERS, queues(8)).values()) == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert list(shares(ByCircle(), MEMBERS, queues(2)).values()) == [[0], [1], []]


def test_by_config_takes_what_it_was_told_and_shares_out_other_topics():
    told = ByConfig({"t": [1, 7]})
    assert list(shares(told, MEMBERS, queues(4)).values()) == [[1]] * 3
    assert list(shares(told, MEMBERS, queues(3, topic="%RETRY%g")).values()) == [[0], [1], [2]]


def test_by_machine_room_reads_only_rooms_it_was_told():
    found = sorted(queues(4, "a@g1") + queues(4, "b@g2") + queues(4, "plain"))
    rooms = ByMachineRoom(frozenset({"a"}))
    assert list(shares(rooms, MEMBERS, found).values()) == [[0, 3], [1], [2]]
    assert all(q.broker_name == "a@g1" for q in rooms.share(MEMBERS[0], MEMBERS, found))


def test_machine_room_nearby_shares_out_what_has_nobody_near():
    found = sorted(queues(4, "a@g1") + queues(3, "b@g2"))
    near = MachineRoomNearby(
        room_of_broker=lambda name: name.split("@")[0],
        room_of_member=lambda name: "a" if name.startswith("10.0.0.1") else "c",
    )
    first, second, third = (near.share(name, MEMBERS, found) for name in MEMBERS)
    assert [str(q.queue_id) + q.broker_name[0] for q in first] == ["0a", "1a", "0b"]
    assert [str(q.queue_id) + q.broker_name[0] for q in second] == ["2a", "3a", "1b"]
    assert [str(q.queue_id) + q.broker_name[0] for q in third] == ["2b"]


def routed(members, key, virtual_nodes=10):
    """RocketMQ's ``ConsistentHashRouter``, told from its source."""

    def place(text):
        number = 0
        for byte in hashlib.md5(text.encode()).digest()[:4]:
            number = number << 8 | byte
        return number

    ring = {}
    for name in members:
        for replica in range(virtual_nodes):
            ring[place(f"{name}-{replica}")] = name
    tail = [at for at in sorted(ring) if at >= place(key)]
    return ring[tail[0] if tail else min(ring)]


def test_consistent_hash_routes_as_rocketmq_does():
    for queue in queues(64):
        key = f"MessageQueue [topic=t, brokerName=g, queueId={queue.queue_id}]"
        owners = [
            name for name in MEMBERS if queue in ConsistentHash().share(name, MEMBERS, [queue])
        ]
        assert owners == [routed(MEMBERS, key)]


def test_consistent_hash_moves_nothing_between_those_who_stay():
    before = shares(ConsistentHash(), MEMBERS, queues(64))
    after = shares(ConsistentHash(), MEMBERS[:2], queues(64))
    for name in MEMBERS[:2]:
        assert set(before[name]) <= set(after[name])


@pytest.mark.parametrize("strategy", [Averagely(), ByCircle(), ConsistentHash()])
@pytest.mark.parametrize("member_count", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("queue_count", [0, 1, 4, 16, 17])
def test_each_queue_is_one_members(strategy, member_count, queue_count):
    members = sorted(f"host-{number}@{number * 7919}" for number in range(member_count))
    given = [q for share in shares(strategy, members, queues(queue_count)).values() for q in share]
    assert Counter(given) == Counter(range(queue_count))


def test_a_strategy_has_a_name_that_is_checked():
    assert strategy_of("circle") == ByCircle()
    with pytest.raises(ValueError, match="use one of averagely, circle"):
        strategy_of("fairly")
    with pytest.raises(ValueError, match="at least 1"):
        ConsistentHash(0)
