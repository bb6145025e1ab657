"""Requests made to hurt: each gets an answer or loses its connection, and the node serves on.

Every one of them once stopped a node, held it up for seconds, or was given memory without end.
"""

from __future__ import annotations

import struct

import pytest
import trio

from broker.message.batch import BatchMessage, encode_batch_body
from broker.message.limits import BATCH_COUNT_MAX
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.config import KIB, MIB
from dledger.remoting.command import FLAG_GROUPED, Command, SerializeType
from dledger.remoting.frame import FRAME_SIZE_MAX, encode_frame
from tests.fakes.brokers import bodies_of, pull_fields, raw_answers, records
from tests.fakes.nodes import until


async def is_served(caller) -> bool:
    return (await caller.ask(RequestCode.GET_GROUP_STATUS)).code == ResponseCode.SUCCESS


def raw_frame(kind: int, header: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">II", 4 + len(header) + len(body), kind << 24 | len(header)) + header + body


# -- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SerializeType)
async def test_an_error_does_not_repeat_all_that_was_sent(autojump_clock, caller, kind):
    """Each byte of a name was four in the remark: of megabytes that was a frame nobody may send."""
    answer = await caller.ask(
        RequestCode.GET_MIN_OFFSET,
        {"topic": "\x01" * 170_000, "queueId": "0"},
        serialization=kind,
    )

    assert answer.code == ResponseCode.TOPIC_NOT_EXIST
    assert len(answer.remark) <= 2000
    assert await is_served(caller)


async def test_an_answer_too_large_for_a_frame_is_told_and_not_fatal(
    autojump_clock, brokers, caller
):
    topics = brokers["n1"].running.topics
    rows = [(f"t{number}", 4, 4, 6) for number in range(120_000)]
    topics._topics.restore([1, rows])

    answer = await caller.ask(RequestCode.GET_ALL_TOPIC_CONFIG)

    assert answer.code == ResponseCode.SYSTEM_ERROR
    assert "the answer cannot be sent" in answer.remark
    assert await is_served(caller)


# -- headers ------------------------------------------------------------------------------------


async def test_a_header_of_megabytes_is_refused_before_it_has_arrived(
    autojump_clock, brokers, caller
):
    """JSON of 16 MiB held the event loop for half a second, ROCKETMQ for two."""
    port = brokers.config("n1").listen_broker_port
    stream = await brokers.wires.of("a client").connect("n1-host", port)
    stream.send_now([struct.pack(">II", 8 * MIB, 1 << 24 | 2 * MIB)])

    with trio.fail_after(3):
        assert await stream.receive_some() == b""
    assert await is_served(caller)


async def test_a_header_of_nothing_but_empty_fields_is_refused(autojump_clock, brokers):
    ext = b"\0\1a\0\0\0\0" * 5000
    header = struct.pack(">HBHiiii", 31, 3, 401, 7, 0, 0, len(ext)) + ext

    (answer,) = await raw_answers(brokers, brokers["n1"], raw_frame(1, header))

    assert answer.opaque == 7
    assert "ext_fields has more than 4096 pairs" in answer.remark


async def test_sequences_at_the_end_of_their_64_bits_are_answered(autojump_clock, brokers, caller):
    """Six sends of two records each go by column, and int64 holds no such sequence."""
    fields, body = records(b"a", b"b", producer_id=7, sequence=(1 << 64) - 1)
    answers = [
        caller.submit(RequestCode.SEND_BATCH_MESSAGE, fields, body, flag=FLAG_GROUPED)
        for _ in range(6)
    ]
    caller.flush()
    await until("all are answered", lambda: all(answers))

    assert {answer[0].code for answer in answers} == {ResponseCode.UNKNOWN_PRODUCER}
    assert await is_served(caller)


# -- what goes into the log ---------------------------------------------------------------------


@pytest.fixture
async def large(make_brokers):
    """Return a group of one with segments larger than a frame, and the topic t."""
    group = make_brokers(store={"segment_size": 64 * MIB})
    await group.start()
    await group.leader()
    async with group.caller(group["n1"]) as caller:
        await caller.create_topic("t", queues=2)
    return group


