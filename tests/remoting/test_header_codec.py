"""Headers in JSON, ROCKETMQ and MSGPACK: what goes in comes out, and what is none is refused."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dledger.remoting.command import Command, LanguageCode, SerializeType
from dledger.remoting.errors import LocalProtocolError, RemoteProtocolError
from dledger.remoting.header_codec import decode_header, encode_header

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
ANY_VALUE = TEXTS | st.integers(-(1 << 63), (1 << 64) - 1) | st.booleans() | st.binary() | st.none()


def msgpack_header(**changes) -> bytes:
    fields = {
        "code": 10,
        "flag": 0,
        "opaque": 1,
        "language": 3,
        "version": 401,
        "remark": None,
        "ext_fields": None,
    }
    return msgspec.msgpack.encode(list((fields | changes).values()))


def json_header(**changes) -> bytes:
    fields = {"code": 10, "flag": 0, "opaque": 1, "language": "CPP", "version": 63}
    return json.dumps(fields | changes).encode()


ROCKETMQ_HEADER = bytes.fromhex(
    "000a"  # code 10
    "00"  # JAVA
    "0191"  # version 401
    "00000007"  # opaque
    "00000001"  # flag: response
    "00000002"  # remark length
    "6f6b"  # "ok"
    "0000000a"  # ext length
    "0001" "71" "00000003" "313233"  # q = 123
)  # fmt: skip


@given(
    code=INT32,
    flag=INT32,
    opaque=st.integers(0, (1 << 31) - 1),
    language=st.integers(0, 255),
    version=INT32,
    remark=st.none() | TEXTS,
    ext_fields=st.dictionaries(NAMES, ANY_VALUE, max_size=5),
)
def test_msgpack_gives_back_every_field_and_every_kind_of_value(**fields):
    command = Command(**fields)
    assert decode_header(77, encode_header(command)) == command


@given(
    code=INT32,
    flag=INT32,
    opaque=INT32,
    language=st.sampled_from(LanguageCode).map(int),
    version=INT32,
    remark=st.none() | TEXTS,
    ext_fields=st.dictionaries(NAMES, TEXTS, max_size=5),
)
def test_json_gives_back_every_field(**fields):
    command = Command(**fields, serialization=SerializeType.JSON)
    assert decode_header(0, encode_header(command)) == command


@given(
    code=st.integers(0, 0xFFFF),
    flag=INT32,
    opaque=INT32,
    language=st.integers(0, 255),
    version=st.integers(0, 0xFFFF),
    remark=st.none() | TEXTS.filter(bool),
    ext_fields=st.dictionaries(NAMES, TEXTS, max_size=5),
)
def test_rocketmq_gives_back_every_field(**fields):
    command = Command(**fields, serialization=SerializeType.ROCKETMQ)
    assert decode_header(1, encode_header(command)) == command


def is_command_or_refused(kind, header) -> bool:
    try:
        command = decode_header(kind, header)
    except RemoteProtocolError as error:
        return kind.name in str(error)
    return command.body == b"" and isinstance(command.ext_fields, dict)


@given(kind=st.sampled_from(SerializeType), header=st.binary(max_size=200))
def test_any_bytes_are_a_command_or_refused(kind, header):
    assert is_command_or_refused(kind, header)


@given(
    kind=st.sampled_from(SerializeType),
    position=st.integers(0, 1000),
    value=st.integers(0, 255),
)
def test_one_changed_byte_is_a_command_or_refused(kind, position, value):
    command = Command(10, ext_fields={"topic": "TopicA", "queueId": "3"}, remark="r")
    command.serialization = kind
    header = bytearray(encode_header(command))
    header[position % len(header)] = value
    assert is_command_or_refused(kind, header)


@pytest.mark.parametrize("kind", SerializeType)
def test_a_header_cut_short_anywhere_is_refused(kind):
    header = encode_header(
        Command(10, remark="r", ext_fields={"topic": "TopicA"}, serialization=kind)
    )
    for size in range(len(header)):
        with pytest.raises(RemoteProtocolError):
            decode_header(kind, header[:size])


def test_json_is_written_as_fastjson_writes_it():
    """Compact and sorted, no nulls; every ext value a string, or clients drop it silently."""
    command = Command(
        0,
        flag=1,
        opaque=9,
        language=0,
        version=409,
        ext_fields={"queueId": 3, "queueOffset": 0, "TRACE_ON": True, "OFF": False, "x": None},
        serialization=SerializeType.JSON,
    )
    assert encode_header(command) == (
        b'{"code":0,"extFields":{"queueId":"3","queueOffset":"0","TRACE_ON":"true","OFF":"false"},'
        b'"flag":1,"language":"JAVA","opaque":9,"serializeTypeCurrentRPC":"JSON","version":409}'
    )


def test_rocketmq_is_written_as_java_writes_it():
    command = Command(
        10,
        flag=1,
        opaque=7,
        language=0,
        version=401,
        remark="ok",
        ext_fields={"q": 123},
        serialization=SerializeType.ROCKETMQ,
    )
    assert encode_header(command) == ROCKETMQ_HEADER


def test_rocketmq_bytes_of_java_are_read():
    command = decode_header(1, ROCKETMQ_HEADER)
    assert (command.code, command.opaque, command.remark) == (10, 7, "ok")
    assert command.ext_fields == {"q": "123"}
    assert command.is_response


def test_a_code_above_32767_survives_the_rocketmq_header():
    """Java reads the two bytes as signed; our own codes from 60001 need them unsigned."""
    command = Command(60001, serialization=SerializeType.ROCKETMQ)
    assert decode_header(1, encode_header(command)).code == 60001


def test_json_ext_values_are_kept_as_clients_mix_them():
    """rocketmq 0.4.4 sends numbers, strings and "0"/"1" for booleans in one header."""
    fields = {"queueId": 0, "batch": "0", "sysFlag": 6, "properties": "KEYS\x01k1\x02", "n": None}
    assert decode_header(0, json_header(extFields=fields)).ext_fields == fields


def test_json_without_ext_fields_has_an_empty_dict():
    assert decode_header(0, json_header()).ext_fields == {}
    assert decode_header(0, json_header(extFields=None)).ext_fields == {}


def test_json_keys_we_do_not_know_are_passed_over():
    assert decode_header(0, json_header(serializeTypeCurrentRPC="JSON", new=[1])).code == 10


@pytest.mark.parametrize(
    ("written", "number"), [("CPP", 1), ("GO", 9), ("COBOL", 7), (12, 12), (None, 7)]
)
def test_a_json_language_is_a_name_and_an_unknown_one_is_other(written, number):
    assert decode_header(0, json_header(language=written)).language == number


def test_an_unknown_language_number_is_written_as_other():
    command = Command(10, language=200, serialization=SerializeType.JSON)
    assert json.loads(encode_header(command))["language"] == "OTHER"


@pytest.mark.parametrize("field", ["code", "flag", "opaque", "language", "version"])
@pytest.mark.parametrize("value", ["10", None, 1.5, True, 1 << 31, [1], b"1"])
def test_a_msgpack_number_of_another_type_is_refused_by_name(field, value):
    with pytest.raises(RemoteProtocolError, match=f"{field}: "):
        decode_header(77, msgpack_header(**{field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [("remark", 5), ("remark", b"x"), ("ext_fields", [1]), ("ext_fields", {1: 2})],
)
def test_msgpack_remark_and_ext_fields_of_another_type_are_refused_by_name(field, value):
    with pytest.raises(RemoteProtocolError, match=f"{field}: "):
        decode_header(77, msgpack_header(**{field: value}))


def test_a_negative_msgpack_opaque_is_refused():
    """Grouped acks write it as u32."""
    with pytest.raises(RemoteProtocolError, match="opaque: "):
        decode_header(77, msgpack_header(opaque=-1))


@pytest.mark.parametrize("count", [0, 1, 6, 8, 9])
def test_a_msgpack_array_of_another_length_is_refused(count):
    """Longer ones would reach the fields of a command behind the header's: body, serialization."""
    fields = [10, 0, 1, 3, 401, None, None, 5, 0][:count]
    with pytest.raises(RemoteProtocolError):
        decode_header(77, msgspec.msgpack.encode(fields))


