"""Headers as our clients and as RocketMQ's write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import HeaderError
from broker.protocol import headers, send_headers
from broker.protocol.bodies import (
    Ack,
    GroupStatus,
    MemberStatus,
    TopicEntry,
    decode_acks,
    decode_topic_table,
    encode_acks,
    encode_topic_table,
)
from broker.protocol.header_fields import Header, camel_case
from broker.protocol.headers import (
    CreateTopicRequest,
    PullMessageRequest,
    PullMessageResponse,
    UpdateConsumerOffsetRequest,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.protocol.send_headers import SendMessageRequest, SendMessageResponse, SendRecordsRequest

# Seen on the wire of RocketMQ 4.9.8: its Java client, and the C++ client inside PyPI rocketmq.
FROM_JAVA = {
    "a": "PGJ",
    "b": "TopicJ",
    "c": "TBW102",
    "d": "4",
    "e": "0",
    "f": "769",
    "g": "1795346890940",
    "h": "0",
    "i": "UNIQ_KEY\x01FD0007\x02WAIT\x01true",
    "j": "0",
    "k": "false",
    "m": "false",
    "n": "broker-a",
}
FROM_CPP = {
    "AccessKey": "",
    "OnsChannel": "ALIYUN",
    "Signature": "0ugh9pQhs88gY4mJLQ/be9/GQc8=",
    "batch": "0",
    "bornTimestamp": "1795346771693",
    "defaultTopic": "TBW102",
    "defaultTopicQueueNums": 4,
    "flag": 0,
    "producerGroup": "PG044",
    "properties": "KEYS\x01k1\x02",
    "queueId": 0,
    "reconsumeTimes": "0",
    "sysFlag": 0,
    "topic": "TopicA",
    "unitMode": "0",
}
OURS = {
    "producerGroup": "g",
    "topic": "t",
    "queueId": 1,
    "recordFormat": 1,
    "sizes": b"\0\0\0\x5c",
    "producerId": 1 << 63,
    "sequence": 9,
}


def test_a_send_of_the_java_client_is_read():
    header = SendMessageRequest.decode_v2(FROM_JAVA)

    assert (header.producer_group, header.topic, header.queue_id) == ("PGJ", "TopicJ", 0)
    assert (header.sys_flag, header.born_timestamp) == (769, 1795346890940)
    assert header.properties.endswith("WAIT\x01true")
    assert header.max_reconsume_times is None
    assert header.unit_mode is header.batch is False


def test_a_send_of_the_cpp_client_is_read():
    header = SendMessageRequest.decode(FROM_CPP)

    assert (header.topic, header.default_topic_queue_nums, header.flag) == ("TopicA", 4, 0)
    assert header.batch is False


def test_a_pull_of_the_java_client_is_read():
    header = PullMessageRequest.decode(
        {
            "queueId": "2",
            "maxMsgNums": "32",
            "sysFlag": "3",
            "suspendTimeoutMillis": "15000",
            "commitOffset": "7",
            "bname": "broker-a",
            "topic": "TopicJ",
            "queueOffset": "8",
            "expressionType": "TAG",
            "subVersion": "1795346903108",
            "consumerGroup": "CGJpush",
        }
    )

    assert (header.queue_id, header.queue_offset, header.commit_offset) == (2, 8, 7)
    assert header.may_suspend
    assert header.commits_offset
    assert header.broker_name == "broker-a"


def test_a_create_of_mqadmin_is_read():
    header = CreateTopicRequest.decode(
        {
            "readQueueNums": "4",
            "perm": "6",
            "writeQueueNums": "8",
            "topicFilterType": "SINGLE_TAG",
            "topic": "AdmT",
            "defaultTopic": "TBW102",
            "topicSysFlag": "0",
            "order": "false",
        }
    )

    assert (header.read_queue_nums, header.write_queue_nums, header.perm) == (4, 8, 6)
    assert header.order is False


def test_a_send_of_ours_is_read_and_written():
    header = SendRecordsRequest.decode(OURS)

    assert header == SendRecordsRequest("g", "t", 1, 1, b"\0\0\0\x5c", 1 << 63, 9)
    assert header.encode() == OURS
    assert SendRecordsRequest.decode({**OURS, "queueId": "1", "sequence": "9"}) == header


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("producerGroup", 5),
        ("topic", b"t"),
        ("queueId", "x"),
        ("queueId", 1 << 31),
        ("queueId", True),
        ("queueId", 1.0),
        ("recordFormat", 2),
        ("sizes", "abc"),
        ("sizes", None),
        ("producerId", -1),
        ("sequence", 1 << 64),
        ("sequence", "1" * 30),
        ("sequence", "٣"),
    ],
)
def test_a_wrong_field_of_our_send_is_named(field, value):
    with pytest.raises(HeaderError) as caught:
        SendRecordsRequest.decode({**OURS, field: value})

    assert caught.value.field == field
    assert field in str(caught.value)


@pytest.mark.parametrize("field", ["producerGroup", "topic", "queueId", "recordFormat", "sizes"])
def test_a_missing_field_of_our_send_is_named(field):
    given_fields = {name: value for name, value in OURS.items() if name != field}

    with pytest.raises(HeaderError, match="missing") as caught:
        SendRecordsRequest.decode(given_fields)

    assert caught.value.field == field


def test_no_fields_at_all_are_missing_fields():
    for ext_fields in (None, {}):
        with pytest.raises(HeaderError, match="producerGroup"):
            SendRecordsRequest.decode(ext_fields)


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        *((value, True) for value in ("true", "TRUE", "1", 1, True)),
        *((value, False) for value in ("false", "0", 0, False, "")),
    ],
)
def test_truth_is_written_in_many_ways(value, meaning):
    assert CreateTopicRequest.decode({"topic": "t", "order": value}).order is meaning


@pytest.mark.parametrize("value", ["yes", 2, 1.5, b"1", []])
def test_what_is_neither_true_nor_false_is_refused(value):
    with pytest.raises(HeaderError, match="neither true nor false"):
        CreateTopicRequest.decode({"topic": "t", "order": value})


def test_responses_have_rocketmqs_names():
    assert SendMessageResponse(
        msg_id="7F", queue_id=0, queue_offset=5, msg_region="DefaultRegion", trace_on=True
    ).encode() == {
        "msgId": "7F",
        "queueId": 0,
        "queueOffset": 5,
        "MSG_REGION": "DefaultRegion",
        "TRACE_ON": True,
    }
    assert PullMessageResponse(
        suggest_which_broker_id=0, next_begin_offset=1, min_offset=2, max_offset=3
    ).encode() == {
        "suggestWhichBrokerId": 0,
        "nextBeginOffset": 1,
        "minOffset": 2,
        "maxOffset": 3,
    }


@given(st.data())
def test_every_header_comes_back_even_when_all_its_values_are_strings(data):
    cls = data.draw(
        st.sampled_from(
            [
                value
                for module in (headers, send_headers)
                for value in vars(module).values()
                if isinstance(value, type) and issubclass(value, Header) and value is not Header
            ]
        )
    )
    kinds = {
        "str": st.text(max_size=5),
        "bool": st.booleans(),
        "Int32": st.integers(-(1 << 31), (1 << 31) - 1),
        "Int64": st.integers(-(1 << 63), (1 << 63) - 1),
        "UInt64": st.integers(0, (1 << 64) - 1),
    }
    header = cls(
        **{
            name: data.draw(kinds[str(field.type).removesuffix(" | None")])
            for name, field in cls.__dataclass_fields__.items()
        }
    )

    ext_fields = header.encode()
    as_strings = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in ext_fields.items()
    }

    assert cls.decode(ext_fields) == cls.decode(as_strings) == header


def test_the_names_a_to_n_come_back():
    header = SendMessageRequest.decode_v2(FROM_JAVA)

    assert SendMessageRequest.decode_v2(header.encode_v2()) == header
    assert set(header.encode_v2()) == set(FROM_JAVA)


def test_a_commit_of_minus_1_is_a_number_like_others():
    header = UpdateConsumerOffsetRequest.decode(
        {"consumerGroup": "g", "topic": "t", "queueId": 0, "commitOffset": "-1"}
    )

    assert header.commit_offset == -1


def test_names_change_their_case():
    assert camel_case("suggest_which_broker_id") == "suggestWhichBrokerId"


def test_codes_of_rocketmq_keep_their_numbers():
    assert [
        RequestCode.SEND_MESSAGE,
        RequestCode.SEND_MESSAGE_V2,
        RequestCode.SEND_BATCH_MESSAGE,
        RequestCode.PULL_MESSAGE,
        RequestCode.LEADERSHIP_TRANSFER,
    ] == [10, 310, 320, 11, 51005]
    assert ResponseCode.PULL_OFFSET_MOVED == 21
    ours = [code for codes in (RequestCode, ResponseCode) for code in codes if code >= 60_000]
    assert min(ours) == 60_001


@given(
    st.lists(
        st.builds(
            Ack,
            st.integers(0, (1 << 32) - 1),
            st.integers(0, 70_000),
            st.integers(-1, 100),
            st.integers(-1, 1 << 62),
            st.integers(-1, 1 << 62),
        )
    )
)
def test_grouped_acks_come_back(acks):
    body = encode_acks(acks)

    assert len(body) == 28 * len(acks)
    assert [ack[:-1] for ack in decode_acks(body)] == [ack[:-1] for ack in acks]


def test_half_an_ack_is_refused():
    with pytest.raises(HeaderError, match="29 bytes"):
        decode_acks(bytes(29))


def test_a_group_status_comes_back():
    status = GroupStatus(
        group="g",
        node_id="n0",
        role="LEADER",
        term=3,
        leader_id="n0",
        leader_address="127.0.0.1:10911",
        is_ready=True,
        begin_index=1,
        end_index=9,
        durable_index=9,
        commit_index=8,
        dispatched_index=7,
        begin_position=0,
        end_position=4096,
        flush_disk_type="SYNC_FLUSH",
        topic_count=2,
        connection_count=3,
        held_pull_count=1,
        rss_bytes=50_000_000,
        uptime_seconds=12.5,
        sync_seconds_last=0.0004,
        version="0.1.0",
        members=(MemberStatus(node_id="n1", address="b:2", is_connected=True, match_index=8),),
    )

    assert GroupStatus.decode(status.encode()) == status


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"members":[{}]}'])
def test_what_is_no_group_status_or_topic_table_is_refused(body):
    with pytest.raises(HeaderError):
        GroupStatus.decode(body)
    with pytest.raises(HeaderError):
        decode_topic_table(body)


def test_a_topic_table_comes_back():
    topics = [TopicEntry("a", 4, 4, 6), TopicEntry("b", 1, 2, 4)]

    assert decode_topic_table(encode_topic_table(topics, version=5)) == topics
