"""What tools ask about clients, and what clients are asked in turn, at whichever node they are."""

import json

import pytest
import trio

from broker.handlers.client_admin import ANSWER_SECONDS, STATUS_SECONDS
from broker.handlers.client_calls import CALLS_MAX
from broker.message.codec import decode_records
from broker.message.message_id import encode_offset_id
from broker.protocol.admin_bodies import QueuePlace, table
from broker.protocol.request_code import ClientRequestCode, RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import LanguageCode, response
from tests.fakes.brokers import HOST
from tests.fakes.nodes import until
from tests.handlers.stock_client import stock_client

READERS = {"consumerGroup": "readers"}


@pytest.fixture
async def three(make_brokers):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t", queues=2)
    return group


async def test_every_node_tells_who_consumes_and_where_from(autojump_clock, three):
    one_at, other_at = three.others(await three.leader())
    async with (
        stock_client(three, one_at, "c1") as one,
        stock_client(three, other_at, "c2", LanguageCode.CPP) as other,
    ):
        await one.beat("readers")
        await other.beat("readers")
        await three.equal()

        for client in (one, other):
            answer = await client.ok(RequestCode.GET_CONSUMER_CONNECTION_LIST, READERS)
            found = json.loads(bytes(answer.body))
            assert found["consumeType"] == "CONSUME_PASSIVELY"
            assert found["messageModel"] == "CLUSTERING"
            assert found["consumeFromWhere"] == "CONSUME_FROM_FIRST_OFFSET"
            assert found["subscriptionTable"]["t"]["subString"] == "red || green"
            assert sorted(found["subscriptionTable"]["t"]["tagsSet"]) == ["green", "red"]
            assert [
                (item["clientId"], item["language"], item["version"], item["clientAddr"])
                for item in found["connectionSet"]
            ] == [
                ("c1", "JAVA", 409, one.caller.client.local_address),
                ("c2", "CPP", 409, other.caller.client.local_address),
            ]


async def test_a_group_without_consumers_is_not_online(autojump_clock, three):
    follower = three.others(await three.leader())[0]
    async with stock_client(three, follower, "c1") as one:
        answer = await one.ask(RequestCode.GET_CONSUMER_CONNECTION_LIST, READERS)

        assert answer.code == ResponseCode.CONSUMER_NOT_ONLINE
        assert "the consumer group[readers] not online" in answer.remark


async def test_producers_are_told_by_the_node_they_are_at(autojump_clock, three):
    leader = await three.leader()
    fields = {"producerGroup": "writers"}
    async with stock_client(three, leader, "p1") as one:
        answer = await one.ask(RequestCode.GET_PRODUCER_CONNECTION_LIST, fields)
        assert answer.code == ResponseCode.SYSTEM_ERROR
        assert "the producer group[writers] not exist" in answer.remark
        await one.beat()

        # At a node that has none, the leader's are told.
        async with stock_client(three, three.others(leader)[0], "p2") as other:
            answer = await other.ok(RequestCode.GET_PRODUCER_CONNECTION_LIST, fields)
            (found,) = json.loads(bytes(answer.body))["connectionSet"]
            assert found["clientId"] == "p1"
            assert found["clientAddr"] == one.caller.client.local_address
            answer = await other.ok(RequestCode.GET_ALL_PRODUCER_INFO)
            assert json.loads(bytes(answer.body)) == {"data": {}}

        answer = await one.ok(RequestCode.GET_ALL_PRODUCER_INFO)
        (row,) = json.loads(bytes(answer.body))["data"]["writers"]
        assert (row["clientId"], row["language"]) == ("p1", "JAVA")
        await one.ok(RequestCode.UNREGISTER_CLIENT, {"clientID": "p1", "producerGroup": "writers"})
        answer = await one.ask(RequestCode.GET_PRODUCER_CONNECTION_LIST, fields)
        assert answer.code == ResponseCode.SYSTEM_ERROR


