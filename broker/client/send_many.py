"""Many messages of one call: what each of them is, and what becomes of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import trio

from broker.client.delays import delay_wanted
from broker.client.errors import SendManyError
from broker.client.results import SendResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from broker.client.acks import Acks, Flush
    from broker.client.delays import Seconds
    from broker.message.delay import Delay
    from dledger.clock import Clock


class OutMessage(msgspec.Struct, frozen=True):
    """A message to be sent, with all that `Producer.send` takes besides its topic.

    A struct and not a dataclass, since one is built for every message of `send_many`.

    >>> OutMessage(b"two green chairs", key="order-17", tag="furniture").key
    'order-17'
    """

    body: bytes | bytearray | memoryview
    key: str | Iterable[str] | None = None
    tag: str | None = None
    properties: Mapping[str, str] | None = None
    queue: int | None = None
    ordering_key: str | None = None
    acks: Acks | None = None
    flush: Flush | None = None
    delay: Seconds | None = None
    deliver_at: datetime | None = None
    delay_level: int | None = None

    @property
    def is_delayed(self) -> bool:
        """Whether it is to be delivered later."""
        return (self.delay, self.deliver_at, self.delay_level) != (None, None, None)

    def wait(self, clock: Clock) -> Delay | None:
        """Return for how long it is to wait. Raises as `delay_wanted`."""
        return delay_wanted(self.delay, self.deliver_at, self.delay_level, now_ms=clock.wall_ms())


class PlaceOfMany:
    """One message of a `ManySends`; see `broker.client.batch.Place`."""

    __slots__ = ("_many", "_number", "custom_sleep_data", "unique_id")

    def __init__(self, many: ManySends, number: int) -> None:
        self.custom_sleep_data: Any = None
        self.unique_id = ""
        self._many = many
        self._number = number

    def settle(self, result: SendResult | Exception) -> None:
        """Take what became of the message."""
        self._many.settled(self._number, result)


class ManySends:
    """Gathers what becomes of the messages of one call."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._results: list[SendResult | Exception | None] = []
        self._settled_count = 0
        self._failed_count = 0
        self._all_settled = trio.Event()
        self._waits = False

    @property
    def count(self) -> int:
        """How many messages there are so far."""
        return len(self._results)

    def next_place(self) -> PlaceOfMany:
        """Return the place of one more message."""
        self._results.append(None)
        return PlaceOfMany(self, len(self._results) - 1)

    def settled(self, number: int, result: SendResult | Exception) -> None:
        """Take what became of message *number*."""
        self._results[number] = result
        self._settled_count += 1
        if isinstance(result, Exception):
            self._failed_count += 1
        if self._waits and self._settled_count == len(self._results):
            self._all_settled.set()

    async def wait(self) -> list[SendResult]:
        """Return all results, once there are no more messages and all are settled.

        Raises:
            SendManyError: some are failures.
        """
        await trio.lowlevel.checkpoint()
        if self._settled_count < len(self._results):
            self._waits = True
            await self._all_settled.wait()
        if self._failed_count:
            raise SendManyError(self.topic, [found for found in self._results if found is not None])
        return [found for found in self._results if isinstance(found, SendResult)]