async def test_no_entry_is_too_large_to_be_sent_to_a_follower(autojump_clock, large):
    """It stopped the leader that had appended it, and each of its successors in turn."""
    pieces = [bytes(4 * MIB - 200)] * 3
    room = FRAME_SIZE_MAX - 13 * MIB
    low, high = 1 * MIB, room + 1 * MIB
    while low < high:  # the largest send that a frame holds
        middle = (low + high + 1) // 2
        fields, body = records(*pieces, bytes(middle))
        size = sum(map(len, encode_frame(Command(320, ext_fields=fields, body=body),
                                         frame_size_max=2 * FRAME_SIZE_MAX)))  # fmt: skip
        low, high = (middle, high) if size <= FRAME_SIZE_MAX else (low, middle - 1)
    async with large.caller(large["n1"]) as caller:
        answer = await caller.sent(*pieces, bytes(low))
        assert answer.code == ResponseCode.MESSAGE_ILLEGAL
        assert "send fewer at a time" in answer.remark
        assert (await caller.sent(*pieces, bytes(low - 2 * KIB))).code == ResponseCode.SUCCESS


async def test_a_batch_of_very_many_tiny_messages_is_refused(autojump_clock, large):
    """22 bytes each on the wire and 97 in the log: 16 MiB became an entry of 71 MiB."""
    fields = {"a": "g", "b": "t", "e": 0}
    async with large.caller(large["n1"]) as caller:
        for count, expected in (
            (BATCH_COUNT_MAX + 1, ResponseCode.CORRUPT_RECORD),
            (BATCH_COUNT_MAX, ResponseCode.SUCCESS),
        ):
            body = encode_batch_body([BatchMessage(0, b"", b"")] * count)
            answer = await caller.ask(RequestCode.SEND_BATCH_MESSAGE, fields, body)
            assert answer.code == expected


@pytest.mark.parametrize("size", [256, 300 * KIB, 900 * KIB])
async def test_a_group_name_of_any_length_is_answered(autojump_clock, brokers, caller, size):
    """One larger than a segment waited for room that could never come."""
    fields = {"consumerGroup": "g" * size, "topic": "t", "queueId": 0, "commitOffset": 1}

    answer = await caller.ask(RequestCode.UPDATE_CONSUMER_OFFSET, fields)

    assert answer.code == ResponseCode.MESSAGE_ILLEGAL
    assert f"has {size} characters" in answer.remark
    pulled = await caller.pull(consumerGroup="g" * size, sysFlag=1, commitOffset=1)
    assert pulled.code == ResponseCode.MESSAGE_ILLEGAL
    assert not list(brokers["n1"].running.offsets._offsets.groups())


async def test_a_command_larger_than_a_segment_is_refused(autojump_clock, brokers):
    from broker.errors import InvalidMessageError
    from broker.metadata.consumer_offsets import commit_offsets

    queue = brokers["n1"].running.queue
    with pytest.raises(InvalidMessageError, match="does not fit an entry"):
        queue.put_command(commit_offsets("g" * 300 * KIB, "t", {0: 1}), lambda *_: None)


# -- what waits ---------------------------------------------------------------------------------


async def test_a_pull_that_is_held_keeps_nothing_of_what_it_came_with(
    autojump_clock, brokers, caller
):
    """A hundred thousand may be held, and each came with up to 16 MiB."""
    waiting = caller.submit(
        RequestCode.PULL_MESSAGE,
        pull_fields(wait_ms=5000, subscription="x" * 500_000, junk=b"y" * 400_000),
        b"z" * 10 * MIB,
    )
    caller.flush()
    node = brokers["n1"].running
    await until("the pull is held", lambda: node.pulls.hold.count)

    (held,) = node.pulls.hold._by_queue["t", 0]
    assert not held.command.ext_fields
    assert not held.command.body
    assert len(repr(held.header)) < 1000
    await caller.sent(b"news")
    await until("the pull is answered", lambda: waiting)
    assert bodies_of(waiting[0]) == [b"news"]


