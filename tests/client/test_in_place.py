"""A message sent alone, whose sender does not park until something else is to be done."""

from __future__ import annotations

import pytest
import trio

import broker
from broker.client.batch import Batch, Here
from broker.client.intake import ALONE_COUNT_MIN
from dledger.remoting.errors import ConnectionLostError


class InPlace:
    """Stands for the sockets of the loop; *during* is what happens while they are waited for."""

    def __init__(self):
        self.during = lambda _settled: None
        self.settled = []

    def wait_in_place(self, task, settled, now):
        assert task is trio.lowlevel.current_task()
        assert now <= trio.current_time()
        self.during(settled)
        self.settled.append(settled.is_settled)


@pytest.fixture
async def in_place(group, connect, autojump_clock, monkeypatch):
    """Return a producer that has no company, and what it waits by."""
    sockets = InPlace()
    async with connect() as mq:
        for idempotent in (True, False):
            sockets.producers = getattr(sockets, "producers", {})
            sockets.producers[idempotent] = mq.producer(idempotent=idempotent)
        async with sockets.producers[True], sockets.producers[False]:
            for producer in sockets.producers.values():
                for number in range(ALONE_COUNT_MIN):
                    await producer.send("orders", b"%d" % number)
            (sockets.link,) = {
                loop._links[loop._leader.leader]
                for loop in sockets.producers[True]._destinations.loops
            }
            sockets.link.sockets = sockets
            yield sockets


async def test_what_was_not_answered_in_place_is_waited_for_as_ever(
    autojump_clock, in_place, group
):
    result = await in_place.producers[True].send("orders", b"x")

    assert in_place.settled == [False]
    assert result.queue_offset >= 0
    assert b"x" in group.all_bodies("orders")


async def test_a_connection_that_breaks_meanwhile_is_told_at_once(autojump_clock, in_place):
    """The sender is no task that could be woken."""
    in_place.during = lambda _: in_place.link.close(ConnectionLostError("gone"))

    with pytest.raises(broker.OutcomeUnknownError, match="gone"):
        await in_place.producers[False].send("orders", b"x")

    assert in_place.settled == [True]


async def test_a_connection_that_breaks_meanwhile_has_it_sent_again(
    autojump_clock, in_place, group
):
    in_place.during = lambda _: in_place.link.close(ConnectionLostError("gone"))
    producer = in_place.producers[True]

    result = await producer.send("orders", b"x")

    assert in_place.settled == [False]
    assert producer.stats.retried == 1
    assert result.unique_id
    assert group.all_bodies("orders").count(b"x") == 1


async def test_who_is_cancelled_meanwhile_leaves_the_message_behind(
    autojump_clock, in_place, group
):
    with trio.CancelScope() as scope:
        in_place.during = lambda _: scope.cancel()
        await in_place.producers[True].send("orders", b"x")

    assert scope.cancelled_caught
    in_place.during = lambda _: None
    await in_place.producers[True].flush()
    assert b"x" in group.all_bodies("orders")


async def test_others_go_by_tasks(autojump_clock, in_place):
    """With company a send is not alone: it leaves at the end of the tick."""
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(in_place.producers[True].send, "orders", b"%d" % number)

    assert len(in_place.settled) <= 1


def batch_of(here):
    batch = Batch()
    batch.records.append(b"record")
    batch.waiters.append(here)
    batch.deadlines.append(1.0)
    batch.queue_offset, batch.position, batch.node = 7, 70, "n1:1"
    return batch


def test_an_answer_in_place_settles_the_batch_as_it_stood():
    here = Here()
    batch_of(here).acknowledge("orders", 3)

    assert here.is_settled
    assert here.settled_with is None


def test_a_message_kept_less_well_is_an_error_in_place():
    here = Here()
    here.unique_id = "U"
    batch = batch_of(here)
    batch.shortfall = "one disk"
    batch.acknowledge("orders", 3)

    assert isinstance(here.settled_with, broker.LessDurableError)
    assert here.settled_with.result.queue_offset == 7
    assert here.settled_with.result.unique_id == "U"
