"""Frames: whole commands come out however the bytes were cut, and broken ones are refused early."""

from __future__ import annotations

import itertools
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dledger.remoting.command import (
    FLAG_GROUPED,
    FLAG_ONEWAY,
    FLAG_RESPONSE,
    Command,
    SerializeType,
    response,
)
from dledger.remoting.connection import Connection
from dledger.remoting.errors import LocalProtocolError, RemoteProtocolError
from dledger.remoting.frame import FRAME_SIZE_MAX, encode_frame
from tests.remoting.conftest import frame

KINDS = list(SerializeType)


def three_commands() -> list[Command]:
    return [
        Command(10, opaque=1, ext_fields={"topic": "TopicA"}, body=b"first body"),
        Command(11, opaque=2, serialization=SerializeType.JSON),
        Command(12, opaque=3, remark="r", body=b"x" * 40, serialization=SerializeType.ROCKETMQ),
    ]


def wire(commands: list[Command]) -> bytes:
    return b"".join(b"".join(encode_frame(command)) for command in commands)


def test_frames_cut_in_two_anywhere_come_out_whole():
    commands = three_commands()
    data = wire(commands)
    for cut in range(len(data) + 1):
        connection = Connection()
        connection.receive_data(data[:cut])
        found = connection.commands()
        connection.receive_data(data[cut:])
        found += connection.commands()
        connection.receive_eof()
        assert found == commands


def test_frames_come_out_whole_byte_by_byte():
    commands = three_commands()
    connection = Connection()
    found = []
    for byte in wire(commands):
        connection.receive_data(bytes([byte]))
        found += connection.commands()
    assert found == commands


@given(
    bodies=st.lists(st.binary(max_size=300), max_size=8),
    kinds=st.lists(st.sampled_from(KINDS), min_size=8, max_size=8),
    cuts=st.lists(st.integers(0, 3000), max_size=12),
    late=st.booleans(),
)
def test_any_cuts_give_the_same_commands(bodies, kinds, cuts, late):
    commands = [
        Command(n, opaque=n, body=body, serialization=kind)
        for n, (body, kind) in enumerate(zip(bodies, kinds, strict=False))
    ]
    data = wire(commands)
    connection = Connection()
    found = []
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in itertools.pairwise(edges):
        connection.receive_data(data[start:stop])
        if not late:
            found += connection.commands()
    found += connection.commands()
    connection.receive_eof()
    assert found == commands


def test_next_command_gives_one_at_a_time_and_then_none():
    commands = three_commands()
    connection = Connection()
    connection.receive_data(wire(commands))
    assert [connection.next_command() for _ in range(4)] == [*commands, None]


def test_next_command_and_commands_may_be_mixed():
    commands = three_commands()
    connection = Connection()
    connection.receive_data(wire(commands))
    assert connection.next_command() == commands[0]
    assert connection.commands() == commands[1:]


def test_a_body_is_a_read_only_view_into_the_received_bytes():
    data = frame(10, body=b"0123456789")
    connection = Connection()
    connection.receive_data(data)
    (command,) = connection.commands()
    assert isinstance(command.body, memoryview)
    assert command.body.obj is data
    assert command.body.readonly


def test_a_body_that_came_in_pieces_is_read_only_too():
    data = frame(10, body=b"0123456789")
    connection = Connection()
    connection.receive_data(data[:20])
    connection.receive_data(data[20:])
    (command,) = connection.commands()
    assert command.body == b"0123456789"
    assert command.body.readonly


def test_a_buffer_that_is_used_again_does_not_change_a_body():
    buffer = bytearray(frame(10, body=b"0123456789"))
    connection = Connection()
    connection.receive_data(memoryview(buffer))
    buffer[-10:] = b"overwrites"
    (command,) = connection.commands()
    assert command.body == b"0123456789"


