"""A load on a group, all that it saw, and the proof that the group kept its word."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import trio

import broker
from broker.cli.log_commands import verify_logs
from broker.cli.node_reader import read_topic
from broker.errors import BrokerError
from tests.process.derived import derived_units, rebuild_derived
from tests.process.kit import SECONDS, eventually

if TYPE_CHECKING:
    from broker.client.connect import Client
    from broker.client.producer import Producer
    from broker.client.results import SendResult
    from tests.process.kit import NodeProcess, ProcessGroup

TOPIC = "proof"
QUEUE_COUNT = 4
KEY_COUNT = 6
PACE_SECONDS = 0.004  # between two messages of one key
WINDOW = 150  # messages of one key under way: they pile up while nobody leads


class Seen(NamedTuple):
    key: str
    number: int
    queue_id: int
    queue_offset: int


@dataclass
class Load:
    """Idempotent sends with ordering keys, and a consumer; use as ``async with Load(group)``."""

    group: ProcessGroup
    body_size: int = 40
    send_timeout: float = SECONDS
    acknowledged: list[Seen] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    failures: list[BrokerError] = field(default_factory=list)
    consumed: list[Seen] = field(default_factory=list)
    started_count: int = 0

    async def __aenter__(self) -> Load:
        self._sending = trio.CancelScope()
        self._nursery_manager = trio.open_nursery()
        nursery = await self._nursery_manager.__aenter__()
        try:
            await nursery.start(self._run)
        except BaseException:
            nursery.cancel_scope.cancel()
            raise
        self._nursery = nursery
        return self

    async def __aexit__(self, kind, error, traceback) -> None:
        self._nursery.cancel_scope.cancel()
        # The error is not passed in: it is to come out by itself, not in a group.
        await self._nursery_manager.__aexit__(None, None, None)

    async def _run(self, *, task_status) -> None:
        async with broker.connect(self.group.addresses, group_timeout=SECONDS) as self.client:
            await self.client.admin.create_topic(TOPIC, queue_count=QUEUE_COUNT)
            async with trio.open_nursery() as nursery:
                await nursery.start(self._consume, self.client)
                async with self.client.producer("load", send_timeout=self.send_timeout) as producer:
                    self.producer = producer
                    self._ended = trio.Event()
                    nursery.start_soon(self._produce, producer)
                    task_status.started()
                    await self._ended.wait()
                    await trio.sleep_forever()

    async def _produce(self, producer: Producer) -> None:
        async with trio.open_nursery() as sends:
            with self._sending:
                async with trio.open_nursery() as keys:
                    for number in range(KEY_COUNT):
                        keys.start_soon(self._send_key, producer, f"key-{number}", sends)
        self._ended.set()

    async def _send_key(self, producer: Producer, key: str, sends: trio.Nursery) -> None:
        window = trio.Semaphore(WINDOW)
        for number in itertools.count():
            await window.acquire()
            self.started_count += 1
            sends.start_soon(self._send, producer, key, number, window)
            await trio.sleep(PACE_SECONDS)

    async def _send(self, producer, key: str, number: int, window: trio.Semaphore) -> None:
        began = trio.current_time()
        body = f"{key}/{number}/".encode().ljust(self.body_size, b".")
        try:
            result: SendResult = await producer.send(TOPIC, body, key=key, ordering_key=key)
        except BrokerError as error:
            self.failures.append(error)
        else:
            self.acknowledged.append(Seen(key, number, result.queue_id, result.queue_offset))
            self.latencies.append(trio.current_time() - began)
        window.release()

    async def _consume(self, client: Client, *, task_status) -> None:
        self._all_seen, self._has_read = trio.Event(), trio.Event()
        async with client.consumer("watcher", TOPIC, start="first", poll_wait=5.0) as consumer:
            task_status.started()
            while not self._all_seen.is_set():
                message = await consumer.get(0.1)
                if message is not None:
                    self.consumed.append(_seen(message))
        self._has_read.set()

    # -- what it tells --------------------------------------------------------------------------

    async def more(self, count: int = 200) -> None:
        """Wait until *count* more messages are acknowledged."""
        wanted = len(self.acknowledged) + count

        async def came() -> bool:
            return len(self.acknowledged) >= wanted

        await eventually(f"{count} more messages are acknowledged", came)

    async def stop_sending(self) -> None:
        """Start no more sends and wait for the outcome of all."""
        self._sending.cancel()
        with trio.fail_after(SECONDS):
            await self._ended.wait()

    # -- the proof ------------------------------------------------------------------------------

    async def prove(self, *, failures_max: int = 0, rebuild: bool = True) -> None:
        """End the load and look whether everybody has everything, once and in order."""
        await self.stop_sending()
        assert len(self.failures) <= failures_max, [str(error) for error in self.failures[:5]]
        assert self.acknowledged

        async def consumed_all() -> bool:
            return len(self.consumed) >= len(self.acknowledged)

        await eventually("the consumer has seen every message", consumed_all)
        self._all_seen.set()
        with trio.fail_after(SECONDS):
            await self._has_read.wait()  # with its last commit, which is an entry of the log
        end_index = (await self.group.settled()).end_index
        check_reader("the consumer", self.consumed, self.acknowledged)
        for node in self.group.running:
            await self.prove_readable(node)
        check_logs(self.group, end_index)
        if rebuild:
            await self.group.terminate()
            check_derived(self.group)

    async def prove_readable(self, node: NodeProcess) -> None:
        """Check that a node serves all that was acknowledged, as far as the log reaches back."""
        messages = await read_topic(node.address, TOPIC, queue_count=QUEUE_COUNT)
        found = [_seen(message) for message in messages]
        first: dict[int, int] = {}
        for seen in found:
            first.setdefault(seen.queue_id, seen.queue_offset)
        kept = [
            seen
            for seen in self.acknowledged
            if seen.queue_offset < 0 or seen.queue_offset >= first.get(seen.queue_id, 0)
        ]
        if not self.group.has_retention:
            assert len(kept) == len(self.acknowledged), f"{node.node_id} lacks the first messages"
        assert kept
        check_reader(node.node_id, found, kept)


def _seen(message) -> Seen:
    key, number, _ = bytes(message.body).split(b"/")
    return Seen(key.decode(), int(number), message.queue_id, message.queue_offset)


def check_reader(name: str, found: list[Seen], acknowledged: list[Seen]) -> None:
    """Check what one reader found: all that was acknowledged, where it was, once, in order."""
    counts = Counter((seen.key, seen.number) for seen in found)
    doubled = [message for message, count in counts.items() if count > 1]
    assert not doubled, f"{name} has {len(doubled)} messages twice, {doubled[:3]} first"
    missing = [seen for seen in acknowledged if (seen.key, seen.number) not in counts]
    assert not missing, f"{name} lacks {len(missing)} acknowledged messages, {missing[:3]} first"
    places = {(seen.key, seen.number): seen for seen in found}
    moved = [
        (seen, places[seen.key, seen.number])
        for seen in acknowledged
        if seen.queue_offset >= 0 and places[seen.key, seen.number] != seen
    ]
    assert not moved, f"{name} has {len(moved)} messages elsewhere, {moved[:3]} first"
    last: dict[str, int] = {}
    for seen in found:
        assert seen.number > last.get(seen.key, -1), f"{name}: {seen} stands behind a later one"
        last[seen.key] = seen.number


def check_logs(group: ProcessGroup, end_index: int) -> None:
    """Check that the logs of all nodes hold the same bytes as far as *end_index*.

    They run, and an election on a busy machine adds an entry at any time, to one log earlier than
    to another.
    """
    first, *others = [node.data for node in group]
    result = verify_logs(first, tuple(others))
    assert result["ok"], (result["problems"], result["against"])
    for other in result["against"]:
        assert other["identical_index"] >= end_index, (end_index, other)


def check_derived(group: ProcessGroup) -> None:
    """Check that consume queues are equal everywhere, and come back equal when deleted."""
    kept = {node.node_id: derived_units(node) for node in group}
    for node in group:
        rebuild_derived(node)
        before, after = kept[node.node_id], derived_units(node)
        changed = sorted(
            place for place in before.keys() | after.keys() if before.get(place) != after.get(place)
        )
        assert not changed, f"{node.node_id}: {len(changed)} units rebuilt otherwise: {changed[:3]}"
    first, *others = kept.values()
    for other in others:
        for place in first.keys() & other.keys():
            assert first[place] == other[place], f"the nodes' units differ at {place}"
