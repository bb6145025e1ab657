"""A consumer whose group is put elsewhere while it reads.

Its pulls and commits name the epoch of the group's offsets in which it began (docs/protocol.md). A
node that knows a newer one says so; the consumer then asks where its group goes on, and reads on
from there.  What it would have committed in the old epoch counts for nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from broker.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.client.offsets import Offsets
    from broker.client.progress import QueueProgress

_LOG = logging.getLogger("broker.client")


class ResetFollower:
    """Takes one consumer where its group was put."""

    def __init__(
        self,
        *,
        group: str,
        topic: str,
        offsets: Offsets,
        queues: Mapping[int, QueueProgress],
        seek: Callable[[int, int], None],
    ) -> None:
        """Make one that knows no epoch; `begin` asks for it.

        Args:
            group: the consumer group.
            topic: what is read.
            offsets: tells where the group goes on.
            queues: how far each queue has come.
            seek: has a queue handed out from an offset on.
        """
        self.epoch = 0
        self._group = group
        self._topic = topic
        self._offsets = offsets
        self._queues = queues
        self._seek = seek
        self._noticed = trio.Event()

    async def begin(self, queue: int) -> None:
        """Learn the epoch; to be done before the offsets are asked for that are read from.

        Raises:
            NoBrokerError: nobody could tell.
        """
        _, self.epoch = await self._offsets.progress(self._group, self._topic, queue)

    def notice(self) -> None:
        """Take note that a node has spoken of a newer epoch."""
        self._noticed.set()

    async def run(self, commit_lock: trio.Lock) -> None:
        """Follow resets until cancelled; commits wait meanwhile."""
        while True:
            await self._noticed.wait()
            self._noticed = trio.Event()
            async with commit_lock:
                await self._follow()

    async def _follow(self) -> None:
        while True:
            try:
                found = await self._ask()
            except BrokerError as error:
                _LOG.warning(
                    "group %s was put elsewhere in topic %s, and where cannot be asked: %s",
                    self._group,
                    self._topic,
                    error,
                )
                return  # the next pull or commit is told again
            if found is not None:
                break
        epoch, places = found
        if epoch == self.epoch:
            return  # told by two nodes of one reset
        self.epoch = epoch
        moved = {}
        for queue, offset in places.items():
            progress = self._queues.get(queue)
            if progress is None:
                continue  # handed over meanwhile
            # Also back to where the group stood: its operator wants that done again. Which queues
            # were reset is not told, so the others, too, go on at what they have committed.
            if not progress.is_just_at(offset):
                moved[queue] = offset
                self._seek(queue, offset)
            progress.committed = offset
        _LOG.warning(
            "group %s was put elsewhere in topic %s: reading on at %s",
            self._group,
            self._topic,
            ", ".join(f"offset {offset} of queue {queue}" for queue, offset in moved.items())
            or "the same offsets",
        )

    async def _ask(self) -> tuple[int, dict[int, int]] | None:
        """Return the epoch and where the group goes on; None when that changed meanwhile."""
        epochs = set()
        places = {}
        for queue in list(self._queues):
            committed, epoch = await self._offsets.progress(self._group, self._topic, queue)
            epochs.add(epoch)
            if committed is not None:  # otherwise the reset did not touch it
                places[queue] = committed
        if not epochs:
            return self.epoch, {}
        return (max(epochs), places) if len(epochs) == 1 else None
