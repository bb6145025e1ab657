"""Frames of sends to many queues, read together: the same log and answers as one by one."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from broker.metadata.topics import TopicConfig
from broker.metrics.rpc import OpenRequests
from broker.protocol.response_code import ResponseCode
from dledger.config import StoreConfig
from dledger.durability import Copies, Durability
from dledger.errors import LedgerFullError
from dledger.remoting.command import FLAG_GROUPED, FLAG_ONEWAY, Command
from tests.handlers.send_bench import Broker, Clock, send


def spread_frames(seed: int) -> list[Command]:
    """Return sends to many queues, whose frames have headers of different lengths."""
    chance = random.Random(seed)
    sequences: dict[tuple[str, int, int], int] = {}
    commands = []
    first = chance.choice((0, 120, 65_500, 1 << 30))
    begins = chance.choice((0, 0, 120, 250))
    for opaque in range(first, first + chance.randrange(80, 250)):
        topic, queue_id = chance.choice(("t", "u", "longer")), chance.randrange(64)
        producer_id, count = chance.choice((0, 7, 8 << 40)), chance.choice((1, 1, 1, 3))
        key = topic, queue_id, producer_id
        sequence = sequences.get(key, begins)
        sequences[key] = sequence + count
        if chance.random() < 0.02:
            sequence = max(0, sequence + chance.choice((-1, 1, 5)))
        command = send(
            opaque, sequence, topic=topic, queue_id=queue_id, producer_id=producer_id,
            count=count, body=chance.randbytes(chance.choice((0, 3, 200))),
        )  # fmt: skip
        if chance.random() < 0.01:
            damaged = bytearray(command.body)  # type: ignore[arg-type]
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            command.body = memoryview(bytes(damaged))
        if chance.random() < 0.01:
            command.ext_fields[chance.choice(("topic", "queueId", "sizes"))] = chance.choice(
                (None, "v", -1, 64, b"", b"abcd")
            )
        if chance.random() < 0.01:
            command.ext_fields |= chance.choice(
                ({"acks": "majority"}, {"flush": "sync"}, {"more": 1}, {"producerId": 1 << 63})
            )
        if chance.random() < 0.01:
            command.flag = chance.choice((0, FLAG_GROUPED | FLAG_ONEWAY))
        if chance.random() < 0.01:
            command.remark = "a word"
        commands.append(command)
    return commands


def spread_broker() -> Broker:
    broker = Broker()
    broker.topics["longer"] = TopicConfig(topic="longer", write_queue_count=64)
    return broker


@pytest.mark.parametrize("seed", range(60))
def test_frames_to_many_queues_become_the_log_and_the_answers_they_become_singly(seed: int) -> None:
    commands = spread_frames(seed)
    together, singly = spread_broker(), spread_broker()

    together.receive_frames(commands)
    singly.receive_one_by_one(commands)
    for one in (together, singly):
        one.ledger.commit()

    assert b"".join(together.ledger.bodies) == b"".join(singly.ledger.bodies)
    assert together.acks == singly.acks
    assert together.sends.message_count == singly.sends.message_count
    assert together.session.inflight_size == singly.session.inflight_size == 0


def test_frames_to_many_queues_are_one_put_and_one_frame_of_acks(way: str) -> None:
    """Of any lengths: topics' names, numbers, records."""
    names = ["t" * (1 + n % 9) for n in range(200)]
    commands = [
        send(n, 0, topic=names[n], queue_id=n // 9, producer_id=n, body=b"b" * (n % 7))
        for n in range(200)
    ]
    broker = Broker()
    broker.topics.update({name: TopicConfig(topic=name, write_queue_count=64) for name in names})

    count = broker.receive_frames(commands)

    (proposal,) = broker.ledger.proposals
    assert (count, proposal.put_count) == ((1, 1) if way == "compiled" else (0, 200))
    assert broker.session.inflight_size == sum(len(command.body) for command in commands)
    broker.ledger.commit()
    assert len(broker.session.replies) == 1
    assert [ack[:3] for ack in broker.acks] == [(n, 0, n // 9) for n in range(200)]
    assert broker.session.inflight_size == 0


@pytest.mark.usefixtures("way")
def test_frames_to_the_queues_of_one_topic_are_put_in_the_order_they_came() -> None:
    """They are alike, and too few for each queue to be gathered."""
    commands = [send(70_000 + n, n // 40, queue_id=n % 40) for n in range(100)]
    together, singly = Broker(), Broker()
    together.receive_frames(commands)
    singly.receive_one_by_one(commands)
    for one in (together, singly):
        one.ledger.commit()

    assert together.ledger.bodies == singly.ledger.bodies
    assert together.acks == singly.acks


@pytest.mark.usefixtures("way")
def test_frames_to_many_queues_that_are_not_written_are_handed_on_or_told() -> None:
    commands = [send(n, 0, topic="tu"[n % 2], queue_id=n // 2) for n in range(80)]
    held, lost, short = Broker(), Broker(), Broker()
    held.ledger.core.unfinished_count = 4  # so that nothing is sealed
    held.receive_frames(commands)
    held.ledger.is_leader = False
    held.queue.refresh()
    lost.receive_frames(commands)
    lost.ledger.lose()
    lost.answers.send()
    short.ledger.is_leader = False
    short.receive_frames(commands)

    assert [command.opaque for command in held.forwarder.held] == list(range(80))
    assert [ack[:2] for ack in lost.acks] == [(n, ResponseCode.OUTCOME_UNKNOWN) for n in range(80)]
    assert [command.opaque for command in short.forwarder.held] == list(range(80))
    assert held.session.inflight_size == lost.session.inflight_size == 0


@pytest.mark.usefixtures("way")
def test_frames_to_many_queues_hear_when_less_was_reached_than_asked_for() -> None:
    commands = [send(n, 0, topic="tu"[n % 2], queue_id=n // 2) for n in range(80)]
    broker = Broker()
    broker.receive_frames(commands)
    broker.ledger.core.engine.levels.of_commit = Durability(Copies.LEADER, synced=False)
    broker.ledger.core.engine.peer_ids = ()
    broker.ledger.core.connected_peers = ()
    broker.ledger.core.config = broker.ledger.config

    broker.ledger.commit()

    assert {ack.code for ack in broker.acks} == {ResponseCode.FLUSH_SLAVE_TIMEOUT}
    assert [ack.opaque for ack in broker.acks] == list(range(80))
    assert broker.session.inflight_size == 0


@pytest.mark.usefixtures("way")
def test_a_topic_is_looked_at_again_with_every_send() -> None:
    """It may have been closed, changed or deleted since the last one, and opened again."""
    broker = Broker()
    changes = [
        (TopicConfig(topic="t", write_queue_count=64), 0),
        (TopicConfig(topic="t", write_queue_count=64, perm=4), ResponseCode.NO_PERMISSION),
        (TopicConfig(topic="t", write_queue_count=64), 0),
        (None, ResponseCode.TOPIC_NOT_EXIST),
        (TopicConfig(topic="t", write_queue_count=1), ResponseCode.SYSTEM_ERROR),
    ]
    for number, (config, code) in enumerate(changes):
        broker.session.replies.clear()
        if config is None:
            del broker.topics["t"]
        else:
            broker.topics["t"] = config
        broker.receive_frames(
            [
                send(n, number, topic="tu"[n % 2], queue_id=1 + n // 2 % 60, producer_id=0)
                for n in range(80)
            ]
        )
        broker.ledger.commit()
        assert {ack.code for ack in broker.acks if not ack.opaque % 2} == {code}
        assert {ack.code for ack in broker.acks if ack.opaque % 2} == {0}


@pytest.mark.usefixtures("way")
def test_a_full_broker_takes_of_frames_to_many_queues_what_fits() -> None:
    commands = [
        send(n, 0, topic="tu"[n % 2], queue_id=n // 2 % 60, producer_id=0, body=bytes(7900))
        for n in range(400)
    ]
    together, singly = Broker(pending_size_max=1 << 20), Broker(pending_size_max=1 << 20)

    together.receive_frames(commands)
    singly.receive_one_by_one(commands)
    for one in (together, singly):
        one.ledger.commit()

    assert together.acks == singly.acks
    assert {ack.code for ack in together.acks} == {0, ResponseCode.SYSTEM_BUSY}
    assert together.ledger.bodies == singly.ledger.bodies


class CountedTopics(dict[str, TopicConfig]):
    """Topics that count how often one is looked up."""

    count = 0

    def get(self, *args: Any) -> Any:
        self.count += 1
        return super().get(*args)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("why", ["the disk is full", "too much waits", "all came before"])
def test_sends_of_which_none_is_taken_are_gone_through_once_and_not_once_each(
    why: str,
) -> None:
    commands = [
        send(n, 0, topic="tu"[n % 2], queue_id=n // 2 % 60, producer_id=1 + n) for n in range(400)
    ]
    broker = Broker()
    if why == "the disk is full":
        broker.ledger.write_refusal = LedgerFullError("no space left")
    elif why == "too much waits":
        broker.ledger.core.pending_size = 1 << 26
    else:
        broker.receive_frames(commands)
    topics = broker.sends._runs._intake.topics = CountedTopics(broker.topics)  # type: ignore[assignment]

    broker.receive_frames(commands)  # a receive of 4,000 held the event loop up for 0.8 s

    assert 0 < topics.count <= 5 * len(commands)


@pytest.mark.usefixtures("way")
def test_sends_that_fit_into_no_entry_are_refused_each_by_itself() -> None:
    broker, singly = (Broker(store=StoreConfig(segment_size=4096)) for _ in range(2))
    commands = [send(n, 0, topic="tu"[n % 2], queue_id=n // 2, body=bytes(4500)) for n in range(80)]

    broker.receive_frames(commands)
    singly.receive_one_by_one(commands)

    assert broker.acks == singly.acks
    assert {ack.code for ack in broker.acks} == {ResponseCode.MESSAGE_ILLEGAL}


@pytest.mark.usefixtures("way")
def test_sends_hear_when_the_level_of_their_own_topic_is_reached() -> None:
    """A whole receive of them was handled one by one once, and in one piece."""
    everywhere = Durability(Copies.ALL, synced=True)
    broker = Broker()
    broker.topics["t"] = replace(broker.topics["t"], acks="all")
    commands = [send(n, n // 8, topic="tu"[n % 2], queue_id=n // 2 % 4) for n in range(80)]

    broker.receive_frames(commands)
    (proposal,) = broker.ledger.proposals
    broker.ledger.commit()

    assert [ack.opaque for ack in broker.acks] == list(range(1, 80, 2))
    broker.session.replies.clear()
    proposal._level_reached(everywhere)(everywhere)
    assert [(ack.opaque, ack.code) for ack in broker.acks] == [(n, 0) for n in range(0, 80, 2)]
    assert broker.session.inflight_size == 0


@pytest.mark.usefixtures("way")
def test_a_topic_that_asks_for_another_level_is_heeded_from_the_next_send_on() -> None:
    broker = Broker()
    for number, acks in enumerate(("", "all", "")):
        broker.session.replies.clear()
        broker.topics["t"] = replace(broker.topics["t"], acks=acks)
        broker.receive_frames([send(n, number, queue_id=n % 60) for n in range(60)])
        broker.ledger.commit()
        assert len(broker.acks) == (0 if acks else 60)


@pytest.mark.usefixtures("way")
def test_a_topic_whose_level_there_is_not_has_each_send_refused() -> None:
    broker = Broker()
    broker.topics["t"] = replace(broker.topics["t"])
    object.__setattr__(broker.topics["t"], "acks", "some")
    broker.receive_frames([send(n, 0, queue_id=n % 60) for n in range(60)])
    broker.ledger.commit()

    assert {ack.code for ack in broker.acks} == {ResponseCode.SYSTEM_ERROR}
    assert len(broker.acks) == 60


class Latency:
    """Counts what was answered how."""

    clock = Clock()

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def observe(self, _: int, response_code: int, *, times: int = 1, **__: object) -> None:
        self.counts[response_code] += times


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("queue_count", [1, 64])
@pytest.mark.parametrize("frames", [True, False])
def test_sends_that_came_together_and_failed_are_timed_as_well(
    queue_count: int, frames: bool
) -> None:
    """Only those that had succeeded were."""
    broker, latency = Broker(), Latency()
    broker.session.context = OpenRequests("n1", latency)  # type: ignore[attr-defined, arg-type]
    commands = [send(n, n // queue_count, queue_id=n % queue_count) for n in range(80)]
    if frames:
        broker.receive_frames(commands)
    else:
        broker.receive(commands)

    broker.ledger.lose()
    broker.answers.send()

    assert len(broker.acks) == 80
    assert latency.counts == {ResponseCode.OUTCOME_UNKNOWN: 80}
