"""Messages by what is known of them: a time, a key, an id, a place.

Every node answers from what it has dispatched itself; one that lags finds less.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from broker.errors import HeaderError
from broker.handlers.registry import answer, handles
from broker.message.tags import parse_tag_expression, tags_codes
from broker.protocol.admin_bodies import compact, subscription_json
from broker.protocol.admin_headers import ConsumeQueueRequest
from broker.protocol.headers import (
    OffsetResponse,
    QueueRequest,
    SearchOffsetRequest,
    StoreTimeResponse,
    ViewMessageRequest,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.store.record_finder import record_at
from broker.store.time_search import Boundary, offset_by_time, store_timestamp_ms
from dledger.remoting.command import Command, response

if TYPE_CHECKING:
    from broker.groups.consumers import Consumers
    from broker.handlers.caught_up import CaughtUp
    from broker.metadata.topics import Topics
    from broker.store.consume_queues import ConsumeQueues
    from broker.store.log_view import LogView
    from dledger.remoting.server import Session

UNITS_TOLD_MAX = 1000  # of a consume queue, in one answer
_UNIT = struct.Struct(">qiq")
NO_STORE_TIME = -1  # what RocketMQ answers for a queue without messages


class LookupHandlers:
    """The family of look-ups."""

    def __init__(
        self,
        *,
        log: LogView,
        queues: ConsumeQueues,
        topics: Topics,
        consumers: Consumers,
        caught_up: CaughtUp,
    ) -> None:
        """Make the family.

        Args:
            log: the records.
            queues: lead to them.
            topics: what exists.
            consumers: what groups read.
            caught_up: where questions wait for what is committed already.
        """
        self._log = log
        self._queues = queues
        self._topics = topics
        self._consumers = consumers
        self._caught_up = caught_up

    @handles(RequestCode.SEARCH_OFFSET_BY_TIMESTAMP)
    def search_offset(self, session: Session, command: Command) -> None:
        """Answer the queue offset that belongs to a time, as far as this node has dispatched."""
        header = SearchOffsetRequest.decode(command.ext_fields)
        boundary = _boundary(header.boundary_type)
        self._topics.check_queue(header.topic, header.queue_id)

        def tell() -> None:
            queue = self._queues.get(header.topic, header.queue_id)
            offset = 0
            if queue is not None:
                offset = offset_by_time(self._log, queue, header.timestamp, boundary)
            found = OffsetResponse(offset=offset).encode()
            answer(session, command, response(command, int(ResponseCode.SUCCESS), None, found))

        self._caught_up.when(session, command, tell)

    @handles(RequestCode.VIEW_MESSAGE_BY_ID)
    def view(self, session: Session, command: Command) -> None:
        """Answer the record at the position that an offset id names."""
        header = ViewMessageRequest.decode(command.ext_fields)

        def tell() -> None:
            record = record_at(self._log, self._queues, header.offset)
            if record is None:
                reply = response(
                    command,
                    int(ResponseCode.QUERY_NOT_FOUND),
                    f"no message begins at position {header.offset} of the log, or it is gone, or "
                    "not yet known here",
                )
            else:
                reply = response(command, int(ResponseCode.SUCCESS), body=[record.view])
            answer(session, command, reply)

        self._caught_up.when(session, command, tell)

    @handles(RequestCode.GET_EARLIEST_MSG_STORETIME)
    def earliest_store_time(self, session: Session, command: Command) -> None:
        """Answer when the oldest message kept of a queue was stored; -1 where there is none."""
        header = QueueRequest.decode(command.ext_fields)
        self._topics.check_queue(header.topic, header.queue_id)
        queue = self._queues.get(header.topic, header.queue_id)
        timestamp = NO_STORE_TIME
        if queue is not None and queue.min_offset < queue.max_offset:
            timestamp = store_timestamp_ms(self._log, queue.position_at(queue.min_offset))
        answer(
            session,
            command,
            response(
                command,
                int(ResponseCode.SUCCESS),
                None,
                StoreTimeResponse(timestamp=timestamp).encode(),
            ),
        )

    @handles(RequestCode.QUERY_CONSUME_QUEUE)
    def consume_queue(self, session: Session, command: Command) -> None:
        """Answer some units of a consume queue, as RocketMQ's ``queryCq`` shows them."""
        header = ConsumeQueueRequest.decode(command.ext_fields)
        topic, first = header.topic, header.index
        self._topics.check_queue(topic, header.queue_id)
        wanted, subscription = self._filter_of(header.consumer_group, topic)
        queue = self._queues.get(topic, header.queue_id)
        least, end = (0, 0) if queue is None else (queue.min_offset, queue.max_offset)
        rows = []
        if queue is not None and least <= first < end and header.count > 0:
            units = queue.units_from(first, unit_count_max=min(header.count, UNITS_TOLD_MAX))
            for position, size, code in _UNIT.iter_unpack(units):
                rows.append(
                    {
                        "bitMap": None,
                        "eval": wanted is None or code in wanted,
                        "extendDataJson": None,
                        "msg": None,
                        "physicOffset": position,
                        "physicSize": size,
                        "tagsCode": code,
                    }
                )
        body = compact(
            {
                "filterData": None,
                "maxQueueIndex": end,
                "minQueueIndex": least,
                "queueData": rows,
                "subscriptionData": subscription,
            }
        ).encode()
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    def _filter_of(
        self, group: str, topic: str
    ) -> tuple[frozenset[int] | None, dict[str, Any] | None]:
        """Return the hashes of the tags that a group reads, None for all, and its subscription."""
        for data in self._consumers.of(group).values():
            for item in data.subscriptions:
                if item.topic == topic and item.expression_type == "TAG":
                    tags = parse_tag_expression(item.expression)
                    found = subscription_json(topic, item.expression_type, item.expression)
                    return None if tags is None else tags_codes(tags), found
        return None, None

    def store_time_of(self, topic: str, queue_id: int, queue_offset: int) -> int:
        """Return when a message that is kept was stored, in milliseconds since 1970."""
        queue = self._queues.get(topic, queue_id)
        assert queue is not None
        return store_timestamp_ms(self._log, queue.position_at(queue_offset))


def _boundary(name: str) -> Boundary:
    try:
        return Boundary(name.lower())  # RocketMQ writes LOWER, its own parser takes any case
    except ValueError as error:
        raise HeaderError(
            f"{name[:60]!r} is no boundary; write lower or upper", field="boundaryType"
        ) from error
