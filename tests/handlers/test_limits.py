"""The limits of docs/operations.md: what is at one passes, what is one beyond hears why."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.config import MIB
from dledger.remoting.command import FLAG_GROUPED, SerializeType
from tests.fakes.brokers import records
from tests.fakes.nodes import until


async def send_plain(caller: Any, body: bytes, *, topic: str = "t", properties: str = "") -> Any:
    return await caller.ask(
        RequestCode.SEND_MESSAGE_V2,
        {
            "a": "writers", "b": topic, "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0,
            "i": properties, "j": 0, "k": False, "m": False,
        },
        body,
    )  # fmt: skip


@pytest.mark.parametrize("is_record", [True, False])
async def test_a_body(autojump_clock, make_brokers, is_record):
    group = make_brokers(broker={"body_size_max": 10_000})
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t")
        for size, code in ((10_000, ResponseCode.SUCCESS), (10_001, ResponseCode.MESSAGE_ILLEGAL)):
            if is_record:
                answer = await caller.sent(bytes(size))
            else:
                answer = await send_plain(caller, bytes(size))
            assert answer.code == code
        assert "10001" in answer.remark
        assert "10000" in answer.remark


async def test_properties(autojump_clock, make_brokers):
    group = make_brokers()
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t")
        unique = "UNIQ_KEY\x01k\x02"
        for size, code in ((32_767, ResponseCode.SUCCESS), (32_768, ResponseCode.MESSAGE_ILLEGAL)):
            text = unique + "p\x01" + "x" * (size - len(unique) - 2)
            answer = await send_plain(caller, b"b", properties=text)
            assert answer.code == code
        assert "32768" in answer.remark
        assert "32767" in answer.remark


async def test_the_name_of_a_topic(autojump_clock, make_brokers):
    group = make_brokers()
    await group.start()
    async with group.caller(await group.leader()) as caller:
        assert (await send_plain(caller, b"b", topic="t" * 127)).code == ResponseCode.SUCCESS
        answer = await send_plain(caller, b"b", topic="t" * 128)
        assert answer.code == ResponseCode.MESSAGE_ILLEGAL
        assert "127" in answer.remark


async def test_what_waits_to_be_committed(autojump_clock, make_brokers):
    """SYSTEM_BUSY with the numbers, at once, and nothing written."""
    group = make_brokers(3, raft={"pending_size_max": MIB}, store={"segment_size": 4 * MIB})
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        for member in group:
            member.workers["sync"].seconds = 0.3
        answers = [caller.send(bytes(300_000)) for _ in range(5)]
        caller.flush()
        await until("all are answered", lambda: all(answers))
    codes = [answer[0].code for answer in answers]
    assert codes.count(ResponseCode.SUCCESS) >= 3
    busy = [answer[0] for answer in answers if answer[0].code == ResponseCode.SYSTEM_BUSY]
    assert busy
    assert all("pending_size_max = 1048576" in answer.remark for answer in busy)
    assert all(f"node {leader.name}" in answer.remark for answer in busy)


async def test_what_one_connection_has_under_way(autojump_clock, make_brokers):
    """It is read no further, and another one's send is answered as if nothing were."""
    group = make_brokers(
        3,
        broker={"connection_inflight_size_max": 100_000},
        store={"segment_size": 4 * MIB},
    )
    await group.start()
    leader = await group.leader()
    node = leader.running
    async with group.caller(leader) as greedy, group.caller(leader) as modest:
        await greedy.create_topic("t")
        for member in group:
            member.workers["sync"].seconds = 0.2
        answers = [greedy.send(bytes(20_000)) for _ in range(100)]
        greedy.flush()
        await trio.sleep(0.05)
        assert 100_000 < node.flow.inflight_size < 500_000, "and not two million"
        began = trio.current_time()
        assert (await modest.sent(b"hello")).code == ResponseCode.SUCCESS
        assert trio.current_time() - began < 1.0
        await until("the greedy one is served in the end", lambda: all(answers), seconds=60)
        assert {answer[0].code for answer in answers} == {ResponseCode.SUCCESS}
    assert node.flow.inflight_size == 0
    assert node.flow.pause_count


@pytest.mark.parametrize("is_grouped", [True, False])
@pytest.mark.parametrize("where", ["leader", "follower"])
async def test_nothing_stays_charged(autojump_clock, make_brokers, is_grouped, where):
    """Whatever becomes of a send: appended, refused, a duplicate, forwarded, or given up."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    node = leader if where == "leader" else group.others(leader)[0]
    async with group.caller(node) as caller:
        await caller.create_topic("t", queues=1)
        await group.equal()
        for sequence in (0, 1, 0, 7, 2, 1):
            for _ in range(2):
                fields, body = records(b"body", producer_id=5, sequence=sequence)
                caller.submit(
                    RequestCode.SEND_BATCH_MESSAGE,
                    fields,
                    body,
                    flag=FLAG_GROUPED if is_grouped else 0,
                )
        for topic in ("fresh", "!bad!"):
            caller.send(b"b", topic=topic, is_grouped=is_grouped)
        caller.send(b"b", queue_id=99, is_grouped=is_grouped)
        caller.flush()
        if where == "leader":
            assert await until("something is under way", lambda: node.running.flow.inflight_size)
        await trio.sleep(0.3)
        assert node.running.flow.inflight_size == 0
        await leader.kill()
        for _ in range(5):
            caller.send(b"body", is_grouped=is_grouped)
        caller.flush()
        await trio.sleep(0.01)
    await trio.sleep(5.0)
    for member in group.alive:
        assert member.running.flow.inflight_size == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"b": "gone", "e": "3"}, ["node n1", "'gone'", "queue 3"]),
        ({"b": "t", "e": "99"}, ["node n1", "'t'", "queue 99"]),
        ({"b": "t", "e": "x"}, ["node n1", "topic t", "queue x"]),
    ],
)
async def test_a_failure_names_node_topic_and_queue_to_rocketmq_s_clients(
    autojump_clock, make_brokers, fields, words
):
    """They show their user the remark and nothing else."""
    group = make_brokers(broker={"auto_create_topic": False})
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t")
        answer = await caller.ask(
            RequestCode.SEND_MESSAGE_V2,
            {"a": "writers", "g": "1", "i": ""} | fields,
            b"body",
            serialization=SerializeType.JSON,
        )
    assert answer.code != ResponseCode.SUCCESS
    for word in words:
        assert word in (answer.remark or "")
