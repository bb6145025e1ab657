"""Stock clients and a name server of its own: two groups share a topic; one of them fails over."""

import os

import pytest
import trio

from broker.config import NameserverConfig, RouteMode
from tests.interop.helpers import consumed, topic
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
    assert bool(producer.of("failed")) == (route is RouteMode.SINGLE)
