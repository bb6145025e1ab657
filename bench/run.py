"""Runs a plan: for each flush mode, body size and round a new group, all loads in turn, the proof.

The rounds go over all loads, instead of each load over its rounds, so that a slow minute of the
machine does not fall on one load alone.  Each has a group of its own, as what one writes is all
that there has to be room for: nodes drop what is oldest where a disk is nearly full.
"""

from __future__ import annotations

import contextlib
import gc
import shutil
from dataclasses import dataclass, replace
from functools import partial
from time import process_time
from typing import TYPE_CHECKING

import trio

import broker
from bench import client_load, open_load, raw_load
from bench.cold import drop_cached, read_from_disk
from bench.frames import FrameRing
from bench.group import BenchGroup
from bench.measured import GroupReport, Line, LoadError, Measured, Round
from bench.plan import LOADS, Kind, Load, reading_topic
from bench.profile import Sampling
from bench.reading import Reading
from bench.warm import taken_at_most, warm_memory
from dledger.config import StoreConfig
from dledger.store.os_disk import OsDisk

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path

    from bench.plan import Plan
    from broker.client.connect import Client
    from dledger.config import FlushDiskType

_FILL_SECONDS = 1.0  # of sends to what is read afterwards
_FILL = next(load for load in LOADS if load.name == "raw-batch-256")


