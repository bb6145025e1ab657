"""Where to begin to read, as a user says it, and the offsets that come to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.client.lookup import Lookup
    from broker.client.offsets import Offsets
    from dledger.clock import Clock

WORDS = ("committed", "first", "last")

Start = str | int | datetime | timedelta | Mapping[int, int]
"""``"committed"``, ``"first"``, ``"last"``, an offset for every queue, a time, how long ago, or an
offset for each of some queues, with the others where the group stopped."""


def check_start(start: Start) -> None:
    """Raise ValueError or TypeError unless *start* can be one."""
    if isinstance(start, str):
        if start not in WORDS:
            raise ValueError(
                f'start = {start!r}: use "committed", "first", "last", a queue offset, a datetime, '
                "a timedelta, or a dict of offsets by queue"
            )
    elif isinstance(start, Mapping):
        for queue, queue_offset in start.items():
            if queue_offset < 0:
                raise ValueError(f"start of queue {queue} = {queue_offset}: must be at least 0")
    elif isinstance(start, timedelta):
        if start < timedelta(0):
            raise ValueError(f"start = {start}: say how long ago, as a timedelta above 0")
    elif isinstance(start, int):
        if start < 0:
            raise ValueError(f"start = {start}: a queue offset is at least 0")
    elif not isinstance(start, datetime):
        raise TypeError(f"start is a {type(start).__name__}; see Client.consumer")


class Starts:
    """Finds the offsets."""

    def __init__(self, offsets: Offsets, lookup: Lookup, clock: Clock) -> None:
        self._offsets = offsets
        self.lookup = lookup
        self.clock = clock

    async def find(
        self, group: str, topic: str, queues: Iterable[int], start: Start
    ) -> dict[int, int]:
        """Return the offset each of *queues* is to be read from; all are asked for at once.

        Raises:
            NoBrokerError: nobody answered in time.
            TopicNotFoundError: there is no such topic or queue.
        """
        wanted = tuple(queues)
        if isinstance(start, timedelta):
            now = datetime.fromtimestamp(self.clock.wall_ms() / 1000, UTC)
            start = now - start
        result: dict[int, int] = {}
        failure: Exception | None = None

        async def find_one(queue: int) -> None:
            nonlocal failure
            try:
                result[queue] = await self._find(group, topic, queue, start)
            except Exception as error:  # noqa: BLE001 - raised below, not inside a group
                failure = error
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for queue in wanted:
                nursery.start_soon(find_one, queue)
        if failure is not None:
            raise failure
        return {queue: result[queue] for queue in wanted}

    async def _find(self, group: str, topic: str, queue: int, start: Start) -> int:
        if isinstance(start, Mapping):
            start = start.get(queue, "committed")
        if isinstance(start, int):
            return start
        if isinstance(start, datetime):
            return await self.lookup.offset_at(topic, queue, start)
        if start == "last":
            return await self._offsets.max_offset(topic, queue)
        if start == "committed":
            committed = await self._offsets.committed(group, topic, queue)
            if committed is not None:
                return committed
        return await self._offsets.min_offset(topic, queue)