async def test_what_waits_for_its_topic_is_bounded(autojump_clock, brokers, caller):
    brokers["n1"].running.sends._send_topics._held_size_max = 100_000
    fields = {"a": "g", "b": "fresh", "e": 0, "junk": "x" * 30_000}
    answers = [caller.submit(RequestCode.SEND_MESSAGE_V2, fields, b"b") for _ in range(10)]
    caller.flush()
    await until("all are answered", lambda: all(answers))

    codes = [answer[0].code for answer in answers]
    assert codes[:3] == [ResponseCode.SUCCESS] * 3
    assert codes[3:] == [ResponseCode.SYSTEM_BUSY] * 7
    assert brokers["n1"].running.sends._send_topics.waiting_size == 0


async def test_requests_of_a_connection_that_is_gone_are_not_worked_on(
    autojump_clock, brokers, caller
):
    """A receive brings thousands of pulls, and the answers to the first few may be too many."""
    node = brokers["n1"].running
    await caller.sent(b"x")
    before = node.pulls.message_count
    port = brokers.config("n1").listen_broker_port
    stream = await brokers.wires.of("a client").connect("n1-host", port)
    await until("it is served", lambda: node.registry.session_count == 2)
    session = max(node.server.sessions, key=lambda found: found.session_id)
    command = Command(int(RequestCode.PULL_MESSAGE), ext_fields=pull_fields())
    node.registry.dispatch(session, command)
    session.close("test")
    node.registry.dispatch(session, command)

    assert node.pulls.message_count == before + 1
    stream.close()


# -- who else is served -------------------------------------------------------------------------

HOSTILE = {
    "a length of nothing": struct.pack(">i", 0),
    "a negative length": struct.pack(">i", -1),
    "a header longer than its frame": struct.pack(">II", 8, 1000) + b"abcd",
    "a serialization that is none": raw_frame(9, b"{}"),
    "no JSON": raw_frame(0, b"{nonsense"),
    "JSON that is no header": raw_frame(0, b"[1, 2, 3]"),
    "ext fields of lists": raw_frame(0, b'{"code":11,"opaque":1,"extFields":{"topic":["t"]}}'),
    "a binary header cut short": raw_frame(1, b"\0\x0b\0"),
    "ext fields beyond the header": raw_frame(
        1, struct.pack(">HBHiiii", 11, 0, 409, 7, 0, 0, 1000) + b"\0\1a"
    ),
    "no MSGPACK": raw_frame(77, b"\xc1"),
    "a web browser": b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
async def test_what_is_no_frame_ends_its_own_connection_alone(
    autojump_clock, brokers, caller, data
):
    waiting = caller.submit(RequestCode.PULL_MESSAGE, pull_fields(wait_ms=5000))
    caller.flush()
    await until("the pull is held", lambda: brokers["n1"].running.pulls.hold.count)
    port = brokers.config("n1").listen_broker_port
    stream = await brokers.wires.of("an attacker").connect("n1-host", port)
    stream.send_now([data])
    with trio.fail_after(10):
        while await stream.receive_some():
            pass

    await caller.sent(b"served all the same")
    await until("the pull is answered", lambda: waiting)
    assert bodies_of(waiting[0]) == [b"served all the same"]


@pytest.mark.parametrize("code", [10, 11, 40, 310, 320, 307])
async def test_answers_to_what_was_never_asked_are_dropped(autojump_clock, brokers, caller, code):
    """So many at once that requests of that code would go by column."""
    port = brokers.config("n1").listen_broker_port
    stream = await brokers.wires.of("an attacker").connect("n1-host", port)
    fields, body = records(b"forged")
    for _ in range(8):
        answer = Command(code, flag=1, opaque=1, ext_fields=fields, body=body)
        stream.send_now(encode_frame(answer))
    await trio.sleep(1)

    assert await is_served(caller)
    assert bodies_of(await caller.pull()) == []
    stream.close()
