"""Messages found by what is known of them: a time, a key, an id, a place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from broker.client.errors import CorruptAnswerError
from broker.client.records import decode_run
from broker.errors import CorruptRecordError
from broker.message import codec
from broker.message.message_id import decode_offset_id
from broker.protocol.headers import (
    PULL_FLAG_SUSPEND,
    OffsetResponse,
    PullMessageRequest,
    QueryMessageRequest,
    QueueRequest,
    SearchOffsetRequest,
    StoreTimeResponse,
    ViewMessageRequest,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command

if TYPE_CHECKING:
    from broker.client.group_access import FindsGroups, GroupAccess
    from broker.client.message import Message
    from broker.protocol.header_fields import Header

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_TIME_MAX = (1 << 63) - 1
_COUNT_MAX = 64  # messages a node gives in one answer
_NOT_FOUND = frozenset({int(ResponseCode.QUERY_NOT_FOUND)})
_NO_SUCH_OFFSET = frozenset({int(ResponseCode.PULL_NOT_FOUND), int(ResponseCode.PULL_OFFSET_MOVED)})
_GROUP = "TOOLS_CONSUMER"  # RocketMQ's MixAll.TOOLS_CONSUMER_GROUP: it commits nothing
_ARRIVAL_WAIT_MS = 200  # for a message that is stored and not known to the node yet


class Lookup:
    """Finds messages. Nodes are asked in turn, the leader first; one that lags finds less.

    Every method raises `NoBrokerError` when nobody answers, and `TopicNotFoundError` when there is
    no such topic or queue.
    """

    def __init__(self, groups: FindsGroups) -> None:
        self._groups = groups

    async def by_key(
        self,
        topic: str,
        key: str,
        *,
        begin: datetime | None = None,
        end: datetime | None = None,
        limit: int = 64,
    ) -> list[Message]:
        """Return the newest messages with a key, in the order in which they were stored.

        Args:
            topic: whose messages.
            key: one of those given when the message was sent, or its unique id.
            begin: earliest time of storing; None: any.
            end: latest time of storing; None: any.
            limit: most messages to return; of more, those stored last.
        """
        return await self._by_key(topic, key, begin=begin, end=end, limit=limit, is_unique=False)

    async def by_unique_key(self, topic: str, unique_id: str) -> Message | None:
        """Return the message with a unique id (`SendResult.unique_id`); None when there is none.

        Where several have it, which producers can bring about that send again without being
        recognised, it is the newest.
        """
        found = await self._by_key(topic, unique_id, begin=None, end=None, limit=1, is_unique=True)
        return found[0] if found else None

    async def by_id(self, message_id: str) -> Message | None:
        """Return the message with an offset id (`SendResult.message_id`); None when it is gone.

        The id names an address and a place in the log; every node of the group has the message at
        that place, so the address does not matter.

        Raises:
            InvalidMessageError: *message_id* is no offset id.
        """
        host, position = decode_offset_id(message_id)
        what = f"message {message_id}"
        found = await self._ask(
            await self._groups.of_node(str(host), what),
            RequestCode.VIEW_MESSAGE_BY_ID,
            ViewMessageRequest(offset=position),
            what,
            accept=_NOT_FOUND,
        )
        return found[0] if found else None

    async def at(self, topic: str, queue: int, queue_offset: int) -> Message | None:
        """Return the message at a place of a queue; None when it is gone, or not there yet."""
        header = PullMessageRequest(
            consumer_group=_GROUP,
            topic=topic,
            queue_id=queue,
            queue_offset=queue_offset,
            max_msg_nums=1,
            sys_flag=PULL_FLAG_SUSPEND,
            suspend_timeout_millis=_ARRIVAL_WAIT_MS,
        )
        found = await self._ask(
            await self._groups.of_topic(topic),
            RequestCode.PULL_MESSAGE,
            header,
            f"message {queue_offset} of topic {topic} queue {queue}",
            accept=_NO_SUCH_OFFSET,
        )
        return found[0] if found else None

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
        group = await self._groups.of_topic(topic)
        _, answer = await group.requests.ask_any(
            lambda: Command(
                RequestCode.SEARCH_OFFSET_BY_TIMESTAMP.value, ext_fields=header.encode()
            ),
            f"offset at {when.isoformat()} of topic {topic} queue {queue}",
        )
        return OffsetResponse.decode(answer.ext_fields).offset

    async def earliest_store_time(self, topic: str, queue: int) -> datetime | None:
        """Return when the oldest message kept of a queue was stored; None when it has none."""
        header = QueueRequest(topic=topic, queue_id=queue)
        group = await self._groups.of_topic(topic)
        _, answer = await group.requests.ask_any(
            lambda: Command(
                RequestCode.GET_EARLIEST_MSG_STORETIME.value, ext_fields=header.encode()
            ),
            f"earliest store time of topic {topic} queue {queue}",
        )
        timestamp = StoreTimeResponse.decode(answer.ext_fields).timestamp
        return None if timestamp < 0 else _EPOCH + timestamp * _MS

    async def _by_key(
        self,
        topic: str,
        key: str,
        *,
        begin: datetime | None,
        end: datetime | None,
        limit: int,
        is_unique: bool,
    ) -> list[Message]:
        if limit < 1:
            raise ValueError(f"limit = {limit}: must be at least 1")
        group = await self._groups.of_topic(topic)
        result: list[Message] = []
        before: int | None = None
        while len(result) < limit:
            header = QueryMessageRequest(
                topic=topic,
                key=key,
                max_num=min(limit - len(result), _COUNT_MAX),
                begin_timestamp=0 if begin is None else ceil_ms(begin),
                end_timestamp=_TIME_MAX if end is None else floor_ms(end),
                is_unique_key=is_unique,
                before_position=before,
            )
            older = await self._ask(
                group,
                RequestCode.QUERY_MESSAGE,
                header,
                f"messages of topic {topic} with key {key!r}",
                accept=_NOT_FOUND,
            )
            if not older:
                break
            result = older + result
            before = older[0].position
        return result

    async def _ask(
        self,
        group: GroupAccess,
        code: RequestCode,
        header: Header,
        what: str,
        *,
        accept: frozenset[int],
    ) -> list[Message]:
        node, answer = await group.requests.ask_any(
            lambda: Command(code.value, ext_fields=header.encode()), what, accept=accept
        )
        if answer.code != ResponseCode.SUCCESS:
            return []
        assert not isinstance(answer.body, list), "received bodies are one buffer"
        try:
            return decode_found(bytes(answer.body))
        except CorruptRecordError as error:
            raise CorruptAnswerError(
                f"{what}: the answer of {node} fails its checks: {error}; compare the nodes' logs "
                "(dledger log verify)"
            ) from error


def decode_found(data: bytes) -> list[Message]:
    """Return the messages whose records, of any queues, lie back to back in *data*.

    Raises:
        CorruptRecordError: a record is none, or fails its checksum.
    """
    result: list[Message] = []
    at = number = 0
    while at < len(data):
        stored = codec.decode_record(data, at, record=number)
        result += decode_run(
            data[at : at + stored.size],
            topic=stored.topic,
            queue_id=stored.queue_id,
            first_offset=stored.queue_offset,
        ).take_all()
        at += stored.size
        number += 1
    return result


def ceil_ms(when: datetime) -> int:
    """Return the first whole millisecond since 1970 that is not before *when*."""
    return -((_EPOCH - when.astimezone(UTC)) // _MS)


def floor_ms(when: datetime) -> int:
    """Return the last whole millisecond since 1970 that is not after *when*."""
    return (when.astimezone(UTC) - _EPOCH) // _MS
