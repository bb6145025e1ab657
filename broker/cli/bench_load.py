"""The load of ``dledger bench``: sends, and receives what it sent.

With a rate the load is an open loop: message n is due at n / rate, and its latency counts from
there, so that a group that stands still for a second shows in the figures of all that were due in
it, and not only in those of the one that was under way.  As fast as it goes is a closed loop.

Times are kept as a histogram, right to within 9 %: memory does not grow with the run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

import broker
from broker.cli.ask import ask_group
from broker.cli.connecting import open_client
from broker.client.latency import LatencyHistogram
from broker.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Sequence

BENCH_GROUP = ""  # of no consumer group: none comes to be
DRAIN_SECONDS = 10.0  # longest wait for what is acknowledged and not received yet

STAMP_SIZE = 8  # bytes of a body that say when its message was due, and as many that name the run


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What is sent."""

    topic: str
    body_size: int  # bytes
    rate: float  # messages a second; 0: as fast as it goes
    seconds: float
    in_flight: int  # messages under way at once
    queue_count: int  # of the topic, if it has to be made


@dataclass(slots=True, kw_only=True)
class Result:
    """What one run measured."""

    kind: str
    servers: list[str]
    topic: str
    body_size: int
    rate_wanted: float  # messages a second; 0: as fast as it goes
    seconds: float = 0.0  # that the load lasted
    count: int = 0  # messages acknowledged or received
    failed: int = 0
    lost: int = 0  # of `e2e`: acknowledged, and not received in time
    flush: str = ""  # of the leader
    nodes: int = 0  # that answered
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    first_error: str = ""


class Load:
    """Sends as fast as it is told, and receives if it is `e2e`."""

    def __init__(self, servers: Sequence[str], plan: LoadPlan, *, is_received: bool) -> None:
        self.result = Result(
            kind="e2e" if is_received else "produce",
            servers=list(servers),
            topic=plan.topic,
            body_size=plan.body_size,
            rate_wanted=plan.rate,
        )
        self._plan = plan
        self._next = 0  # number of the next message
        self._run_mark = os.urandom(STAMP_SIZE)  # tells this run's messages from an earlier one's
        self._filling = os.urandom(
            plan.body_size
        )  # does not compress, as little of what matters does
        self._received = 0
        self._drained: trio.Event | None = None  # set when all is received, once all is sent

    async def run(self) -> None:
        """Run the load and fill in the result."""
        result = self.result
        async with open_client(result.servers, auto_create_topic=False) as mq:
            await _note_group(result)
            await self._make_topic(mq)
            async with trio.open_nursery() as nursery:
                if result.kind == "e2e":
                    await nursery.start(self._receive, mq)
                async with mq.producer("dledger-bench") as producer:
                    await self._send_all(producer)
                if result.kind == "e2e":
                    self._drained = trio.Event()
                    with trio.move_on_after(DRAIN_SECONDS):
                        if self._received < result.count:
                            await self._drained.wait()
                    result.lost = max(0, result.count - self._received)
                nursery.cancel_scope.cancel()

    async def _make_topic(self, mq: broker.Client) -> None:
        topic = self.result.topic
        if topic not in {entry.topic for entry in await mq.admin.list_topics()}:
            await mq.admin.create_topic(topic, queue_count=self._plan.queue_count)

    async def _send_all(self, producer: broker.Producer) -> None:
        began = trio.current_time()
        rate = self.result.rate_wanted
        if rate:
            # One ahead of the load: it asks for the topic's queues, which is no part of a send.
            await producer.send(self.result.topic, self._filling)
            began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(self._plan.in_flight):
                nursery.start_soon(self._work, producer, began, began + self._plan.seconds)
        self.result.seconds = trio.current_time() - began

    async def _work(self, producer: broker.Producer, began: float, end: float) -> None:
        result, rate = self.result, self.result.rate_wanted
        while True:
            number = self._next
            due = began + number / rate if rate else trio.current_time()
            if due >= end:
                return
            self._next += 1
            if due > trio.current_time():
                await trio.sleep_until(due)
            try:
                await producer.send(result.topic, self._body(due))
            except BrokerError as error:
                result.failed += 1
                result.first_error = result.first_error or str(error)
            else:
                result.count += 1
                if result.kind == "produce":
                    result.latency.add(trio.current_time() - due)

    def _body(self, due: float) -> bytes:
        if self.result.kind != "e2e":
            return self._filling
        stamp = int(due * 1e9).to_bytes(STAMP_SIZE, "big")
        return (stamp + self._run_mark + self._filling)[: self._plan.body_size]

    async def _receive(
        self, mq: broker.Client, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with mq.consumer(
            BENCH_GROUP, self.result.topic, start="last", auto_commit=False
        ) as consumer:
            task_status.started()
            async for message in consumer:
                body = message.body
                if body[STAMP_SIZE : 2 * STAMP_SIZE] != self._run_mark:
                    continue
                self._received += 1
                due = int.from_bytes(body[:STAMP_SIZE], "big") / 1e9
                self.result.latency.add(trio.current_time() - due)
                if self._drained is not None and self._received >= self.result.count:
                    self._drained.set()


async def read_to_end(result: Result, seconds: float) -> None:
    """Read the topic of *result* from its beginning to where it ends now, and fill in the figures.

    Raises:
        TopicNotFoundError: there is no such topic, or no message in it.
    """
    async with open_client(result.servers, auto_create_topic=False) as mq:
        await _note_group(result)
        entries = {entry.topic: entry for entry in await mq.admin.list_topics()}
        if result.topic not in entries:
            raise broker.TopicNotFoundError(
                f"topic {result.topic!r} does not exist; `dledger bench produce` makes messages"
            )
        waiting = 0
        for queue in range(entries[result.topic].read_queue_count):
            waiting += await mq.admin.max_offset(result.topic, queue)
            waiting -= await mq.admin.min_offset(result.topic, queue)
        if not waiting:
            raise broker.TopicNotFoundError(
                f"topic {result.topic!r} holds no message; `dledger bench produce` makes some"
            )
        began = trio.current_time()
        size = 0
        with trio.move_on_after(seconds):
            async with mq.consumer(
                BENCH_GROUP, result.topic, start="first", auto_commit=False
            ) as consumer:
                async for message in consumer:
                    size += len(message.body)
                    result.count += 1
                    if result.count >= waiting:
                        break
        result.seconds = trio.current_time() - began
        result.body_size = size // result.count if result.count else 0


async def _note_group(result: Result) -> None:
    view = await ask_group(result.servers)
    result.nodes = len(view.answering)
    if view.leader is not None and view.leader.status is not None:
        result.flush = view.leader.status.flush_disk_type
