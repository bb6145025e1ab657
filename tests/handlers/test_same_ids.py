"""Clients of two groups that go by one id: two programs of a machine, told the same name.

RocketMQ knows clients by their connections, and lets them.
"""

import contextlib
import json

import pytest
import trio

from broker.config import BrokerConfig
from broker.handlers.clients import SCAN_SECONDS
from broker.handlers.forward import FORWARDED
from broker.protocol.heartbeat import Heartbeat, encode_heartbeat
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.errors import LedgerBusyError
from dledger.remoting.command import Command
from tests.fakes.nodes import until
from tests.handlers.readers import PYTHON_HEARTBEAT, Reader, members, readers

SILENT_SECONDS_MAX = BrokerConfig().client_silent_max_ms / 1000
IN_BOTH = (  # of one client
    (PYTHON_HEARTBEAT % ("c2", "readers"))
    .replace('{"consume', '{"groupName":"others"},{"consume', 1)
    .encode()
)


@contextlib.asynccontextmanager
async def two(group, here, there):
    """Connect two clients of one id, who beat for readers and for others."""
    async with group.caller(there) as caller, readers(group, ("c1", here)) as (one,):
        other = Reader(caller, "c1", group="others")
        await one.beat()
        await other.beat()
        yield one, other


def heard_at(node):
    """Return by which nodes a leader has heard whom."""
    return {tuple(m): known.nodes for m, known in node.running.clients._presence._members.items()}


async def test_of_two_groups_clients_of_one_id_and_two_versions_write_nothing_either(
    autojump_clock, brokers
):
    """Each heartbeat set right what the other had said."""
    async with brokers.caller(brokers["n1"]) as caller:
        ends = set()
        for _ in range(5):
            for group, version in (("readers", 401), ("others", 409)):
                command = Command(
                    int(RequestCode.HEART_BEAT),
                    version=version,
                    body=(PYTHON_HEARTBEAT % ("c1", group)).encode(),
                )
                answer = await caller.client.request(command, timeout_seconds=5)
                assert answer.code == ResponseCode.SUCCESS
            ends.add(brokers["n1"].running.ledger.core.store.end_index)

    assert len(ends) == 1


@pytest.mark.parametrize("which", ["the same node", "the leader", "another follower"])
async def test_clients_of_two_groups_that_go_by_one_id_come_and_go_each_by_itself(
    autojump_clock, three, which
):
    """Two programs told the same name: of one that was killed the other kept the queues locked."""
    leader = await three.leader()
    here, there = three.others(leader)
    other_at = {"the same node": here, "the leader": leader, "another follower": there}[which]
    async with three.caller(other_at) as caller:
        other = Reader(caller, "c1", group="others")
        async with readers(three, ("c1", here)) as (one,):
            await one.beat()
            await other.beat()
            assert await one.others() == ["c1"]
        await until("it is out", lambda: members(three, leader, "readers") == [])
        await trio.sleep(1)
        assert members(three, leader, "others") == ["c1"]
        await trio.sleep(SILENT_SECONDS_MAX / 2)
        await other.beat()
        await trio.sleep(SILENT_SECONDS_MAX / 2 + 10)

        assert await other.others() == ["c1"]
        assert members(three, leader, "others") == ["c1"]


async def test_of_two_that_go_by_one_id_a_new_leader_misses_the_one_that_is_gone(
    autojump_clock, three
):
    leader = await three.leader()
    here, there = three.others(leader)
    async with three.caller(there) as caller:
        other = Reader(caller, "c1", group="others")
        async with readers(three, ("c1", here)) as (one,):
            await one.beat()
            await other.beat()
            await leader.kill()
            await three.leader()
            await trio.sleep(1)
        await until("it is out", lambda: members(three, here, "readers") == [])

        assert members(three, there, "others") == ["c1"]


async def test_who_only_produces_keeps_no_consumer_of_its_id_in_a_group(autojump_clock, three):
    leader = await three.leader()
    at, _ = three.others(leader)
    body = json.dumps({"clientID": "c1", "producerDataSet": [{"groupName": "senders"}]}).encode()
    async with readers(three, ("c1", at), ("c1", at), ("c1", leader)) as (one, *producers):
        await one.beat()
        for _ in range(4):
            await trio.sleep(SILENT_SECONDS_MAX / 3)
            for producer in producers:
                answer = await producer.ask(RequestCode.HEART_BEAT, {}, body)
                assert answer.code == ResponseCode.SUCCESS
        assert members(three, leader, "readers") == []


async def test_a_node_that_does_not_name_groups_tells_of_all(autojump_clock, three):
    """One of before groups were named: it takes a client with a connection elsewhere for gone."""
    leader = await three.leader()
    at, _ = three.others(leader)
    async with readers(three, ("c1", at)) as (one,):
        await one.beat()
        fields = {"clientId": "c1", "nodeId": at.name}
        answer = await one.ask(RequestCode.CLIENT_CONNECTION_LOST, fields)

        assert answer.code == ResponseCode.SUCCESS
        await until("it is out", lambda: members(three, leader, "readers") == [])


