"""What is measured: loads, sizes and how often; no I/O here.

A closed loop has so many sends under way, and each answer lets the next one go; an open loop sends
at a rate, whatever the answers do.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dledger.config import KIB, MIB, FlushDiskType

if TYPE_CHECKING:
    from pathlib import Path

QUEUE_COUNT = 4
MANY_QUEUES = 64
BODY_SIZE_MAX = 4 * MIB  # what nodes take, by default
BIG_BODY = 16 * KIB  # from here on a body is big, and loads are few
_FRAME_SIZE_MAX = 2 * MIB  # of a batch
_UNDER_WAY_MAX = 16 * MIB  # bytes of one connection that nodes have unanswered
_PUSHED_SIZE_MAX = 8 * MIB  # bytes a second: not to measure the disk
_SLOW_RATE = 1000  # messages a second: for these no memory is prepared
_RECORD_OVERHEAD = 256  # bytes of a record and its share of a header, at most


class Kind(enum.Enum):
    """Who makes the load."""

    RAW = "raw"  # frames encoded beforehand, over a plain socket: what the broker can do
    SPREAD = "spread"  # the same, each request on a connection of its own
    OPEN = "open"  # the same at a fixed rate, latencies from the moment a send was due
    CLIENT = "client"  # ``await producer.send()`` from many tasks of one process
    SYNC = "sync"  # ``broker.sync``: one send after another, or `send_many`
    PULL = "pull"  # raw pulls: what the broker can hand out
    CONSUME = "consume"  # ``async for message in consumer``
    SYNC_CONSUME = "sync-consume"  # ``for message in consumer`` without an event loop
    PUSH = "push"  # a consumer that waits for what is sent just now


_READING = (Kind.PULL, Kind.CONSUME, Kind.SYNC_CONSUME)


@dataclass(frozen=True, slots=True)
class Load:
    """One line of the table."""

    name: str
    kind: Kind
    in_flight: int = 0  # requests, or tasks, under way
    batch_count: int = 1  # messages in one request
    rate: int = 0  # messages a second, of an open loop
    queue_count: int = QUEUE_COUNT
    pull_count: int = 0  # messages in the answer to a pull at most; 0: 1 MiB of them
    is_cold: bool = False  # nothing of the files is in the page cache
    is_busy: bool = False  # another process sends batches of 256 at full speed meanwhile
    for_big_bodies: bool = False

    @property
    def topic(self) -> str:
        """The topic it writes; reading takes what batches have written."""
        if self.is_busy:
            return "bench-busy"
        if self.kind in _READING:
            return reading_topic(self.queue_count)
        return f"bench-{self.name}"

    @property
    def is_heavy(self) -> bool:
        """Whether it fills memory so fast that the first use of pages counts."""
        return (self.is_sending and self.in_flight > 1) or self.rate > _SLOW_RATE

    @property
    def is_sending(self) -> bool:
        """Whether it writes."""
        return self.kind not in _READING

    def fitted(self, body_size: int) -> Load:
        """Return it with no more in a frame, and no more under way, than nodes take at once."""
        if self.kind is Kind.PUSH:
            return replace(self, rate=min(self.rate, _PUSHED_SIZE_MAX // body_size))
        if self.kind not in (Kind.RAW, Kind.SPREAD, Kind.OPEN):
            return self
        size = body_size + _RECORD_OVERHEAD
        batch_count = max(1, min(self.batch_count, _FRAME_SIZE_MAX // size))
        in_flight = max(1, min(self.in_flight, _UNDER_WAY_MAX // (batch_count * size)))
        return replace(self, batch_count=batch_count, in_flight=in_flight)


def reading_topic(queue_count: int) -> str:
    """Return the topic of so many queues that is filled to be read."""
    return f"bench-{queue_count}-queues"


LOADS = (
    Load("raw-1", Kind.RAW, 1, for_big_bodies=True),
    Load("raw-256", Kind.RAW, 256, for_big_bodies=True),
    Load("raw-1000", Kind.RAW, 1000),
    Load("raw-64-connections", Kind.SPREAD, 64),
    Load("raw-batch-32", Kind.RAW, 32, 32),
    Load("raw-batch-256", Kind.RAW, 8, 256, for_big_bodies=True),
    Load("raw-batch-1000", Kind.RAW, 4, 1000),
    Load("rate-1000", Kind.OPEN, rate=1000),
    Load("rate-20000", Kind.OPEN, rate=20_000),
    Load("rate-100000", Kind.OPEN, rate=100_000),
    Load("send-1", Kind.CLIENT, 1, for_big_bodies=True),
    Load("send-256", Kind.CLIENT, 256, for_big_bodies=True),
    Load("send-1000", Kind.CLIENT, 1000),
    Load("sync-send", Kind.SYNC, 1),
    Load("sync-send-many", Kind.SYNC, 1000),
    Load("pull", Kind.PULL, QUEUE_COUNT, for_big_bodies=True),
    Load("pull-32", Kind.PULL, QUEUE_COUNT, pull_count=32),
    Load("pull-64-queues", Kind.PULL, MANY_QUEUES, queue_count=MANY_QUEUES),
    Load("pull-busy", Kind.PULL, QUEUE_COUNT, is_busy=True),
    Load("consume", Kind.CONSUME, for_big_bodies=True),
    Load("consume-64-queues", Kind.CONSUME, queue_count=MANY_QUEUES),
    Load("consume-busy", Kind.CONSUME, is_busy=True),
    Load("sync-consume", Kind.SYNC_CONSUME),
    Load("push", Kind.PUSH, rate=1000, for_big_bodies=True),
    Load("push-busy", Kind.PUSH, is_busy=True),
    # Last, as the nodes are started again for each: a process that has just begun is cold as well.
    Load("pull-cold", Kind.PULL, QUEUE_COUNT, is_cold=True),
    Load("consume-cold", Kind.CONSUME, is_cold=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run of the benchmark."""

    loads: tuple[Load, ...] = LOADS
    body_sizes: tuple[int, ...] = (100, 1024, 64 * KIB)
    flush_types: tuple[FlushDiskType, ...] = (FlushDiskType.ASYNC_FLUSH, FlushDiskType.SYNC_FLUSH)
    round_count: int = 3
    seconds: float = 3.0  # of each load in each round
    warm_up_seconds: float = 0.3  # at its beginning, not counted
    node_count: int = 3
    segment_size: int = 256 * 1024 * 1024  # bytes
    profile_folder: Path | None = None  # where flame graphs of the nodes are written
    is_warm: bool = True  # loads find the memory they take at hand, see `bench.warm`

    def loads_for(self, body_size: int) -> tuple[Load, ...]:
        """Return the loads with bodies of that size: few when they are big, if any is for them."""
        if body_size < BIG_BODY:
            return self.loads
        return tuple(load for load in self.loads if load.for_big_bodies)

    @property
    def seconds_least(self) -> float:
        """How long the loads alone take."""
        each = self.seconds + self.warm_up_seconds
        count = sum(len(self.loads_for(body_size)) for body_size in self.body_sizes)
        return len(self.flush_types) * self.round_count * count * each


def of_other_sizes(plan: Plan) -> list[Plan]:
    """Return plans for groups of one node and of five: few loads, small bodies."""
    loads = choose("raw-1,raw-256,raw-1000,raw-batch-256,send-1000")
    return [replace(plan, node_count=count, loads=loads, body_sizes=(100,)) for count in (1, 5)]


def quick() -> Plan:
    """Return a plan of about half a minute: a look, not a measurement."""
    return Plan(body_sizes=(100,), round_count=1, seconds=0.7, warm_up_seconds=0.2)


def choose(text: str) -> tuple[Load, ...]:
    """Return the loads that are, or else begin with, one of the words in *text*.

    The words are divided by commas.

    Raises:
        ValueError: a word fits none; names those there are.
    """
    chosen: list[Load] = []
    for word in text.split(","):
        name = word.strip()
        fitting = [load for load in LOADS if load.name == name]
        fitting = fitting or [load for load in LOADS if load.name.startswith(name)]
        if not fitting:
            names = ", ".join(load.name for load in LOADS)
            raise ValueError(f"no load begins with {name!r}; there are {names}")
        chosen += [load for load in fitting if load not in chosen]
    return tuple(load for load in LOADS if load in chosen)
