"""Heartbeats, memberships, and clients told of changes, at whichever node they are."""

import json

import pytest
import trio

from broker.config import BrokerConfig
from broker.handlers.clients import SCAN_SECONDS
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.errors import LedgerBusyError
from dledger.remoting.command import SerializeType
from tests.fakes.nodes import until
from tests.handlers.readers import NODE_HEARTBEAT, PYTHON_HEARTBEAT, members, readers

SILENT_SECONDS_MAX = BrokerConfig().client_silent_max_ms / 1000


@pytest.mark.parametrize("form", [PYTHON_HEARTBEAT, NODE_HEARTBEAT], ids=["python", "node"])
async def test_whoever_was_answered_is_in_the_list(autojump_clock, brokers, form):
    async with readers(brokers, ("c1", brokers["n1"])) as (one,):
        assert await one.others() == []
        await one.beat(form)

        assert await one.others() == ["c1"]


async def test_the_members_of_all_nodes_are_one_list(autojump_clock, three):
    async with readers(three, *((f"c{n}", member) for n, member in enumerate(three))) as found:
        for reader in found:
            await reader.beat()

        assert [await reader.others() for reader in found] == [["c0", "c1", "c2"]] * 3


async def test_a_heartbeat_that_says_nothing_new_writes_nothing(autojump_clock, brokers):
    async with readers(brokers, ("c1", brokers["n1"])) as (one,):
        await one.beat()
        end = brokers["n1"].running.ledger.core.store.end_index
        for _ in range(5):
            await one.beat()

    assert brokers["n1"].running.ledger.core.store.end_index == end


async def test_a_group_gets_its_retry_topic_with_the_first_heartbeat(autojump_clock, brokers):
    async with readers(brokers, ("c1", brokers["n1"])) as (one,):
        await one.beat()

    config = brokers._files["n1"].topics.get("%RETRY%readers")
    assert (config.read_queue_count, config.perm) == (1, 6)
    assert "readers" in brokers._files["n1"].groups


async def test_everybody_hears_who_comes_and_who_goes(autojump_clock, three):
    leader = await three.leader()
    one_at, other_at = three.others(leader)
    async with readers(three, ("c1", one_at), ("c2", other_at)) as (one, other):
        await one.beat()
        await until("the first has heard of itself", lambda: one.told)
        one.told.clear()

        await other.beat()
        await until("both have heard of the second", lambda: one.told and other.told)
        assert one.told[0].ext_fields == {"consumerGroup": "readers"}
        assert one.told[0].is_oneway
        assert one.told[0].serialization is SerializeType.JSON
        one.told.clear()

        await other.leave()
        await until("the first has heard that the second left", lambda: one.told)
        assert await one.others() == ["c1"]


async def test_a_client_whose_only_connection_breaks_is_out_at_once(autojump_clock, three):
    leader = await three.leader()
    one_at, other_at = three.others(leader)
    async with readers(three, ("c1", one_at)) as (one,):
        async with readers(three, ("c2", other_at)) as (other,):
            await other.beat()
            await one.beat()
            assert await one.others() == ["c1", "c2"]
            begun = trio.current_time()
        await until(
            "it is out", lambda: list(three._files[leader.name].consumers.of("readers")) == ["c1"]
        )

        assert trio.current_time() - begun < 1
        assert await one.others() == ["c1"]


async def test_a_client_that_is_connected_elsewhere_stays(autojump_clock, three):
    leader = await three.leader()
    one_at, other_at = three.others(leader)
    async with readers(three, ("c1", one_at)) as (one,):
        async with readers(three, ("c1", other_at)) as (again,):
            await one.beat()
            await again.beat()
        await trio.sleep(5)

        assert await one.others() == ["c1"]


