"""Headers of the requests that store a message, and of their answers."""

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
