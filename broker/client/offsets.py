"""Where queues begin and end, and how far consumer groups have come. Asked of the leader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.protocol.headers import (
    OffsetEpoch,
    OffsetResponse,
    QueryConsumerOffsetRequest,
    QueueRequest,
    UpdateConsumerOffsetRequest,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command

if TYPE_CHECKING:
    from broker.client.requests import Requests
    from broker.protocol.header_fields import Header

_NONE_COMMITTED = frozenset({int(ResponseCode.QUERY_NOT_FOUND)})
_RESET = frozenset({int(ResponseCode.OFFSETS_RESET)})


class Offsets:
    """Asks for queue offsets. All methods raise what `Requests.ask_leader` raises."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def min_offset(self, topic: str, queue: int) -> int:
        """Return the offset of the oldest message that is kept, or that comes next."""
        header = QueueRequest(topic=topic, queue_id=queue)
        # Every node answers it, also one that has lost the others.
        _, answer = await self._requests.ask_any(
            lambda: Command(RequestCode.GET_MIN_OFFSET.value, ext_fields=header.encode()),
            f"GET_MIN_OFFSET of topic {topic} queue {queue}",
        )
        return OffsetResponse.decode(answer.ext_fields).offset

    async def max_offset(self, topic: str, queue: int) -> int:
        """Return the offset the next message will get, as a majority knows it."""
        header = QueueRequest(topic=topic, queue_id=queue)
        return await self._offset(RequestCode.GET_MAX_OFFSET, header, f"{topic} queue {queue}")

    async def committed(self, group: str, topic: str, queue: int) -> int | None:
        """Return the offset *group* goes on at, or None when it has committed none."""
        return (await self.progress(group, topic, queue))[0]

    async def progress(self, group: str, topic: str, queue: int) -> tuple[int | None, int]:
        """Return the offset *group* goes on at, or None, and the epoch its last reset began."""
        header = QueryConsumerOffsetRequest(consumer_group=group, topic=topic, queue_id=queue)
        answer = await self._requests.ask_leader(
            lambda: Command(RequestCode.QUERY_CONSUMER_OFFSET.value, ext_fields=header.encode()),
            f"offset of group {group} in topic {topic} queue {queue}",
            accept=_NONE_COMMITTED,
        )
        if answer.code == ResponseCode.QUERY_NOT_FOUND:
            return None, OffsetEpoch.decode(answer.ext_fields).offset_epoch
        found = OffsetResponse.decode(answer.ext_fields)
        return found.offset, found.offset_epoch or 0

    async def commit(
        self, group: str, topic: str, queue: int, queue_offset: int, *, epoch: int | None = None
    ) -> bool:
        """Have *group* go on at *queue_offset*; a lower offset than it has is ignored.

        Returns:
            False when it does not count, as the group was put elsewhere after *epoch* began.
        """
        header = UpdateConsumerOffsetRequest(
            consumer_group=group,
            topic=topic,
            queue_id=queue,
            commit_offset=queue_offset,
            offset_epoch=epoch,
        )
        answer = await self._requests.ask_leader(
            lambda: Command(RequestCode.UPDATE_CONSUMER_OFFSET.value, ext_fields=header.encode()),
            f"commit of group {group} in topic {topic} queue {queue}",
            accept=_RESET,
        )
        return answer.code == ResponseCode.SUCCESS

    async def _offset(self, code: RequestCode, header: Header, what: str) -> int:
        answer = await self._requests.ask_leader(
            lambda: Command(code.value, ext_fields=header.encode()), f"{code.name} of topic {what}"
        )
        return OffsetResponse.decode(answer.ext_fields).offset