@pytest.mark.parametrize("asked_at", ["its node", "a follower", "the leader"])
async def test_a_consumer_says_how_it_is(autojump_clock, three, asked_at):
    """Java's are connected to the node they read from at first, and mqadmin asks any."""
    leader = await three.leader()
    tool_at, other = three.others(leader)
    client_at = tool_at if asked_at == "its node" else other
    if asked_at == "the leader":
        tool_at = leader
    async with (
        stock_client(three, client_at, "c1") as one,
        stock_client(three, tool_at, "a tool") as tool,
    ):
        await one.beat("readers")
        code = ClientRequestCode.GET_CONSUMER_RUNNING_INFO
        one.replies[code] = lambda asked: response(asked, 0, None, {}, b"fine")

        answer = await tool.ok(
            RequestCode.GET_CONSUMER_RUNNING_INFO,
            READERS | {"clientId": "c1", "jstackEnable": "true"},
        )

    assert bytes(answer.body) == b"fine"
    (asked,) = one.of(code)
    assert asked.ext_fields == READERS | {"clientId": "c1", "jstackEnable": "true"}


async def test_a_consumer_that_is_not_there_is_told_so(autojump_clock, three):
    leader = await three.leader()
    one_at, other_at = three.others(leader)
    async with stock_client(three, other_at, "a tool") as tool:
        async with stock_client(three, one_at, "c1") as one:
            await one.beat("readers")
            fields = READERS | {"clientId": "c9"}
            answer = await tool.ask(RequestCode.GET_CONSUMER_RUNNING_INFO, fields)
            assert answer.code == ResponseCode.SYSTEM_ERROR
            assert "<c9> not online" in answer.remark
        await one_at.kill()  # it never said goodbye
        fields = READERS | {"clientId": "c1"}
        answer = await tool.ask(RequestCode.GET_CONSUMER_RUNNING_INFO, fields)
        assert answer.code == ResponseCode.SYSTEM_ERROR
        assert "not online" in answer.remark
        assert len(other_at.running.calls) == 0


async def test_a_consumer_that_says_nothing_is_given_up(autojump_clock, brokers):
    member = brokers["n1"]
    async with (
        stock_client(brokers, member, "c1") as one,
        stock_client(brokers, member, "a tool") as tool,
    ):
        await one.beat("readers")
        begin = trio.current_time()
        answer = await tool.ask(RequestCode.GET_CONSUMER_RUNNING_INFO, READERS | {"clientId": "c1"})
        assert answer.code == ResponseCode.CONSUME_MSG_TIMEOUT
        assert ANSWER_SECONDS <= trio.current_time() - begin < ANSWER_SECONDS + 0.1

        # The late answer, and one that was never asked for, are nobody's.
        late = response(one.asked[-1], 0)
        one.caller.client.send(late)
        one.caller.client.flush_soon()
        assert len(member.running.calls) == 0
        assert (await tool.ask(RequestCode.GET_GROUP_STATUS)).code == ResponseCode.SUCCESS


async def test_a_consumer_whose_connection_breaks_is_given_up_at_once(autojump_clock, brokers):
    member = brokers["n1"]
    async with stock_client(brokers, member, "a tool") as tool:
        answers = []

        async def ask():
            answers.append(
                await tool.ask(RequestCode.GET_CONSUMER_RUNNING_INFO, READERS | {"clientId": "c1"})
            )

        async with (
            trio.open_nursery() as nursery,
            stock_client(brokers, member, "c1") as one,
        ):
            await one.beat("readers")
            nursery.start_soon(ask)
            await until("it is asked", lambda: one.of(307))
            begin = trio.current_time()
        assert answers[0].code == ResponseCode.CONSUME_MSG_TIMEOUT
        assert trio.current_time() - begin < ANSWER_SECONDS / 2