async def test_a_node_that_does_not_name_groups_tells_a_new_leader_of_all(autojump_clock, three):
    leader = await three.leader()
    at, _ = three.others(leader)
    async with readers(three, ("c1", leader)) as (one,):
        await one.beat()
        body = encode_heartbeat(Heartbeat(client_id="c1"))
        await one.caller.ok(RequestCode.HEART_BEAT, {FORWARDED: at.name}, body)

        assert heard_at(leader) == {("c1", "readers"): {leader.name, at.name}}


async def test_a_new_leader_is_told_of_every_connection_and_every_group(autojump_clock, three):
    leader = await three.leader()
    here, there = three.others(leader)
    async with contextlib.AsyncExitStack() as stack:
        for node in (here, there):
            await stack.enter_async_context(two(three, node, node))
            (reader,) = await stack.enter_async_context(readers(three, ("c2", node)))
            await reader.caller.ok(RequestCode.HEART_BEAT, {}, IN_BOTH)
        await leader.kill()
        await three.leader()
        await trio.sleep(1)

        found = heard_at(await three.leader())
        assert len(found) == 4
        assert all(nodes == {here.name, there.name} for nodes in found.values()), found


async def test_a_leader_that_knows_ids_only_is_told_of_the_last_connection_only(
    autojump_clock, three, monkeypatch
):
    """It would take the other one for gone, too; the request for one of several it passes over."""
    here, _ = three.others(await three.leader())
    codes = []
    take = here.running.forwarder.take

    def taken(session, command):
        codes.append(command.code)
        take(session, command)

    async with three.caller(here) as caller:
        other = Reader(caller, "c1", group="others")
        async with readers(three, ("c1", here)) as (one,):
            await one.beat()
            await other.beat()
            monkeypatch.setattr(here.running.forwarder, "take", taken)
        await until("the leader is told", lambda: codes == [RequestCode.CLIENT_GROUPS_LOST])
    await until("it is told again", lambda: codes[1:] == [RequestCode.CLIENT_CONNECTION_LOST])


async def test_who_said_goodbye_and_has_come_back_elsewhere_is_missed_at_once(
    autojump_clock, three
):
    """The node where it said goodbye was taken for one where it is connected still."""
    leader = await three.leader()
    here, _ = three.others(leader)
    async with two(three, here, here) as (one, _other):
        await one.leave()
        async with readers(three, ("c1", leader)) as (again,):
            await again.beat()
            assert members(three, leader, "readers") == ["c1"]
        await trio.sleep(1)

        assert members(three, leader, "readers") == []
        assert members(three, leader, "others") == ["c1"]


async def test_a_connection_is_for_the_groups_that_its_last_heartbeat_names(autojump_clock, three):
    """It was for all it had ever named: of another that went by its id the end was not seen."""
    leader = await three.leader()
    here, _ = three.others(leader)
    async with two(three, here, here) as (one, _):
        one.group = "more"
        await one.beat()
        async with readers(three, ("c1", here)) as (reader,):
            await reader.beat()
        await trio.sleep(1)

        assert members(three, leader, "readers") == []
        assert members(three, leader, "others") == members(three, leader, "more") == ["c1"]


async def test_who_is_named_no_longer_is_gone_when_its_connection_is(autojump_clock, three):
    """Its goodbye was lost, and nobody said that it is gone: it stayed until it had been silent."""
    leader = await three.leader()
    here, _ = three.others(leader)
    async with readers(three, ("c2", here)) as (reader,):
        await reader.caller.ok(RequestCode.HEART_BEAT, {}, IN_BOTH)
        await reader.beat()
        await trio.sleep(1)
        assert members(three, leader, "others") == ["c2"], "by another way, perhaps"
    await trio.sleep(1)

    assert members(three, leader, "readers") == members(three, leader, "others") == []


async def test_both_groups_of_a_client_are_left_later_when_the_log_was_busy(
    autojump_clock, brokers, monkeypatch
):
    node = brokers["n1"]
    async with two(brokers, node, node) as (one, _):
        queue = node.running.clients._queue
        refused = []

        def refuse(command, _done):
            refused.append(command.args["group"])
            raise LedgerBusyError("too much waits to be committed")

        async with readers(brokers, ("c2", node)) as (dies,):
            await dies.caller.ok(RequestCode.HEART_BEAT, {}, IN_BOTH)
            monkeypatch.setattr(queue, "put_command", refuse)
        await until("both are refused", lambda: sorted(refused) == ["others", "readers"])
        monkeypatch.undo()
        await trio.sleep(SCAN_SECONDS + 1)

        assert await one.others() == ["c1"]
        assert members(brokers, node, "others") == ["c1"]
