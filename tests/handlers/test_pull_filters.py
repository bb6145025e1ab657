"""Pulls of tags: chosen by a column of hashes, held until something matches, never read twice."""

import pytest
import trio

from broker.handlers.pull import PASSED_OVER_MAX
from broker.message.batch import encode_sizes
from broker.message.codec import encode_record
from broker.message.properties import encode_properties
from broker.message.tags import parse_tag_expression
from broker.protocol.headers import PULL_FLAG_SUBSCRIPTION, PULL_FLAG_SUSPEND
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.store.reader import FILTER_UNITS_MAX
from tests.fakes.brokers import bodies_of, ext
from tests.fakes.nodes import until


async def put(caller, *tagged, queue_id=0):
    """Send one message for each (body, tag)."""
    records = [
        encode_record(
            topic=b"t",
            queue_id=queue_id,
            body=body,
            properties=encode_properties({"TAGS": tag}) if tag else b"",
        )
        for body, tag in tagged
    ]
    fields = {
        "producerGroup": "writers",
        "topic": "t",
        "queueId": queue_id,
        "recordFormat": 1,
        "sizes": encode_sizes([len(record) for record in records]),
    }
    await caller.ok(RequestCode.SEND_BATCH_MESSAGE, fields, b"".join(records))


def wanting(expression, *, wait=False, **fields):
    flags = PULL_FLAG_SUBSCRIPTION | (PULL_FLAG_SUSPEND if wait else 0)
    return {"sysFlag": flags, "subscription": expression, **fields}


async def pull(caller, offset, expression, *, wait_ms=0, **fields):
    wanted = wanting(expression, wait=bool(wait_ms), suspendTimeoutMillis=wait_ms, **fields)
    return await caller.pull(offset, **wanted)


async def test_only_what_is_wanted_comes(autojump_clock, caller):
    await put(caller, (b"1", "A"), (b"2", "B"), (b"3", None), (b"4", "A"), (b"5", "C"))

    assert bodies_of(await pull(caller, 0, "A")) == [b"1", b"4"]
    some = await pull(caller, 1, " B||C ")
    assert bodies_of(some) == [b"2", b"5"]
    assert some.ext_fields["nextBeginOffset"] == 5
    assert len(bodies_of(await pull(caller, 0, "*"))) == 5
    assert len(bodies_of(await pull(caller, 0, ""))) == 5


async def test_a_subscription_without_its_flag_is_not_looked_at(autojump_clock, caller):
    """As RocketMQ has it: the flag says that the pull brings its filter along."""
    await put(caller, (b"1", "A"), (b"2", "B"))

    assert len(bodies_of(await caller.pull(0, subscription="A"))) == 2


async def test_where_nothing_matches_the_next_pull_begins_behind(autojump_clock, caller):
    await put(caller, *[(b"x", "A")] * 10)

    answer = await pull(caller, 0, "B")

    assert answer.code == ResponseCode.PULL_RETRY_IMMEDIATELY
    assert answer.ext_fields["nextBeginOffset"] == 10


async def test_one_pull_looks_at_so_many_messages_and_no_more(autojump_clock, caller, monkeypatch):
    monkeypatch.setattr("broker.store.reader.FILTER_UNITS_MAX", 100)
    assert FILTER_UNITS_MAX == 16_000
    await put(caller, *[(b"x", "A")] * 250, (b"y", "B"))

    answer = await pull(caller, 0, "B", wait_ms=5000)  # not held: there is more to look at

    assert answer.code == ResponseCode.PULL_RETRY_IMMEDIATELY
    assert answer.ext_fields["nextBeginOffset"] == 100
    assert bodies_of(await pull(caller, 200, "B")) == [b"y"]


async def test_a_held_pull_is_woken_by_what_it_wants_and_by_nothing_else(
    autojump_clock, caller, brokers
):
    hold = brokers["n1"].running.pulls.hold
    answers = caller.submit(
        RequestCode.PULL_MESSAGE,
        {
            "consumerGroup": "readers",
            "topic": "t",
            "queueId": 0,
            "queueOffset": 0,
            "maxMsgNums": 32,
            **wanting("B", wait=True, suspendTimeoutMillis=10_000),
        },
    )
    caller.flush()
    await until("the pull is held", lambda: hold.count)
    await put(caller, (b"1", "A"), (b"2", "A"))
    await put(caller, (b"3", None))
    await trio.sleep(1)
    assert not answers
    assert hold.count == 1

    await put(caller, (b"4", "A"), (b"5", "B"))
    await until("it is answered", lambda: answers)

    assert bodies_of(answers[0]) == [b"5"]
    assert ext(answers)["nextBeginOffset"] == 5


async def test_a_pull_that_may_wait_is_told_first_how_far_nothing_is_wanted(autojump_clock, caller):
    """Who leaves while it waits would otherwise look at all of it again, each time anew."""
    await put(caller, *[(b"x", "A")] * 10)
    began = trio.current_time()

    answer = await pull(caller, 0, "B", wait_ms=15_000)

    assert answer.code == ResponseCode.PULL_RETRY_IMMEDIATELY
    assert answer.ext_fields["nextBeginOffset"] == 10
    assert trio.current_time() - began < 0.1


async def test_a_held_pull_that_passed_over_many_says_so(autojump_clock, caller, brokers):
    hold = brokers["n1"].running.pulls.hold
    fields = {"consumerGroup": "readers", "topic": "t", "queueId": 0, "queueOffset": 0}
    fields |= {"maxMsgNums": 32, **wanting("B", wait=True, suspendTimeoutMillis=60_000)}
    answers = caller.submit(RequestCode.PULL_MESSAGE, fields)
    caller.flush()
    await until("the pull is held", lambda: hold.count)

    await put(caller, *[(b"x", "A")] * (PASSED_OVER_MAX - 1))
    await trio.sleep(1)
    assert not answers
    await put(caller, (b"x", "A"))
    await until("it is answered", lambda: answers)

    assert answers[0].ext_fields["nextBeginOffset"] == PASSED_OVER_MAX


async def test_a_held_pull_that_found_nothing_says_how_far_it_looked(autojump_clock, caller):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, caller, (b"1", "A"), (b"2", "A"))
        answer = await pull(caller, 0, "B", wait_ms=2000)

    assert answer.code == ResponseCode.PULL_NOT_FOUND
    assert answer.ext_fields["nextBeginOffset"] == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"subscription": " || "}, "names no tag"),
        ({"subscription": "a > 3", "expressionType": "SQL92"}, "SQL92"),
        ({"subscription": "||".join(map(str, range(1001)))}, "1001 tags"),
    ],
)
async def test_a_filter_that_is_none_is_refused(autojump_clock, caller, fields, words):
    answer = await caller.pull(0, sysFlag=PULL_FLAG_SUBSCRIPTION, **fields)

    assert answer.code == ResponseCode.SUBSCRIPTION_PARSE_FAILED
    assert words in answer.remark


def test_expressions_are_read_as_rocketmq_reads_them():
    assert parse_tag_expression("A") == {"A"}
    assert parse_tag_expression("A||B || C||") == {"A", "B", "C"}
    assert parse_tag_expression(None) is None
    assert parse_tag_expression("*") is None