def test_a_large_body_given_as_views_is_sent_uncopied():
    views = [memoryview(b"a" * 2000), memoryview(b"b" * 3000)]
    buffers = encode_frame(Command(11, body=list(views)))
    assert [id(buffer) for buffer in buffers[1:]] == [id(view) for view in views]
    connection = Connection()
    connection.receive_data(b"".join(buffers))
    assert connection.commands()[0].body == b"a" * 2000 + b"b" * 3000


def test_a_small_body_shares_the_buffer_of_its_header():
    assert len(encode_frame(Command(11, body=b"x" * 1000))) == 1
    assert len(encode_frame(Command(11, body=[b"x" * 500, b"y" * 500]))) == 1
    assert len(encode_frame(Command(11, body=b"x" * 2000))) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_of_exactly_the_limit_passes_and_one_byte_more_is_not_sent(kind):
    overhead = len(frame(10, serialization=kind))
    body = bytes(FRAME_SIZE_MAX - overhead)
    connection = Connection()
    connection.receive_data(frame(10, body=body, serialization=kind))
    assert len(connection.commands()[0].body) == len(body)
    with pytest.raises(LocalProtocolError, match="over the limit of 16777216"):
        encode_frame(Command(10, body=body + b"x", serialization=kind))


@pytest.mark.parametrize("length", [FRAME_SIZE_MAX - 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_frame_over_the_limit_is_refused_from_its_length_alone(length):
    connection = Connection()
    connection.receive_data(struct.pack(">I", length))
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        connection.commands()


@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_frame_too_short_for_a_header_length_is_refused(length):
    connection = Connection()
    connection.receive_data(struct.pack(">I", length) + bytes(8))
    with pytest.raises(RemoteProtocolError, match="no room"):
        connection.commands()


@pytest.mark.parametrize("cut", [0, 1, 4, 7, 8, 12])
def test_a_header_longer_than_its_frame_is_refused_from_the_first_eight_bytes(cut):
    data = struct.pack(">II", 20, 77 << 24 | 17) + bytes(8)
    connection = Connection()
    connection.receive_data(data[:cut])
    connection.receive_data(data[cut:])
    with pytest.raises(RemoteProtocolError, match="header length 17"):
        connection.commands()


def test_an_empty_header_is_refused():
    for kind in (0, 1, 77):
        connection = Connection()
        connection.receive_data(struct.pack(">II", 4, kind << 24))
        with pytest.raises(RemoteProtocolError):
            connection.commands()


def test_an_unknown_serialize_type_is_refused():
    connection = Connection()
    connection.receive_data(struct.pack(">II", 4, 2 << 24))
    with pytest.raises(RemoteProtocolError, match="serialize type 2"):
        connection.commands()


def test_commands_in_front_of_a_broken_frame_come_out_and_the_error_stays():
    connection = Connection()
    connection.receive_data(wire(three_commands()) + struct.pack(">I", 1 << 30) + b"rest")
    assert connection.commands() == three_commands()
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="over the limit"):
            connection.commands()
    connection.receive_data(wire(three_commands()))
    with pytest.raises(RemoteProtocolError):
        connection.next_command()
    connection.receive_eof()


def test_a_frame_over_the_limit_tells_whose_it_is_when_its_header_came_too():
    data = frame(10, opaque=4711, body=bytes(200))
    connection = Connection(frame_size_max=100)
    connection.receive_data(data[:60])
    with pytest.raises(RemoteProtocolError) as caught:
        connection.commands()
    assert (caught.value.opaque, caught.value.serialize_type) == (4711, 77)


@pytest.mark.parametrize("size", [1, 3, 4, 9, 20])
def test_an_end_inside_a_frame_is_an_error_and_says_how_far_it_came(size):
    connection = Connection()
    connection.receive_data(frame(10, body=b"body")[:size])
    assert connection.commands() == []
    with pytest.raises(RemoteProtocolError, match=f"after {size} bytes"):
        connection.receive_eof()


def test_a_huge_frame_in_pieces_costs_one_copy_of_each_piece(monkeypatch):
    """Counted, not timed: what is appended to the kept frame adds up to the frame, once."""
    copied = 0

    class Counting(bytearray):
        def __iadd__(self, piece):
            nonlocal copied
            copied += len(piece)
            return super().__iadd__(piece)

    data = frame(10, body=bytes(1 << 20))
    connection = Connection()
    connection._partial = Counting()
    found = []
    for start in range(0, len(data), 1000):
        connection.receive_data(data[start : start + 1000])
        found += connection.commands()
    assert len(found[0].body) == 1 << 20
    assert copied == len(data)


def test_a_claimed_length_takes_no_memory_before_its_bytes_come():
    connection = Connection()
    connection.receive_data(struct.pack(">II", FRAME_SIZE_MAX - 4, 77 << 24))
    assert connection.commands() == []
    assert connection._partial.__sizeof__() < 1000


def test_grouped_counts_only_in_msgpack():
    command = Command(10, flag=FLAG_GROUPED | FLAG_RESPONSE)
    assert command.is_grouped
    assert command.is_response
    assert not command.is_oneway
    command.serialization = SerializeType.JSON
    assert not command.is_grouped
    assert Command(10, flag=FLAG_ONEWAY).is_oneway


def test_the_grouped_flag_survives_the_wire():
    connection = Connection()
    connection.receive_data(frame(10, flag=FLAG_GROUPED))
    assert connection.commands()[0].is_grouped


@pytest.mark.parametrize("kind", KINDS)
def test_a_response_has_the_opaque_and_the_serialization_of_its_request(kind):
    """A C++ client that asked in JSON and was answered in binary asked again for 40 s."""
    request = Command(10, opaque=77, flag=FLAG_GROUPED, serialization=kind)
    answer = response(request, 1, "why", {"a": 1}, [b"xy", b"z"])
    assert (answer.opaque, answer.serialization, answer.flag) == (77, kind, FLAG_RESPONSE)
    assert (answer.code, answer.remark, answer.ext_fields) == (1, "why", {"a": 1})
    assert answer.body_size == 3


def test_responses_do_not_share_their_ext_fields():
    request = Command(10)
    response(request, 0).ext_fields["x"] = 1
    assert response(request, 0).ext_fields == {}
    assert request.ext_fields == {}


@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 10_000),
    noise=st.binary(max_size=40),
)
def test_damaged_bytes_give_commands_or_a_refusal_and_nothing_else(changes, cut, noise):
    """Whatever comes, a handler sees only well-formed commands, and the loop no other error."""
    data = bytearray(wire(three_commands()) + noise)
    for position, value in changes:
        data[position % len(data)] = value
    connection = Connection()
    found = []
    try:
        for piece in (data[: cut % len(data)], data[cut % len(data) :]):
            connection.receive_data(piece)
            while commands := connection.commands():
                found += commands
        connection.receive_eof()
    except RemoteProtocolError as error:
        refusal = str(error)
    else:
        refusal = None
    assert refusal is None or len(refusal) > 10
    for command in found:
        assert isinstance(command.serialization, SerializeType)
        assert isinstance(command.ext_fields, dict)
        assert command.body_size >= 0


