from __future__ import annotations

import random
import zlib

import pytest

from broker.client.errors import CorruptBodyError
from broker.client.records import decode_run, encode_named_properties
from broker.client.results import SendResult
from broker.client.unique_ids import DIGIT_TEXTS, DIGITS, UniqueIds, month_start_ms
from broker.errors import CorruptRecordError, InvalidMessageError
from broker.message.codec import FLAG_COMPRESSED, encode_record
from broker.message.message_id import UniqueKeyGenerator
from broker.message.model import HostAddress
from broker.message.properties import decode_properties, encode_properties


def record(offset, body=b"body", **options):
    fields = {"topic": b"orders", "queue_id": 1, "queue_offset": offset, "body": body, **options}
    return encode_record(**fields)


def decode(data, first_offset=0, **options):
    return decode_run(
        data, topic=options.get("topic", "orders"), queue_id=1, first_offset=first_offset
    ).take_all()


def test_every_field_is_read():
    data = record(
        7,
        properties=encode_properties({"KEYS": "a b", "TAGS": "t", "UNIQ_KEY": "U", "x": "y"}),
        position=4711,
        flag=9,
        born_timestamp_ms=123,
        store_timestamp_ms=456,
        store_host=HostAddress(b"\x7f\0\0\1", 9876),
        reconsume_times=2,
    )
    (message,) = decode(memoryview(data), 7)
    assert message.body == b"body"
    assert (message.topic, message.queue_id, message.queue_offset) == ("orders", 1, 7)
    assert (message.position, message.flag, message.reconsume_times) == (4711, 9, 2)
    assert (message.born_timestamp_ms, message.store_timestamp_ms) == (123, 456)
    assert (message.keys, message.key, message.tag, message.unique_id) == (
        ("a", "b"),
        "a",
        "t",
        "U",
    )
    assert message.properties["x"] == "y"
    assert message.message_id == "7F000001000026940000000000001267"


def test_a_message_without_properties_has_none():
    (message,) = decode(record(0))
    assert (message.key, message.keys, message.tag, message.unique_id) == (None, (), None, None)
    assert message.properties == {}


@pytest.mark.parametrize(
    "options",
    [
        {"born_host": HostAddress(b"\1" * 16, 1)},
        {"store_host": HostAddress(b"\2" * 16, 2)},
        {"topic": b"%RETRY%" + b"g" * 200},
    ],
)
def test_rare_kinds_of_records_are_read_too(options):
    topic = options.get("topic", b"orders").decode()
    found = decode(record(3, **options) + record(4, topic=topic.encode()), 3, topic=topic)
    assert [message.queue_offset for message in found] == [3, 4]
    assert found[0].body == b"body"
    assert found[0].topic == topic


def test_a_body_compressed_by_another_client_is_unpacked():
    packed = zlib.compress(b"long " * 2000)
    (message,) = decode(record(0, packed, system_flag=FLAG_COMPRESSED))
    assert message.body == b"long " * 2000
    assert message.body is message.body


def test_a_body_that_cannot_be_unpacked_spoils_no_other_message():
    found = decode(
        record(0, zlib.compress(b"a"), system_flag=FLAG_COMPRESSED)
        + record(1, b"?", system_flag=FLAG_COMPRESSED)
        + record(2, b"c")
    )
    assert (found[0].body, found[2].body) == (b"a", b"c")
    with pytest.raises(CorruptBodyError, match="topic orders queue 1 offset 1"):
        _ = found[1].body


def test_records_before_the_one_wanted_are_passed_over():
    data = b"".join(record(offset) for offset in range(10))
    assert [message.queue_offset for message in decode(data, 6)] == [6, 7, 8, 9]
    assert decode(data, 10) == []


def test_a_missing_offset_is_an_error():
    with pytest.raises(CorruptRecordError, match="record 1, field queue_offset: 5 where 4 follows"):
        decode(record(3) + record(5), 3)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (record(0)[:60], "total_size"),
        (record(0)[:-1], "total_size"),
        (record(0, topic=b"other"), "topic"),
        (record(0, queue_id=2), "topic"),
        (record(0)[:90] + b"?" + record(0)[91:], "body_crc"),
        (record(0)[:84] + b"\x7f" + record(0)[85:], "body_size"),
        (record(0)[:92] + b"\xff" + record(0)[93:], "topic_size"),
        (record(0)[:-1] + b"\x01", "properties_size"),
        (record(0)[:4] + b"\0" + record(0)[5:], "magic"),
    ],
)
def test_damage_is_named_by_its_field(data, field):
    with pytest.raises(CorruptRecordError) as caught:
        decode(data)
    assert caught.value.field == field


