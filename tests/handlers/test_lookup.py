"""Look-ups, asked of a node."""

import pytest
import trio

from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from tests.fakes.brokers import messages_of

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
