"""Look-ups, asked of a node."""

import pytest
import trio

from broker.handlers.query import QUERIES_MAX
from broker.message.batch import encode_sizes
from broker.message.codec import encode_record
from broker.message.properties import encode_properties
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import SerializeType
from tests.fakes.brokers import messages_of
from tests.fakes.nodes import until

QUEUE = {"topic": "t", "queueId": 0}


async def search(caller, timestamp, **fields):
    answer = await caller.ok(
        RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, {**QUEUE, "timestamp": timestamp, **fields}
    )
    return answer.ext_fields["offset"]


async def sent_one_by_one(caller, count, *, seconds=0.5):
    """Send messages so far apart, and return when each was stored."""
    for number in range(count):
        await caller.sent(b"%d" % number)
        await trio.sleep(seconds)
    return [message.store_timestamp_ms for message in messages_of(await caller.pull(0))]


async def test_an_offset_by_time(autojump_clock, caller):
    times = await sent_one_by_one(caller, 5)

    assert [await search(caller, time) for time in times] == [0, 1, 2, 3, 4]
    assert [await search(caller, time + 1) for time in times] == [1, 2, 3, 4, 5]
    assert await search(caller, 0) == 0
    for name in ("upper", "UPPER"):
        found = [await search(caller, time + 1, boundaryType=name) for time in times]
        assert found == [0, 1, 2, 3, 4]


async def test_an_empty_queue_has_no_times(autojump_clock, caller):
    assert await search(caller, 0) == await search(caller, 1 << 60) == 0

    answer = await caller.ok(RequestCode.GET_EARLIEST_MSG_STORETIME, QUEUE)
    assert answer.ext_fields["timestamp"] == -1


async def test_the_earliest_store_time(autojump_clock, caller):
    times = await sent_one_by_one(caller, 2)

    answer = await caller.ok(RequestCode.GET_EARLIEST_MSG_STORETIME, QUEUE)
    assert answer.ext_fields["timestamp"] == times[0]


async def test_every_node_answers_times_alike(autojump_clock, make_brokers):
    group = make_brokers(3)
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t")
        times = await sent_one_by_one(caller, 3)
    await group.equal()

    for member in group:
        async with group.caller(member) as caller:
            assert [await search(caller, time) for time in times] == [0, 1, 2]


@pytest.mark.parametrize(
    "code", [RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, RequestCode.GET_EARLIEST_MSG_STORETIME]
)
@pytest.mark.parametrize(
    ("fields", "expected", "said"),
    [
        ({"topic": "nowhere"}, ResponseCode.TOPIC_NOT_EXIST, "nowhere"),
        ({"queueId": 2}, ResponseCode.TOPIC_NOT_EXIST, "no queue 2"),
        ({"queueId": -1}, ResponseCode.TOPIC_NOT_EXIST, "no queue -1"),
        ({"queueId": "x"}, ResponseCode.SYSTEM_ERROR, "queueId"),
    ],
)
async def test_a_queue_that_is_not_there(autojump_clock, caller, code, fields, expected, said):
    answer = await caller.ask(code, {**QUEUE, "timestamp": 0, **fields})

    assert answer.code == expected
    assert said in answer.remark


async def test_a_boundary_that_is_none(autojump_clock, caller):
    fields = {**QUEUE, "timestamp": 0, "boundaryType": "middle"}
    answer = await caller.ask(RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, fields)

    assert answer.code == ResponseCode.SYSTEM_ERROR
    assert "boundaryType" in answer.remark


# -- by key -------------------------------------------------------------------------------------

EVER = {"beginTimestamp": 0, "endTimestamp": (1 << 63) - 1}


def send_with(caller, *each, topic="t", queue_id=0, body=b"x"):
    """Send one message for each of *each*, its properties."""
    encoded = [
        encode_record(
            topic=topic.encode(), queue_id=queue_id, body=body, properties=encode_properties(own)
        )
        for own in each
    ]
    fields = {
        "producerGroup": "writers",
        "topic": topic,
        "queueId": queue_id,
        "recordFormat": 1,
        "sizes": encode_sizes([len(record) for record in encoded]),
    }
    return caller.ok(RequestCode.SEND_BATCH_MESSAGE, fields, b"".join(encoded))


def query(caller, wanted, count=64, **fields):
    return caller.ask(
        RequestCode.QUERY_MESSAGE, {"topic": "t", "key": wanted, "maxNum": count, **EVER, **fields}
    )