def test_named_properties_read_back_whatever_way_they_were_written():
    for key, tag, own in (
        ("k1", None, None),
        ("schlüssel", None, {}),
        (["a", "b"], "t", {"x": "1"}),
        (None, "t", None),
        (None, None, {"x": "1", "y": "ü"}),
    ):
        encoded = encode_named_properties(key, tag, own)
        assert encoded.startswith(b"\x02")
        found = decode_properties(b"UNIQ_KEY\x01u" + encoded)
        keys = key if isinstance(key, list) else [key] if key else []
        assert found.get("KEYS", "").split() == keys
        assert found.get("TAGS") == tag
        assert {name: found[name] for name in own or {}} == (own or {})
    assert encode_named_properties(None, None, {}) == b""
    assert encode_named_properties([], "", None) == b""


@pytest.mark.parametrize("key", ["", "a b", "a\x01", "a\x02", "\ud800", ["ok", ""]])
def test_a_key_that_would_break_the_record_is_refused(key):
    with pytest.raises(InvalidMessageError):
        encode_named_properties(key, None, None)


def test_unique_ids_are_those_of_the_generator():
    """The table of digits gives what `UniqueKeyGenerator` gives one by one."""
    chance = random.Random(3)
    expected = random.Random(3).getrandbits(48)
    now = 1_760_000_123_456
    generator = UniqueKeyGenerator(
        ip=b"\1\2\3\4",
        process_id=expected >> 32,
        process_hash=expected & 0xFFFFFFFF,
        wall_ms=lambda: now,
        month_start_ms=month_start_ms,
    )
    ids = UniqueIds(b"\1\2\3\4", chance)
    for number in range(10_000):
        prefix = ids.prefix(now, number >> 12)
        assert prefix + DIGIT_TEXTS[number & 0xFFF] == generator.next_key()
    assert DIGITS[0xABC] == b"ABC"


def test_a_month_begins_at_its_first_millisecond():
    assert month_start_ms(1_709_251_199_999) == 1_706_745_600_000  # the last of February 2024
    assert month_start_ms(1_709_251_200_000) == 1_709_251_200_000


def test_a_node_reached_by_name_still_gives_a_message_id():
    result = SendResult("t", 0, 5, 4711, "broker-1:9876", "U")
    assert result.message_id == "00000000000026940000000000001267"
    assert SendResult("t", 0, 5, 1, "[::1]:9876", "U").message_id == (
        "0000000000000000000000000000000100002694" + "0000000000000001"
    )


@pytest.mark.parametrize("seed", range(40))
def test_any_mix_of_records_is_read_as_the_codec_reads_it(seed):
    """Sizes that change from record to record, rare kinds among common ones, tags or none."""
    chance = random.Random(seed)
    tags = (None, frozenset({b"a"}), frozenset({b"a", b"c"}))[seed % 3]
    records, wanted, offset = [], [], 0
    for _ in range(chance.randrange(1, 60)):
        tag = chance.choice(("a", "b", "c", None))
        properties = {"TAGS": tag} if tag else {}
        if chance.random() < 0.5:
            properties["x"] = "y" * chance.randrange(300)
        options = {"store_host": HostAddress(b"\2" * 16, 2)} if chance.random() < 0.2 else {}
        body = chance.randbytes(chance.choice((0, 1, 100, 5000)))
        encoded = encode_properties(properties)
        records.append(record(offset, body, properties=encoded, **options))
        if offset >= 3 and (tags is None or (tag or "").encode() in tags):
            wanted.append((offset, body, properties))
        offset += 1 if tags is None else chance.randrange(1, 4)

    run = decode_run(b"".join(records), topic="orders", queue_id=1, first_offset=3, tags=tags)
    assert len(run) == len(wanted)
    if wanted:
        assert (run.first_offset, run.last_offset) == (wanted[0][0], wanted[-1][0])
    found = []
    while run:
        found += run.take(chance.randrange(1, 20))
    assert [(m.queue_offset, m.body, m.properties) for m in found] == wanted