def test_a_msgpack_header_followed_by_more_is_refused():
    with pytest.raises(RemoteProtocolError):
        decode_header(77, msgpack_header() + b"\0")


@pytest.mark.parametrize(("kind", "opening"), [(77, b"\x91"), (0, b"[")])
def test_nesting_without_end_is_refused(kind, opening):
    inside = opening * 100_000
    header = (
        msgpack_header()[:-1] + b"\x81\xa1x" + inside
        if kind == 77
        else b'{"code":1,"opaque":1,"extFields":' + inside
    )
    with pytest.raises(RemoteProtocolError):
        decode_header(kind, header)


@pytest.mark.parametrize("field", ["code", "flag", "opaque", "version", "remark", "extFields"])
@pytest.mark.parametrize("value", ["text", [1], 1 << 40])
def test_a_json_field_of_another_type_is_refused_by_name(field, value):
    if (field, value) == ("remark", "text"):
        value = 5
    with pytest.raises(RemoteProtocolError, match=f"{field}: "):
        decode_header(0, json_header(**{field: value}))


def test_json_without_code_is_refused():
    with pytest.raises(RemoteProtocolError, match="code"):
        decode_header(0, b'{"opaque":1}')


@pytest.mark.parametrize(
    ("position", "value", "field"),
    [
        (13, 0x7F, "remark"),
        (13, 0xFF, "remark"),
        (22, 9, "ext_fields"),
        (23, 0x7F, "ext_fields key"),
        (26, 0xFF, "ext_fields value"),
        (29, 4, "ext_fields value"),
    ],
)
def test_a_rocketmq_length_beyond_the_header_is_refused_by_name(position, value, field):
    header = bytearray(ROCKETMQ_HEADER)
    header[position] = value
    with pytest.raises(RemoteProtocolError, match=field):
        decode_header(1, header)