class _GroupRun:
    """All loads against one group, once."""

    def __init__(
        self,
        plan: Plan,
        group: BenchGroup,
        client: Client,
        *,
        flush: FlushDiskType,
        body_size: int,
        chance: random.Random,
        say: Callable[[str], None],
        sampling: Sampling | None,
    ) -> None:
        """Make it; arguments as of `run_group`, where *say* is told of each load."""
        self._plan = plan
        self._flush = flush
        self._group = group
        self._client = client
        self._body_size = body_size
        self._chance = chance
        self._say = say
        self._sampling = sampling
        self._queue_counts: dict[str, int] = {}
        self._rings: dict[tuple[str, int], FrameRing] = {}
        self.written: dict[str, int] = {}  # acknowledged messages of each topic

    async def run(self) -> dict[Load, Round]:
        """Run all loads and check what was acknowledged against the ends of the queues."""
        loads = [load.fitted(self._body_size) for load in self._plan.loads_for(self._body_size)]
        queue_counts = {load.topic: load.queue_count for load in loads}
        for topic, queue_count in sorted(queue_counts.items()):
            await self._client.admin.create_topic(topic, queue_count=queue_count)
            self.written[topic] = 0
        self._queue_counts = queue_counts
        for queue_count in sorted({load.queue_count for load in loads if not load.is_sending}):
            await self._fill(queue_count)
        results: dict[Load, Round] = {}
        for load in loads:
            result = results[load] = await self._measure(load)
            self._say(f"{load.name}: {result.measured.rate:,.0f}/s{_latency_text(result.measured)}")
        await self._check_ends()
        return results

    async def _fill(self, queue_count: int) -> None:
        """Write the topic that is read, if any is."""
        topic = reading_topic(queue_count)
        if topic not in self.written:
            return
        batches = replace(_FILL, name=topic, queue_count=queue_count).fitted(self._body_size)
        result = await self._send_raw(
            batches, topic=topic, seconds=_FILL_SECONDS, warm_up_seconds=0.0
        )
        self.written[topic] += result.written_count

    async def _measure(self, load: Load) -> Round:
        if load.is_cold:
            await self._make_cold()
        before = self._group.cpu_seconds_by_node()
        leader = self._group.pid_of(await self._group.leader())
        read_before = read_from_disk(leader)
        with warm_memory(self._memory_for(load)), _collector_off():
            async with self._sampled(load):
                client_before = process_time()
                measured = await self._run_load(load)
                client_spent = process_time() - client_before
        await self._group.wait_until_equal()
        spent = await self._group.cpu_seconds_since(before)
        if load.is_sending or load.is_busy:
            self.written[load.topic] += measured.written_count
        # The time spent is that of all messages, also of those that do not count.
        count = (measured.written_count if load.is_sending else 0) or measured.message_count or 1
        return Round(
            measured=measured,
            node_cpu_us=tuple(seconds / count * 1e6 for seconds in spent),
            client_cpu_us=client_spent / count * 1e6,
            rss=max(await self._group.rss()),
            read_size=read_from_disk(leader) - read_before if load.is_cold else 0,
        )

    def _memory_for(self, load: Load) -> int:
        plan = self._plan
        if not plan.is_warm or not load.is_heavy:
            return 0
        return taken_at_most(self._body_size, plan.seconds + plan.warm_up_seconds)

    async def _make_cold(self) -> None:
        """Stop the nodes, drop their files from the page cache, and start them again."""
        await self._group.stop()
        for node in self._group.nodes:
            await trio.to_thread.run_sync(drop_cached, node.folder)
        await self._group.start()
        await self._group.wait_until_equal()

    @contextlib.asynccontextmanager
    async def _sampled(self, load: Load) -> AsyncIterator[None]:
        if self._sampling is None:
            yield
            return
        name = f"{load.name}-{self._flush.value.lower()}-{self._body_size}"
        leader = (await self._group.leader()).node_id
        pids = self._group.all_pids()
        async with self._sampling.of(name, pids, leader=leader):
            yield

    async def _run_load(self, load: Load) -> Measured:
        plan = self._plan
        if load.kind in (Kind.RAW, Kind.SPREAD, Kind.OPEN):
            return await self._send_raw(
                load, topic=load.topic, seconds=plan.seconds, warm_up_seconds=plan.warm_up_seconds
            )
        body = self._chance.randbytes(self._body_size)
        if load.kind is Kind.CLIENT:
            return await client_load.run_sends(
                self._client,
                load.topic,
                body=body,
                task_count=load.in_flight,
                seconds=plan.seconds,
                warm_up_seconds=plan.warm_up_seconds,
            )
        if load.kind is Kind.SYNC:
            return await trio.to_thread.run_sync(
                partial(
                    client_load.run_sync_sends,
                    self._group.addresses,
                    load.topic,
                    body=body,
                    message_count=load.in_flight,
                    seconds=plan.seconds,
                    warm_up_seconds=plan.warm_up_seconds,
                )
            )
        reading = Reading(self._group, self._client, plan, body_size=self._body_size)
        return await reading.run(load, message_count=self.written[load.topic])

    async def _send_raw(
        self, load: Load, *, topic: str, seconds: float, warm_up_seconds: float
    ) -> Measured:
        host, port = await self._group.leader_address()
        if load.kind is Kind.SPREAD:
            rings = [self._ring(load, topic, number) for number in range(load.in_flight)]
            return raw_load.run_spread(
                host, port, rings, seconds=seconds, warm_up_seconds=warm_up_seconds
            )
        ring = self._ring(load, topic, 0)
        with raw_load.connect(host, port) as connected:
            if load.kind is Kind.OPEN:
                return open_load.run_sends_at(
                    connected,
                    ring,
                    rate=load.rate,
                    seconds=seconds,
                    warm_up_seconds=warm_up_seconds,
                )
            return raw_load.run_sends(
                connected,
                ring,
                in_flight=load.in_flight,
                batch_count=load.batch_count,
                seconds=seconds,
                warm_up_seconds=warm_up_seconds,
            )

    def _ring(self, load: Load, topic: str, number: int) -> FrameRing:
        """Return the frames of one connection; they go on where it stopped before."""
        key = load.name, number
        if key not in self._rings:
            self._rings[key] = FrameRing(
                topic=topic,
                queue_count=load.queue_count,
                body_size=self._body_size,
                batch_count=load.batch_count,
                producer_id=self._chance.getrandbits(63) or 1,
                chance=self._chance,
                frame_count_min=1 if load.kind is Kind.SPREAD else load.in_flight,
                frame_count_max=64 if load.kind is Kind.SPREAD else 4096,
            )
        return self._rings[key]

    async def _check_ends(self) -> None:
        """Hold the ends of the queues against what was acknowledged.

        Raises:
            LoadError: a message is missing, or there is one too many.
        """
        for topic, written in self.written.items():
            ends = [
                await self._client.admin.max_offset(topic, queue_id)
                for queue_id in range(self._queue_counts[topic])
            ]
            if sum(ends) != written:
                raise LoadError(
                    f"topic {topic} holds {sum(ends)} messages, {written} were acknowledged"
                )


