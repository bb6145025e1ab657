"""How a node is set up and fares, asked as mqadmin asks."""

import json

import pytest
import trio

from broker.handlers.properties import BODY_SIZE_MAX, read_properties
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode


@pytest.fixture
def node(brokers):
    return brokers["n1"].running


@pytest.fixture
def info(node):
    return node.broker_info


async def test_settings_are_told_by_rocketmq_s_names_and_by_our_own(autojump_clock, caller):
    answer = await caller.ok(RequestCode.GET_BROKER_CONFIG)

    told = read_properties(bytes(answer.body))
    assert told["brokerName"] == "g"
    assert told["flushDiskType"] == "SYNC_FLUSH"
    assert told["maxMessageSize"] == str(4 * 1024 * 1024)
    assert told["autoCreateTopicEnable"] == "true"
    assert told["raft.heartbeat_interval_ms"] == "75"
    assert told["store.segment_size"] == told["mappedFileSizeCommitLog"]


async def test_the_log_level_changes_while_the_node_runs(autojump_clock, caller, info):
    levels = []
    info.set_log_level = levels.append

    await caller.ok(RequestCode.UPDATE_BROKER_CONFIG, body=b"#comment\nlogLevel=debug\n")

    assert levels == ["debug"]
    answer = await caller.ok(RequestCode.GET_BROKER_CONFIG)
    assert read_properties(bytes(answer.body))["logLevel"] == "debug"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"logLevel=debug\nflushDiskType=ASYNC_FLUSH", "'flushDiskType' cannot change"),
        (b"logLevel=loud", "use debug, info"),
        (b"logLevel", "no line of properties"),
        (b"=debug", "no line of properties"),
        (b"\xff\xfe=1", "UTF-8"),
        (b"x=" + b"y" * BODY_SIZE_MAX, "the limit is"),
    ],
)
async def test_what_cannot_change_is_refused_as_a_whole(autojump_clock, caller, info, body, words):
    levels = []
    info.set_log_level = levels.append

    answer = await caller.ask(RequestCode.UPDATE_BROKER_CONFIG, body=body)

    assert answer.code == ResponseCode.MESSAGE_ILLEGAL
    assert words in answer.remark
    assert not levels


async def test_a_node_that_shares_its_process_keeps_its_log_level(autojump_clock, caller):
    answer = await caller.ask(RequestCode.UPDATE_BROKER_CONFIG, body=b"logLevel=debug")

    assert answer.code == ResponseCode.MESSAGE_ILLEGAL
    assert "shares its log" in answer.remark


async def test_the_numbers_of_broker_status(autojump_clock, caller, node):
    for _ in range(20):
        await caller.sent(b"x")
    await caller.pull()
    await trio.sleep(5)
    node.rates.sample()

    answer = await caller.ok(RequestCode.GET_BROKER_RUNTIME_INFO)

    table = json.loads(bytes(answer.body))["table"]
    assert all(isinstance(value, str) for value in table.values())
    assert table["putMessageTimesTotal"] == "20"
    assert table["getMessageTimesTotal"] == "20"
    assert int(table["commitLogMaxOffset"]) > 20 * 91
    assert table["runtime"].startswith("[ 0 days, 0 hours, 0 minutes, ")
    assert len(table["putTps"].split()) == 3
    assert float(table["putTps"].split()[0]) > 1
    assert int(table["bootTimestamp"]) >= 0


async def test_rates_go_by_the_time_they_are_of(autojump_clock, caller, node):
    rates = node.rates
    for _ in range(30):
        await caller.sent(b"x")
    for _ in range(12):
        await trio.sleep(10)
        rates.sample()

    ten_seconds, minute, ten_minutes = rates.per_second("put")

    assert ten_seconds == minute == 0
    assert ten_minutes == pytest.approx(30 / 120, rel=0.05)
