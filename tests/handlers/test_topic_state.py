"""What a node tells of its topics: ends, times, sizes, rates."""

import json

import trio

from broker.handlers.queue_state import QueueStates
from broker.protocol.descriptions import TopicDescription, decode_body
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.store.topic_rates import Counter, TopicRates
from tests.fakes.brokers import records
from tests.handlers.test_topics import answered, pull


async def describe(caller, topic="t"):
    answer = await caller.ok(RequestCode.DESCRIBE_TOPIC, {"topic": topic})
    return decode_body(answer.body, TopicDescription)


async def test_a_topic_is_described(autojump_clock, caller):
    bodies = [b"x" * n for n in range(1, 40)]
    await caller.sent(*bodies)
    await trio.sleep(5)
    await caller.sent(b"late")

    found = await describe(caller)

    assert (found.topic, found.node_id, found.perm) == ("t", "n1", 6)
    first, second = found.queues
    assert (first.min_offset, first.max_offset, found.message_count) == (0, 40, 40)
    assert 5000 <= first.newest_ms - first.oldest_ms < 5100
    sizes = [len(records(body)[1]) for body in (*bodies, b"late")]
    assert (first.size, found.is_size_estimated) == (sum(sizes), False)
    assert (second.size, second.oldest_ms, second.newest_ms) == (0, -1, -1)
    missing = await caller.ask(RequestCode.DESCRIBE_TOPIC, {"topic": "nowhere"})
    assert missing.code == ResponseCode.TOPIC_NOT_EXIST


async def test_a_deleted_topic_s_messages_do_not_count(autojump_clock, caller):
    await caller.sent(b"a", b"b")
    await caller.ok(RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": "t"})
    await caller.create_topic("t")
    await caller.sent(b"c")

    found = await describe(caller)

    assert (found.message_count, found.size) == (1, len(records(b"c")[1]))


async def test_rates_are_those_of_the_last_minute(autojump_clock, caller):
    for _ in range(6):
        await caller.sent(*[b"x"] * 10)
        answers = pull(caller, 0, sysFlag=0, maxMsgNums=5)
        caller.flush()
        await answered(answers, "pulled")
        await trio.sleep(10)

    found = await describe(caller)
    assert found.in_rate.messages_per_second == 1.0
    assert found.out_rate.messages_per_second == 0.5
    assert found.in_rate.bytes_per_second == 10 * len(records(b"x")[1]) / 10

    stats = {}
    for name, key in (("TOPIC_PUT_NUMS", "t"), ("GROUP_GET_NUMS", "t@readers")):
        answer = await caller.ok(
            RequestCode.VIEW_BROKER_STATS_DATA, {"statsName": name, "statsKey": key}
        )
        stats[name] = json.loads(bytes(answer.body))
    assert stats["TOPIC_PUT_NUMS"]["statsMinute"] == {"avgpt": 10.0, "sum": 60, "tps": 1.0}
    assert stats["GROUP_GET_NUMS"]["statsMinute"] == {"avgpt": 5.0, "sum": 30, "tps": 0.5}
    await trio.sleep(120)
    assert (await describe(caller)).in_rate.messages_per_second == 0

    unknown = await caller.ask(
        RequestCode.VIEW_BROKER_STATS_DATA, {"statsName": "WEATHER", "statsKey": "t"}
    )
    assert "known are TOPIC_PUT_NUMS" in unknown.remark


async def test_ends_and_names_are_as_rocketmq_s_tools_read_them(autojump_clock, caller):
    await caller.sent(b"a", b"b")
    answer = await caller.ok(RequestCode.GET_TOPIC_STATS_INFO, {"topic": "t"})
    text = bytes(answer.body).decode()

    assert text.startswith(
        '{"offsetTable":{{"brokerName":"g","queueId":0,"topic":"t"}:{"lastUpdateTimestamp":1'
    )
    assert ',"maxOffset":2,"minOffset":0},{"brokerName":"g","queueId":1,' in text
    assert text.endswith(':{"lastUpdateTimestamp":0,"maxOffset":0,"minOffset":0}}}')
    names = await caller.ok(RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER)
    assert bytes(names.body) == b'{"topicList":["t"]}'


async def test_a_sample_of_a_long_queue_comes_near(autojump_clock, brokers, caller):
    for _ in range(20):
        await caller.sent(*[b"x" * 50] * 50)
    files = brokers["n1"].running._files
    states = QueueStates(
        log=files.store, queues=files.derived.queues, rates=TopicRates(), clock=brokers.clock
    )

    exact = states.describe("t", 0, units_max=1000)
    sampled = states.describe("t", 0, units_max=100)

    assert (exact.is_size_estimated, sampled.is_size_estimated) == (False, True)
    assert sampled.size == exact.size  # they are all of one size


def test_a_node_that_catches_up_counts_by_the_times_of_the_records():
    counter = Counter()
    counter.add(3_000_000, 5, 50)
    for second in range(60):
        counter.add(3_600_000 + second * 1000, 1, 10)
    counter.add(3_000_000, 7, 70)  # older than all that counts

    minute, hour, day = counter.sums(3_660_000)
    assert (minute.messages, minute.size, minute.additions) == (60, 600, 60)
    assert hour.messages == 12
    assert day.messages == 0
    assert counter.total.messages == 72


def test_rates_of_a_deleted_topic_is_forgotten():
    rates = TopicRates()
    rates.pulled("t", "g", 1, 10, now_ms=5)
    rates.topic_deleted("t")

    assert rates.went_out("t").total.messages == rates.went_out("t", "g").total.messages == 0
