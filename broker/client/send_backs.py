"""Messages that come again: sent back to the group, or held back until they are handed out anew.

Source: RocketMQ ``ConsumeMessageConcurrentlyService`` and ``ConsumeMessageOrderlyService``.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import trio

from broker.client.errors import NoBrokerError
from broker.client.progress import DEAD, Again
from broker.errors import BrokerError
from broker.protocol.headers import ConsumerSendBackRequest
from broker.protocol.request_code import RequestCode
from dledger.remoting.command import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.client.message import Message
    from broker.client.prefetch import Prefetch
    from broker.client.progress import QueueProgress
    from broker.client.requests import Requests

IN_FLIGHT_MAX = 64  # requests to send a message back
# Until a queue that is read in order has its message again.
# Source: RocketMQ ``DefaultMQPushConsumer.suspendCurrentQueueTimeMillis``.
SUSPEND_SECONDS = 1.0

_LOG = logging.getLogger("broker.client")


class _Item(NamedTuple):
    progress: QueueProgress
    message: Message
    again: Again


class SendBacks:
    """Has messages come again by way of the broker: to any member, after a delay.

    Where *prefetch* is given, a message is instead handed out once more from here, and its queue
    waits for it; only those that are given up go to the broker.
    """

    def __init__(
        self,
        requests: Requests,
        *,
        group: str,
        retries_max: int | None,
        call_soon: Callable[[Callable[[], object]], None],
        prefetch: Prefetch | None = None,
    ) -> None:
        """Make one that is idle until `run`.

        Args:
            requests: the way to the leader.
            group: who gets the message again.
            retries_max: how often; None: as the group has it. In place, None is for ever.
            call_soon: calls a function in the thread of the connections; from any thread.
            prefetch: of the queues that are read in order.
        """
        self._requests = requests
        self._group = group
        self._retries_max = retries_max
        self._call_soon = call_soon
        self._prefetch = prefetch
        self._items: deque[_Item] = deque()
        self._taken: deque[_Item] = deque()  # those of them that have a task
        self._pending = 0  # tasks whose message is not certain yet to come again
        self._wake = trio.Event()
        self._calm = trio.Event()
        self._limit = trio.CapacityLimiter(IN_FLIGHT_MAX)

    def take_back(self, progress: QueueProgress, message: Message, again: Again) -> None:
        """See `Keeper`."""
        self._items.append(_Item(progress, message, again))
        self._call_soon(self._look)

    def _look(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Send messages back until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                while self._items:
                    item = self._items.popleft()
                    self._pending += 1
                    if self._prefetch is None or self._is_given_up(item):
                        self._taken.append(item)
                        nursery.start_soon(self._send_next)
                    else:
                        nursery.start_soon(self._hold_back, self._prefetch, item)

    async def drain(self) -> None:
        """Return once every message taken so far is certain to come again, or left."""
        while self._items or self._pending:
            self._calm = trio.Event()
            await self._calm.wait()

    async def _send_next(self) -> None:
        try:
            async with self._limit:
                # Taken only now: they leave in their order, and tasks start in none.
                await self._send_back(self._taken.popleft())
        finally:
            self._count_down()

    def _count_down(self) -> None:
        self._pending -= 1
        if not self._pending and not self._items:
            self._calm.set()

    def _is_given_up(self, item: _Item) -> bool:
        times = item.message.reconsume_times
        return item.again.level == DEAD or (
            self._retries_max is not None and times >= self._retries_max
        )

    async def _hold_back(self, prefetch: Prefetch, item: _Item) -> None:
        progress, message, again = item
        delay_ms = again.delay_ms
        progress.hold(message)
        self._count_down()  # nobody has to wait for it: it is not done, and comes again anyhow
        await trio.sleep(SUSPEND_SECONDS if delay_ms is None else delay_ms / 1000)
        if progress.hand_out_again(message):
            message.count_once_more()
            prefetch.put_back(progress.reader, [message])
            prefetch.release(progress.reader)

    async def _send_back(self, item: _Item) -> None:
        progress, message, again = item
        level = DEAD if self._prefetch is not None else again.level
        header = ConsumerSendBackRequest(
            offset=message.position,
            group=self._group,
            delay_level=level,
            delay_millis=again.delay_ms,
            origin_msg_id=message.message_id,
            origin_topic=message.topic,
            max_reconsume_times=self._retries_max,
        )
        what = f"message {message.message_id} of topic {message.topic} back to group {self._group}"
        while True:
            try:
                await self._requests.ask_leader(
                    lambda: Command(
                        RequestCode.CONSUMER_SEND_MSG_BACK.value, ext_fields=header.encode()
                    ),
                    what,
                )
            except NoBrokerError as error:
                _LOG.warning("%s", error)
                continue
            except BrokerError as error:
                # Neither done nor sure to come again: it is the next member's.
                _LOG.error("%s: %s", what, error)
                progress.leave(message)
                return
            progress.returned(message)
            return
