"""Every failure of a group at random, while messages are on their way."""

from __future__ import annotations

import random

import pytest
import trio

import broker
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode as Code
from dledger.remoting.command import response
from tests.client.streams import Stream, assert_stored_once_and_in_order


async def torment(group, chance, count):
    """Kills, freezes, lost acks, broken connections, depositions and refusals, by chance."""
    for _ in range(count):
        await trio.sleep(chance.uniform(0.02, 0.25))
        what = chance.choice(["kill", "freeze", "lose", "break", "depose", "busy"])
        if what == "lose":
            group.lose_acks += 1
        elif what == "busy":
            group.refuse = busy_until(trio.current_time() + 0.05)
        else:
            await group.harm_leader(what, chance)


def busy_until(time):
    def refuse(node, command):
        if command.code == RequestCode.SEND_BATCH_MESSAGE and trio.current_time() < time:
            return response(command, Code.SYSTEM_BUSY, "busy")
        return None

    return refuse


@pytest.mark.parametrize("seed", range(12))
async def test_any_mix_of_failures_leaves_every_message_once_and_in_order(
    group, connect, autojump_clock, seed
):
    """Followers of odd seeds forward, so that copies of a batch reach the log by two ways."""
    group.ack_delay = 0.004
    group.forwards = seed % 2 == 1
    async with (
        connect() as mq,
        mq.producer(batch_count_max=4) as producer,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(torment, group, random.Random(seed), 25)
        stream = Stream(producer, 1500, interval=0.003)
        nursery.start_soon(stream.run)

    assert not stream.failed
    assert_stored_once_and_in_order(group, 1500)
    for number, result in stream.acked.items():
        assert result.queue_offset in (number, -1)


@pytest.mark.parametrize("seed", range(12))
async def test_with_too_little_time_every_outcome_told_is_true(
    group, connect, autojump_clock, seed
):
    """Deadlines shorter than the failures: acknowledged, not written and unknown, all at once.

    A frozen follower of odd seeds forwards when it thaws what its client has long given up.
    """
    group.ack_delay = 0.004
    group.forwards = seed % 2 == 1
    async with (
        connect() as mq,
        mq.producer(batch_count_max=4, send_timeout=0.1) as producer,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(torment, group, random.Random(1000 + seed), 40)
        stream = Stream(producer, 2000, interval=0.004)
        nursery.start_soon(stream.run)

    stored = [int(body) for body in group.bodies("orders")[0]]
    assert len(set(stored)) == len(stored), "nothing is there twice"
    assert stream.acked.keys() <= set(stored), "what was acknowledged is there"
    kinds = {number: type(error) for number, error in stream.failed.items()}
    not_written = {number for number, kind in kinds.items() if kind is broker.NotWrittenError}
    unknown = {number for number, kind in kinds.items() if kind is broker.OutcomeUnknownError}
    assert not not_written & set(stored), "what was called not written is not there"
    assert len(stream.acked) + len(not_written) + len(unknown) == 2000
    assert not_written
    assert unknown
    known = [number for number in stored if number in stream.acked]
    assert known == sorted(known), "what was acknowledged is in order"
    for number, result in stream.acked.items():
        assert result.queue_offset in (-1, stored.index(number))
    # Some were acknowledged after their senders had given up.
    assert len(stream.acked) <= producer.stats.acked <= len(stream.acked) + len(unknown)
    assert producer.stats.acked + producer.stats.failed == 2000
