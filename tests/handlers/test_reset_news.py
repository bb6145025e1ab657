"""RocketMQ's consumers follow a reset: they are told, and what they commit meanwhile is no undoing.

They know no epochs.  Their late commits undid a reset, so that they had to be stopped before.
"""

import json

import pytest
import trio

from broker.handlers.offset_reset import STANDSTILL_SECONDS
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import LanguageCode
from tests.fakes.brokers import pull_fields
from tests.fakes.nodes import until
from tests.handlers.stock_client import stock_client

TOLD = 220


async def reset(caller, to="earliest", group="readers"):
    fields = {"consumerGroup": group, "topic": "t", "to": to}
    return await caller.ok(RequestCode.RESET_CONSUMER_OFFSETS, fields)


def epoch(brokers, member):
    return brokers._files[member.name].offsets.epoch("readers", "t")


@pytest.fixture(params=["leader", "follower"])
async def group(request, make_brokers):
    """A group of three, and the member at which the clients are."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t", queues=2)
        for _ in range(8):
            await caller.sent(b"x")
    group.at = leader if request.param == "leader" else group.others(leader)[0]
    return group


async def test_consumers_are_told_and_their_old_commits_count_for_nothing(autojump_clock, group):
    async with stock_client(group, group.at, "c1") as one:
        await one.beat("readers")
        assert await one.committed() == 0
        await one.commit(5)
        await reset(one.caller)
        await until("it is told", lambda: one.of(TOLD))
        (told,) = one.of(TOLD)
        assert told.is_oneway
        assert (told.ext_fields["topic"], told.ext_fields["group"]) == ("t", "readers")
        assert bytes(told.body) == (
            b'{"offsetTable":{{"brokerName":"g","queueId":0,"topic":"t"}:0,'
            b'{"brokerName":"g","queueId":1,"topic":"t"}:0}}'
        )

        await one.commit(6)  # of before: answered, and of no effect
        async with group.caller(group.at) as caller:
            assert await offset(caller) == 0

            # As Java does: it commits what it was told, and goes on from there.
            await one.commit(0)
            await one.commit(2)
            assert await offset(caller) == 2


async def test_a_queue_that_is_asked_about_again_is_followed(autojump_clock, group):
    async with stock_client(group, group.at, "c1") as one, group.caller(group.at) as caller:
        await one.beat("readers")
        await one.committed()
        await one.commit(5)
        await reset(caller)
        await until("it is told", lambda: one.of(TOLD))

        assert await one.committed() == 0
        await one.commit(1)
        await one.commit(1, queue=1)  # not asked about: of before
        assert await offset(caller) == 1
        assert await offset(caller, queue=1) == 0


async def test_an_offset_that_comes_with_a_pull_is_of_before_too(autojump_clock, group):
    async with stock_client(group, group.at, "c1") as one, group.caller(group.at) as caller:
        await one.beat("readers")
        await one.committed()
        await one.commit(5)
        await reset(caller)
        await until("it is told", lambda: one.of(TOLD))

        fields = pull_fields(offset=7, sysFlag=1, commitOffset=7, consumerGroup="readers")
        await one.ask(RequestCode.PULL_MESSAGE, fields)
        await trio.sleep(1)
        assert await offset(caller) == 0


async def test_a_commit_that_was_on_its_way_does_not_undo_a_reset(autojump_clock, group):
    """It reached the node before the reset did, and the leader after it."""
    leader = await group.leader()
    async with stock_client(group, group.at, "c1") as one, group.caller(leader) as caller:
        await one.beat("readers")
        await one.committed()
        await one.commit(5)
        await group.equal()
        before = epoch(group, group.at)
        await reset(caller)
        await until("all know", lambda: epoch(group, group.at) > before)
        # The node said so when it handed the commit on.
        fields = {"consumerGroup": "readers", "topic": "t", "queueId": 0, "commitOffset": 7}
        fields |= {"offsetEpoch": before, "stockClientHost": "127.0.0.1"}
        answer = await caller.ask(RequestCode.UPDATE_CONSUMER_OFFSET, fields)
        assert answer.code == ResponseCode.SUCCESS, "it could do nothing about it"
        assert await offset(caller) == 0


async def test_cpp_is_told_in_a_list(autojump_clock, group):
    async with stock_client(group, group.at, "c1", LanguageCode.CPP) as one:
        await one.beat("readers")
        await one.committed()
        await reset(one.caller, to="latest")
        await until("it is told", lambda: one.of(TOLD))

        body = json.loads(bytes(one.of(TOLD)[0].body))
        assert body["offsetTable"][0] == {
            "brokerName": "g", "offset": 8, "queueId": 0, "topic": "t",
        }  # fmt: skip


async def test_only_the_group_that_was_reset_is_told(autojump_clock, group):
    async with (
        stock_client(group, group.at, "c1") as one,
        stock_client(group, group.at, "c2") as other,
    ):
        await one.beat("readers")
        await other.beat("others")
        for client, name in ((one, "readers"), (other, "others")):
            await client.committed(group=name)
        await other.commit(5, group="others")
        await reset(one.caller)
        await until("it is told", lambda: one.of(TOLD))

        await other.commit(6, group="others")
        assert not other.of(TOLD)
        assert await other.committed(group="others") == 6


async def test_a_client_hears_by_the_connection_it_reads_by(autojump_clock, make_brokers):
    """They send heartbeats to every node; told three times they would stand still thrice."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t", queues=2)
        async with (
            stock_client(group, group["n1"], "c1") as one,
            stock_client(group, group["n2"], "c1") as two,
            stock_client(group, group["n3"], "c1") as three,
        ):
            for client in (one, two, three):
                await client.beat("readers")
            await two.committed()
            await reset(caller)
            await until("it is told", lambda: two.of(TOLD))
            await group.equal()

        assert [len(client.of(TOLD)) for client in (one, two, three)] == [0, 1, 0]


