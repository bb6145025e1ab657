"""Stock clients and a name server of its own: two groups share a topic; one of them fails over."""

import json
import os

import pytest
import trio

from broker.config import NameserverConfig, RouteMode
from broker.protocol.request_code import RequestCode
from dledger.remoting.client import open_remoting_client
from dledger.remoting.command import Command, SerializeType
from dledger.remoting.network import TcpNetwork
from tests.interop.helpers import QUEUES, consumed, produced, topic
from tests.interop.test_failover import INTERVAL, ROUTE_SECONDS, tell
from tests.process.kit import NameServerProcess, ProcessGroup

COUNT = 200


@pytest.fixture
async def name_server(tmp_path):
    """One that nobody has registered with yet."""
    async with NameServerProcess(tmp_path / "ns") as server:
        yield server


def group_of(tmp_path, server, name, route=RouteMode.PER_NODE):
    settings = NameserverConfig(addresses=server.address, route=route)
    return ProcessGroup(tmp_path / name, group=name, cluster="shop", nameserver=settings)


def told(server, **fields):
    return {"servers": server.address, "topic": "T", **fields}


async def test_two_groups_share_a_topic_and_one_loses_its_leader(
    kind, run, name_server, tmp_path, capsys
):
    """Sent to both, consumed from both; a killed leader fails no send and loses nothing."""
    async with (
        group_of(tmp_path, name_server, "one") as one,
        group_of(tmp_path, name_server, "other") as other,
    ):
        for group in (one, other):
            await topic(group, "T", queues=2)
        await name_server.until_registered(6)
        leader = await one.leader()
        bodies = [f"m{number}" for number in range(COUNT)]
        async with (
            run("consumer", **told(name_server, group="readers")) as consumer,
            run(
                "producer",
                **told(name_server, group="senders", bodies=bodies, interval=INTERVAL),
            ) as producer,
        ):
            await producer.until("half of the sends", lambda client: len(client.sent) >= COUNT // 2)
            leader.kill()
            # Not until its end: ali-ons cannot close while a broker that it knows is gone.
            await producer.until(
                "all sends",
                lambda client: len(client.sent) + len(client.of("failed")) >= COUNT,
            )
            acked = set(producer.sent)
            await consumer.until("all", lambda client: set(client.bodies) >= acked)
        stored = [
            {message.body.decode() for message in await consumed(group, "T", count=COUNT // 4)}
            for group in (one, other)
        ]
    with capsys.disabled():
        print(
            f"\n{kind}, two groups: {len(producer.of('failed'))} failed sends of {COUNT}, "
            f"{len(consumer.bodies)} consumed"
        )
    assert not producer.of("failed")
    assert all(stored)
    assert not stored[0] & stored[1]


MODES = [
    RouteMode.PER_NODE,
    pytest.param(
        RouteMode.SINGLE,
        marks=pytest.mark.skipif(
            os.environ.get("INTEROP") != "all", reason="a minute; INTEROP=all runs it"
        ),
    ),
]


@pytest.mark.parametrize("route", MODES)
async def test_a_killed_leader_behind_a_name_server(
    kind, run, name_server, tmp_path, capsys, route
):
    """The form of route decides what a failover costs, not where the route comes from."""
    count = 300 if route is RouteMode.PER_NODE else int(2 * ROUTE_SECONDS / INTERVAL)
    async with group_of(tmp_path, name_server, "one", route) as group:
        await topic(group, "T", queues=4)
        await name_server.until_registered(3)
        leader = await group.leader()
        bodies = [f"m{number}" for number in range(count)]
        sending = told(name_server, group="senders", bodies=bodies, interval=INTERVAL)
        async with run("producer", **sending) as producer:
            await producer.until("100 sends", lambda client: len(client.sent) >= 100)
            leader.kill()
            killed = trio.current_time()
            await producer.until(
                "an ack after the kill, and the 200th",
                lambda client: len(client.sent) >= 200 and client.of("sent")[-1]["seen"] > killed,
                seconds=2 * ROUTE_SECONDS,
            )
    with capsys.disabled():
        tell(f"{kind} behind a name server", route, producer, killed)
    assert route is RouteMode.SINGLE or not producer.of("failed")


@pytest.mark.parametrize("route", MODES)
@pytest.mark.parametrize("victim", ["leader", "the node read from"])
async def test_what_a_consumer_notices_of_a_death(
    kind, run, name_server, tmp_path, names_of, capsys, route, victim
):
    """Nothing is lost; whoever reads from the node that died waits for its next route."""
    before, after = ([f"{when}{number}" for number in range(50)] for when in ("a", "b"))
    async with group_of(tmp_path, name_server, "one", route) as group:
        await topic(group, "T", queues=QUEUES)
        await name_server.until_registered(3)
        consuming = told(name_server, group=names_of("readers"))
        async with run("consumer", **consuming) as consumer:
            await produced(group, "T", before)
            await consumer.until("the first", lambda client: set(client.bodies) >= set(before))
            dying = await group.leader()
            if victim != "leader":
                address = await read_from(name_server)
                dying = next(node for node in group if node.address == address)
            dying.kill()
            await produced(group, "T", after)
            begun = trio.current_time()
            await consumer.until(
                "the others",
                lambda client: set(client.bodies) >= set(after),
                seconds=2 * ROUTE_SECONDS,
            )
            waited = trio.current_time() - begun
    twice = len(consumer.bodies) - len(set(consumer.bodies))
    with capsys.disabled():
        print(
            f"\n{kind}, route {route.value}, {victim} killed: all consumed {waited:.2f} s later, "
            f"{twice} twice"
        )


async def read_from(server):
    """Return the address that a client of this machine reads at."""
    host, _, port = server.address.rpartition(":")
    request = Command(
        RequestCode.GET_ROUTEINFO_BY_TOPIC,
        version=409,
        ext_fields={"topic": "T"},
        serialization=SerializeType.JSON,
    )
    async with open_remoting_client(TcpNetwork(), host, int(port)) as client:
        answer = await client.request(request, timeout_seconds=10.0)
    (broker,) = [
        broker
        for broker in json.loads(bytes(answer.body))["brokerDatas"]
        if broker["brokerName"] == "one"
    ]
    return broker["brokerAddrs"]["0"]
