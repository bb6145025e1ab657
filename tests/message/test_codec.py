"""Records against bytes written by hand, bytes RocketMQ 4.9.8 wrote, and each other."""

from __future__ import annotations

import contextlib
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import CorruptRecordError, InvalidMessageError
from broker.message import codec
from broker.message.codec import decode_record, decode_records, encode_record, record_size
from broker.message.limits import MessageLimits
from broker.message.model import HostAddress, StoredMessage

# A pull response of RocketMQ 4.9.8: one message of its Java client, tag and key set.
FROM_JAVA = (
    b"\x00\x00\x00\xd4\xda\xa3 \xa76\x10\xa6\x86\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x1a\xab\x00\x00\x00\x00\x00\x00\x01\xa2\x03\x03\x7f"
    b"\xce\x7f\x00\x00\x01\x00\x00\xda\xd6\x00\x00\x01\xa2\x03\x03\x80\x16\x7f\x00\x00\x01\x00\x00"
    b"x\xbf\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05hello\x06TopicJ\x00na"
    b"\x015\x02KEYS\x01k1\x02UNIQ_KEY\x01FD000000000000000000000000000002077B4E0E2F2A6E9B97CE0000"
    b"\x02CLUSTER\x01DefaultCluster\x02TAGS\x01tagA"
)
# The record after it: the second message of a batch.
FROM_JAVA_BATCH = (
    b"\x00\x00\x00\xd9\xda\xa3 \xa7G\xcc\x1b\xe0\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00"
    b"\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x1e\xd7\x00\x00\x00\x00\x00\x00\x01\xa2\x03\x03\x80"
    b"\xa8\x7f\x00\x00\x01\x00\x00\xda\xd6\x00\x00\x01\xa2\x03\x03\x80\xad\x7f\x00\x00\x01\x00\x00"
    b"x\xbf\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02b1\x06TopicJ\x00vUNIQ_"
    b"KEY\x01FD000000000000000000000000000002077B4E0E2F2A6E9B98A80005\x02WAIT\x01true\x02TAGS\x01"
    b"tagC\x02CLUSTER\x01DefaultCluster\x02WAIT\x01true"
)

hosts = st.builds(
    HostAddress,
    st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)),
    st.integers(0, 65_535),
)
int32 = st.integers(-(1 << 31), (1 << 31) - 1)
int64 = st.integers(-(1 << 63), (1 << 63) - 1)
records = st.fixed_dictionaries(
    {
        "topic": st.text("abcXYZ09%|_-", min_size=1, max_size=255).map(str.encode),
        "queue_id": int32,
        "body": st.binary(max_size=300),
        "properties": st.binary(max_size=300),
        "flag": int32,
        "system_flag": st.sampled_from([0, 1, 0x301, 4]),
        "queue_offset": int64,
        "position": int64,
        "born_timestamp_ms": int64,
        "born_host": hosts,
        "store_timestamp_ms": int64,
        "store_host": hosts,
        "reconsume_times": int32,
        "prepared_position": int64,
    }
)


def test_a_record_written_by_rocketmq_is_read_field_by_field():
    message = decode_record(FROM_JAVA)

    assert message.topic == "TopicJ"
    assert message.body == b"hello"
    assert (message.queue_id, message.queue_offset, message.position) == (0, 0, 0x1AAB)
    assert message.properties == {
        "a": "5",
        "KEYS": "k1",
        "UNIQ_KEY": "FD000000000000000000000000000002077B4E0E2F2A6E9B97CE0000",
        "CLUSTER": "DefaultCluster",
        "TAGS": "tagA",
    }
    assert (message.tag, message.keys) == ("tagA", ("k1",))
    assert message.born_timestamp_ms == 1795346890702
    assert str(message.born_host) == "127.0.0.1:56022"
    assert str(message.store_host) == "127.0.0.1:30911"
    assert message.size == len(FROM_JAVA) == 212


def test_a_record_of_rocketmq_is_written_again_byte_for_byte():
    for raw in (FROM_JAVA, FROM_JAVA_BATCH):
        assert _encode_again(decode_record(raw)) == raw


def test_records_back_to_back_are_all_read():
    messages = decode_records(memoryview(FROM_JAVA + FROM_JAVA_BATCH))

    assert [message.body for message in messages] == [b"hello", b"b1"]
    assert [message.queue_offset for message in messages] == [0, 2]


def test_a_record_written_by_hand_has_its_fields_where_the_layout_says():
    raw = encode_record(
        topic=b"orders",
        queue_id=3,
        body=b"x",
        properties=b"a\x01b",
        flag=7,
        queue_offset=11,
        position=13,
        born_timestamp_ms=17,
        born_host=HostAddress(b"\x0a\x00\x00\x01", 19),
        store_timestamp_ms=23,
        store_host=HostAddress(b"\x0a\x00\x00\x02", 29),
        reconsume_times=31,
        prepared_position=37,
    )

    assert raw == b"".join(
        [
            (101).to_bytes(4, "big"),
            bytes.fromhex("DAA320A7"),
            (zlib.crc32(b"x") & 0x7FFFFFFF).to_bytes(4, "big"),
            bytes([0, 0, 0, 3]),
            bytes([0, 0, 0, 7]),
            (11).to_bytes(8, "big"),
            (13).to_bytes(8, "big"),
            bytes(4),
            (17).to_bytes(8, "big"),
            b"\x0a\x00\x00\x01" + (19).to_bytes(4, "big"),
            (23).to_bytes(8, "big"),
            b"\x0a\x00\x00\x02" + (29).to_bytes(4, "big"),
            (31).to_bytes(4, "big"),
            (37).to_bytes(8, "big"),
            bytes([0, 0, 0, 1]) + b"x",
            b"\x06orders",
            b"\x00\x03a\x01b",
        ]
    )


