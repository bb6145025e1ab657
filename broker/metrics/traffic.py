"""Messages and bytes by topic and group, counted by batch as they pass.

What comes in is counted where committed entries are dispatched, and only on the node that leads, as
RocketMQ counts on the master: the sum over a group's nodes is what the group took.  What goes out
is counted on whichever node answered the pull.

Names come from outside, so there are bounds: `TOPICS_MAX` topics and `PAIRS_MAX` pairs of topic and
group; all beyond go by `OTHER`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dledger.measures import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from broker.store.runs import RecordRun

TOPICS_MAX: Final = 1000
PAIRS_MAX: Final = 1000
OTHER: Final = "_other"
KIB: Final = 1024
# RocketMQ's own buckets of rocketmq_message_size, bytes.
SIZE_BOUNDS: Final = (KIB, 4 * KIB, 512 * KIB, 1024 * KIB, 2048 * KIB, 4096 * KIB)

_UNIT = np.dtype([("position", ">i8"), ("size", ">i4"), ("tags_code", ">i8")])


class Flow:
    """Messages and bytes that have passed."""

    __slots__ = ("messages", "size")

    def __init__(self) -> None:
        self.messages = 0
        self.size = 0  # bytes of records

    def add(self, messages: int, size: int) -> None:
        """Count *messages* more, of together *size* bytes."""
        self.messages += messages
        self.size += size


class Traffic:
    """What has passed since the node started; a `Dispatcher` of `broker.store.dispatch`."""

    def __init__(self) -> None:
        # Whether this node counts what comes in; what a start takes in again is counted by nobody.
        self.leads: Callable[[], bool] = lambda: False
        self.arrived: dict[str, Flow] = {}  # by topic
        self.served: dict[tuple[str, str], Flow] = {}  # by topic and group
        self._groups: dict[str, str] = {}
        self.sizes = Histogram(SIZE_BOUNDS)  # of records that came in, bytes

    def dispatch_runs(self, runs: Iterable[RecordRun], body: memoryview) -> None:
        """See `Dispatcher`."""
        if not self.leads():
            return
        arrived = self.arrived
        small_count = small_size = 0  # of records up to the least bound: nearly all
        for run in runs:
            topic, count, size = run.topic, run.record_count, run.size
            if run.size_max <= SIZE_BOUNDS[0]:
                small_count += count
                small_size += size
            else:
                self._observe_sizes(run)
            flow = arrived.get(topic)
            if flow is None:
                flow = arrived.setdefault(topic if len(arrived) < TOPICS_MAX else OTHER, Flow())
            flow.messages += count
            flow.size += size
        if small_count:
            self.sizes.add((small_count,), small_size)

    def _observe_sizes(self, run: RecordRun) -> None:
        places = np.searchsorted(SIZE_BOUNDS, np.frombuffer(run.units, _UNIT)["size"])
        counts = np.bincount(places, minlength=len(SIZE_BOUNDS) + 1).tolist()
        self.sizes.add(counts, run.size)

    def shared_name(self, group: str) -> str:
        """Return *group* as one string for all who wait under it; `OTHER` beyond the bound.

        A pull that waits may not keep what its client wrote: a hundred thousand of them wait.
        """
        shared = self._groups.get(group)
        if shared is None:
            if len(self._groups) >= PAIRS_MAX:
                return OTHER
            shared = self._groups[group] = group
        return shared

    def serve(self, topic: str, group: str, *, messages: int, size: int) -> None:
        """Count what one pull was answered with."""
        flow = self.served.get((topic, group))
        if flow is None:
            key = (topic, group) if len(self.served) < PAIRS_MAX else (OTHER, OTHER)
            flow = self.served.setdefault(key, Flow())
        flow.add(messages, size)

    def forget_all_but(self, topics: Container[str]) -> None:
        """Drop what was counted for topics that are no more, to make room for others."""
        for topic in [name for name in self.arrived if name not in topics and name != OTHER]:
            del self.arrived[topic]
        for key in [key for key in self.served if key[0] not in topics and key[0] != OTHER]:
            del self.served[key]
