"""What grows, and what is measured at each point of it."""

from __future__ import annotations

import contextlib
import shutil
import signal
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import trio

import broker
from bench import raw_load
from bench.growth.fit import Column
from bench.growth.probe import Probe
from bench.growth.table import GrowthTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    Costs = dict[str, float]
    Say = Callable[[str], None]
    Measure = Callable[[Path, Sequence[int]], AsyncIterator[tuple[int, Costs]]]

LEADER = Column(name="leader us")
FOLLOWER = Column(name="follower us")
PULL = Column(name="pull us", floor=0.05, digits=2)
ONE = Column(name="one: leader us", digits=0)
P50 = Column(name="p50 ms", allowed=None, digits=2)
IDLE = Column(name="idle ms/s", floor=5.0)
RSS = Column(name="RSS MiB", floor=20.0)
START_CPU = Column(name="start cpu s", floor=0.2, digits=2)
START = Column(name="start s", allowed=None, digits=2)

_QUEUES = 8
_FASTEST = 2_000_000  # messages a second of batches of 256, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One thing that grows."""

    name: str  # on the command line
    what: str  # in the table
    note: str
    points: tuple[int, ...]
    columns: tuple[Column, ...]
    measure: Measure

    async def run(self, folder: Path, points: Sequence[int], say: Say) -> GrowthTable:
        """Measure all *points* with groups in *folder*."""
        rows = []
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            async for point, costs in self.measure(folder, sorted(points)):
                rows.append((float(point), costs))
                told = ", ".join(f"{name} {value:,.2f}" for name, value in costs.items())
                say(f"{self.name} {point:,}: {told}")
        return GrowthTable(axis=self.what, note=self.note, columns=self.columns, rows=tuple(rows))


async def _base_costs(probe: Probe, topics: Sequence[str], *, queue_count: int = _QUEUES) -> Costs:
    """Measure what most axes have in common, sends going to the first topic."""
    leader, follower = await probe.cost_of_sends(topics[:1], queue_count=queue_count)
    p50, one = await probe.one_in_flight(topics[:1], queue_count=queue_count)
    return {
        LEADER.name: leader,
        FOLLOWER.name: follower,
        ONE.name: one,
        P50.name: p50,
        IDLE.name: await probe.idle_cost(),
        RSS.name: await probe.rss_mib(),
    }


async def _stored(folder: Path, points: Sequence[int]) -> AsyncIterator[tuple[int, Costs]]:
    """One group is filled further and further; it is started again at each point."""
    probe = Probe(folder)
    async with probe.running():
        await probe.create_topics(["growth"], queue_count=_QUEUES)
        written = 0
        for point in points:
            while written < point:
                # Half a second brings half a million: what is missing is not to be passed by far.
                seconds = min(0.5, (point - written) / _FASTEST)
                sent = await probe.send(["growth"], batch_count=256, in_flight=8, seconds=seconds)
                written += sent.written_count
            await probe.group.wait_until_equal()
            costs = {}
            costs[START.name], costs[START_CPU.name] = await probe.restart("growth")
            costs |= await _base_costs(probe, ["growth"])
            costs[PULL.name] = await probe.cost_of_pulls("growth")
            costs |= await _catch_up(probe)
            yield written, costs


DERIVE = Column(name="derive again cpu s", allowed=1.0, floor=0.2, digits=2)
COPY = Column(name="copy all cpu s", allowed=1.0, floor=0.2, digits=2)


async def _catch_up(probe: Probe) -> Costs:
    """Empty a follower and let it copy all; then have it derive everything again."""
    leader = await probe.group.leader()
    follower = next(node for node in probe.group.nodes if node is not leader)

    async def again(remove: str) -> float:
        follower.send_signal(signal.SIGKILL)
        assert follower.started is not None
        await trio.to_thread.run_sync(follower.started.wait)
        shutil.rmtree(follower.folder / remove)
        follower.start()
        await probe.group.wait_until_equal()
        return probe.group.cpu_seconds_of(follower)

    return {COPY.name: await again("data"), DERIVE.name: await again("data/derived")}


