"""Real brokers find messages by key, and derive the index again to the same bytes."""

import shutil

import pytest

import broker
from broker.client.lookup import decode_found
from broker.protocol.request_code import RequestCode
from dledger.config import KIB, parse_address
from dledger.remoting.client import open_remoting_client
from dledger.remoting.command import Command
from dledger.remoting.tcp import TcpNetwork
from tests.process.kit import ProcessGroup

pytestmark = [pytest.mark.process, pytest.mark.slow]

COUNT = 1200  # over 240 KiB of log: at least four segments, each with index files of its own


def index_files(node):
    return {path.name: path.read_bytes() for path in (node.data / "derived/keyindex").iterdir()}


async def asked(node, key, **fields):
    """Return bodies and positions of the messages that this one node finds."""
    ever = {"beginTimestamp": 0, "endTimestamp": (1 << 63) - 1}
    request = Command(
        RequestCode.QUERY_MESSAGE.value,
        ext_fields={"topic": "orders", "key": key, "maxNum": 64, **ever, **fields},
    )
    host, port = parse_address(node.address)
    async with open_remoting_client(TcpNetwork(), host, port) as client:
        answer = await client.request(request, timeout_seconds=10)
    assert answer.code == 0, answer.remark
    return [(message.body, message.position) for message in decode_found(bytes(answer.body))]


async def test_every_node_finds_every_key_and_comes_back_with_the_same_index(tmp_path):
    async with ProcessGroup(tmp_path, segment_size=64 * KIB) as group:
        await group.leader()
        async with (
            broker.connect(group.addresses) as client,
            client.producer() as producer,
        ):
            await client.admin.create_topic("orders", queue_count=2)
            sent = await producer.send_many(
                "orders",
                [broker.OutMessage(b"%d" % n, key=f"k{n}") for n in range(COUNT)],
            )
        await group.settled()
        for node in group:
            for number in range(0, COUNT, 71):
                by_key = await asked(node, f"k{number}")
                by_id = await asked(node, sent[number].unique_id, _UNIQUE_KEY_QUERY=True)
                assert by_key == by_id == [(b"%d" % number, sent[number].position)]

        victim = (await group.followers())[0]
        for node in group:
            await node.terminate()
        files = {node.node_id: index_files(node) for node in group}
        assert len({tuple(sorted(each.items())) for each in files.values()}) == 1
        assert len(files[victim.node_id]) >= 4
        shutil.rmtree(victim.data / "derived/keyindex")
        for node in group:
            node.start()
        await group.settled()
        async with broker.connect(group.addresses) as client:
            (found,) = await client.messages.by_key("orders", "k5")
            assert found.body == b"5"
        for node in group:
            await node.terminate()
        again = index_files(victim)
        assert {name: again[name] for name in files[victim.node_id]} == files[victim.node_id]