async def run_group(
    plan: Plan,
    *,
    flush: FlushDiskType,
    body_size: int,
    folder: Path,
    chance: random.Random,
    say: Callable[[str], None],
) -> GroupReport:
    """Run all loads on a new group in *folder*, prove the outcome, and remove it; in each round.

    Raises:
        LoadError: something acknowledged is not there, or the logs differ; the folder is kept.
    """
    rounds: dict[Load, list[Round]] = {}
    found: list[_RoundReport] = []
    for number in range(1, plan.round_count + 1):
        one = await _run_round(
            plan,
            flush=flush,
            body_size=body_size,
            folder=folder,
            chance=chance,
            say=lambda text, number=number: say(f"round {number} {text}"),
        )
        for load, result in one.results.items():
            rounds.setdefault(load, []).append(result)
        found.append(one)
    return GroupReport(
        node_count=plan.node_count,
        flush=flush.value,
        body_size=body_size,
        lines=tuple(
            Line.of(load.name, body_size, flush.value, results) for load, results in rounds.items()
        ),
        rss_before=_largest(one.rss_before for one in found),
        rss_after=_largest(one.rss_after for one in found),
        message_count=sum(one.message_count for one in found),
        entry_count=sum(one.entry_count for one in found),
        log_size=sum(one.log_size for one in found),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _RoundReport:
    """What the group of one round came to, as in `GroupReport`."""

    results: dict[Load, Round]
    rss_before: tuple[int, ...]
    rss_after: tuple[int, ...]
    message_count: int
    entry_count: int
    log_size: int


async def _run_round(
    plan: Plan,
    *,
    flush: FlushDiskType,
    body_size: int,
    folder: Path,
    chance: random.Random,
    say: Callable[[str], None],
) -> _RoundReport:
    group = BenchGroup(
        folder, flush=flush, segment_size=plan.segment_size, node_count=plan.node_count
    )
    sampling = Sampling(plan.profile_folder, folder) if plan.profile_folder else None
    if sampling is not None:
        sampling.attach(group)
    try:
        await group.start()
        before = await group.rss()
        async with broker.connect(group.addresses) as client:
            run = _GroupRun(
                plan,
                group,
                client,
                flush=flush,
                body_size=body_size,
                chance=chance,
                say=say,
                sampling=sampling,
            )
            results = await run.run()
        after = await group.rss()
    except LoadError as error:
        used = OsDisk().disk_usage(str(folder)).percent
        dropped_above = StoreConfig().disk_force_percent
        if used < dropped_above:
            raise
        raise LoadError(
            f"{error}; {used:.0f} % of the disk of {folder} are used, and above {dropped_above} % "
            "nodes drop what is oldest: name a folder on another one with --data"
        ) from error
    finally:
        with trio.CancelScope(shield=True):
            await group.stop()
    entry_count, log_size = await trio.to_thread.run_sync(group.compare_logs)
    size = f"{entry_count:,} entries in {log_size:,} bytes"
    say(
        f"logs of {size} are identical on all nodes"
        if plan.node_count > 1
        else f"a log of {size}, every entry whole"
    )
    shutil.rmtree(folder)
    return _RoundReport(
        results=results,
        rss_before=before,
        rss_after=after,
        message_count=sum(run.written.values()),
        entry_count=entry_count,
        log_size=log_size,
    )


def _largest(sizes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the largest of each node."""
    return tuple(map(max, zip(*sizes, strict=True)))


def _latency_text(measured: Measured) -> str:
    """Return what a load's answers took, with a comma in front; nothing where none are timed."""
    if not measured.p50:
        return ""
    return f", p50 {measured.p50:.2f} ms, p99 {measured.p99:.2f} ms"


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """Keep the load's own collector out of the latencies; the nodes do as they always do."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