def test_a_rocketmq_header_followed_by_more_is_refused():
    with pytest.raises(RemoteProtocolError, match="follow"):
        decode_header(1, ROCKETMQ_HEADER + b"\0")


def test_an_unknown_serialize_type_is_refused():
    with pytest.raises(RemoteProtocolError, match="serialize type 5"):
        decode_header(5, b"")


@pytest.mark.parametrize(
    ("kind", "header"),
    [
        (77, msgpack_header(code="x", opaque=4711)),
        (0, json_header(code="x", opaque=4711)),
        (1, ROCKETMQ_HEADER[:5] + (4711).to_bytes(4) + ROCKETMQ_HEADER[9:-1]),
    ],
)
def test_a_refused_header_still_tells_its_opaque(kind, header):
    """So that the sender can be told what is wrong with it."""
    with pytest.raises(RemoteProtocolError) as caught:
        decode_header(kind, header)
    assert (caught.value.opaque, caught.value.serialize_type) == (4711, kind)


@pytest.mark.parametrize("kind", SerializeType)
@pytest.mark.parametrize("field", ["code", "flag", "opaque", "version"])
def test_a_number_that_does_not_fit_is_not_sent(kind, field):
    command = Command(10, serialization=kind)
    setattr(command, field, 1 << 31)
    with pytest.raises(LocalProtocolError):
        encode_header(command)


def test_a_negative_opaque_is_not_sent_as_msgpack():
    with pytest.raises(LocalProtocolError, match="negative"):
        encode_header(Command(10, opaque=-1))


@pytest.mark.parametrize("kind", [SerializeType.JSON, SerializeType.ROCKETMQ])
def test_bytes_are_not_sent_where_only_strings_travel(kind):
    with pytest.raises(LocalProtocolError, match="'sizes'"):
        encode_header(Command(10, ext_fields={"sizes": b"\0"}, serialization=kind))


def test_what_msgpack_does_not_know_is_not_sent():
    with pytest.raises(LocalProtocolError, match="code 10"):
        encode_header(Command(10, ext_fields={"x": object}))