def test_a_topic_of_128_bytes_needs_version_2():
    short, long = (encode_record(topic=b"t" * n, queue_id=0, body=b"") for n in (127, 128))

    assert (short[4:8].hex(), long[4:8].hex()) == ("daa320a7", "daa320ab")
    assert len(long) == len(short) + 2
    assert decode_record(long).topic == "t" * 128


@given(records)
def test_what_is_encoded_is_decoded_again(fields):
    raw = encode_record(**fields)
    message = decode_record(b"junk" + raw + b"more", 4)

    assert message.size == len(raw) == record_size(raw)
    assert message.topic == fields["topic"].decode()
    assert message.encoded_properties == fields["properties"]
    for name in fields.keys() - {"topic", "properties", "system_flag"}:
        assert getattr(message, name) == fields[name]
    assert message.system_flag & ~0x30 == fields["system_flag"]
    assert bool(message.system_flag & 0x10) == fields["born_host"].is_ipv6
    assert bool(message.system_flag & 0x20) == fields["store_host"].is_ipv6
    assert _encode_again(message) == raw


@given(records, st.data())
def test_a_record_cut_short_is_refused(fields, data):
    raw = encode_record(**fields)
    cut = data.draw(st.integers(0, len(raw) - 1))

    with pytest.raises(CorruptRecordError):
        decode_record(raw[:cut])


@given(records, st.data())
def test_a_garbled_record_is_decoded_or_refused_but_never_crashes(fields, data):
    raw = bytearray(encode_record(**fields))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))

    size = 0
    with contextlib.suppress(CorruptRecordError):
        size = decode_record(raw).size

    assert size <= len(raw)


@pytest.mark.parametrize(
    ("at", "value", "field"),
    [
        (0, (90).to_bytes(4, "big"), "total_size"),
        (0, (213).to_bytes(4, "big"), "total_size"),
        (0, b"\xff\xff\xff\xff", "total_size"),
        (4, bytes.fromhex("CBD43194"), "magic"),
        (8, b"\0\0\0\0", "body_crc"),
        (84, b"\xff\xff\xff\xff", "body_size"),
        (84, (110).to_bytes(4, "big"), "topic_size"),
        (84, (1 << 30).to_bytes(4, "big"), "body_size"),
        (93, b"\xff", "topic_size"),
        (100, b"\x00\x6d", "properties_size"),
        (94, b"\xff", "topic"),
    ],
)
def test_a_wrong_field_is_named(at, value, field):
    raw = bytearray(FROM_JAVA)
    raw[at : at + len(value)] = value

    with pytest.raises(CorruptRecordError) as caught:
        decode_record(raw, record=4)

    assert (caught.value.field, caught.value.record) == (field, 4)
    assert "record 4" in str(caught.value)


def test_the_number_of_the_bad_record_is_named():
    bad = bytearray(FROM_JAVA_BATCH)
    bad[-130] ^= 1

    with pytest.raises(CorruptRecordError) as caught:
        decode_records(FROM_JAVA + bad)

    assert caught.value.record == 1


def test_a_flag_for_ipv6_hosts_on_a_record_too_small_for_them_is_refused():
    raw = bytearray(encode_record(topic=b"t", queue_id=0, body=b""))
    struct.pack_into(">i", raw, 36, 0x30)

    with pytest.raises(CorruptRecordError, match="total_size"):
        decode_record(raw)


def test_the_checksum_may_be_left_to_others():
    raw = bytearray(FROM_JAVA)
    raw[8:12] = b"\0\0\0\0"

    assert decode_record(raw, check_crc=False).body == b"hello"


def test_limits_are_named_with_what_was_found():
    limits = MessageLimits(body_size_max=10, properties_size_max=5)

    with pytest.raises(InvalidMessageError, match="11 bytes; at most 10"):
        encode_record(topic=b"t", queue_id=0, body=b"x" * 11, limits=limits)
    with pytest.raises(InvalidMessageError, match="6 bytes encoded; at most 5"):
        encode_record(topic=b"t", queue_id=0, body=b"", properties=b"x" * 6, limits=limits)


@pytest.mark.parametrize("raw", [b"", b"\0\0\0\x10", b"\0\0\0\x10\xda\xa3\x20\xa7", bytes(100)])
def test_the_size_of_what_is_no_record_is_not_told(raw):
    with pytest.raises(CorruptRecordError):
        record_size(raw)


def _encode_again(message: StoredMessage) -> bytes:
    return encode_record(
        topic=message.topic.encode(),
        queue_id=message.queue_id,
        body=message.body,
        properties=message.encoded_properties,
        flag=message.flag,
        system_flag=message.system_flag,
        queue_offset=message.queue_offset,
        position=message.position,
        born_timestamp_ms=message.born_timestamp_ms,
        born_host=message.born_host,
        store_timestamp_ms=message.store_timestamp_ms,
        store_host=message.store_host,
        reconsume_times=message.reconsume_times,
        prepared_position=message.prepared_position,
    )


def test_crc_never_has_its_highest_bit():
    assert codec.crc_of_body(b"hello") == 0x3610A686
    assert all(codec.crc_of_body(bytes([n])) < 1 << 31 for n in range(256))
