"""Messages, their names, ids, tags and limits."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import InvalidMessageError, InvalidTopicError
from broker.message import limits, tags
from broker.message.message_id import UniqueKeyGenerator, decode_offset_id, encode_offset_id
from broker.message.model import HostAddress, Message, StoredMessage
from broker.message.properties import decode_properties, encode_properties, find_property

plain = st.text(
    st.characters(exclude_characters="\x01\x02", exclude_categories=["Cs"]), max_size=20
)


@given(st.dictionaries(plain.filter(bool), plain, max_size=6))
def test_properties_come_back_as_they_were(properties):
    assert decode_properties(encode_properties(properties)) == properties


@given(st.dictionaries(plain.filter(bool), plain, max_size=6), plain.filter(bool))
def test_one_property_is_found_without_the_others(properties, name):
    encoded = encode_properties(properties)

    for key in [*properties, name]:
        found = find_property(encoded, key.encode())
        assert found == (properties[key].encode() if key in properties else None)


def test_the_last_of_a_name_given_twice_counts():
    encoded = b"WAIT\x01true\x02XTAGS\x01no\x02TAGS\x01a\x02TAGS\x01b\x02WAIT\x01false\x02"

    assert decode_properties(encoded) == {"WAIT": "false", "XTAGS": "no", "TAGS": "b"}
    assert find_property(encoded, b"TAGS") == b"b"
    assert find_property(encoded, b"WAIT") == b"false"
    assert find_property(encoded, b"AGS") is None


def test_pieces_that_are_no_property_are_left_out():
    assert decode_properties(b"alone\x02\x01noname\x02a\x01b\x01c\x02\xff\x01x") == {
        "a": "b\x01c",
        "�": "x",
    }


@pytest.mark.parametrize(
    "properties", [{"": "x"}, {"a\x01": "x"}, {"a": "x\x02"}, {"a": "\ud800"}, {"a": "x" * 32_766}]
)
def test_properties_that_could_not_be_read_back_are_refused(properties):
    with pytest.raises(InvalidMessageError):
        encode_properties(properties)


@pytest.mark.parametrize(
    ("text", "code"),
    # Well-known values of Java; the last is its least int.
    [("", 0), ("a", 97), ("hello", 99162322), ("polygenelubricants", -(1 << 31))],
)
def test_the_hash_of_a_tag_is_javas(text, code):
    assert tags.java_string_hash(text) == code


def test_the_hash_counts_utf16_units_as_java_does():
    # U+1F600 is the units D83D and DE00.
    assert tags.java_string_hash("\U0001f600") == 0xD83D * 31 + 0xDE00
    assert tags.java_string_hash("é") == 0xE9


def test_no_tag_has_the_code_0():
    assert tags.tags_code(None) == tags.tags_code("") == 0


@pytest.mark.parametrize("topic", ["a", "TopicJ", "%RETRY%g", "a|b_c-d", "t" * 127])
def test_a_good_topic_is_taken(topic):
    limits.check_topic(topic)


@pytest.mark.parametrize(
    ("topic", "complaint"),
    [
        ("", "empty"),
        ("a b", "only letters"),
        ("a/b", "only letters"),
        ("a\n", "only letters"),
        ("ä", "only letters"),
        ("t" * 128, "128 characters; at most 127"),
        ("%RETRY%" + "t" * 249, "256 characters; at most 255"),
    ],
)
def test_a_bad_topic_is_refused_with_the_reason(topic, complaint):
    with pytest.raises(InvalidTopicError, match=complaint):
        limits.check_topic(topic)


def test_a_retry_topic_may_be_longer():
    limits.check_topic("%RETRY%" + "t" * 248)


def test_a_message_knows_its_reserved_properties():
    message = Message(topic="t", body=b"", tag="A", keys=("k1", "k2"), properties={"a": "b"})

    assert message.all_properties() == {"a": "b", "KEYS": "k1 k2", "TAGS": "A"}
    message.check()


@pytest.mark.parametrize("key", ["", "a b"])
def test_a_key_with_a_blank_is_refused(key):
    with pytest.raises(InvalidMessageError, match="blank"):
        Message(topic="t", body=b"", keys=(key,)).all_properties()


def test_a_body_over_4_mib_is_refused():
    with pytest.raises(InvalidMessageError, match="4194305 bytes; at most 4194304"):
        Message(topic="t", body=bytes(4 * 1024 * 1024 + 1)).check()


def test_stored_messages_compare_by_what_they_hold():
    one, same, other = (StoredMessage(topic="t", body=body) for body in (b"a", b"a", b"b"))
    assert one.properties == {}

    assert one == same
    assert one != other
    assert one != "t"


def test_an_offset_id_is_rocketmqs():
    host = HostAddress(b"\x7f\0\0\x01", 30911)

    assert encode_offset_id(host, 0x1AAB) == "7F000001000078BF0000000000001AAB"
    assert decode_offset_id("7F000001000078BF0000000000001AAB") == (host, 0x1AAB)


@given(st.binary(min_size=16, max_size=16), st.integers(0, 65535), st.integers(0, (1 << 63) - 1))
def test_an_offset_id_with_ipv6_comes_back(ip, port, position):
    message_id = encode_offset_id(HostAddress(ip, port), position)

    assert len(message_id) == 56
    assert decode_offset_id(message_id) == (HostAddress(ip, port), position)


@pytest.mark.parametrize("text", ["", "xyz", "7F00", "FD0000"])
def test_what_is_no_offset_id_is_refused(text):
    with pytest.raises(InvalidMessageError, match="no offset id"):
        decode_offset_id(text)


def test_a_host_is_written_as_people_write_it():
    assert str(HostAddress(b"\x7f\0\0\x01", 80)) == "127.0.0.1:80"
    assert str(HostAddress(bytes(15) + b"\x01", 80)) == "[0:0:0:0:0:0:0:1]:80"


def test_unique_keys_are_laid_out_as_rocketmqs_and_differ():
    now = itertools.repeat(1_000_255)
    generator = UniqueKeyGenerator(
        ip=b"\x0a\0\0\x01",
        process_id=0x1_0007,
        process_hash=0x14AE5,
        wall_ms=lambda: next(now),
        month_start_ms=lambda _: 1_000_000,
    )

    assert generator.next_key() == "0A000001" + "0007" + "00014AE5" + "000000FF" + "0000"
    assert generator.next_key() == "0A000001" + "0007" + "00014AE5" + "000000FF" + "0001"
    assert len({generator.next_key() for _ in range(65_534)}) == 65_534


@pytest.mark.parametrize("now", [86_400_000 * 30, -5])
def test_unique_keys_ask_for_the_month_again_when_time_left_it(now):
    times = iter([0, now])
    generator = UniqueKeyGenerator(
        ip=b"\x0a\0\0\x01",
        process_id=0,
        process_hash=0,
        wall_ms=lambda: next(times),
        month_start_ms=lambda ms: ms - 3,
    )

    assert generator.next_key()[-12:] == "00000003" + "0000"
