"""Frames of sends that are alike, taken as one run: the same log and answers as one by one."""

from __future__ import annotations

import random
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from broker.protocol.response_code import ResponseCode
from tests.handlers.send_bench import Broker, send

if TYPE_CHECKING:
    from dledger.remoting.command import Command

pytestmark = pytest.mark.usefixtures("way")


@pytest.mark.parametrize("seed", range(60))
def test_any_frames_that_are_alike_come_out_as_singly(seed: int) -> None:
    chance = random.Random(seed)
    producer_id, count = chance.choice((0, 7)), chance.choice((1, 1, 3))
    sequences = [chance.choice((0, 1000))] * 3
    sizes = chance.choice(((4,), (3, 9, 70)))
    commands = []
    for opaque in range(70_000, 70_000 + chance.randrange(70, 300)):
        queue_id = chance.randrange(3)
        sequence = sequences[queue_id]
        sequences[queue_id] += count
        if chance.random() < 0.01:
            sequence = max(0, sequence + chance.choice((-1, 1)))
        command = send(
            opaque, sequence, queue_id=queue_id, producer_id=producer_id, count=count,
            body=chance.randbytes(chance.choice(sizes)),
        )  # fmt: skip
        if chance.random() < 0.01:
            damaged = bytearray(command.body)  # type: ignore[arg-type]
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            command.body = memoryview(bytes(damaged))
        if chance.random() < 0.01:
            command.ext_fields["queueId"] = chance.choice((3, 4, 100))
        if chance.random() < 0.01:
            command.ext_fields["sizes"] = bytes(len(command.ext_fields["sizes"]))
        commands.append(command)
    alike, singly = Broker(), Broker()

    alike.receive_frames(commands)
    singly.receive_one_by_one(commands)
    for one in (alike, singly):
        one.ledger.commit()

    assert {ack[:4] for ack in alike.acks} == {ack[:4] for ack in singly.acks}
    assert len(alike.acks) == len(commands)
    assert alike.sends.message_count == singly.sends.message_count
    assert alike.session.inflight_size == singly.session.inflight_size == 0


@pytest.mark.parametrize("what", [{"acks": "none of them"}, {"acks": 5}, {"flush": "later"}])
@pytest.mark.parametrize("topic", ["t", "unknown"])
def test_a_run_that_asks_for_what_there_is_not_is_refused_send_by_send(
    what: dict[str, Any], topic: str
) -> None:
    commands = [send(1000 + n, n, topic=topic, **what) for n in range(80)]
    alike, singly = Broker(), Broker()

    alike.receive_frames(commands)  # once the error went past the server, and the node ended
    singly.receive_one_by_one(commands)

    assert len(alike.acks) == len(commands)
    assert alike.acks == singly.acks


def calls_to_take_in(queue_count: int) -> int:
    """Return how many functions are called for 240 sends over so many queues."""
    broker = Broker()
    commands = [
        send(70_000 + n, 300 + n // queue_count, queue_id=n % queue_count, producer_id=0)
        for n in range(240)
    ]
    count = 0

    def counted(_: object, what: str, __: object) -> None:
        nonlocal count
        count += what in ("call", "c_call")

    original = broker.registry.on_run

    def on_run(*args: Any, **named: Any) -> list[Command]:
        sys.setprofile(counted)
        try:
            return original(*args, **named)
        finally:
            sys.setprofile(None)

    broker.registry.on_run = on_run  # type: ignore[method-assign]
    assert broker.receive_frames(commands) == 1
    return count


def test_columns_of_a_run_are_taken_once_and_not_for_each_of_its_queues() -> None:
    """By themselves they took two thirds of what a queue costs."""
    one, three = calls_to_take_in(1), calls_to_take_in(3)

    assert (three - one) / 2 < 75


def test_frames_that_are_alike_become_the_log_they_become_singly() -> None:
    commands = [send(70_000 + n, n // 2, queue_id=n % 2, body=b"b" * (n % 5)) for n in range(100)]
    alike, singly = Broker(), Broker()

    assert alike.receive_frames(commands) == 1
    singly.receive_one_by_one(commands)
    for one in (alike, singly):
        one.ledger.commit()

    assert alike.ledger.bodies == singly.ledger.bodies
    assert alike.acks == singly.acks
    assert alike.sends.message_count == 100
    assert len(alike.session.replies) == 1


def test_frames_that_wait_are_in_memory_once() -> None:
    """What was received stays until it is answered; a copy beside it doubled what a full leader
    held, 16 MiB more for each connection."""
    broker = Broker()
    broker.ledger.core.unfinished_count = 4  # so that nothing is sealed
    broker.receive_frames([send(70_000 + n, n, queue_id=1) for n in range(80)])  # fills caches
    commands = [send(80_000 + n, n, body=bytes(8000)) for n in range(80)]
    tracemalloc.start()
    try:
        assert broker.receive_frames(commands) == 1
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    received = sum(len(command.body) for command in commands if command.body is not None)
    assert broker.session.inflight_size > received
    assert received < held < 1.5 * received


def test_frames_that_are_alike_and_not_written_are_handed_on_or_told() -> None:
    commands = [send(70_000 + n, n) for n in range(80)]
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

    opaques = [70_000 + n for n in range(80)]
    assert [command.opaque for command in held.forwarder.held] == opaques
    assert [ack[:2] for ack in lost.acks] == [(n, ResponseCode.OUTCOME_UNKNOWN) for n in opaques]
    assert [command.opaque for command in short.forwarder.held] == opaques