async def _topics(folder: Path, points: Sequence[int]) -> AsyncIterator[tuple[int, Costs]]:
    """One group gets more and more topics of eight queues."""
    probe = Probe(folder)
    async with probe.running():
        names: list[str] = []
        for point in points:
            fresh = [f"growth-{number:05}" for number in range(len(names), point)]
            await probe.create_topics(fresh, queue_count=_QUEUES)
            names += fresh
            costs = await _base_costs(probe, names)
            leader, follower = await probe.cost_of_sends(names)
            costs[SPREAD_LEADER.name], costs[SPREAD_FOLLOWER.name] = leader, follower
            _, costs[SPREAD_ONE.name] = await probe.one_in_flight(names)
            costs[SPREAD_RATE.name] = await probe.cost_at_rate(names, RATE)
            leader, follower = await probe.cost_of_sends(names, batch_count=256, in_flight=8)
            costs[BATCHES_LEADER.name], costs[BATCHES_FOLLOWER.name] = leader, follower
            costs[SPREAD_RSS.name] = await probe.rss_mib()
            costs[START.name], costs[START_CPU.name] = await probe.restart(names[0])
            yield point, costs


RATE = 10_000  # messages a second of a group that is busy and far from its limit

SPREAD_ONE = Column(name="spread, one: leader us", digits=0)
SPREAD_RATE = Column(name=f"spread, {RATE:,}/s: leader us")
SPREAD_LEADER = Column(name="spread: leader us")
SPREAD_FOLLOWER = Column(name="spread: follower us")
BATCHES_LEADER = Column(name="spread by 256: leader us")
BATCHES_FOLLOWER = Column(name="spread by 256: follower us")
SPREAD_RSS = Column(name="RSS after MiB", floor=20.0)


async def _queues(folder: Path, points: Sequence[int]) -> AsyncIterator[tuple[int, Costs]]:
    """One topic with so many queues, all of them written."""
    probe = Probe(folder)
    async with probe.running():
        for point in points:
            name = f"growth-{point:06}"
            await probe.create_topics([name], queue_count=point)
            costs = await _base_costs(probe, [name], queue_count=point)
            costs[PULL.name] = await probe.cost_of_pulls(name, queue_count=min(point, 64))
            costs[START.name], costs[START_CPU.name] = await probe.restart(name)
            yield point, costs


async def _connections(folder: Path, points: Sequence[int]) -> AsyncIterator[tuple[int, Costs]]:
    """Connections to the leader that have said one thing and say no more."""
    probe = Probe(folder)
    with contextlib.ExitStack() as stack:
        async with probe.running():
            await probe.create_topics(["growth"], queue_count=_QUEUES)
            host, port = await probe.group.leader_address()
            count = 0
            for point in points:
                for _ in range(point - count):
                    stack.enter_context(raw_load.connect(host, port))
                count = point
                yield point, await _base_costs(probe, ["growth"])


COMMIT = Column(name="commit us")


async def _groups(folder: Path, points: Sequence[int]) -> AsyncIterator[tuple[int, Costs]]:
    """Consumer groups, each with offsets of a topic of eight queues."""
    probe = Probe(folder)
    async with probe.running():
        await probe.create_topics(["growth"], queue_count=_QUEUES)
        await probe.send(["growth"], seconds=0.5)
        count = 0
        for point in points:
            await _commit(probe, range(count, point), offset=1)
            count = point
            costs = {COMMIT.name: await _commit_cost(probe, point)}
            costs |= await _base_costs(probe, ["growth"])
            costs[START.name], costs[START_CPU.name] = await probe.restart("growth")
            yield point, costs


async def _commit(probe: Probe, groups: Sequence[int], *, offset: int) -> None:
    limit = trio.CapacityLimiter(64)
    async with broker.connect(probe.group.addresses) as client:

        async def commit(number: int, queue: int) -> None:
            async with limit:
                await client.admin.commit_offset(f"growth-{number}", "growth", queue, offset)

        async with trio.open_nursery() as nursery:
            for number in groups:
                for queue in range(_QUEUES):
                    nursery.start_soon(commit, number, queue)


async def _commit_cost(probe: Probe, count: int) -> float:
    """Return the leader's processor us for one commit, the groups taking turns."""
    commits = 250 * _QUEUES
    before = probe.group.cpu_seconds_by_node()
    began = perf_counter()
    await _commit(probe, [number % count for number in range(250)], offset=2 + int(began) % 100)
    await probe.group.wait_until_equal()
    spent = await probe.group.cpu_seconds_since(before)
    return 1e6 * spent[0] / commits


