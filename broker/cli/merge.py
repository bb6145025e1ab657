"""The queues of a topic merged into one stream, by store time as far as that can be known.

Within a queue messages have an order; across queues only their store times say anything, and those
are a clock's.  What lies in the topic when the merge begins is merged exactly: a message is let go
when every queue that still has some of it shows its next one.  What arrives later waits a *window*
for the others to bring what is older.  Whatever comes with an older time than one that was let go
is let go all the same, and counted.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.client.message import Message

COUNT_MAX = 20_000  # messages held back; with more the oldest go, whatever is missing
STALL_SECONDS = 2.0  # a queue that brings nothing for so long holds the others back no more


@dataclass(slots=True)
class _Queue:
    end: int  # offset behind its last message when the merge began
    next_offset: int  # what it brings next
    messages: deque[tuple[float, Message]] = field(default_factory=deque)  # and when each came

    @property
    def is_behind(self) -> bool:
        """Whether it has still to bring some of what was there at the beginning."""
        return self.next_offset < self.end


class Merge:
    """Takes messages of several queues in, each in order, and lets them go merged."""

    def __init__(self, places: Mapping[int, tuple[int, int]], *, window: float) -> None:
        """Begin.

        Args:
            places: by queue, the offset it is read from and the one it ends at now.
            window: seconds a message waits for older ones of other queues.
        """
        self._queues = {
            queue: _Queue(end=end, next_offset=start) for queue, (start, end) in places.items()
        }
        self._window = window
        self._heads: list[tuple[int, int]] = []  # store time and queue of each first message
        self._count = 0
        self._last_ms = -1  # store time of the last message let go
        self._moved_at = 0.0  # when something last came from a queue that is behind
        self.disorder_count = 0  # messages let go after one with a later store time

    @property
    def count(self) -> int:
        """Messages held back now."""
        return self._count

    @property
    def is_at_end(self) -> bool:
        """Whether all that was there at the beginning has come."""
        return not any(queue.is_behind for queue in self._queues.values())

    def start(self, now: float) -> None:
        """Begin to count the time in which queues may be silent."""
        self._moved_at = now

    def add(self, message: Message, now: float) -> None:
        """Take *message* in, the next of its queue."""
        queue = self._queues[message.queue_id]
        if queue.is_behind:
            self._moved_at = now
        queue.next_offset = message.queue_offset + 1
        queue.messages.append((now, message))
        self._count += 1
        if len(queue.messages) == 1:
            heapq.heappush(self._heads, (message.store_timestamp_ms, message.queue_id))

    def give_up_on_silent(self, now: float) -> list[int]:
        """Return the queues that are behind and silent for too long, and wait for them no more."""
        if now - self._moved_at < STALL_SECONDS:
            return []
        silent = [
            number
            for number, queue in self._queues.items()
            if queue.is_behind and not queue.messages
        ]
        for number in silent:
            self._queues[number].end = self._queues[number].next_offset
        return silent

    def take(self, now: float) -> list[Message]:
        """Return the messages that may go now, in their order."""
        found = []
        while self._heads and self._may_go(now):
            stored_ms, number = heapq.heappop(self._heads)
            queue = self._queues[number]
            _, message = queue.messages.popleft()
            self._count -= 1
            if queue.messages:
                following = queue.messages[0][1]
                heapq.heappush(self._heads, (following.store_timestamp_ms, number))
            if stored_ms < self._last_ms:
                self.disorder_count += 1
            self._last_ms = max(self._last_ms, stored_ms)
            found.append(message)
        return found

    def take_all(self) -> list[Message]:
        """Return all that is held back, in the order that is known."""
        return self.take(float("inf"))

    def next_time(self, now: float) -> float:
        """Return when `take` should be asked again, if nothing comes meanwhile."""
        if not self._heads:
            return float("inf") if self.is_at_end else self._moved_at + STALL_SECONDS
        if not self.is_at_end:
            return max(now, self._moved_at + STALL_SECONDS)
        return self._queues[self._heads[0][1]].messages[0][0] + self._window

    def _may_go(self, now: float) -> bool:
        if self._count > COUNT_MAX or now == float("inf"):
            return True
        if any(queue.is_behind and not queue.messages for queue in self._queues.values()):
            return False
        queue = self._queues[self._heads[0][1]]
        came_at, message = queue.messages[0]
        # What was there at the beginning needs no window: all that is older has come.
        return message.queue_offset < queue.end or now - came_at >= self._window
