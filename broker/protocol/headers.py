"""One dataclass for each request's and response's header. Source: RocketMQ ``*RequestHeader``.

Those of sends are in `send_headers`, those of RocketMQ's tools in `admin_headers`, and those of a
name server in `name_headers`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.protocol.header_fields import Header, Int32, Int64, UInt64

# --- pull -----------------------------------------------------------------------------------------

PULL_FLAG_COMMIT_OFFSET = 0x1
PULL_FLAG_SUSPEND = 0x2
PULL_FLAG_SUBSCRIPTION = 0x4
PULL_FLAG_CLASS_FILTER = 0x8
PULL_FLAG_LITE = 0x10


@dataclass(frozen=True, slots=True, kw_only=True)
class PullMessageRequest(Header):
    """PULL_MESSAGE. Source: RocketMQ ``PullMessageRequestHeader``, ``PullSysFlag``."""

    consumer_group: str
    topic: str
    queue_id: Int32
    queue_offset: Int64
    max_msg_nums: Int32
    sys_flag: Int32
    commit_offset: Int64 = 0
    suspend_timeout_millis: Int64 = 0
    subscription: str | None = None
    sub_version: Int64 = 0
    expression_type: str | None = None
    max_msg_bytes: Int32 | None = None
    offset_epoch: Int64 | None = None  # ours: the epoch of the group's offsets it began in
    broker_name: str | None = field(default=None, metadata={"wire": "bname"})

    @property
    def may_suspend(self) -> bool:
        """Whether the client wants to wait for a message when there is none."""
        return bool(self.sys_flag & PULL_FLAG_SUSPEND)

    @property
    def commits_offset(self) -> bool:
        """Whether *commit_offset* is to be stored."""
        return bool(self.sys_flag & PULL_FLAG_COMMIT_OFFSET)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullMessageResponse(Header):
    """What a pull found; the body is records back to back."""

    suggest_which_broker_id: Int64
    next_begin_offset: Int64
    min_offset: Int64
    max_offset: Int64


# --- offsets --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryConsumerOffsetRequest(Header):
    """QUERY_CONSUMER_OFFSET; answered with an `OffsetResponse`."""

    consumer_group: str
    topic: str
    queue_id: Int32


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateConsumerOffsetRequest(Header):
    """UPDATE_CONSUMER_OFFSET; ali-ons commits -1 for queues it never consumed: to be ignored."""

    consumer_group: str
    topic: str
    queue_id: Int32
    commit_offset: Int64
    offset_epoch: Int64 | None = None  # ours: counts only while that epoch lasts


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRequest(Header):
    """GET_MAX_OFFSET and GET_MIN_OFFSET, answered with an `OffsetResponse`.

    GET_EARLIEST_MSG_STORETIME has the same fields, and is answered with a `StoreTimeResponse`.
    """

    topic: str
    queue_id: Int32


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOffsetRequest(Header):
    """SEARCH_OFFSET_BY_TIMESTAMP; answered with an `OffsetResponse`.

    *boundary_type* is RocketMQ 5's: "lower" or "upper", in any case.
    """

    topic: str
    queue_id: Int32
    timestamp: Int64  # milliseconds since 1970
    boundary_type: str = "lower"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryMessageRequest(Header):
    """QUERY_MESSAGE; answered with a `QueryMessageResponse` and records back to back.

    Source: RocketMQ ``QueryMessageRequestHeader``, ``MixAll.UNIQUE_MSG_QUERY_FLAG``.
    """

    topic: str
    key: str
    max_num: Int32
    begin_timestamp: Int64  # earliest store time, milliseconds since 1970
    end_timestamp: Int64  # latest store time
    is_unique_key: bool = field(default=False, metadata={"wire": "_UNIQUE_KEY_QUERY"})
    before_position: Int64 | None = None  # ours: only records before that place of the log


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryMessageResponse(Header):
    """How far the key index of the answering node is."""

    index_last_update_timestamp: Int64  # when the last record with a key was stored
    index_last_update_phyoffset: Int64  # where it is


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewMessageRequest(Header):
    """VIEW_MESSAGE_BY_ID. Source: RocketMQ ``ViewMessageRequestHeader``."""

    offset: Int64  # the position an offset id names


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetResponse(Header):
    """One queue offset."""

    offset: Int64
    offset_epoch: Int64 | None = None  # ours, of a group's; None: the first, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetEpoch(Header):
    """Ext field of an OFFSETS_RESET response, and of a QUERY_NOT_FOUND one."""

    offset_epoch: Int64 = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetOffsetRequest(Header):
    """INVOKE_BROKER_TO_RESET_OFFSET. Source: RocketMQ 5 ``ResetOffsetRequestHeader``."""

    topic: str
    group: str
    timestamp: Int64 = -1  # milliseconds since 1970; -1: the end of each queue
    is_force: bool = False  # False: only ever backwards
    queue_id: Int32 = -1  # -1: all of them
    offset: Int64 = -1  # instead of *timestamp*


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetOffsetsRequest(Header):
    """RESET_CONSUMER_OFFSETS; answered with an `OffsetReset` in the body."""

    consumer_group: str
    topic: str
    to: str  # earliest, latest, time, offset or shift
    value: Int64 = 0  # milliseconds since 1970, an offset, or by how many messages
    queue_id: Int32 = -1  # -1: all of them
    dry_run: bool = False  # say where that would be, and change nothing
    request_id: UInt64 | None = None  # ours: a request that comes again is done once


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreTimeResponse(Header):
    """When a message was stored. Source: RocketMQ ``GetEarliestMsgStoretimeResponseHeader``."""

    timestamp: Int64  # milliseconds since 1970; -1: the queue is empty


# --- topics and the group -------------------------------------------------------------------------

PERM_WRITE = 0x2
PERM_READ = 0x4
PERM_INHERIT = 0x1


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTopicRequest(Header):
    """UPDATE_AND_CREATE_TOPIC. Source: RocketMQ ``CreateTopicRequestHeader``."""

    topic: str
    default_topic: str | None = None
    read_queue_nums: Int32 | None = None  # None: 4, or with *only_if_there* as it is
    write_queue_nums: Int32 | None = None  # the same
    perm: Int32 | None = None  # None: 6, read and write, or with *only_if_there* as it is
    topic_filter_type: str | None = None
    topic_sys_flag: Int32 | None = None
    order: bool | None = None
    attributes: str = ""  # "+retention.ms=...,-acks"; what it does not name stays as it is
    only_if_missing: bool = False  # ours: leave a topic that exists as it is
    only_if_there: bool = False  # ours: change what is given and nothing else, make no topic
    request_id: UInt64 | None = None  # ours: a request that comes again is done once


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteTopicRequest(Header):
    """DELETE_TOPIC_IN_BROKER. Source: RocketMQ ``DeleteTopicRequestHeader``."""

    topic: str
    request_id: UInt64 | None = None  # ours: a request that comes again is done once


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRequest(Header):
    """DESCRIBE_TOPIC, GET_TOPIC_STATS_INFO and QUERY_TOPIC_CONSUME_BY_WHO."""

    topic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerStatsRequest(Header):
    """VIEW_BROKER_STATS_DATA. Source: RocketMQ ``ViewBrokerStatsDataRequestHeader``."""

    stats_name: str  # TOPIC_PUT_NUMS, TOPIC_PUT_SIZE, GROUP_GET_NUMS, GROUP_GET_SIZE
    stats_key: str  # a topic; for what a group gets topic@group


# --- consumer groups ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateGroupRequest(Header):
    """UPDATE_AND_CREATE_SUBSCRIPTIONGROUP; the group is in the body."""

    only_if_missing: bool = False  # ours: leave a group that exists as it is
    request_id: UInt64 | None = None  # ours: a request that comes again is done once


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteGroupRequest(Header):
    """DELETE_SUBSCRIPTIONGROUP. Source: RocketMQ ``DeleteSubscriptionGroupRequestHeader``."""

    group_name: str
    clean_offset: bool = True  # what it committed goes in any case
    remove_offset: bool = True  # the same, as RocketMQ 4.8 names it
    request_id: UInt64 | None = None  # ours: a request that comes again is done once


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest(Header):
    """DESCRIBE_CONSUMER_GROUP; answered with a `GroupDescription` in the body."""

    consumer_group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeStatsRequest(Header):
    """GET_CONSUME_STATS. Source: RocketMQ ``GetConsumeStatsRequestHeader``."""

    consumer_group: str
    topic: str = ""  # "": all in which it has committed anything


@dataclass(frozen=True, slots=True, kw_only=True)
class UnregisterClientRequest(Header):
    """UNREGISTER_CLIENT. Source: RocketMQ ``UnregisterClientRequestHeader``."""

    client_id: str = field(metadata={"wire": "clientID"})
    producer_group: str = ""
    consumer_group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSendBackRequest(Header):
    """CONSUMER_SEND_MSG_BACK. Source: RocketMQ ``ConsumerSendMsgBackRequestHeader``."""

    offset: Int64  # bytes: the message's position in the log
    group: str
    delay_level: Int32 = 0  # 0: the broker chooses; below: to the dead letters
    delay_millis: Int64 | None = None  # ours: where the level is 0, for how long
    count_anew: bool = False  # ours: a dead letter comes again, as if it had never failed
    origin_msg_id: str | None = None
    origin_topic: str | None = None
    unit_mode: bool = False
    max_reconsume_times: Int32 | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerListRequest(Header):
    """GET_CONSUMER_LIST_BY_GROUP; its answer is JSON in the body.

    Source: RocketMQ ``GetConsumerListByGroupRequestHeader``.
    """

    consumer_group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConnectionLostRequest(Header):
    """CLIENT_CONNECTION_LOST: *node_id* has lost the last connection that goes by that id."""

    client_id: str
    node_id: str
    consumes_for: str = ""  # the groups for which it consumed, with commas between; "": all


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientGroupsLostRequest(Header):
    """CLIENT_GROUPS_LOST: *node_id* has another connection that goes by that id, for others."""

    client_id: str
    node_id: str
    consumes_for: str  # as above


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatusRequest(Header):
    """GET_GROUP_STATUS; by default it is answered at once."""

    newer_than: Int64 = -1  # a leader of this term is no news
    suspend_timeout_millis: Int64 = 0  # how long the answer may wait for one that is


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadershipTransferRequest(Header):
    """LEADERSHIP_TRANSFER. Source: DLedger ``LeadershipTransferRequest``."""

    transferee_id: str = ""  # "": the member that has most of the log


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderHint(Header):
    """Ext fields of a NOT_LEADER response; both None while nobody leads."""

    leader_id: str | None = None
    leader_address: str | None = None
