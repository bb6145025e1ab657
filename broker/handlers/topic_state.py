"""What there is of a topic: ends, times, sizes and rates; for our own tools and for RocketMQ's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from broker.errors import HeaderError, TopicNotFoundError
from broker.handlers.queue_state import UNITS_READ_MAX
from broker.handlers.registry import answer, handles
from broker.metadata.topics import queue_count_of
from broker.protocol.admin_bodies import QueuePlace, table
from broker.protocol.descriptions import TopicDescription, encode_body
from broker.protocol.headers import BrokerStatsRequest, TopicRequest
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.protocol.topic_attributes import ATTRIBUTE_NAMES
from broker.store.topic_rates import PERIODS
from dledger.remoting.command import Command, response

if TYPE_CHECKING:
    from broker.handlers.queue_state import QueueStates
    from broker.metadata.topic_config import TopicConfig
    from broker.metadata.topics import Topics
    from broker.store.topic_rates import Counter, Sum, TopicRates
    from dledger.clock import Clock
    from dledger.remoting.server import Session


class TopicStateHandlers:
    """The family of questions about topics; every node answers for itself."""

    def __init__(
        self,
        *,
        topics: Topics,
        states: QueueStates,
        rates: TopicRates,
        clock: Clock,
        group_name: str,
        node_id: str,
    ) -> None:
        self._topics = topics
        self._states = states
        self._rates = rates
        self._clock = clock
        self._group_name = group_name
        self._node_id = node_id

    @handles(RequestCode.DESCRIBE_TOPIC)
    def describe(self, session: Session, command: Command) -> None:
        """Answer what there is of a topic here."""
        config = self._find(TopicRequest.decode(command.ext_fields).topic)
        count = queue_count_of(config)
        described = TopicDescription(
            topic=config.topic,
            node_id=self._node_id,
            read_queue_count=config.read_queue_count,
            write_queue_count=config.write_queue_count,
            perm=config.perm,
            order=config.order,
            attributes=attributes_of(config),
            queues=tuple(
                self._states.describe(config.topic, queue_id, units_max=UNITS_READ_MAX // count)
                for queue_id in range(count)
            ),
            in_rate=self._states.in_rate(config.topic),
            out_rate=self._states.out_rate(config.topic),
        )
        body = encode_body(described)
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.GET_TOPIC_STATS_INFO)
    def stats(self, session: Session, command: Command) -> None:
        """Answer the ends of a topic's queues, as RocketMQ's tools read them."""
        config = self._find(TopicRequest.decode(command.ext_fields).topic)
        rows = []
        for queue_id in range(queue_count_of(config)):
            first, end = self._states.ends(config.topic, queue_id)
            newest = self._states.store_time(config.topic, queue_id, end - 1)
            place = QueuePlace(config.topic, self._group_name, queue_id)
            values = {
                "lastUpdateTimestamp": max(newest, 0),
                "maxOffset": end,
                "minOffset": first,
            }
            rows.append((place, values))
        body = f'{{"offsetTable":{table(rows)}}}'.encode()
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.VIEW_BROKER_STATS_DATA)
    def broker_stats(self, session: Session, command: Command) -> None:
        """Answer what came in or went out here in the last minute, hour and day."""
        header = BrokerStatsRequest.decode(command.ext_fields)
        counter, is_size = self._counter(header)
        if header.stats_key.partition("@")[0] not in self._topics:
            # In RocketMQ's words, which its tools pass over.
            what = f"The stats <{header.stats_name}> <{header.stats_key[:200]}> not exist"
            answer(session, command, response(command, int(ResponseCode.SYSTEM_ERROR), what))
            return
        sums = counter.sums(self._clock.wall_ms())
        names = ("statsMinute", "statsHour", "statsDay")
        stats = {
            name: _stats_item(total, period_ms, is_size=is_size)
            for name, total, period_ms in zip(names, sums, PERIODS, strict=True)
        }
        body = json.dumps(stats, separators=(",", ":"), sort_keys=True).encode()
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    def _counter(self, header: BrokerStatsRequest) -> tuple[Counter, bool]:
        topic, _, group = header.stats_key.partition("@")
        counters = {
            "TOPIC_PUT_NUMS": (self._rates.came_in, False),
            "TOPIC_PUT_SIZE": (self._rates.came_in, True),
            "GROUP_GET_NUMS": (lambda name: self._rates.went_out(name, group), False),
            "GROUP_GET_SIZE": (lambda name: self._rates.went_out(name, group), True),
        }
        found = counters.get(header.stats_name)
        if found is None:
            raise HeaderError(
                f"{header.stats_name[:80]!r} is not counted here; known are {', '.join(counters)}",
                field="statsName",
            )
        return found[0](topic), found[1]

    def _find(self, topic: str) -> TopicConfig:
        config = self._topics.get(topic)
        if config is None:
            raise TopicNotFoundError(
                f"topic {topic!r} does not exist; `dledger topic list` shows those that do"
            )
        return config


def attributes_of(config: TopicConfig) -> dict[str, str]:
    """Return what *config* has otherwise than the broker, as `topic_attributes` names it."""
    values = (config.retention_ms, config.retention_bytes, config.acks, config.flush)
    return {name: str(value) for name, value in zip(ATTRIBUTE_NAMES, values, strict=True) if value}


def _stats_item(total: Sum, period_ms: int, *, is_size: bool) -> dict[str, float]:
    amount = total.size if is_size else total.messages
    return {
        "avgpt": amount / total.additions if total.additions else 0.0,
        "sum": amount,
        "tps": amount / (period_ms / 1000),
    }
