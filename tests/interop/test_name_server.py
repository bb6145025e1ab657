"""Stock clients and a name server of its own: two groups share a topic; one of them fails over."""

import contextlib
import os

import pytest
import trio

import broker
from broker.config import NameserverConfig, RouteMode
from tests.interop import clients, table
from tests.interop.case import INTERVAL
from tests.interop.running import possible, side_by_side
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


async def stored_in(group, topic, *, count):
    """Return the bodies of *count* messages."""
    bodies = set()
    with trio.fail_after(clients.SECONDS):
        async with (
            broker.connect(group.addresses) as mq,
            mq.consumer(f"checkers-{topic}", topic) as consumer,
        ):
            async for message in consumer:
                bodies.add(message.body.decode())
                if len(bodies) == count:
                    break
    return bodies


async def test_two_groups_share_a_topic_and_one_loses_its_leader(kinds, name_server, tmp_path):
    """Sent to both, consumed from both; a killed leader fails no send and loses nothing."""

    def run(kind, role, **told):
        order = {"servers": name_server.address, "topic": f"T-{kind}", "group": f"{role}s-{kind}"}
        home = tmp_path / f"home-{kind}"
        home.mkdir(exist_ok=True)
        return clients.running(kind, role, {**order, **told}, home=home)

    async with (
        group_of(tmp_path, name_server, "one") as one,
        group_of(tmp_path, name_server, "other") as other,
        contextlib.AsyncExitStack() as stack,
    ):
        for group in (one, other):
            async with broker.connect(group.addresses) as mq:
                for kind in kinds:
                    await mq.admin.create_topic(f"T-{kind}", 2)
            await group.settled()
        await name_server.until_registered(6)
        leader = await one.leader()
        consumers = {kind: await stack.enter_async_context(run(kind, "consumer")) for kind in kinds}
        bodies = [f"m{number}" for number in range(COUNT)]
        producers = {
            kind: await stack.enter_async_context(
                run(kind, "producer", bodies=bodies, interval=INTERVAL)
            )
            for kind in kinds
        }
        for producer in producers.values():
            await producer.until("half of the sends", lambda client: len(client.sent) >= COUNT // 2)
        leader.kill()
        for kind, producer in producers.items():
            await producer.until(
                "all sends",
                lambda client: len(client.sent) + len(client.of("failed")) >= COUNT,
            )
            acked = set(producer.sent)
            await consumers[kind].until(
                "all", lambda client, acked=acked: set(client.bodies) >= acked
            )
        for kind in kinds:
            stored = [
                await stored_in(group, f"T-{kind}", count=COUNT // 4) for group in (one, other)
            ]
            assert not stored[0] & stored[1], kind
    for kind, producer in producers.items():
        failed = len(producer.of("failed"))
        facts = {"calls": str(COUNT), "failed": str(failed)}
        table.put("two groups, a leader killed", "sync", kind.package, facts)
        assert not failed, producer.of("failed")


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
async def test_a_killed_leader_behind_a_name_server(kinds, name_server, tmp_path, route):
    """The form of route decides what a failover costs, not where the route comes from."""
    async with group_of(tmp_path, name_server, "one", route) as group:
        await name_server.until_registered(3)
        cases = await side_by_side(
            possible(kinds, ["sync"]),
            group,
            tmp_path,
            kill_leader=True,
            servers=name_server.address,
            circumstance=f'{table.KILLED} behind a name server, route = "{route.value}"',
        )
    for case in cases:
        assert (case.facts["failed"] != "0") == (route is RouteMode.SINGLE), case.facts