async def test_a_silent_client_is_out_after_two_minutes(autojump_clock, brokers):
    async with readers(brokers, ("c1", brokers["n1"]), ("c2", brokers["n1"])) as (one, other):
        await one.beat()
        await other.beat()
        for _ in range(5):
            await trio.sleep(SILENT_SECONDS_MAX / 4)
            await one.beat()

        assert await one.others() == ["c1"]


async def test_a_heartbeat_makes_no_group_where_groups_are_created_by_command(
    autojump_clock, make_brokers
):
    group = make_brokers(1, broker={"auto_create_group": False})
    await group.start()
    leader = await group.leader()
    async with readers(group, ("c1", leader)) as (one,):
        answer = await one.ask(
            RequestCode.HEART_BEAT, {}, (PYTHON_HEARTBEAT % ("c1", "readers")).encode()
        )
        assert answer.code == ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST
        assert "dledger group create readers" in answer.remark
        assert len(group._files[leader.name].groups) == 0
        assert group._files[leader.name].topics.get("%RETRY%readers") is None

        await one.ask(
            RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, {}, b'{"groupName": "readers"}'
        )
        await one.beat()
        assert await one.others() == ["c1"]


async def test_a_heartbeat_makes_no_more_groups_than_there_may_be(autojump_clock, make_brokers):
    group = make_brokers(1, broker={"groups_max": 2})
    await group.start()
    leader = await group.leader()
    async with readers(group, ("c1", leader)) as (one,):
        await one.beat()
        body = consumers(*[b'{"groupName": "g%d"}' % number for number in range(2)])
        answer = await one.ask(RequestCode.HEART_BEAT, {}, body)

        assert answer.code == ResponseCode.MESSAGE_ILLEGAL
        assert "groups_max is 2" in answer.remark
        assert [config.group for config in group._files[leader.name].groups] == ["g0", "readers"]
        await one.beat()


@pytest.mark.parametrize("refused", ["CID_RMQ_SYS_TRANS", "no blanks", ""])
async def test_a_group_that_is_refused_keeps_no_other_out(autojump_clock, three, refused):
    """A heartbeat with one such group was refused whole, and its client in none."""
    leader = await three.leader()
    async with readers(three, ("c1", three.others(leader)[0])) as (one,):
        body = consumers(b'{"groupName": "%s"}' % refused.encode(), b'{"groupName": "readers"}')
        answer = await one.ask(RequestCode.HEART_BEAT, {}, body)

        assert answer.code == ResponseCode.MESSAGE_ILLEGAL
        assert await one.others() == ["c"]
        assert three._files[leader.name].consumers.groups_of("c") == ["readers"]


async def test_a_client_that_is_refused_is_not_kept_and_one_that_is_in_a_group_is_heard(
    autojump_clock, make_brokers
):
    group = make_brokers(1, broker={"groups_max": 1})
    await group.start()
    leader = await group.leader()
    async with readers(group, ("c1", leader), ("c2", leader)) as (one, other):
        await one.beat()
        one_more = '{"groupName":"more"},{"consume'
        for _ in range(4):
            await trio.sleep(SILENT_SECONDS_MAX / 3)
            for reader, group_name in ((one, "readers"), (other, "others")):
                body = (PYTHON_HEARTBEAT % (reader.client_id, group_name)).replace(
                    '{"consume', one_more, 1
                )
                answer = await reader.ask(RequestCode.HEART_BEAT, {}, body.encode())
                assert answer.code == ResponseCode.MESSAGE_ILLEGAL

        assert await one.others() == ["c1"]
        assert list(leader.running.clients._presence._members) == [("c1", "readers")]


@pytest.fixture
def refuse_next(brokers, monkeypatch):
    """Have the log refuse the next so many commands."""
    queue = brokers["n1"].running.clients._queue
    put_command = queue.put_command
    left = [0]

    def put_or_refuse(*args):
        if left[0]:
            left[0] -= 1
            raise LedgerBusyError("too much waits to be committed")
        return put_command(*args)

    def refuse(count):
        left[0] = count

    monkeypatch.setattr(queue, "put_command", put_or_refuse)
    return refuse


