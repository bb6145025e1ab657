"""Runs a plan: a fresh group for each flush mode and body size, all loads in turn, then the proof.

The rounds go over all loads, instead of each load over its rounds, so that a slow minute of the
machine does not fall on one load alone.
"""

from __future__ import annotations

import contextlib
import gc
import shutil
from time import process_time
from typing import TYPE_CHECKING

import trio

import broker
from bench import client_load, open_load, raw_load
from bench.frames import FrameRing
from bench.group import BenchGroup
from bench.measured import GroupReport, Line, LoadError, Measured, Round
from bench.plan import LOADS, QUEUE_COUNT, Kind, Load
from bench.profile import sampled

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.plan import Plan
    from broker.client.connect import Client
    from dledger.config import FlushDiskType

_FILL_SECONDS = 1.0  # of sends before consuming, when nothing was to be sent


class GroupRun:
    """All loads against one group."""

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
    ) -> None:
        self._plan = plan
        self._flush = flush
        self._group = group
        self._client = client
        self._body_size = body_size
        self._chance = chance
        self._say = say
        self._rings: dict[tuple[str, int], FrameRing] = {}
        self.written: dict[str, int] = {}  # acknowledged messages of each topic

    async def run(self) -> dict[Load, list[Round]]:
        """Run all rounds and check what was acknowledged against the ends of the queues."""
        loads = self._plan.loads
        topics = {load.topic for load in loads}
        for topic in sorted(topics):
            await self._client.admin.create_topic(topic, queue_count=QUEUE_COUNT)
            self.written[topic] = 0
        written = {load.topic for load in loads if load.is_sending}
        if topics - written:
            await self._fill()
        rounds: dict[Load, list[Round]] = {load: [] for load in loads}
        for number in range(self._plan.round_count):
            for load in loads:
                result = await self._measure(load)
                rounds[load].append(result)
                self._say(
                    f"round {number + 1} {load.name}: {result.measured.rate:,.0f}/s, "
                    f"p50 {result.measured.p50:.2f} ms, p99 {result.measured.p99:.2f} ms"
                )
        await self._check_ends()
        return rounds

    async def _fill(self) -> None:
        batches = next(load for load in LOADS if load.name == "raw-batch-256")
        result = await self._send_raw(batches, seconds=_FILL_SECONDS, warm_up_seconds=0.0)
        self.written[batches.topic] += result.written_count

    async def _measure(self, load: Load) -> Round:
        leader_before, followers_before = await self._group.cpu_seconds()
        with _collector_off(), await self._sampled(load):
            client_before = process_time()
            measured = await self._run_load(load)
            client_spent = process_time() - client_before
        await self._group.wait_until_equal()
        leader_after, followers_after = await self._group.cpu_seconds()
        if load.is_sending:
            self.written[load.topic] += measured.written_count
        # The time spent is that of all messages, also of those that do not count.
        count = measured.written_count or measured.message_count or 1
        return Round(
            measured=measured,
            leader_cpu_us=(leader_after - leader_before) / count * 1e6,
            followers_cpu_us=(followers_after - followers_before) / count * 1e6,
            client_cpu_us=client_spent / count * 1e6,
        )

    async def _sampled(self, load: Load) -> contextlib.AbstractContextManager[None]:
        folder = self._plan.profile_folder
        if folder is None:
            return contextlib.nullcontext()
        name = f"{load.name}-{self._flush.value.lower()}-{self._body_size}"
        return sampled(await self._group.pids(), folder, name, seconds=self._plan.seconds)

    async def _run_load(self, load: Load) -> Measured:
        plan = self._plan
        if load.kind in (Kind.RAW, Kind.SPREAD, Kind.OPEN):
            return await self._send_raw(
                load, seconds=plan.seconds, warm_up_seconds=plan.warm_up_seconds
            )
        if load.kind is Kind.CLIENT:
            return await client_load.run_sends(
                self._client,
                load.topic,
                body=self._chance.randbytes(self._body_size),
                task_count=load.in_flight,
                seconds=plan.seconds,
                warm_up_seconds=plan.warm_up_seconds,
            )
        if load.kind is Kind.CONSUME:
            return await client_load.run_consumer(
                self._client,
                load.topic,
                body_size=self._body_size,
                message_count=self.written[load.topic],
                seconds=plan.seconds,
            )
        host, port = await self._group.leader_address()
        with raw_load.connect(host, port) as connected:
            return raw_load.run_pulls(
                connected, load.topic, queue_count=QUEUE_COUNT, seconds=plan.seconds
            )

    async def _send_raw(self, load: Load, *, seconds: float, warm_up_seconds: float) -> Measured:
        host, port = await self._group.leader_address()
        if load.kind is Kind.SPREAD:
            rings = [self._ring(load, number) for number in range(load.in_flight)]
            return raw_load.run_spread(
                host, port, rings, seconds=seconds, warm_up_seconds=warm_up_seconds
            )
        ring = self._ring(load, 0)
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

    def _ring(self, load: Load, number: int) -> FrameRing:
        """Return the frames of one connection; they go on where it stopped in the last round."""
        key = load.name, number
        if key not in self._rings:
            self._rings[key] = FrameRing(
                topic=load.topic,
                queue_count=QUEUE_COUNT,
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
                for queue_id in range(QUEUE_COUNT)
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
    """Run all loads on a new group in *folder*, prove the outcome, and remove it.

    Raises:
        LoadError: something acknowledged is not there, or the logs differ; the folder is kept.
    """
    group = BenchGroup(
        folder, flush=flush, segment_size=plan.segment_size, node_count=plan.node_count
    )
    try:
        await group.start()
        before = await group.rss()
        async with broker.connect(group.addresses) as client:
            run = GroupRun(
                plan, group, client, flush=flush, body_size=body_size, chance=chance, say=say
            )
            rounds = await run.run()
        after = await group.rss()
    finally:
        with trio.CancelScope(shield=True):
            await group.stop()
    entry_count, log_size = await trio.to_thread.run_sync(group.compare_logs)
    say(f"logs of {entry_count:,} entries in {log_size:,} bytes are identical on all nodes")
    shutil.rmtree(folder)
    return GroupReport(
        flush=flush.value,
        body_size=body_size,
        lines=tuple(
            Line.of(load.name, body_size, flush.value, results) for load, results in rounds.items()
        ),
        rss_before=before,
        rss_after=after,
        message_count=sum(run.written.values()),
        entry_count=entry_count,
        log_size=log_size,
    )


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """Keep the load's own collector out of the latencies; the nodes do as they always do."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
