"""What ``dledger bench`` measures; the group is a stand-in."""

import dataclasses
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

from broker.cli import bench_load
from broker.cli.bench_command import _tell
from broker.cli.bench_load import Load, LoadPlan, Result
from broker.errors import InvalidMessageError

PLAN = LoadPlan(topic="t", body_size=100, rate=100.0, seconds=2.0, in_flight=50, queue_count=8)


class FakeGroup:
    """Acknowledges after a while, which may be long for a time; hands out what it was sent."""

    def __init__(self, *, stall=(0.0, 0.0), fails=False, loses=False):
        self.stall = stall
        self.fails = fails
        self.loses = loses
        self.admin = SimpleNamespace(list_topics=self._list_topics)
        self.bodies = []
        self._send, self._receive = trio.open_memory_channel(10_000)

    async def _list_topics(self):
        return [SimpleNamespace(topic="t")]

    @asynccontextmanager
    async def producer(self, name):
        yield self

    @asynccontextmanager
    async def consumer(self, group, topic, **options):
        yield self._receive

    async def send(self, topic, body):
        begin, end = self.stall
        now = trio.current_time() - self.began
        await trio.sleep(0.01 if not begin <= now < end else end - now)
        if self.fails:
            raise InvalidMessageError("no")
        self.bodies.append(body)
        if not self.loses:
            await self._send.send(SimpleNamespace(body=body))


@pytest.fixture
def run(monkeypatch):
    async def run(group, plan=PLAN, *, is_received=False):
        group.began = trio.current_time()

        @asynccontextmanager
        async def open_client(servers, **options):
            yield group

        async def note(result):
            result.flush, result.nodes = "SYNC_FLUSH", 3

        monkeypatch.setattr(bench_load, "open_client", open_client)
        monkeypatch.setattr(bench_load, "_note_group", note)
        load = Load(["memory:1"], plan, is_received=is_received)
        await load.run()
        return load.result

    return run


async def test_a_rate_is_kept(run, autojump_clock):
    result = await run(FakeGroup())

    assert result.count == 200
    assert result.seconds == pytest.approx(2.0, abs=0.1)
    assert result.latency.p50 == pytest.approx(0.01, rel=0.1)


async def test_a_group_that_stands_still_shows_in_all_that_was_due(run, autojump_clock):
    """Half of the second half of the messages is late by up to a second: an open loop tells it."""
    result = await run(FakeGroup(stall=(1.0, 2.0)))

    assert result.count == 200
    assert result.latency.quantile(0.75) == pytest.approx(0.5, rel=0.2)
    assert result.latency.seconds_max == pytest.approx(1.0, rel=0.1)


async def test_what_is_received_is_timed_from_when_it_was_due(run, autojump_clock):
    result = await run(FakeGroup(), is_received=True)

    assert (result.kind, result.count, result.lost) == ("e2e", 200, 0)
    assert result.latency.count == 200


async def test_what_is_acknowledged_and_never_received_is_told(run, autojump_clock):
    result = await run(FakeGroup(loses=True), is_received=True)

    assert (result.count, result.lost) == (200, 200)


async def test_without_a_rate_as_many_as_allowed_are_under_way(run, autojump_clock):
    group = FakeGroup()

    result = await run(group, dataclasses.replace(PLAN, rate=0.0, seconds=0.5))

    assert result.count == 50 * 50
    assert all(len(body) == 100 for body in group.bodies)


async def test_failures_are_counted_and_the_first_is_kept(run, autojump_clock):
    group = FakeGroup(fails=True)
    with pytest.RaisesGroup(InvalidMessageError):  # the one ahead of the load
        await run(group)

    result = await run(group, dataclasses.replace(PLAN, rate=0.0, seconds=0.1))

    assert (result.count, result.first_error) == (0, "no")
    assert result.failed == pytest.approx(500, abs=50)


def test_json_has_stable_keys(capsys):
    result = Result(kind="produce", servers=[], topic="t", body_size=100, rate_wanted=0.0)
    result.seconds, result.count = 2.0, 10
    result.latency.add(0.5, 10)

    _tell(result, as_json=True)
    found = json.loads(capsys.readouterr().out)

    assert found["messages_per_second"] == 5.0
    assert set(found["latency_seconds"]) == {"p50", "p99", "p999", "max"}