async def test_silent_clients_are_out_also_when_the_log_was_busy_and_nobody_is_forgotten(
    autojump_clock, brokers, refuse_next
):
    where = [(client_id, brokers["n1"]) for client_id in ("dead1", "dead2", "dies later", "lives")]
    async with readers(brokers, *where) as (*dead, later, alive):
        for reader in (*dead, later, alive):
            await reader.beat()
        refuse_next(2)
        for beats in ([later, alive], [later, alive], [alive], [alive], [alive]):
            await trio.sleep(SILENT_SECONDS_MAX / 2 - 1)
            for reader in beats:
                await reader.beat()
        assert await alive.others() == ["lives"]


async def test_a_client_whose_connection_broke_while_the_log_was_busy_is_out_later(
    autojump_clock, brokers, refuse_next
):
    async with readers(brokers, ("c1", brokers["n1"])) as (one,):
        async with readers(brokers, ("c2", brokers["n1"])) as (other,):
            await one.beat()
            await other.beat()
            refuse_next(1)
        await trio.sleep(SCAN_SECONDS + 1)

        assert await one.others() == ["c1"]


async def test_a_group_is_whole_after_a_failover(autojump_clock, three):
    """A new leader that knew nobody would let the first to come take all queues."""
    leader = await three.leader()
    one_at, other_at = three.others(leader)
    async with readers(three, ("c1", one_at), ("c2", other_at)) as (one, other):
        await one.beat()
        await other.beat()
        await leader.kill()
        await three.leader()

        assert await one.others() == ["c1", "c2"]
        await trio.sleep(SILENT_SECONDS_MAX / 2)
        await one.beat()
        assert await one.others() == ["c1", "c2"]
        await trio.sleep(SILENT_SECONDS_MAX / 2 + 10)
        assert await one.others() == ["c1"], "the other has not been heard for two minutes"


@pytest.mark.parametrize("which", [0, 1])
async def test_who_dies_after_a_failover_is_out_at_once(autojump_clock, three, which):
    """Connected to the new leader or to another: the one knows, and is told by the other.

    It waited 35 s for a heartbeat by another way, as it knew of no connection.
    """
    leader = await three.leader()
    stays_at, dies_at = three.others(leader)[:: -1 if which else 1]
    async with readers(three, ("c1", stays_at)) as (stays,):
        async with readers(three, ("c2", dies_at)) as (dies,):
            await stays.beat()
            await dies.beat()
            await leader.kill()
            await three.leader()
            assert await stays.others() == ["c1", "c2"]
            await trio.sleep(1)
        await trio.sleep(1)

        assert await stays.others() == ["c1"]


async def test_a_node_that_stops_sends_nobody_out_of_a_group(autojump_clock, three):
    leader = await three.leader()
    one_at, other_at = three.others(leader)
    async with readers(three, ("c1", one_at), ("c2", other_at)) as (one, other):
        await one.beat()
        await other.beat()
        await other_at.running.step_back()
        await trio.sleep(1)

        assert await one.others() == ["c1", "c2"]


def consumers(*data):
    return b'{"clientID": "c", "consumerDataSet": [' + b",".join(data) + b"]}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b'{"clientID": 5}', "clientID"),
        (b'{"clientID": ""}', "clientID"),
        (consumers(b'{"groupName": "a b"}'), "a b"),
        (consumers(b'{"groupName": "g", "messageModel": 7}'), "messageModel"),
        (consumers(*[b'{"groupName": "g"}'] * 65), "65"),
    ],
)
async def test_a_heartbeat_that_is_none_is_refused(autojump_clock, caller, body, said):
    answer = await caller.ask(RequestCode.HEART_BEAT, {}, body, serialization=SerializeType.JSON)

    assert answer.code in (ResponseCode.SYSTEM_ERROR, ResponseCode.MESSAGE_ILLEGAL)
    assert said in answer.remark