async def offsets(caller, key, **fields):
    answer = await query(caller, key, **fields)
    if answer.code == ResponseCode.QUERY_NOT_FOUND:
        return []
    assert answer.code == ResponseCode.SUCCESS, answer.remark
    return [(message.queue_id, message.queue_offset) for message in messages_of(answer)]


async def test_messages_by_key(autojump_clock, caller):
    await send_with(caller, {"KEYS": "a b", "UNIQ_KEY": "U1"}, {"KEYS": "b"}, {"TAGS": "a"})
    await send_with(caller, {"KEYS": "b", "UNIQ_KEY": "a"}, queue_id=1)

    assert await offsets(caller, "a") == [(0, 0), (1, 0)]
    assert await offsets(caller, "b") == [(0, 0), (0, 1), (1, 0)]
    assert await offsets(caller, "b", count=2) == [(0, 1), (1, 0)], "the newest, in log order"
    assert await offsets(caller, "U1") == [(0, 0)]
    assert await offsets(caller, "a", _UNIQUE_KEY_QUERY="true") == [(1, 0)]
    assert await offsets(caller, "a b") == []
    assert await offsets(caller, "A") == []
    assert await offsets(caller, "b", count=-5) == [(1, 0)]


async def test_a_query_as_rocketmq_s_admin_tool_asks_it(autojump_clock, caller):
    """JSON header, numbers as strings, as in the recorded conversations; so is the answer."""
    await send_with(caller, {"KEYS": "k1", "UNIQ_KEY": "FD" * 16})
    fields = {
        "_UNIQUE_KEY_QUERY": "false",
        "beginTimestamp": "0",
        "topic": "t",
        "maxNum": "64",
        "endTimestamp": "9223372036854775807",
        "key": "k1",
    }
    answer = await caller.ask(RequestCode.QUERY_MESSAGE, fields, serialization=SerializeType.JSON)

    (message,) = messages_of(answer)
    assert message.properties["KEYS"] == "k1"
    assert answer.ext_fields["indexLastUpdatePhyoffset"] == str(message.position)
    assert answer.ext_fields["indexLastUpdateTimestamp"] == str(message.store_timestamp_ms)


async def test_other_keys_of_the_same_hash_are_not_answered(autojump_clock, caller):
    """As Java has it, "Aa" and "BB" have one hash."""
    await send_with(caller, {"KEYS": "Aa"}, {"KEYS": "BB"}, {"KEYS": "AaAa"}, {"KEYS": "BBBB"})

    assert [await offsets(caller, key) for key in ("Aa", "BB", "AaAa", "BBBB", "AaBB")] == [
        [(0, 0)], [(0, 1)], [(0, 2)], [(0, 3)], [],
    ]  # fmt: skip


async def test_a_query_is_bounded_by_times_and_places(autojump_clock, caller):
    for _ in range(5):
        await send_with(caller, {"KEYS": "k"})
        await trio.sleep(0.3)  # several in one second of the index
    messages = messages_of(await caller.pull(0))
    times = [message.store_timestamp_ms for message in messages]

    found = [
        await offsets(caller, "k", beginTimestamp=begin, endTimestamp=end)
        for begin, end in ((times[1], times[3]), (times[1] + 1, times[3] - 1), (0, times[0] - 1))
    ]
    assert found == [[(0, 1), (0, 2), (0, 3)], [(0, 2)], []]
    assert await offsets(caller, "k", beforePosition=messages[2].position) == [(0, 0), (0, 1)]


async def test_answers_are_bounded_in_number_and_size(autojump_clock, caller):
    for _ in range(5):
        await send_with(caller, *[{"KEYS": "small"}] * 40)
    assert len(await offsets(caller, "small", count=100_000)) == 64

    for _ in range(5):
        await send_with(caller, {"KEYS": "large"}, queue_id=1, body=bytes(200_000))
    assert len(await offsets(caller, "large")) == 5


async def test_an_answer_has_at_least_one_record_and_no_more_than_fit(
    autojump_clock, caller, monkeypatch
):
    monkeypatch.setattr("broker.handlers.query.SIZE_MAX", 1000)
    await send_with(caller, *[{"KEYS": "k"}] * 5, body=bytes(300))
    await send_with(caller, {"KEYS": "large"}, body=bytes(3000))

    assert await offsets(caller, "k") == [(0, 3), (0, 4)]
    assert await offsets(caller, "large") == [(0, 5)]


