"""Headers of what RocketMQ's tools ask, of groups and of the clients in them.

Source: RocketMQ ``org.apache.rocketmq.common.protocol.header``.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.protocol.header_fields import Header, Int32, Int64


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerConnectionsRequest(Header):
    """GET_CONSUMER_CONNECTION_LIST. Source: ``GetConsumerConnectionListRequestHeader``."""

    consumer_group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerConnectionsRequest(Header):
    """GET_PRODUCER_CONNECTION_LIST. Source: ``GetProducerConnectionListRequestHeader``."""

    producer_group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerRunningInfoRequest(Header):
    """GET_CONSUMER_RUNNING_INFO. Source: ``GetConsumerRunningInfoRequestHeader``."""

    consumer_group: str
    client_id: str
    jstack_enable: bool = False  # with the stacks of all its threads


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeDirectlyRequest(Header):
    """CONSUME_MESSAGE_DIRECTLY. Source: ``ConsumeMessageDirectlyResultRequestHeader``."""

    consumer_group: str
    client_id: str
    msg_id: str  # an offset id
    broker_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerStatusRequest(Header):
    """INVOKE_BROKER_TO_GET_CONSUMER_STATUS. Source: ``GetConsumerStatusRequestHeader``."""

    topic: str
    group: str
    client_addr: str = ""  # a client id, whatever it is called; "": all of the group


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneOffsetsRequest(Header):
    """CLONE_GROUP_OFFSET. Source: ``CloneGroupOffsetRequestHeader``."""

    src_group: str
    dest_group: str
    topic: str = ""  # "": all in which the first has committed anything
    offline: bool = False  # also topics that the first group's consumers do not read


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionOffsetsRequest(Header):
    """QUERY_CORRECTION_OFFSET. Source: ``QueryCorrectionOffsetHeader``."""

    topic: str
    compare_group: str
    filter_groups: str = ""  # names with commas between, that do not count


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSpansRequest(Header):
    """QUERY_CONSUME_TIME_SPAN. Source: ``QueryConsumeTimeSpanRequestHeader``."""

    topic: str
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AllConsumeStatsRequest(Header):
    """GET_BROKER_CONSUME_STATS. Source: ``GetConsumeStatsInBrokerHeader``."""

    is_order: bool = False  # only topics with that mark


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeQueueRequest(Header):
    """QUERY_CONSUME_QUEUE. Source: ``QueryConsumeQueueRequestHeader``."""

    topic: str
    queue_id: Int32
    index: Int64  # the queue offset to begin with
    count: Int32
    consumer_group: str = ""  # whose filter is told


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfigRequest(Header):
    """GET_SUBSCRIPTIONGROUP_CONFIG. Source: ``GetSubscriptionGroupConfigRequestHeader``."""

    group: str
