"""Stock clients and a name server of its own: two groups share a topic; one of them fails over."""

import contextlib
import json
import os

import pytest
import trio

import broker
from broker.config import NameserverConfig, RouteMode
from tests.interop import clients, mqadmin, table
from tests.interop.case import INTERVAL
from tests.interop.running import possible, side_by_side
from tests.process.kit import NameServerProcess, ProcessGroup, eventually

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
        calls = [event["event"] for event in producer.of("sent", "failed")]
        failed = calls[calls.index("sent") :].count("failed")
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
    failed = [case.facts for case in cases if case.facts["failed"] != "0"]
    assert bool(failed) == (route is RouteMode.SINGLE), failed


async def test_mqadmin_on_a_name_server_of_two_groups(name_server, tmp_path):
    """What it does to a cluster it does to both; what it has kept is kept."""
    if why := mqadmin.why_not():
        pytest.skip(f"no mqadmin: {why}")
    async with (
        group_of(tmp_path, name_server, "one") as one,
        group_of(tmp_path, name_server, "other") as other,
    ):
        await name_server.until_registered(6)
        tool = mqadmin.MqAdmin(name_server.address, tmp_path / "home")

        async def ok(*words):
            return await trio.to_thread.run_sync(tool.ok, *words)

        try:
            listed = await ok("clusterList")
            made = await ok("updateTopic", "-c", "shop", "-t", "Both", "-r", "2", "-w", "2")
            await eventually("the route has both groups", lambda: has_both(ok))
            wiped = await ok("wipeWritePerm", "-b", "one")
            route = await ok("topicRoute", "-t", "Both")
            restored = await ok("addWritePerm", "-b", "one")
            await ok("updateKvConfig", "-s", "ns", "-k", "k", "-v", "v")
            await ok("updateTopic", "-c", "shop", "-t", "Ord", "-r", "2", "-w", "2", "-o", "true")
            order = await ok("updateOrderConf", "-m", "get", "-t", "Ord")
            settings = await ok("getNamesrvConfig")
            await ok("updateNamesrvConfig", "-k", "logLevel", "-v", "debug")
            sent = await ok("sendMessage", "-t", "Both", "-p", "hello")
            deleted = await ok("deleteTopic", "-c", "shop", "-t", "Both")
        finally:
            await trio.to_thread.run_sync(tool.close)
        kept = json.loads((name_server.folder / "data" / "kvConfig.json").read_text())
        topics = []
        for group in (one, other):
            async with broker.connect(group.addresses) as mq:
                topics.append({item.topic for item in await mq.admin.list_topics()})

    assert {line.split()[1] for line in listed.splitlines()[1:] if line.strip()} == {"one", "other"}
    assert made.count("create topic to") == 2
    assert "OK, 1" in wiped
    assert "OK, 1" in restored
    assert '"brokerName":"one-n1"' not in route.partition("queueDatas")[2]
    assert '"brokerName":"other-n1"' in route.partition("queueDatas")[2]
    assert "one:2" in order
    assert "other:2" in order
    assert f"listenPort                                        =  {name_server.port}" in settings
    assert "SEND_OK" in sent
    assert deleted.count("success") == 2
    assert kept["configTable"]["ns"] == {"k": "v"}
    assert kept["configTable"]["ORDER_TOPIC_CONFIG"]["Ord"] in order
    assert topics == [{"Ord"}, {"Ord"}]


async def has_both(ok):
    """Whether mqadmin finds queues of both groups to write to."""
    route = (await ok("topicRoute", "-t", "Both")).partition("queueDatas")[2]
    return all(f'"brokerName":"{name}-n1"' in route for name in ("one", "other"))
