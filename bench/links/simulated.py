"""The same group in simulated time: whole nodes and our client, links and disks that take time.

What computes takes none, so that the figures are those of the rules alone: how often something has
to go to and fro.  They are the same in every run, whatever else the machine does.
"""

from __future__ import annotations

import logging
import random
from statistics import median
from typing import TYPE_CHECKING

import trio

from broker.errors import BrokerError
from dledger.config import KIB, MIB, FlushDiskType, RaftConfig, StoreConfig
from jepsen_like.history import History
from jepsen_like.keeping import by_size_only
from jepsen_like.sim.cluster import SimCluster
from jepsen_like.sim.member import address_of
from jepsen_like.sim.mix import Mix
from jepsen_like.sim.scheduling import deterministic
from jepsen_like.sim.sim_network import SimNetwork
from jepsen_like.sim.sim_time import SimTime
from jepsen_like.sim.trace import Trace
from jepsen_like.workloads.load import Load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.client.connect import Client
    from jepsen_like.sim.member import SimMember

TOPIC = "links"
QUEUES = 8
BODY = b"x" * 100
_WINDOW = 4 * MIB  # bytes on their way on one connection: what Linux allows by default
_START_SECONDS = 30.0
_JITTER = 0.02  # of a link's delay, on average


class Links:
    """A group of three whose members are *link* seconds apart, its client *home* seconds away."""

    def __init__(
        self, *, link: float, home: float, sync: float, raft: RaftConfig, seed: int = 1
    ) -> None:
        self.link = link
        self.home = home
        self._mix = Mix(
            seed=seed,
            node_count=3,
            store=by_size_only(
                StoreConfig(segment_size=16 * MIB, flush_disk_type=FlushDiskType.SYNC_FLUSH)
            ),
            raft=raft,
            clock_rates=(1.0, 1.0, 1.0),
            delay_mean=link * _JITTER,
            reset_seconds=30.0,
            sync_mean=sync,
            load=Load(
                seed=seed,
                queue_count=QUEUES,
                producer_count=1,
                lane_count=1,
                send_rate=1.0,
                body_size_max=100,
                batch_count_max=1000,
                send_timeout=_START_SECONDS,
                prefetch_bytes=64 * KIB,
                group_count=1,
                client_crash_mean=1e9,
            ),
            faults=(),
            gap_mean=1e9,
            hold_max=1.0,
        )

    def one_in_flight(self, count: int) -> list[float]:
        """Return the seconds from send to ack of *count* messages, one after another."""
        took: list[float] = []

        async def load(cluster: SimCluster, client: Client) -> None:
            del cluster
            async with client.producer("links", send_timeout=_START_SECONDS) as producer:
                await producer.send(TOPIC, BODY)
                for _ in range(count):
                    began = trio.current_time()
                    await producer.send(TOPIC, BODY)
                    took.append(trio.current_time() - began)

        self._run(load)
        return took

    def many_in_flight(self, task_count: int, seconds: float) -> float:
        """Return the messages a second of tasks that each wait for their ack."""
        count = 0

        async def load(cluster: SimCluster, client: Client) -> None:
            del cluster
            async with client.producer("links", send_timeout=_START_SECONDS) as producer:
                await producer.send(TOPIC, BODY)
                counting_from = trio.current_time() + seconds / 4
                until = counting_from + seconds

                async def send() -> None:
                    nonlocal count
                    while (now := trio.current_time()) < until:
                        await producer.send(TOPIC, BODY)
                        count += now >= counting_from and trio.current_time() < until

                async with trio.open_nursery() as nursery:
                    for _ in range(task_count):
                        nursery.start_soon(send)

        self._run(load)
        return count / seconds

    def elections_in(self, seconds: float) -> int:
        """Return how many leaders there are in so many seconds of a light load, but for the first.

        Each one too many is an election that nothing but the links has caused.
        """
        leaders = 0

        async def load(cluster: SimCluster, client: Client) -> None:
            nonlocal leaders
            before = _leaders(cluster)
            async with client.producer("links", send_timeout=_START_SECONDS) as producer:
                until = trio.current_time() + seconds
                while trio.current_time() < until:
                    await producer.send(TOPIC, BODY)
                    await trio.sleep(0.2)
            leaders = _leaders(cluster) - before

        self._run(load)
        return leaders

    def after_the_leader_dies(self, *, is_frozen: bool) -> tuple[float, int]:
        """Kill the leader, or freeze it; return seconds to the next ack, and terms it took."""
        found = 0.0
        terms = 0

        async def load(cluster: SimCluster, client: Client) -> None:
            nonlocal found, terms
            async with client.producer("links", send_timeout=_START_SECONDS) as producer:
                await producer.send(TOPIC, BODY)
                await trio.sleep(1 + random.Random(self._mix.seed).random())
                leader = cluster.leader
                assert leader is not None
                term = _term(leader)
                began = trio.current_time()
                await (leader.pause() if is_frozen else _kill_for_good(leader))
                acknowledged = trio.Event()

                async def send() -> None:
                    while True:
                        sent = trio.current_time()
                        try:
                            await producer.send(TOPIC, BODY)
                        except BrokerError:
                            continue
                        if sent > began:
                            acknowledged.set()

                async with trio.open_nursery() as nursery:
                    for _ in range(4):
                        await trio.sleep(0.001)
                        nursery.start_soon(send)
                    await acknowledged.wait()
                    found = trio.current_time() - began
                    nursery.cancel_scope.cancel()
                now = cluster.leader
                if is_frozen:
                    await leader.resume()
                terms = _term(now) - term if now is not None and now is not leader else 0

        self._run(load)
        return found, terms

    def _run(self, load: Callable[[SimCluster, Client], Awaitable[None]]) -> None:
        loggers = [logging.getLogger(name) for name in ("dledger", "broker")]
        for logger in loggers:
            logger.propagate = False
        try:
            with deterministic(self._mix.seed):
                trio.run(self._live, load, clock=SimTime())
        finally:
            for logger in loggers:
                logger.propagate = True

    async def _live(self, load: Callable[[SimCluster, Client], Awaitable[None]]) -> None:
        trace = Trace(keep_lines=False)
        network = SimNetwork(
            random.Random(self._mix.seed),
            trace,
            delay_min=0.0,
            delay_mean=self.link * _JITTER,
            capacity=_WINDOW,
        )
        history = History(lambda: trio.current_time())
        cluster = SimCluster(self._mix, network=network, history=history, trace=trace)
        members = [address_of(number) for number in range(3)]
        for one in members:
            for other in members:
                if one != other:
                    network.extra_delay[one, other] = self.link
            for number in range(1, 10):
                client = f"10.0.1.{number}"
                network.extra_delay[one, client] = network.extra_delay[client, one] = self.home
        async with trio.open_nursery() as nursery:
            for member in cluster.members:
                nursery.start_soon(member.run)
            with trio.fail_after(_START_SECONDS):
                await cluster.await_recovery(_START_SECONDS)
            async with cluster.client("links", random.Random(3)) as client:
                await client.admin.create_topic(TOPIC, QUEUES)
                await load(cluster, client)
            nursery.cancel_scope.cancel()


async def _kill_for_good(leader: SimMember) -> None:
    leader.hold_down()
    await leader.kill()


def _leaders(cluster: SimCluster) -> int:
    return sum(event.f == "leader" for event in cluster.history.events)


def _term(member: SimMember) -> int:
    assert member.node is not None
    return member.node.ledger.term


def middle(values: list[float]) -> float:
    """Return the median of what was simulated."""
    return median(values)
