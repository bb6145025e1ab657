"""The simulated group as faults and workloads see it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

import broker.client
from dledger.errors import LedgerError
from jepsen_like.sim.drops import Drops
from jepsen_like.sim.member import BROKER_PORT, SimMember, address_of
from jepsen_like.sim.promises import Promises
from jepsen_like.sim.sim_clock import SimClock
from jepsen_like.sim.sim_links import SimLinks
from jepsen_like.workloads.own_clients import OwnClients
from jepsen_like.workloads.stock import Node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.client.connect import Client
    from broker.client.consumer_options import MemberTimes
    from dledger.remoting.network import Network
    from jepsen_like.faults.group import Member
    from jepsen_like.history import History
    from jepsen_like.sim.mix import Mix
    from jepsen_like.sim.sim_network import SimNetwork
    from jepsen_like.sim.trace import Trace
    from jepsen_like.workloads.load import Load


class SimCluster(OwnClients):
    """Members, network, and what is known of how whole they are."""

    def __init__(self, mix: Mix, *, network: SimNetwork, history: History, trace: Trace) -> None:
        self.mix = mix
        self.network = network
        self.links = SimLinks(network)
        self.history = history
        self.trace = trace
        promises = Promises(history)
        drops = Drops(history, mix)
        self.members = [
            SimMember(
                mix,
                number,
                network=network,
                history=history,
                trace=trace,
                promises=promises,
                drops=drops,
            )
            for number in range(mix.node_count)
        ]
        for member in self.members:
            member.on_last_word = self._hear_last_word
        self.nursery: trio.Nursery | None = None  # for what faults do over time
        # Members that may lack what they once promised: a lost or a damaged disk.
        self.unsound: set[str] = set()
        self._has_wiped = False  # at the end of the faults, so that a copy has just begun
        self._client_addresses: list[str] = []
        self._machines = 0  # of clients that no fault cuts off

    @property
    def leader(self) -> SimMember | None:
        """The running member that leads in the highest term, if any."""
        leading = [
            member
            for member in self.members
            if member.is_up and member.node is not None and member.node.ledger.is_leader
        ]
        return max(leading, key=lambda member: member.node.ledger.term, default=None)  # type: ignore[union-attr]

    @property
    def load(self) -> Load:
        """See `Clients`."""
        return self.mix.load

    @property
    def addresses(self) -> list[str]:
        """Where clients find the members."""
        return [f"{member.address}:{BROKER_PORT}" for member in self.members]

    async def lose_power(self, members: Sequence[Member]) -> None:
        """See `Group`."""
        for member in members:
            assert isinstance(member, SimMember)
            member.lose_power()

    async def may_harm(self, member: Member) -> bool:
        """See `Group`."""
        self._forget_sound()
        if self.unsound - {member.name} or len(self.members) < 3:
            return False
        leader = self.leader
        if leader is None or leader.node is None:
            return False
        committed = leader.node.ledger.committed_index
        return all(
            other.is_up
            and other.files is not None
            and not other.is_joining
            and other.files.store.synced_index >= committed
            for other in self.members
            if other is not member
        )

    async def may_lose_disk(self, member: Member) -> bool:
        """See `Group`."""
        self._forget_sound()
        others = [other for other in self.members if other is not member]
        return (
            len(others) >= 2
            and not self.unsound - {member.name}
            and not any(other.is_joining for other in others)
        )

    def _forget_sound(self) -> None:
        """Take from `unsound` who has caught up and may vote again."""
        leader = self.leader
        if leader is None or leader.node is None:
            return
        committed = leader.node.ledger.committed_index
        for member in self.members:
            if (
                member.name in self.unsound
                and member.is_up
                and member.files is not None
                and not member.is_joining
                and not any(file.rotten for file in member.disk.files.values())
                and member.files.store.synced_index >= committed
            ):
                self.unsound.discard(member.name)

    def _hear_last_word(self, member: SimMember, error: BaseException) -> None:
        """Do what an operator does: a node that says its disk is damaged gets an empty one."""
        if member.name in self.unsound and isinstance(error, LedgerError):
            self.history.note("wipe", node=member.name)
            member.disk.wipe()

    def agree_on_the_time(self) -> None:
        """Set all wall clocks to the latest time that one of them would show by now.

        A message waits by the clock of its leader: what was stored while one was minutes ahead is
        due minutes late once that is set back, and nobody waits for it here.
        """
        latest = max(member.clock.wall_offset_max_ms for member in self.members)
        for member in self.members:
            member.clock.shift_wall(latest - member.clock.wall_offset_ms)

    async def heal(self) -> None:
        """End whatever faults have left behind, as the operators would.

        With retention no message grows older from now on: none goes while the queues are read.
        """
        network = self.network
        for link in list(network.cuts):
            while link in network.cuts:
                network.heal(*link)
        network.extra_delay.clear()
        network.loss.clear()
        for member in self.members:
            disk = member.disk
            disk.capacity = 1 << 40
            disk.size = 0
            if self.mix.has_retention:
                member.clock.freeze_wall()
            disk.sync_errors = 0
            disk.die_in_steps = None
            member.speed.slowdown = 1.0
            member.speed.go_on()
            if member.process is not None:
                member.process.resume()
            if self._is_damaged(member):
                self.history.note("wipe", node=member.name)
                self._has_wiped = True
                await member.wipe()
            member.start()

    def _is_damaged(self, member: SimMember) -> bool:
        """Whether bits of its files have turned and, in the log, `dledger log verify` tells so."""
        rotten = [path for path, file in member.disk.files.items() if file.rotten]
        if not rotten:
            return False
        if any("/commitlog/" not in path for path in rotten) or not member.is_up:
            return True
        assert member.files is not None
        store = member.files.store
        try:
            store.verify(store.base.index + 1, store.end_index)
        except LedgerError:
            return True
        return False

    # -- what workloads use ---------------------------------------------------------------------

    def client_addresses(self) -> list[str]:
        """Return where the last few clients are."""
        return self._client_addresses[-12:]

    def _client(
        self,
        name: str,
        chance: random.Random,
        client_id: str | None,
        member_times: MemberTimes | None,
    ) -> Client:
        number = len(self._client_addresses)
        address = f"10.0.{1 + number // 250}.{1 + number % 250}"
        self._client_addresses.append(address)
        addresses = chance.sample(self.addresses, len(self.addresses))
        return broker.client.connect(
            addresses[: max(1, len(addresses) - 1)],
            network=self.network.host(address),
            clock=SimClock(),
            chance=random.Random(f"{self.mix.seed} {name} {number}"),
            group_timeout=6.0,
            request_timeout=chance.choice((0.3, 1.0, 1.0, 2.0)),
            auto_create_topic=False,
            client_id=client_id,
            member_times=member_times,
        )

    @property
    def nodes(self) -> list[Node]:
        """See `Clients`."""
        return [Node(member.name, member.address, BROKER_PORT) for member in self.members]

    def network_of(self, name: str) -> Network:
        """See `Clients`."""
        self._machines += 1
        self.trace.add(f"machine {self._machines} is {name}")
        return self.network.host(f"10.7.{self._machines // 250}.{1 + self._machines % 250}")

    def wall_ms(self) -> int:
        """See `Clients`."""
        return SimClock().wall_ms()

    def copying_seconds(self) -> float:
        """Return how long a member with an empty disk may need to copy the log, as this mix goes.

        A window of small messages for each round trip: with the smallest ones and a slow network
        that is longer than any election.
        """
        if not self._has_wiped and not any(member.is_joining for member in self.members):
            return 0.0
        mix = self.mix
        entries = max(
            member.files.store.end_index - member.files.store.base.index
            for member in self.members
            if member.files is not None
        )
        round_trip = 2 * (self.network.delay_min + mix.delay_mean) + mix.sync_mean
        return entries / mix.raft.append_window * round_trip

    async def await_recovery(self, seconds: float, *, under_load: bool = False) -> str:
        """Wait until one member leads and all have what it has; return what is missing, or "".

        Without load all logs must be equal to the last entry and everything taken in.  *Under load*
        there may be no such moment: everybody must have taken in what was committed when the wait
        began to have a leader.
        """
        missing = "nothing was looked at"
        wanted: int | None = None
        with trio.move_on_after(seconds):
            while True:
                missing = self._without_service()
                if not missing:
                    leader = self.leader
                    assert leader is not None
                    assert leader.node is not None
                    if wanted is None:
                        wanted = leader.node.ledger.committed_index
                    missing = self._behind(wanted) if under_load else self._differing()
                if not missing:
                    return ""
                await trio.sleep(0.05)
        return missing

    def _without_service(self) -> str:
        """Return who is not up, or does not follow the one leader there has to be; or ""."""
        down = [member.name for member in self.members if not member.is_up]
        if down:
            return f"{', '.join(down)} not up"
        leader = self.leader
        if leader is None:
            return "no leader"
        for member in self.members:
            assert member.node is not None
            if member.node.ledger.leader_id != leader.name:
                return f"{member.name} does not follow {leader.name}"
            if member.is_joining:
                return f"{member.name} may not vote yet"
        return ""

    def _behind(self, wanted: int) -> str:
        for member in self.members:
            assert member.files is not None
            taken_in = member.files.derived.dispatched_index
            if taken_in < wanted:
                return f"{member.name} has taken in entry {taken_in} of {wanted}"
        return ""

    def _differing(self) -> str:
        points = {}
        for member in self.members:
            assert member.node is not None
            assert member.files is not None
            store = member.files.store
            if member.files.derived.dispatched_index < store.end_index:
                return f"{member.name} has not dispatched everything"
            points[member.name] = (
                member.node.ledger.committed_index, store.end_index, store.last_chain_crc,
            )  # fmt: skip
        ends = set(points.values())
        if len(ends) > 1:
            return f"the logs differ: {points}"
        committed, end, _ = ends.pop()
        return "" if committed == end else f"entries above {committed} of {end} are not committed"


__all__ = ["SimCluster", "address_of"]
