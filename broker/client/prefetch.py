"""What a consumer has pulled ahead, all queues together, and which queue's turn it is."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from broker.client.records import MessageRun

if TYPE_CHECKING:
    from broker.client.message import Message
    from broker.client.progress import QueueProgress
    from broker.client.queue_reader import QueueReader


class Prefetch:
    """Batches that wait to be handed out.

    With *one_by_one* a queue hands out its next message only once the last one is done.
    """

    def __init__(self, *, size_max: int, count_max: int, one_by_one: bool = False) -> None:
        self._size_max = size_max
        self._count_max = count_max
        self._one_by_one = one_by_one
        self._size = 0  # bytes that wait
        self._count = 0  # messages, likewise
        self._progresses: dict[QueueReader, QueueProgress] = {}
        self._turns: deque[QueueReader] = deque()  # readers with batches, in order of arrival
        self._arrival = trio.Event()

    @property
    def progresses(self) -> list[QueueProgress]:
        """All queues that are read."""
        return list(self._progresses.values())

    @property
    def is_ready(self) -> bool:
        """Whether there is something to hand out."""
        if not self._one_by_one:
            return bool(self._turns)
        return self._first_free() is not None

    def add(self, progress: QueueProgress) -> None:
        """Begin with one queue."""
        self._progresses[progress.reader] = progress

    def remove(self, reader: QueueReader) -> None:
        """Have no more of one queue; what was read ahead is forgotten."""
        self.drop(reader)
        self._progresses.pop(reader, None)
        self.wake()  # nobody waits for an error of this one any more

    def drop(self, reader: QueueReader) -> None:
        """Forget what was read ahead of one queue."""
        for run, size, _ in reader.batches:
            self._size -= size
            self._count -= len(run)
        reader.batches.clear()
        self.hold(reader)

    def hold(self, reader: QueueReader) -> None:
        """Take no turn of one queue; it keeps what it has."""
        if reader in self._turns:
            self._turns.remove(reader)

    def release(self, reader: QueueReader) -> None:
        """Take turns of one queue again, unless it was removed meanwhile."""
        if reader not in self._progresses:
            return
        if reader.batches and not reader.is_paused and reader not in self._turns:
            self._turns.append(reader)
        self.wake()

    def put_back(self, reader: QueueReader, messages: list[Message]) -> None:
        """Have *messages* wait again, before all others of their queue, if that is still read."""
        if reader not in self._progresses:
            return
        end = reader.batches[0][0].first_offset if reader.batches else reader.next_offset
        reader.batches.appendleft((MessageRun.of(messages), 0, end))
        self._count += len(messages)

    def on_arrival(self, reader: QueueReader, count: int) -> None:
        """Take note that a reader has *count* messages more, or something else to tell."""
        if reader not in self._progresses:
            return  # removed meanwhile
        if count:
            self._size += reader.batches[-1][1]
            self._count += count
            if not reader.is_paused and reader not in self._turns:
                self._turns.append(reader)
        self._arrival.set()

    def wake(self) -> None:
        """Have whoever waits look again."""
        self._arrival.set()

    async def wait(self) -> None:
        """Wait until something has arrived, or `wake` is called."""
        self._arrival = trio.Event()
        await self._arrival.wait()

    def take(self) -> tuple[QueueProgress, MessageRun, int] | None:
        """Return a queue, messages of it, and the offset behind them; None: there are none."""
        reader = self._first_free() if self._one_by_one else None
        if reader is not None:
            self._turns.remove(reader)
        elif self._one_by_one or not self._turns:  # paused meanwhile
            return None
        else:
            reader = self._turns.popleft()
        run, size, end = reader.batches.popleft()
        if self._one_by_one and len(run) > 1:
            rest, run = run, MessageRun.of(run.take(1))
            reader.batches.appendleft((rest, size, end))
            size, end = 0, rest.first_offset
        if reader.batches:
            self._turns.append(reader)
        self._size -= size
        self._count -= len(run)
        self.make_room()
        return self._progresses[reader], run, end

    def has_room(self) -> bool:
        """Whether more is to be pulled ahead."""
        return self._size < self._size_max and self._count < self._count_max

    def make_room(self) -> None:
        """Tell the readers when more is to be pulled."""
        if self.has_room():
            for reader in self._progresses:
                reader.make_room()

    def _first_free(self) -> QueueReader | None:
        now = trio.current_time()
        for reader in self._turns:
            progress = self._progresses[reader]
            if progress.is_idle and now < progress.valid_until:
                return reader
        return None