@pytest.mark.parametrize(("kind", "code"), [("TAG", 0), (None, 0), ("SQL92", 1)])
async def test_filters_by_tag_are_the_only_ones(autojump_clock, caller, kind, code):
    body = {"clientId": "c", "group": "g", "subscriptionData": {"topic": "t", "subString": "*"}}
    if kind is not None:
        body["subscriptionData"]["expressionType"] = kind
    answer = await caller.ask(RequestCode.CHECK_CLIENT_CONFIG, {}, json.dumps(body).encode())

    assert answer.code == code


async def test_a_new_group_of_stock_clients_begins_with_the_first_message(autojump_clock, caller):
    """Told that nothing is committed they would begin behind the last."""
    await caller.sent(b"a", b"b")
    fields = {"consumerGroup": "new", "topic": "t", "queueId": 0}
    stock = await caller.ask(
        RequestCode.QUERY_CONSUMER_OFFSET, fields, serialization=SerializeType.JSON
    )
    ours = await caller.ask(RequestCode.QUERY_CONSUMER_OFFSET, fields)

    assert (stock.code, stock.ext_fields["offset"]) == (ResponseCode.SUCCESS, "0")
    assert ours.code == ResponseCode.QUERY_NOT_FOUND


async def test_a_connection_that_takes_another_name_is_the_other(autojump_clock, brokers):
    async with readers(brokers, ("c1", brokers["n1"])) as (one,):
        await one.beat()
        one.client_id, one.group = "c2", "others"
        await one.beat()
        one.told.clear()
        one.client_id, one.group = "c3", "readers"
        async with readers(brokers, ("c4", brokers["n1"])) as (other,):
            await other.beat()
            await trio.sleep(1)
            assert not one.told, "it listens no longer for the first group"
    await trio.sleep(1)

    assert not brokers["n1"].running.connections._clients
    assert not brokers["n1"].running.connections._sessions_of
    assert not brokers["n1"].running.connections._listeners


async def test_a_client_that_says_goodbye_right_behind_its_first_heartbeat_is_out(
    autojump_clock, brokers
):
    """It was not in its group yet, so nothing was done, and then it was, for ever."""
    async with readers(brokers, ("c1", brokers["n1"]), ("c2", brokers["n1"])) as (one, two):
        await two.beat()
        fields = {"clientID": "c1", "consumerGroup": one.group, "producerGroup": ""}
        body = (PYTHON_HEARTBEAT % ("c1", one.group)).encode()
        joined = one.caller.submit(RequestCode.HEART_BEAT, {}, body)
        left = one.caller.submit(RequestCode.UNREGISTER_CLIENT, fields)
        one.caller.flush()
        await until("both are answered", lambda: joined and left)

        assert await two.others() == ["c2"]


async def test_a_client_whose_connection_breaks_while_it_joins_is_missed(autojump_clock, brokers):
    """The simulation, ground slow-members, seed 9: it was forgotten before it was in its group."""
    async with readers(brokers, ("c1", brokers["n1"]), ("c2", brokers["n1"])) as (one, two):
        await two.beat()
        for worker in brokers["n1"].workers.values():
            worker.seconds = 0.5
        one.caller.submit(
            RequestCode.HEART_BEAT, {}, (PYTHON_HEARTBEAT % ("c1", one.group)).encode()
        )
        one.caller.flush()
        await trio.sleep(0.05)
        one.caller.client.close()
        await trio.sleep(SCAN_SECONDS + 5)

        assert await two.others() == ["c2"]


