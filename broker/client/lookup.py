"""Messages found by what is known of them: a time, a key, an id, a place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from broker.protocol.headers import (
    OffsetResponse,
    QueueRequest,
    SearchOffsetRequest,
    StoreTimeResponse,
)
from broker.protocol.request_code import RequestCode
from dledger.remoting.command import Command

if TYPE_CHECKING:
    from broker.client.requests import Requests

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


class Lookup:
    """Finds messages. Nodes are asked in turn, the leader first; one that lags finds less.

    Every method raises `NoBrokerError` when nobody answers, and `TopicNotFoundError`.
    """

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def offset_at(self, topic: str, queue: int, when: datetime) -> int:
        """Return the offset of the first message stored at *when* or later.

        Where there is none it is the offset the next message will get.

        Args:
            topic: whose messages.
            queue: number of the queue.
            when: compared with the leader's clock at the moment it stored the message; without a
                time zone it is local time.
        """
        header = SearchOffsetRequest(
            topic=topic, queue_id=queue, timestamp=ceil_ms(when), boundary_type="lower"
        )
        _, answer = await self._requests.ask_any(
            lambda: Command(
                RequestCode.SEARCH_OFFSET_BY_TIMESTAMP.value, ext_fields=header.encode()
            ),
            f"offset at {when.isoformat()} of topic {topic} queue {queue}",
        )
        return OffsetResponse.decode(answer.ext_fields).offset

    async def earliest_store_time(self, topic: str, queue: int) -> datetime | None:
        """Return when the oldest message kept of a queue was stored; None when it has none."""
        header = QueueRequest(topic=topic, queue_id=queue)
        _, answer = await self._requests.ask_any(
            lambda: Command(
                RequestCode.GET_EARLIEST_MSG_STORETIME.value, ext_fields=header.encode()
            ),
            f"earliest store time of topic {topic} queue {queue}",
        )
        timestamp = StoreTimeResponse.decode(answer.ext_fields).timestamp
        return None if timestamp < 0 else _EPOCH + timestamp * _MS


def ceil_ms(when: datetime) -> int:
    """Return the first whole millisecond since 1970 that is not before *when*."""
    return -((_EPOCH - when.astimezone(UTC)) // _MS)
