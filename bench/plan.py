"""What is measured: loads, sizes and how often; no I/O here.

A closed loop has so many sends under way, and each answer lets the next one go; an open loop sends
at a rate, whatever the answers do.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dledger.config import FlushDiskType

if TYPE_CHECKING:
    from pathlib import Path

QUEUE_COUNT = 4


class Kind(enum.Enum):
    """Who makes the load."""

    RAW = "raw"  # frames encoded beforehand, over a plain socket: what the broker can do
    SPREAD = "spread"  # the same, each request on a connection of its own
    OPEN = "open"  # the same at a fixed rate, latencies from the moment a send was due
    CLIENT = "client"  # ``await producer.send()`` from many tasks of one process
    PULL = "pull"  # raw pulls: what the broker can hand out
    CONSUME = "consume"  # ``async for message in consumer``


@dataclass(frozen=True, slots=True)
class Load:
    """One line of the table."""

    name: str
    kind: Kind
    in_flight: int = 0  # requests, or tasks, under way
    batch_count: int = 1  # messages in one request
    rate: int = 0  # messages a second, of an open loop

    @property
    def topic(self) -> str:
        """The topic it writes; consuming reads what the batches have written."""
        return f"bench-{self.name}" if self.is_sending else "bench-raw-batch-256"

    @property
    def is_sending(self) -> bool:
        """Whether it writes."""
        return self.kind not in (Kind.PULL, Kind.CONSUME)


LOADS = (
    Load("raw-1", Kind.RAW, 1),
    Load("raw-256", Kind.RAW, 256),
    Load("raw-1000", Kind.RAW, 1000),
    Load("raw-64-connections", Kind.SPREAD, 64),
    Load("raw-batch-32", Kind.RAW, 32, 32),
    Load("raw-batch-256", Kind.RAW, 8, 256),
    Load("raw-batch-1000", Kind.RAW, 4, 1000),
    Load("rate-1000", Kind.OPEN, rate=1000),
    Load("rate-20000", Kind.OPEN, rate=20_000),
    Load("rate-100000", Kind.OPEN, rate=100_000),
    Load("send-1", Kind.CLIENT, 1),
    Load("send-256", Kind.CLIENT, 256),
    Load("send-1000", Kind.CLIENT, 1000),
    Load("pull", Kind.PULL, QUEUE_COUNT),
    Load("consume", Kind.CONSUME, QUEUE_COUNT),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run of the benchmark."""

    loads: tuple[Load, ...] = LOADS
    body_sizes: tuple[int, ...] = (100, 1024)  # bytes
    flush_types: tuple[FlushDiskType, ...] = (FlushDiskType.ASYNC_FLUSH, FlushDiskType.SYNC_FLUSH)
    round_count: int = 3
    seconds: float = 3.0  # of each load in each round
    warm_up_seconds: float = 0.3  # at its beginning, not counted
    node_count: int = 3
    segment_size: int = 256 * 1024 * 1024  # bytes
    profile_folder: Path | None = None  # where stacks of the nodes are written

    @property
    def seconds_least(self) -> float:
        """How long the loads alone take."""
        groups = len(self.flush_types) * len(self.body_sizes)
        each = self.seconds + self.warm_up_seconds
        return groups * self.round_count * len(self.loads) * each


def quick() -> Plan:
    """Return a plan of about half a minute: a look, not a measurement."""
    return Plan(body_sizes=(100,), round_count=1, seconds=1.0, warm_up_seconds=0.2)


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
