"""Sends gathered from one receive: the same log and the same answers as one by one."""

from __future__ import annotations

import random

import pytest

from broker.handlers.send_mixed import _Receive
from broker.metrics.rpc import OpenRequests
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import FLAG_GROUPED, FLAG_ONEWAY, Command
from tests.handlers.send_bench import Broker, Clock, Session, both, send


def test_sends_of_one_receive_become_the_log_and_the_answers_they_become_singly() -> None:
    commands = [send(n, n // 2, queue_id=n % 2) for n in range(100)]

    together, singly = both(commands)

    assert together.ledger.bodies == singly.ledger.bodies
    assert together.acks == singly.acks
    assert [ack.opaque for ack in together.acks] == list(range(100))
    assert together.sends.message_count == 100


def test_gathered_sends_are_one_put_and_one_frame_of_acks() -> None:
    broker = Broker()

    broker.receive([send(n, n) for n in range(50)])

    (proposal,) = broker.ledger.proposals
    assert proposal.put_count == 1
    broker.ledger.commit()
    assert len(broker.session.replies) == 1


@pytest.mark.parametrize("seed", range(60))
def test_any_mix_of_sends_comes_out_as_singly(seed: int) -> None:
    chance = random.Random(seed)
    sequences: dict[tuple[int, int], int] = {}
    commands = []
    for opaque in range(chance.randrange(4, 60)):
        queue_id, producer_id = chance.randrange(3), chance.choice((0, 7, 8))
        count = chance.choice((1, 1, 1, 2, 5))
        key = queue_id, producer_id
        sequence = sequences.get(key, 0)
        sequences[key] = sequence + count
        if chance.random() < 0.03:
            sequence = max(0, sequence + chance.choice((-1, 1, 5)))
        body = chance.randbytes(chance.choice((0, 3, 200, 9000)))
        command = send(
            opaque, sequence, queue_id=queue_id, producer_id=producer_id, count=count, body=body
        )
        if chance.random() < 0.02:
            damaged = bytearray(command.body)  # type: ignore[arg-type]
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            command.body = memoryview(bytes(damaged))
        if chance.random() < 0.02:
            command.ext_fields["sizes"] = command.ext_fields["sizes"][:-1]
        if chance.random() < 0.02:
            command.ext_fields[chance.choice(("topic", "queueId", "producerId"))] = chance.choice(
                (None, "x", -1, [1], 9)
            )
        if chance.random() < 0.02:
            command.flag = chance.choice((0, FLAG_GROUPED | FLAG_ONEWAY))
        commands.append(command)

    together, singly = both(commands)

    assert [ack[:3] for ack in together.acks] == [ack[:3] for ack in singly.acks]
    # Where damage makes a queue go singly, other queues may be laid out before it; what one queue
    # and producer holds, and the offsets it got, are the same.
    assert {ack[:4] for ack in together.acks} == {ack[:4] for ack in singly.acks}
    assert sum(map(len, together.ledger.bodies)) == sum(map(len, singly.ledger.bodies))


def many_queues(seed: int) -> list[Command]:
    """Return sends of one receive, hardly two to the same queue."""
    chance = random.Random(seed)
    commands = []
    sequences: dict[tuple[str, int], int] = {}
    for opaque in range(chance.randrange(4, 80)):
        key = topic, queue_id = chance.choice("tuv"), chance.randrange(66)
        sequence = sequences.get(key, 0)
        sequences[key] = sequence + 1
        if chance.random() < 0.03:
            sequence = max(0, sequence + chance.choice((-1, 1, 5)))
        command = send(opaque, sequence, topic=topic, queue_id=queue_id, body=chance.randbytes(9))
        if chance.random() < 0.03:
            damaged = bytearray(command.body)  # type: ignore[arg-type]
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            command.body = memoryview(bytes(damaged))
        if chance.random() < 0.02:
            command.ext_fields[chance.choice(("topic", "queueId", "sizes"))] = chance.choice(
                (None, "x", -1, [1], 9, b"")
            )
        if chance.random() < 0.02:
            command.flag = chance.choice((0, FLAG_GROUPED | FLAG_ONEWAY))
        commands.append(command)
    return commands


@pytest.mark.parametrize("seed", range(60))
def test_sends_to_many_queues_become_the_log_and_the_answers_they_become_singly(seed: int) -> None:
    together, singly = both(many_queues(seed))

    assert together.ledger.bodies == singly.ledger.bodies
    assert together.acks == singly.acks
    assert together.sends.message_count == singly.sends.message_count
    assert together.session.inflight_size == 0


def test_sends_to_many_queues_are_acknowledged_in_one_frame() -> None:
    broker = Broker()
    broker.receive([send(n, 0, queue_id=n) for n in range(60)])
    (proposal,) = broker.ledger.proposals
    assert proposal.put_count == 60
    assert broker.session.inflight_size

    broker.ledger.commit()

    assert len(broker.session.replies) == 1
    assert [ack[:3] for ack in broker.acks] == [(n, 0, n) for n in range(60)]
    assert broker.session.inflight_size == 0


def test_sends_that_are_through_before_all_are_read_are_timed_once_each() -> None:
    """As where a group of one commits at once."""
    times_seen = []

    class Latency:
        clock = Clock()

        def observe(self, *_: int, times: int, **__: object) -> None:
            times_seen.append(times)

    session = Session()
    session.context = OpenRequests("n1", Latency())  # type: ignore[attr-defined, arg-type]
    receive = _Receive(None, session)  # type: ignore[arg-type]
    for put_count in (1, 2):
        receive.count += put_count
        receive.left += put_count
        for _ in range(put_count):
            receive.one_is_through()

    assert times_seen == [1, 2]


def test_a_lost_lead_answers_every_send_to_many_queues() -> None:
    broker = Broker()
    broker.receive([send(n, 0, queue_id=n) for n in range(60)])

    broker.ledger.lose()
    broker.answers.send()

    assert [ack[:2] for ack in broker.acks] == [
        (n, ResponseCode.OUTCOME_UNKNOWN) for n in range(60)
    ]
    assert broker.session.inflight_size == 0


def test_sizes_that_cheat_a_neighbour_are_found() -> None:
    """The records of both together are sound; those of each by itself are not."""
    first, second = send(1, 0, body=b"long" * 10), send(2, 1, body=b"short")
    whole = bytes(first.body) + bytes(second.body)  # type: ignore[arg-type]
    first.body, second.body = memoryview(whole[:-3]), memoryview(whole[-3:])
    broker = Broker()

    broker.receive([send(0, 0, queue_id=1), first, second, send(3, 1, queue_id=1)] + [
        send(4 + n, 2 + n) for n in range(4)
    ])  # fmt: skip
    broker.ledger.commit()

    codes = {ack.opaque: ack.code for ack in broker.acks}
    assert codes[1] == codes[2] == ResponseCode.CORRUPT_RECORD
    assert codes[0] == codes[3] == 0


def test_one_damaged_record_costs_only_its_own_send() -> None:
    commands = [send(n, n, producer_id=0) for n in range(40)]
    damaged = bytearray(commands[20].body)  # type: ignore[arg-type]
    damaged[-8] ^= 1
    commands[20].body = memoryview(bytes(damaged))
    broker = Broker()

    broker.receive(commands)
    broker.ledger.commit()

    codes = {ack.opaque: ack.code for ack in broker.acks}
    assert codes.pop(20) == ResponseCode.CORRUPT_RECORD
    assert set(codes.values()) == {0}
    assert len(codes) == 39


def test_a_retry_of_what_is_written_is_acknowledged_with_its_place() -> None:
    broker = Broker()
    broker.receive([send(n, n) for n in range(40)])
    broker.ledger.commit()
    first = broker.acks
    broker.session.replies.clear()

    broker.receive([send(100 + n, n) for n in range(40)])
    broker.ledger.commit()

    assert len(broker.ledger.bodies) == 1
    assert [ack.queue_offset for ack in broker.acks] == [ack.queue_offset for ack in first]


def test_a_full_broker_takes_what_fits_and_refuses_the_rest() -> None:
    commands = [send(n, n, producer_id=0, body=bytes(8000)) for n in range(400)]

    together, singly = both(commands, pending_size_max=1 << 20)

    for broker in (together, singly):
        codes = [ack.code for ack in broker.acks]
        assert len(codes) == 400
        assert set(codes) == {0, ResponseCode.SYSTEM_BUSY}
    assert abs(len(together.ledger.bodies[-1]) - len(singly.ledger.bodies[-1])) < 1 << 20


def test_what_follows_an_unusual_request_stays_behind_it() -> None:
    large = send(10, 10, body=bytes(9000))
    broker = Broker()

    broker.receive([*(send(n, n) for n in range(10)), large, *(send(n, n) for n in range(11, 21))])
    broker.ledger.commit()

    assert [(ack.code, ack.queue_offset) for ack in broker.acks] == [(0, n) for n in range(21)]


def test_sends_to_a_topic_that_is_not_there_are_refused_one_by_one() -> None:
    broker = Broker()

    broker.receive([send(n, n, topic="other") for n in range(8)])

    assert [ack.code for ack in broker.acks] == [ResponseCode.TOPIC_NOT_EXIST] * 8


def test_a_lost_lead_answers_every_gathered_send() -> None:
    broker = Broker()
    broker.receive([send(n, n) for n in range(8)])

    broker.ledger.lose()
    broker.answers.send()

    assert [ack[:2] for ack in broker.acks] == [(n, ResponseCode.OUTCOME_UNKNOWN) for n in range(8)]


def test_gathered_sends_that_were_not_written_are_handed_on() -> None:
    broker = Broker()
    broker.ledger.core.unfinished_count = 4  # so that nothing is sealed
    broker.receive([send(n, n) for n in range(8)])
    broker.ledger.is_leader = False

    broker.queue.refresh()

    assert [command.opaque for command in broker.forwarder.held] == list(range(8))


def test_a_group_is_sealed_when_it_has_about_as_much_as_is_on_its_way() -> None:
    """Two thirds of it. Large batches share entries while the log is busy, and the first ones
    wait for nobody."""
    broker = Broker()

    def counts() -> list[int]:
        return [proposal.put_count for proposal in broker.ledger.proposals]

    for number in range(6):
        broker.receive([send(number, number, body=bytes(100_000))])
    assert counts() == [1, 1, 2], "two gather, as four are on their way"
    broker.receive([send(6, 6, body=bytes(100_000))])
    assert counts() == [1, 1, 2, 3]
    broker.receive([send(7, 7, body=bytes(100_000))])
    assert counts() == [1, 1, 2, 3], "no more than four groups"

    broker.ledger.commit()

    assert [ack.code for ack in broker.acks] == [0] * 8


@pytest.mark.parametrize("producer_id", [7, 0])
def test_sends_that_ask_for_different_levels_do_not_overtake_each_other(producer_id: int) -> None:
    """They were refused as out of order, or came into the log in another."""
    commands = [
        send(n, n, producer_id=producer_id, body=b"%d" % n, **({"acks": "all"} if n % 2 else {}))
        for n in range(8)
    ]
    together, singly = Broker(), Broker()
    together.receive(commands)
    singly.receive_one_by_one(commands)

    assert b"".join(together.ledger.bodies) == b"".join(singly.ledger.bodies)
    assert together.acks == singly.acks == []  # none is refused
