"""Topics made, altered and deleted, and a group put elsewhere, while leaders are killed."""

import pytest
import trio

import broker
from broker.errors import TopicNotFoundError
from broker.protocol.request_code import RequestCode
from dledger.config import parse_address
from dledger.remoting.client import open_remoting_client
from dledger.remoting.command import Command
from dledger.remoting.tcp import TcpNetwork
from tests.process.derived import derived_units, rebuild_derived
from tests.process.kit import SECONDS, ProcessGroup

pytestmark = [pytest.mark.process, pytest.mark.slow]

LISTS = (RequestCode.GET_ALL_TOPIC_CONFIG, RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG)


async def lists_of(node):
    """What one node itself says there is."""
    host, port = parse_address(node.address)
    async with open_remoting_client(TcpNetwork(), host, port) as client:
        answers = [await client.request(Command(code), timeout_seconds=SECONDS) for code in LISTS]
    return [bytes(answer.body) for answer in answers]


async def send(client, topic, count, *, queue=0):
    async with client.producer(send_timeout=SECONDS) as producer:
        return [
            (await producer.send(topic, b"%d" % number, queue=queue)).queue_offset
            for number in range(count)
        ]


async def read(client, group, topic, count):
    async with client.consumer(group, topic) as consumer:
        return [(await anext(consumer)).queue_offset for _ in range(count)]


def units_that_count(node):
    """All units but those of a topic that was deleted for good.

    Its files go with the second state that knows of it (`ConsumeQueues.begin_unlink`): a node that
    took both deletions in together, as after its start, has written one when it stops.
    """
    return {key: unit for key, unit in derived_units(node).items() if key[0] != "gone"}


async def test_all_nodes_agree_whatever_happens_to_the_leaders(tmp_path):
    async with (
        ProcessGroup(tmp_path) as group,
        broker.connect(group.addresses, group_timeout=SECONDS) as client,
    ):
        admin = client.admin
        for topic in ("kept", "gone", "again"):
            await admin.create_topic(topic, queue_count=1)
            assert await send(client, topic, 40) == list(range(40))
        assert await read(client, "readers", "kept", 40) == list(range(40))
        assert await read(client, "readers", "again", 40) == list(range(40))

        # All of it at once with the end of the leader: each is done, and once.
        leader = await group.leader()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(admin.delete_topic, "gone")
            nursery.start_soon(admin.delete_topic, "again")
            nursery.start_soon(admin.reset_offsets, "readers", "kept", 10)
            nursery.start_soon(
                lambda: admin.alter_topic("kept", queue_count=3, retention_ms=86_400_000)
            )
            nursery.start_soon(lambda: admin.create_group("billing", retry_times_max=3))
            nursery.start_soon(trio.to_thread.run_sync, leader.kill)
        await group.leader()

        assert await admin.committed_offset("readers", "kept", 0) == 10
        assert await read(client, "readers", "kept", 30) == list(range(10, 40))
        with pytest.raises(TopicNotFoundError):
            await admin.describe_topic("gone")
        await admin.create_topic("again", queue_count=1)
        assert await send(client, "again", 5) == list(range(40, 45))
        assert await read(client, "readers", "again", 5) == list(range(40, 45))

        leader.start()
        await (await group.leader()).terminate()
        await group.leader()
        await admin.create_topic("last")
        group.start_missing()
        await group.leader()
        await group.settled()
        lists = [await lists_of(node) for node in group]
        assert lists[0] == lists[1] == lists[2]
        names = [entry.topic for entry in await admin.list_topics()]
        assert names == ["%RETRY%readers", "again", "kept", "last"]
        found = await admin.describe_topic("kept")
        assert (found.read_queue_count, found.attributes) == (3, {"retention.ms": "86400000"})
        assert [config.group for config in await admin.list_groups()] == ["billing", "readers"]

        await group.terminate()
        for node in group:
            before = units_that_count(node)
            assert {topic for topic, *_ in before} == {"kept", "again"}
            assert min(offset for topic, _, offset in before if topic == "again") == 40
            rebuild_derived(node)
            assert units_that_count(node) == before
