"""Receivers that take their time, on a group that nothing ails: they can follow any load."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

from jepsen_like.checkers.progress import check_progress
from jepsen_like.history import History
from jepsen_like.workloads.load import Load
from jepsen_like.workloads.readers import SLOW_SHARE, Readers, slow_share

QUEUES = 8
GROUPS = 2
SECONDS = 45.0


def load_of(rate: float) -> Load:
    return Load(
        seed=2,
        queue_count=QUEUES,
        producer_count=1,
        lane_count=1,
        send_rate=rate,
        body_size_max=0,
        batch_count_max=1,
        send_timeout=1.0,
        prefetch_bytes=0,
        group_count=GROUPS,
        client_crash_mean=30.0,
    )


class Log:
    """Acknowledges at once, and everybody may read it at once."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.queues: list[list[str]] = [[] for _ in range(QUEUES)]
        self.committed: dict[str, dict[int, int]] = {}
        self.has_grown = trio.Event()

    async def grow(self, rate: float) -> None:
        """Send to it *rate* times a second."""
        chance = random.Random("growing")
        process = self.history.new_process()
        for number in range(int(rate * SECONDS)):
            await trio.sleep(chance.expovariate(rate))
            queue = chance.randrange(QUEUES)
            value = f"c-{number}"
            self.history.add(process, "invoke", "send", k=queue, v=value)
            self.history.add(process, "ok", "send", k=queue, v=value, o=len(self.queues[queue]))
            self.queues[queue].append(value)
            self.has_grown.set()
            self.has_grown = trio.Event()


class Reading:
    """A consumer of all queues of a `Log`, which take turns."""

    def __init__(self, log: Log, group: str, start: str) -> None:
        ends = {queue: len(values) for queue, values in enumerate(log.queues)}
        begin = {"first": {}, "last": ends}.get(start, log.committed.get(group, {}))
        self.log = log
        self.group = group
        self.queues = tuple(range(QUEUES))
        self.places = {queue: begin.get(queue, 0) for queue in self.queues}
        self.turn = 0

    async def __aenter__(self) -> Reading:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def position(self, queue: int) -> int:
        return self.places[queue]

    def seek(self, queue: int, offset: int) -> None:
        self.places[queue] = offset

    async def commit(self) -> None:
        places = dict(self.places)
        await trio.sleep(0.005)
        self.log.committed[self.group] = places

    def __aiter__(self) -> Reading:
        return self

    async def __anext__(self) -> SimpleNamespace:
        await trio.lowlevel.checkpoint()
        while True:
            for queue in (*self.queues[self.turn :], *self.queues[: self.turn]):
                offset = self.places[queue]
                if offset < len(self.log.queues[queue]):
                    self.turn = queue
                    self.places[queue] = offset + 1
                    body = f"{self.log.queues[queue][offset]} ".encode()
                    return SimpleNamespace(queue_id=queue, queue_offset=offset, body=body)
            await self.log.has_grown.wait()


@pytest.mark.parametrize("rate", [50.0, 200.0])
async def test_receivers_that_take_their_time_keep_up(rate, autojump_clock) -> None:
    history = History(trio.current_time)
    log = Log(history)

    @asynccontextmanager
    async def client(name, chance):
        def consumer(group, topic, *, start, **options):
            return Reading(log, group, start)

        yield SimpleNamespace(consumer=consumer)

    readers = Readers(SimpleNamespace(load=load_of(rate), client=client), history)
    for node in ("n1", "n2", "n3"):
        history.note("start", node=node)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readers.run)
        await log.grow(rate)
        nursery.cancel_scope.cancel()

    polled = {event.g for event in history.events if event.f == "poll"}
    assert polled == {None, *(f"g{number + 1}" for number in range(GROUPS))}
    assert [anomaly.text for anomaly in check_progress(history.events)] == []


def test_at_usual_rates_as_many_take_a_while_as_ever():
    assert slow_share(load_of(8.0)) == slow_share(load_of(80.0)) == SLOW_SHARE
    assert slow_share(load_of(200.0)) == pytest.approx(0.02)
