"""One dataclass for each request's and response's header. Source: RocketMQ ``*RequestHeader``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.errors import HeaderError
from broker.protocol.header_fields import (
    FieldPlan,
    Header,
    Int32,
    Int64,
    UInt64,
    decode_fields,
    reader,
    renamed_plan,
)
from broker.protocol.request_code import RECORD_FORMAT_COMMIT_LOG

if TYPE_CHECKING:
    from collections.abc import Mapping

PRODUCER_ID_MAX = (1 << 64) - 257  # those above are the broker's own: `broker.message.batch`

# --- send -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SendMessageRequest(Header):
    """SEND_MESSAGE; with other names SEND_MESSAGE_V2 and RocketMQ's SEND_BATCH_MESSAGE.

    *properties* are encoded as a record holds them; the request's body is the message's.
    """

    producer_group: str
    topic: str
    queue_id: Int32  # -1: the broker picks one
    default_topic: str | None = None
    default_topic_queue_nums: Int32 = 4
    sys_flag: Int32 = 0
    born_timestamp: Int64 = 0  # milliseconds, the sender's clock
    flag: Int32 = 0
    properties: str = ""
    reconsume_times: Int32 = 0
    unit_mode: bool = False
    batch: bool = False
    max_reconsume_times: Int32 | None = None
    broker_name: str | None = field(default=None, metadata={"wire": "bname"})
    acks: str | None = None  # ours: leader, majority, all; none: as topic or broker have it
    flush: str | None = None  # ours: sync, async

    @classmethod
    def decode_v2(cls, ext_fields: Mapping[str, Any] | None) -> SendMessageRequest:
        """Return the header written with the names a to n.

        Raises:
            HeaderError: as `decode`.
        """
        return decode_fields(cls, ext_fields, _SEND_V2)

    def encode_v2(self) -> dict[str, Any]:
        """Return the ext fields with the names a to n."""
        values = ((plan.wire_name, getattr(self, plan.name)) for plan in _SEND_V2)
        return {name: value for name, value in values if value is not None}


# Source: RocketMQ SendMessageRequestHeaderV2.
_SEND_V2 = renamed_plan(
    SendMessageRequest,
    {
        "producer_group": "a",
        "topic": "b",
        "default_topic": "c",
        "default_topic_queue_nums": "d",
        "queue_id": "e",
        "sys_flag": "f",
        "born_timestamp": "g",
        "flag": "h",
        "properties": "i",
        "reconsume_times": "j",
        "unit_mode": "k",
        "max_reconsume_times": "l",
        "batch": "m",
        "broker_name": "n",
        "acks": "acks",
        "flush": "flush",
    },
)


_new_tuple = tuple.__new__  # a third of what a named tuple's own way takes


class SendRecordsRequest(NamedTuple):
    """Our SEND_BATCH_MESSAGE: the body is commit-log records of one queue, back to back.

    *sizes* holds the size of each record, uint32 big-endian.  A *producer_id* other than 0 asks for
    recognition of duplicates: *sequence* is the number of the first record among all that producer
    sends to this queue, counted from 0.  *acks* (leader, majority, all) and *flush* (sync,
    async) say how well they have to be kept before the answer; "" leaves it to topic and broker.

    A tuple, as it is made for every send and a frozen dataclass takes three times as long.
    """

    producer_group: str
    topic: str
    queue_id: int
    record_format: int
    sizes: bytes
    producer_id: int = 0
    sequence: int = 0
    acks: str = ""
    flush: str = ""

    @classmethod
    def decode(cls, ext_fields: Mapping[str, Any] | None) -> SendRecordsRequest:
        """Return the header *ext_fields* hold.

        Raises:
            HeaderError: as `Header.decode`; also for a record format we do not know.
        """
        fields = ext_fields or {}
        try:
            # Not by `get`, of which nine cost a microsecond when it is only one message that comes.
            group, topic = fields["producerGroup"], fields["topic"]
            queue_id, sizes = fields["queueId"], fields["sizes"]
            record_format = fields["recordFormat"]
            producer_id, sequence = fields["producerId"], fields["sequence"]
        except KeyError:
            pass
        else:
            acks = fields["acks"] if "acks" in fields else ""  # noqa: SIM401 - as above
            flush = fields["flush"] if "flush" in fields else ""  # noqa: SIM401
            # Written by our own client, as nearly all of them are: no field needs conversion.
            if (
                type(group) is str
                and type(topic) is str
                and type(queue_id) is int
                and type(sizes) is bytes
                and type(producer_id) is int
                and type(sequence) is int
                and type(acks) is str
                and type(flush) is str
                and record_format == RECORD_FORMAT_COMMIT_LOG
                and 0 <= queue_id < 1 << 31
                and 0 <= producer_id <= PRODUCER_ID_MAX
                and 0 <= sequence < 1 << 64
            ):
                return _new_tuple(
                    cls, (group, topic, queue_id, 1, sizes, producer_id, sequence, acks, flush)
                )
        header = decode_fields(cls, ext_fields, _SEND_RECORDS)
        if header.record_format != RECORD_FORMAT_COMMIT_LOG:
            raise HeaderError(
                f"{header.record_format} is unknown; this broker takes "
                f"{RECORD_FORMAT_COMMIT_LOG}, commit-log records",
                field="recordFormat",
            )
        if header.producer_id > PRODUCER_ID_MAX:
            raise HeaderError(
                f"{header.producer_id} is the broker's own; the highest is {PRODUCER_ID_MAX}",
                field="producerId",
            )
        return header

    def encode(self) -> dict[str, Any]:
        """Return the ext fields of this header."""
        fields = zip(_SEND_RECORDS_NAMES, self, strict=True)
        return {name: value for name, value in fields if value != ""}


_SEND_RECORDS = (
    FieldPlan("producer_group", "producerGroup", reader(str), is_required=True),
    FieldPlan("topic", "topic", reader(str), is_required=True),
    FieldPlan("queue_id", "queueId", reader(Int32), is_required=True),
    FieldPlan("record_format", "recordFormat", reader(Int32), is_required=True),
    FieldPlan("sizes", "sizes", reader(bytes), is_required=True),
    FieldPlan("producer_id", "producerId", reader(UInt64), is_required=False),
    FieldPlan("sequence", "sequence", reader(UInt64), is_required=False),
    FieldPlan("acks", "acks", reader(str), is_required=False),
    FieldPlan("flush", "flush", reader(str), is_required=False),
)
_SEND_RECORDS_NAMES = tuple(field.wire_name for field in _SEND_RECORDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendMessageResponse(Header):
    """Where the message is; for a batch the first one, with all ids joined by commas."""

    msg_id: str
    queue_id: Int32
    queue_offset: Int64
    transaction_id: str | None = None
    msg_region: str | None = field(default=None, metadata={"wire": "MSG_REGION"})
    trace_on: bool | None = field(default=None, metadata={"wire": "TRACE_ON"})
    durability: str | None = None  # ours: what the message has reached, as "majority/sync"


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRecordsResponse(Header):
    """Where the records of our SEND_BATCH_MESSAGE are, when the ack is not a grouped one."""

    queue_id: Int32
    queue_offset: Int64  # of the first record; -1: a duplicate so old that its place is forgotten
    position: Int64  # of the first record in the commit log; -1: not known
    durability: str | None = None  # what they have reached, as "majority/sync"


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
    """CLIENT_CONNECTION_LOST: *node_id* has lost a connection of that client."""

    client_id: str
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadershipTransferRequest(Header):
    """LEADERSHIP_TRANSFER. Source: DLedger ``LeadershipTransferRequest``."""

    transferee_id: str = ""  # "": the member that has most of the log


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderHint(Header):
    """Ext fields of a NOT_LEADER response; both None while nobody leads."""

    leader_id: str | None = None
    leader_address: str | None = None