@pytest.mark.parametrize("says_goodbye", [False, True])
async def test_a_client_that_comes_again_while_it_is_taken_out_is_in(
    autojump_clock, brokers, says_goodbye
):
    """Its heartbeat said nothing new, and the next one comes in half a minute."""
    n1 = brokers["n1"]
    async with readers(brokers, ("c1", n1), ("c1", n1), ("c2", n1)) as (one, again, two):
        await one.beat()
        await two.beat()
        for worker in n1.workers.values():
            worker.seconds = 0.5
        left = [True]
        if says_goodbye:
            fields = {"clientID": "c1", "consumerGroup": "readers", "producerGroup": ""}
            left = one.caller.submit(RequestCode.UNREGISTER_CLIENT, fields)
            one.caller.flush()
        else:
            one.caller.client.close()
        await trio.sleep(0.05)
        await again.beat()
        await until("it has left", lambda: left)

        assert await two.others() == ["c1", "c2"]


async def test_what_a_leader_knows_of_its_clients_outlives_an_append_that_failed(
    autojump_clock, three
):
    """It began anew in its term, and who was connected to another node as well was taken out."""
    leader = await three.leader()
    here, _ = three.others(leader)
    async with readers(three, ("c1", here)) as (stays,):
        async with readers(three, ("c1", leader)) as (goes,):
            await stays.beat()
            await goes.beat()
            leader.running.queue.group_failed()
            await until("it serves again", lambda: leader.running.queue.is_open)
        await trio.sleep(1)
        assert members(three, leader, "readers") == ["c1"]


async def test_a_leader_that_is_elected_again_is_told_who_is_connected(autojump_clock, three):
    """It had found no majority for a moment, and forgot all but those who are connected to it."""
    leader = await three.leader()
    here, third = three.others(leader)
    async with readers(three, ("c1", here)) as (stays,):
        async with readers(three, ("c1", leader)) as (goes,):
            await goes.caller.create_topic("t")
            await stays.beat()
            await goes.beat()
            await third.kill()
            three.wires.cut(leader.name, here.name)
            goes.caller.send(b"of which it alone has a copy")
            goes.caller.flush()
            await until("it leads no more", lambda: not leader.running.ledger.is_leader)
            three.wires.heal(leader.name, here.name)
            assert (await three.leader()) is leader
            await trio.sleep(1)
        await trio.sleep(1)
        assert members(three, leader, "readers") == ["c1"]


async def test_what_waits_to_be_told_of_a_client_is_left_alone_once_it_is_here_again(
    autojump_clock, three
):
    """A leader that had been deposed turned it away, and the next one took the client out."""
    leader = await three.leader()
    here, _ = three.others(leader)
    forwarder = here.running.forwarder
    async with readers(three, ("c1", here)) as (goes,):
        await goes.beat()
        with pytest.MonkeyPatch.context() as patch:
            told = []
            patch.setattr(forwarder, "take", lambda *asked: told.append(asked))
            goes.caller.client.close()
            await until("that is to be told", lambda: told)
    ((session, command),) = told
    assert not session.closed
    async with readers(three, ("c1", here)) as (comes,):
        await comes.beat()
        forwarder._await_next(session, command, 0)  # as when it was turned away
        await trio.sleep(1)
        assert members(three, leader, "readers") == ["c1"]


async def test_what_a_node_tells_the_leader_of_clients_may_come_back_to_it(autojump_clock, brokers):
    """It waited for a leader, and then it is this node itself: that stopped the node."""
    node = brokers["n1"].running
    async with readers(brokers, ("c1", brokers["n1"])) as (one,):
        await one.beat()
        node.clients._news._told = None
        takes = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(node.clients._ledger), "leader_id", "n9")
            patch.setattr(node.forwarder, "take", lambda *asked: takes.append(asked))
            node.clients.leader_changed()
        ((session, command),) = takes

        node.clients._presence._members["c1", "readers"].nodes.clear()
        node.registry.dispatch(session, command)

        assert len(node.connections._clients) == 1
        assert node.clients._presence._members["c1", "readers"].nodes == {"n1"}
        assert await one.others() == ["c1"]