def test_a_longer_msgpack_array_does_not_reach_the_fields_behind_the_header():
    header = msgspec.msgpack.encode([10, 0, 1, 3, 401, None, None, 5, 0])
    connection = Connection()
    connection.receive_data(struct.pack(">II", 4 + len(header), 77 << 24 | len(header)) + header)
    with pytest.raises(RemoteProtocolError, match="array of 7"):
        connection.commands()


@pytest.mark.parametrize("excess", [1, 4])
def test_a_whole_frame_in_one_receive_is_measured_too(excess):
    data = frame(10, body=bytes(100))
    connection = Connection(frame_size_max=len(data))
    connection.receive_data(data)
    assert len(connection.commands()) == 1
    connection = Connection(frame_size_max=len(data) - excess)
    connection.receive_data(data)
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        connection.commands()


def test_a_header_does_not_reach_into_the_next_frame():
    header = frame(10)[8:]
    connection = Connection()
    connection.receive_data(
        struct.pack(">II", 4 + len(header) - 1, 77 << 24 | len(header)) + header + frame(11) * 3
    )
    with pytest.raises(RemoteProtocolError, match="header length"):
        connection.commands()


def test_what_was_received_behind_a_broken_frame_is_let_go():
    connection = Connection()
    connection.receive_data(struct.pack(">I", 1 << 30))
    connection.receive_data(frame(10))
    with pytest.raises(RemoteProtocolError):
        connection.commands()
    connection.receive_eof()  # nothing is left to complain about


