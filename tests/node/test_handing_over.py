"""Changes of leadership as senders feel them, in virtual time."""

from __future__ import annotations

import itertools
import random

import pytest
import trio

import broker

PACE_SECONDS = 0.02
# Less than an election timeout, and than any wait of the client's before it asks again.
SECONDS_MAX = 0.1


@pytest.fixture
async def latencies(autojump_clock, brokers, nursery):
    """What sends take that go on all the time, in seconds."""
    found: list[float] = []

    async def send_always(producer, key):
        for number in itertools.count():
            began = trio.current_time()
            await producer.send("t", b"%d" % number, ordering_key=key)
            found.append(trio.current_time() - began)
            await trio.sleep(PACE_SECONDS)

    async def run(*, task_status):
        async with (
            broker.connect(
                brokers.addresses,
                network=brokers.wires.of("client"),
                clock=brokers.clock,
                chance=random.Random(1),
            ) as client,
            client.producer() as producer,
        ):
            await client.admin.create_topic("t", queue_count=4)
            async with trio.open_nursery() as senders:
                for number in range(4):
                    senders.start_soon(send_always, producer, f"key-{number}")
                task_status.started(client)

    client = await nursery.start(run)
    await trio.sleep(1)
    yield found, client
    nursery.cancel_scope.cancel()


async def test_handing_over_holds_no_send_up(autojump_clock, brokers, latencies):
    found, client = latencies
    for _ in range(6):
        leader = await brokers.leader()
        assert await client.admin.transfer_leadership() != leader.name
        await trio.sleep(0.5)

    assert len(found) > 400
    assert max(found) < SECONDS_MAX


async def test_a_follower_that_is_killed_is_not_missed(autojump_clock, brokers, latencies):
    found, _ = latencies
    leader = await brokers.leader()
    term = leader.running.ledger.term
    await brokers.others(leader)[0].kill()
    await trio.sleep(3)

    assert await brokers.leader() is leader
    assert leader.running.ledger.term == term
    assert len(found) > 400
    assert max(found) < SECONDS_MAX
