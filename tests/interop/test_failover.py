"""The leader is killed while a stock client sends: what its user notices."""

import itertools
import os

import pytest
import trio

from broker.config import RouteMode
from tests.interop.helpers import servers, topic

INTERVAL = 0.01  # seconds between sends
ROUTE_SECONDS = 30.0  # after so long RocketMQ's clients ask for a new route


async def sends_across_a_kill(run, group, *, count):
    """Kill the leader at the 100th of *count* sends; return the client, and when that was."""
    await topic(group, "T", queues=4)
    leader = await group.leader()
    told = {
        "servers": servers(group),
        "group": "senders",
        "topic": "T",
        "bodies": [f"m{number}" for number in range(count)],
        "interval": INTERVAL,
    }
    async with run("producer", **told) as producer:
        await producer.until("100 sends", lambda client: len(client.sent) >= 100)
        leader.kill()
        killed = trio.current_time()
        await producer.until(
            "an ack after the kill, and the 200th",
            lambda client: len(client.sent) >= 200 and client.of("sent")[-1]["seen"] > killed,
            seconds=2 * ROUTE_SECONDS,
        )
    return producer, killed


def tell(kind, route, producer, killed):
    acks = [event["seen"] for event in producer.of("sent") if event["seen"] > killed - 1]
    gap = max(later - earlier for earlier, later in itertools.pairwise(acks))
    slowest = max(event["seconds"] for event in producer.of("sent"))
    print(
        f"\n{kind}, route {route.value}: {len(producer.of('failed'))} failed sends, slowest "
        f"{slowest * 1000:.0f} ms, {gap:.2f} s without an ack"
    )


async def test_a_killed_leader_costs_no_failed_send(kind, run, make_group, capsys):
    """The client tries another broker name when one does not answer: all lead to the leader."""
    async with make_group() as group:
        producer, killed = await sends_across_a_kill(run, group, count=300)

    with capsys.disabled():
        tell(kind, RouteMode.PER_NODE, producer, killed)
    assert not producer.of("failed")


@pytest.mark.skipif(os.environ.get("INTEROP") != "all", reason="a minute; INTEROP=all runs it")
async def test_a_single_broker_name_costs_the_time_to_the_next_route(kind, run, make_group, capsys):
    """As RocketMQ has it: nothing is sent until the client asks for a new route."""
    async with make_group(RouteMode.SINGLE) as group:
        count = int(2 * ROUTE_SECONDS / INTERVAL)
        producer, killed = await sends_across_a_kill(run, group, count=count)

    with capsys.disabled():
        tell(kind, RouteMode.SINGLE, producer, killed)
    assert producer.of("failed")