@pytest.mark.parametrize("whole", [False, True])
def test_a_header_over_its_limit_is_refused_by_its_prefix(whole):
    connection = Connection(header_size_max=100)
    fits = Command(10, ext_fields={"a": "x" * 80})
    connection.receive_data(b"".join(encode_frame(fits)))
    assert connection.commands() == [fits]
    data = b"".join(encode_frame(Command(10, ext_fields={"a": "x" * 100})))
    connection.receive_data(data if whole else data[:8])
    with pytest.raises(RemoteProtocolError, match=r"header of \d+ bytes is over the limit of 100"):
        connection.commands()


# -- a frame by itself --------------------------------------------------------------------------


def test_a_frame_by_itself_is_read_at_once():
    connection = Connection()
    for command in (
        Command(10, opaque=1, ext_fields={"topic": "TopicA", "sizes": b"\0\1"}, body=b"body"),
        Command(11, opaque=2),
        Command(12, body=b"x" * 5000, remark="r", flag=FLAG_GROUPED),
    ):
        data = wire([command])
        found = connection.lone_command(data)
        assert found == command
        assert found.ext_fields == command.ext_fields
        connection.receive_data(data)
        assert connection.commands() == [found]


def test_what_is_not_a_frame_by_itself_is_left_alone():
    """Two, less than one, more than one, other headers: nothing of them is taken."""
    one = wire([Command(10, opaque=1, body=b"body")])
    two = wire(three_commands())
    connection = Connection()
    for data in (one + one, one[:-1], one[:7], one + one[:3], two, b""):
        assert connection.lone_command(data) is None
        assert connection.is_between_frames
    for command in three_commands()[1:]:
        assert connection.lone_command(wire([command])) is None

    connection.receive_data(one[:9])
    connection.commands()
    assert connection.lone_command(one) is None, "it is the middle of another frame"
    connection.receive_data(one[9:])
    assert connection.lone_command(one) is None, "another frame is in front of it"
    assert len(connection.commands()) == 1
    assert connection.lone_command(one) is not None


def test_limits_hold_for_a_frame_by_itself():
    data = wire([Command(10, ext_fields={"a": "x" * 80}, body=b"body")])
    header_size = int.from_bytes(data[5:8], "big")

    whole = Connection(frame_size_max=len(data), header_size_max=header_size)
    assert whole.lone_command(data) is not None
    assert Connection(frame_size_max=len(data) - 1).lone_command(data) is None
    assert Connection(header_size_max=header_size - 1).lone_command(data) is None


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
    st.sampled_from([None, {"topic": "t", "n": 1 << 40}]),
    st.sampled_from([b"", b"body"]),
)
def test_a_damaged_frame_by_itself_is_left_to_who_says_what_is_wrong(changes, ext_fields, body):
    """Or it is another frame now: the one that is read otherwise, too."""
    data = bytearray(wire([Command(10, opaque=7, ext_fields=ext_fields or {}, body=body)]))
    for at, value in changes:
        data[at % len(data)] = value
    other = Connection()
    other.receive_data(data)
    try:
        expected = other.commands()
    except RemoteProtocolError:
        expected = []

    found = Connection().lone_command(bytes(data))

    if found is None:
        is_ours = expected and expected[0].serialization is SerializeType.MSGPACK
        assert not is_ours or not other.is_between_frames
    else:
        assert [found] == expected