async def test_mqadmin_s_reset_is_done_once_for_all_names_of_the_broker(autojump_clock, group):
    fields = {"topic": "t", "group": "readers", "timestamp": "0", "isForce": "true"}
    async with stock_client(group, group.at, "c1") as one, group.caller(group.at) as caller:
        await one.beat("readers")
        await one.committed()
        await one.commit(5)
        answers = [
            await one.ok(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, fields) for _ in range(4)
        ]
        assert len({bytes(answer.body) for answer in answers}) == 1
        await until("it is told", lambda: one.of(TOLD))
        await group.equal()
        assert len(one.of(TOLD)) == 1

        # Another reset, and the first is something new again.
        await reset(caller, to="latest")
        assert await offset(caller) == 8
        await one.ok(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, fields)
        assert await offset(caller) == 0
        await trio.sleep(STANDSTILL_SECONDS)
        await one.ok(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, fields)
        await until("it is told of each", lambda: len(one.of(TOLD)) == 4)


async def test_a_copy_of_offsets_is_followed_as_well(autojump_clock, group):
    async with stock_client(group, group.at, "c1") as one, group.caller(group.at) as caller:
        await one.commit(2, group="source")
        await one.beat("readers")
        await one.committed()
        await one.commit(5)
        fields = {"srcGroup": "source", "destGroup": "readers", "topic": "t", "offline": "true"}
        await one.ok(RequestCode.CLONE_GROUP_OFFSET, fields)
        await until("it is told", lambda: one.of(TOLD))
        await one.commit(6)
        assert await offset(caller) == 2


async def test_a_connection_that_is_gone_leaves_nothing(autojump_clock, group):
    async with stock_client(group, group.at, "c1") as one:
        await one.beat("readers")
        await one.committed()
        await reset(one.caller)
    await until("it is forgotten", lambda: not group.at.running.reset_news._readers)


async def offset(caller, *, queue=0):
    fields = {"consumerGroup": "readers", "topic": "t", "queueId": queue}
    answer = await caller.ok(RequestCode.QUERY_CONSUMER_OFFSET, fields)
    return answer.ext_fields["offset"]