async def test_an_answer_counts_only_from_the_client_that_was_asked(autojump_clock, brokers):
    member = brokers["n1"]
    async with (
        stock_client(brokers, member, "c1") as one,
        stock_client(brokers, member, "c2") as other,
        stock_client(brokers, member, "a tool") as tool,
    ):
        await one.beat("readers")
        await other.beat("readers")

        def let_another_answer(asked):
            other.caller.client.send(response(asked, 0, None, {}, b"forged"))
            other.caller.client.flush_soon()
            return response(asked, 0, None, {}, b"true")

        one.replies[307] = let_another_answer
        answer = await tool.ok(RequestCode.GET_CONSUMER_RUNNING_INFO, READERS | {"clientId": "c1"})

    assert bytes(answer.body) == b"true"


async def test_so_many_questions_may_be_under_way(autojump_clock, brokers):
    member = brokers["n1"]
    fields = READERS | {"clientId": "c1"}
    async with (
        stock_client(brokers, member, "c1") as one,
        stock_client(brokers, member, "a tool") as tool,
    ):
        await one.beat("readers")
        for _ in range(CALLS_MAX):
            tool.caller.submit(RequestCode.GET_CONSUMER_RUNNING_INFO, fields)
        tool.caller.flush()
        await until("all are asked", lambda: len(member.running.calls) == CALLS_MAX)

        answer = await tool.ask(RequestCode.GET_CONSUMER_RUNNING_INFO, fields)
        assert answer.code == ResponseCode.SYSTEM_BUSY


async def test_a_consumer_is_given_a_message_to_consume_at_once(autojump_clock, brokers):
    member = brokers["n1"]
    async with (
        stock_client(brokers, member, "c1") as one,
        stock_client(brokers, member, "a tool") as tool,
    ):
        await tool.caller.sent(b"this one")
        record = decode_records((await tool.caller.pull()).body)[0]
        await one.beat("readers")
        result = b'{"autoCommit":true,"consumeResult":"CR_SUCCESS","order":false}'
        one.replies[309] = lambda asked: response(asked, 0, None, {}, result)
        message_id = encode_offset_id(HOST, record.position)
        fields = READERS | {"clientId": "c1", "msgId": message_id}

        answer = await tool.ok(RequestCode.CONSUME_MESSAGE_DIRECTLY, fields)

        assert bytes(answer.body) == result
        (asked,) = one.of(309)
        assert asked.ext_fields["brokerName"] == "g"
        assert decode_records(asked.body)[0].body == b"this one"

        nowhere = encode_offset_id(HOST, record.position + 1)
        answer = await tool.ask(RequestCode.CONSUME_MESSAGE_DIRECTLY, fields | {"msgId": nowhere})
        assert answer.code == ResponseCode.QUERY_NOT_FOUND
        answer = await tool.ask(RequestCode.CONSUME_MESSAGE_DIRECTLY, fields | {"msgId": "x"})
        assert answer.code == ResponseCode.SYSTEM_ERROR
        assert "field msgId" in answer.remark


async def test_consumers_say_how_far_they_are(autojump_clock, brokers):
    """One that says nothing in time is left out."""
    member = brokers["n1"]
    place = QueuePlace("t", "g", 1)
    async with (
        stock_client(brokers, member, "c1") as one,
        stock_client(brokers, member, "c2") as other,
        stock_client(brokers, member, "a tool") as tool,
    ):
        await one.beat("readers")
        await other.beat("readers")
        said = f'{{"consumerTable":{{}},"messageQueueTable":{table([(place, 7)])}}}'.encode()
        one.replies[221] = lambda asked: response(asked, 0, None, {}, said)
        begin = trio.current_time()
        answer = await tool.ok(
            RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS, {"topic": "t", "group": "readers"}
        )
        assert STATUS_SECONDS <= trio.current_time() - begin < STATUS_SECONDS + 0.1
        text = bytes(answer.body).decode()
        assert text == (
            '{"consumerTable":{"c1":{{"brokerName":"g","queueId":1,"topic":"t"}:7}},'
            '"messageQueueTable":{}}'
        )

        answer = await tool.ask(
            RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS,
            {"topic": "t", "group": "readers", "clientAddr": "c9"},
        )
        assert answer.code == ResponseCode.SYSTEM_ERROR
        assert "No Any Consumer online" in answer.remark