@pytest.mark.parametrize(
    ("fields", "expected", "said"),
    [
        ({"topic": "nowhere"}, ResponseCode.TOPIC_NOT_EXIST, "nowhere"),
        ({"key": ""}, ResponseCode.MESSAGE_ILLEGAL, "empty"),
        ({"maxNum": "many"}, ResponseCode.SYSTEM_ERROR, "maxNum"),
        ({"key": "nobody's"}, ResponseCode.QUERY_NOT_FOUND, "nobody's"),
        ({"key": "x" * 100_000}, ResponseCode.QUERY_NOT_FOUND, "xxx"),
        ({"key": "\x01\x02 \x00"}, ResponseCode.QUERY_NOT_FOUND, "key"),
    ],
)
async def test_a_query_that_finds_nothing_says_why(autojump_clock, caller, fields, expected, said):
    answer = await query(caller, "k", **fields)

    assert answer.code == expected
    assert said in answer.remark


async def test_too_many_queries_at_once_are_told_so(autojump_clock, brokers, caller):
    worker = brokers["n1"].running._workers["lookup"]
    worker.stall()
    fields = {"topic": "t", "key": "k", "maxNum": 1, **EVER}
    await send_with(caller, {"KEYS": "k"})
    waiting = [caller.submit(RequestCode.QUERY_MESSAGE, fields) for _ in range(QUERIES_MAX)]
    caller.flush()
    await trio.sleep(0.1)
    refused = await query(caller, "k")
    worker.go_on()
    await until("all are answered", lambda: all(waiting))

    assert refused.code == ResponseCode.SYSTEM_BUSY
    assert {answers[0].code for answers in waiting} == {ResponseCode.SUCCESS}
    assert (await query(caller, "k")).code == ResponseCode.SUCCESS
    assert brokers["n1"].running.queries.waiting_count == 0


async def test_a_caller_that_is_gone_keeps_no_query(autojump_clock, brokers):
    node = brokers["n1"].running
    node._workers["lookup"].stall()
    async with brokers.caller(brokers["n1"]) as caller:
        caller.submit(RequestCode.QUERY_MESSAGE, {"topic": "t", "key": "k", "maxNum": 1, **EVER})
        caller.flush()
        await until("it waits", lambda: node.queries.waiting_count == 1)
    await trio.sleep(0.1)
    node._workers["lookup"].go_on()

    await until("it is forgotten", lambda: node.queries.waiting_count == 0)


async def test_a_deleted_topic_s_messages_are_not_found_in_a_new_one(autojump_clock, caller):
    await send_with(caller, {"KEYS": "k"})
    old = messages_of(await caller.pull(0))[0]
    await caller.ok(RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": "t"})
    await caller.create_topic("t")
    await send_with(caller, {"KEYS": "k"})

    (found,) = messages_of(await query(caller, "k"))
    assert found.position > old.position
    answer = await caller.ask(RequestCode.VIEW_MESSAGE_BY_ID, {"offset": old.position})
    assert answer.code == ResponseCode.QUERY_NOT_FOUND


async def test_every_node_finds_what_is_acknowledged(autojump_clock, make_brokers):
    group = make_brokers(3)
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t")
        for number in range(20):
            await send_with(caller, {"KEYS": f"k{number}"})
            assert await offsets(caller, f"k{number}") == [(0, number)]
    await group.equal()
    for member in group:
        async with group.caller(member) as caller:
            for number in range(20):
                assert await offsets(caller, f"k{number}") == [(0, number)]


# -- by id --------------------------------------------------------------------------------------


async def test_a_message_by_its_position(autojump_clock, caller):
    await caller.sent(b"a", b"b")
    first, second = messages_of(await caller.pull(0))

    answer = await caller.ok(RequestCode.VIEW_MESSAGE_BY_ID, {"offset": second.position})
    assert messages_of(answer) == [second]
    for wrong in (first.position + 1, 0, -1, 1 << 62, second.position + second.size):
        answer = await caller.ask(RequestCode.VIEW_MESSAGE_BY_ID, {"offset": wrong})
        assert answer.code == ResponseCode.QUERY_NOT_FOUND
        assert str(wrong) in answer.remark