async def _sizes(folder: Path, points: Sequence[int]) -> AsyncIterator[tuple[int, Costs]]:
    """Bodies of so many bytes."""
    probe = Probe(folder)
    async with probe.running():
        for point in points:
            name = f"growth-{point}"
            await probe.create_topics([name], queue_count=_QUEUES)
            leader, follower = await probe.cost_of_sends([name], body_size=point)
            p50, one = await probe.one_in_flight([name], body_size=point)
            yield (
                point,
                {
                    LEADER.name: leader,
                    FOLLOWER.name: follower,
                    ONE.name: one,
                    P50.name: p50,
                    PULL.name: await probe.cost_of_pulls(name),
                    RSS.name: await probe.rss_mib(),
                },
            )


async def _members(folder: Path, points: Sequence[int]) -> AsyncIterator[tuple[int, Costs]]:
    """Groups of so many nodes."""
    for point in points:
        probe = Probe(folder / str(point), node_count=point)
        async with probe.running():
            await probe.create_topics(["growth"], queue_count=_QUEUES)
            yield point, await _base_costs(probe, ["growth"])


def _linear(column: Column) -> Column:
    return Column(name=column.name, allowed=1.0, floor=column.floor, digits=column.digits)


_BASE = (LEADER, FOLLOWER, ONE, P50, IDLE, RSS)
AXES = (
    Axis(
        name="messages",
        what="messages stored",
        note="One group filled further and further, started again at each point. *copy all* and "
        "*derive again*: of a follower that was emptied, or whose derived folder was removed.",
        points=(100_000, 300_000, 1_000_000, 3_000_000, 10_000_000),
        columns=(*_BASE, PULL, START, START_CPU, COPY, DERIVE),
        measure=_stored,
    ),
    Axis(
        name="topics",
        what="topics of 8 queues",
        note="One group; sends go to one of its topics, then (*spread*) to all queues of all in "
        f"turn: one alone, {RATE:,} a second, 1,000 under way, 8 batches of 256.",
        points=(1, 10, 100, 1000),
        columns=(
            *_BASE,
            SPREAD_ONE,
            SPREAD_RATE,
            SPREAD_LEADER,
            SPREAD_FOLLOWER,
            BATCHES_LEADER,
            BATCHES_FOLLOWER,
            SPREAD_RSS,
            START,
            START_CPU,
        ),
        measure=_topics,
    ),
    Axis(
        name="queues",
        what="queues of the topic",
        note="One topic, all of its queues written in turn; up to 64 of them pulled.",
        points=(1, 8, 64, 256, 1024),
        columns=(*_BASE, PULL, START, START_CPU),
        measure=_queues,
    ),
    Axis(
        name="connections",
        what="idle connections",
        note="Connections to the leader on which nothing is said.",
        points=(1, 10, 100, 1000),
        columns=_BASE,
        measure=_connections,
    ),
    Axis(
        name="groups",
        what="consumer groups",
        note="Each has committed offsets of eight queues; *commit*: the leader's processor time "
        "for another one.",
        points=(1, 10, 100, 1000),
        columns=(*_BASE, COMMIT, START, START_CPU),
        measure=_groups,
    ),
    Axis(
        name="sizes",
        what="bytes of a body",
        note="Single messages, 1000 under way or as many as 16 MiB hold.",
        points=(10, 100, 1000, 10_000, 100_000, 1_000_000),
        columns=(*map(_linear, (LEADER, FOLLOWER, ONE, PULL)), P50, RSS),
        measure=_sizes,
    ),
    Axis(
        name="members",
        what="members of the group",
        note="All on one machine. A leader sends to each of the others, so its cost may grow by "
        "as much as they are more.",
        points=(1, 3, 5, 7),
        columns=(_linear(LEADER), FOLLOWER, _linear(ONE), P50, _linear(IDLE), RSS),
        measure=_members,
    ),
)


def choose_axes(text: str | None) -> list[Axis]:
    """Return the axes named in *text*, divided by commas; all without one.

    Raises:
        ValueError: one is unknown; names those there are.
    """
    by_name = {axis.name: axis for axis in AXES}
    if text is None:
        return list(AXES)
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in by_name]:
        raise ValueError(f"nothing called {unknown[0]!r} grows; there are {', '.join(by_name)}")
    return [by_name[name] for name in names]
