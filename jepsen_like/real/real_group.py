"""The group of real processes as faults and workloads see it."""

from __future__ import annotations

import random
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import trio

import broker.client
from broker.cli.ask import ask_node
from broker.client.errors import ClientError
from broker.config import BrokerConfig, MemberConfig, NodeConfig
from broker.errors import BrokerError
from jepsen_like.real.node_life import BROKER_PORT, PEER_PORT
from jepsen_like.real.power import lose_power
from jepsen_like.real.real_links import RealLinks
from jepsen_like.real.real_member import RealMember
from jepsen_like.workloads.load import CLIENT_SILENT_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.client.connect import Client
    from broker.protocol.bodies import GroupStatus
    from jepsen_like.faults.group import Member
    from jepsen_like.history import History
    from jepsen_like.real.lab import Lab
    from jepsen_like.real.mix import RealMix
    from jepsen_like.workloads.load import Load

OPERATOR = "op"  # the namespace that no fault touches
MEMBERS = "c3"  # nor this one: members of groups that nobody hears are taken for gone
_LOOK_SECONDS = 0.2


class RealGroup:
    """Members, links, and what is known of how whole they are."""

    def __init__(self, lab: Lab, mix: RealMix, history: History) -> None:
        """Prepare nodes that do not run yet, one for each node of the lab."""
        self.lab = lab
        self.mix = mix
        self.history = history
        self.nursery: trio.Nursery | None = None
        self.unsound: set[str] = set()
        entries = tuple(
            MemberConfig(
                node_id=node.name, host=node.address, peer_port=PEER_PORT, broker_port=BROKER_PORT
            )
            for node in lab.nodes.values()
        )
        self.members = [
            RealMember(
                node,
                NodeConfig(
                    group="real",
                    node_id=node.name,
                    members=entries,
                    data_folder=str(node.disk.path / "data"),
                    listen_host=node.address,
                    store=mix.store,
                    raft=mix.raft,
                    broker=_broker_config(mix.load),
                ),
                history=history,
                chance=random.Random(f"{mix.seed} member {node.name}"),
            )
            for node in lab.nodes.values()
        ]
        for member in self.members:
            member.on_last_word = self._hear_last_word
            member.on_transfer = self._transfer
        self.links = RealLinks(
            lab.wire,
            {node.address: node.name for node in lab.nodes.values()}
            | {client.address: client.name for client in lab.clients.values()},
        )
        self._operator = lab.clients[OPERATOR]
        self._clients = 0
        self._chance = random.Random(f"{mix.seed} group")

    # -- what faults see ------------------------------------------------------------------------

    @property
    def leader(self) -> RealMember | None:
        """See `Group`."""
        leading = [member for member in self.members if member.is_leader]
        return max(leading, key=lambda member: member.term, default=None)

    async def lose_power(self, members: Sequence[Member], *, torn: bool | None = None) -> None:
        """See `Group`; *torn*: some of the unsynced pages stay, drawn when None."""
        hit = [member for member in self.members if member in members]
        torn = self._chance.random() < 0.5 if torn is None else torn
        async with AsyncExitStack() as stack:
            for member in hit:
                await stack.enter_async_context(member.power_off())
            proofs = await lose_power([member.node.disk for member in hit], is_torn=torn)
            for member, proof in zip(hit, proofs, strict=True):
                member.tell_power_loss(proof)

    def client_addresses(self) -> list[str]:
        """See `Group`."""
        return [
            namespace.address
            for name, namespace in self.lab.clients.items()
            if name not in (OPERATOR, MEMBERS)
        ]  # fmt: skip

    async def may_harm(self, member: Member) -> bool:
        """See `Group`."""
        statuses = await self.look()
        committed = self._committed(statuses)
        if committed is None or len(self.members) < 3:
            return False
        for other in self.members:
            if other.name in self.unsound and self._is_whole(other, statuses, committed):
                self.unsound.discard(other.name)
        return not self.unsound - {member.name} and all(
            self._is_whole(other, statuses, committed)
            for other in self.members
            if other is not member
        )

    async def may_lose_disk(self, member: Member) -> bool:
        """See `Group`; from outside nobody sees who may vote, so all others have to be whole."""
        return await self.may_harm(member)

    def _committed(self, statuses: dict[str, GroupStatus]) -> int | None:
        leader = self.leader
        if leader is None or leader.name not in statuses:
            return None
        return statuses[leader.name].commit_index

    def _is_whole(
        self, member: RealMember, statuses: dict[str, GroupStatus], committed: int
    ) -> bool:
        status = statuses.get(member.name)
        return (
            status is not None
            and member.is_up
            and not member.rotten
            and status.is_ready
            and status.role.upper() in ("LEADER", "FOLLOWER")
            and status.durable_index >= committed
        )

    async def look(self) -> dict[str, GroupStatus]:
        """Ask every member how it stands; who does not answer is not in it."""
        found: dict[str, GroupStatus] = {}

        async def ask(member: RealMember) -> None:
            answer = await ask_node(member.broker, network=self._operator.network())
            if answer.status is not None:
                found[member.name] = answer.status

        async with trio.open_nursery() as nursery:
            for member in self.members:
                if member.is_running:
                    nursery.start_soon(ask, member)
        return found

    def _transfer(self, member: RealMember, target: str | None) -> None:
        """Ask for the lead to be handed over, as an operator does; leave a trace when it was."""

        async def work() -> None:
            try:
                with trio.move_on_after(8.0):
                    async with self.client("operator", random.Random(self._clients)) as client:
                        new = await client.admin.transfer_leadership(target)
                        member.leave_trace("transfer", f"{new} leads")
            except (ClientError, BrokerError) as error:
                self.history.note("transfer-failed", node=member.name, err=str(error))

        assert self.nursery is not None
        self.nursery.start_soon(work)

    def _hear_last_word(self, member: RealMember, word: str) -> bool:
        """Do what an operator does: a node that says its disk is damaged gets an empty one."""
        return member.name in self.unsound and bool(member.rotten)

    async def heal(self) -> None:
        """End whatever faults have left behind, as the operators would."""
        await self.links.clear()
        for member in self.members:
            await member.mend()
        for member in self.members:
            if member.rotten and await self._is_damaged(member):
                await member.wipe()
            member.start()

    async def _is_damaged(self, member: RealMember) -> bool:
        """Whether files were harmed and, in the log, `dledger log verify` tells so."""
        if any(kind != "commitlog" for kind in member.rotten):
            return True
        done = await trio.run_process(
            [sys.executable, "-m", "broker.cli.main", "log", "verify", str(member.data)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        if done.returncode == 0:
            member.rotten.clear()  # what was harmed has been written anew
        return done.returncode != 0

    async def await_recovery(self, seconds: float) -> str:
        """Wait until one member leads and all have come as far; return what is missing, or ""."""
        missing = "nothing was looked at"
        target = -1  # the load may go on: as far as the first leader was when it was asked
        with trio.move_on_after(seconds):
            while True:
                statuses = await self.look()
                missing = self._missing(statuses)
                if not missing:
                    if target < 0:
                        target = max(status.commit_index for status in statuses.values())
                    missing = _behind(statuses, target)
                if not missing:
                    return ""
                await trio.sleep(_LOOK_SECONDS)
        return missing

    def _missing(self, statuses: dict[str, GroupStatus]) -> str:
        down = [m.name for m in self.members if not m.is_up or m.name not in statuses]
        if down:
            return f"{', '.join(down)} not up"
        leaders = [name for name, status in statuses.items() if status.role.upper() == "LEADER"]
        if len(leaders) != 1:
            return f"leaders: {leaders}"
        for name, status in statuses.items():
            if status.leader_id != leaders[0]:
                return f"{name} does not follow {leaders[0]}"
            if not status.is_ready:
                return f"{name} is not ready"
        return ""

    # -- what workloads use ---------------------------------------------------------------------

    @property
    def load(self) -> Load:
        """See `Clients`."""
        return self.mix.load

    def client(self, name: str, chance: random.Random) -> Client:
        """Return a client in the operator's namespace."""
        self._clients += 1
        return broker.client.connect(
            [member.broker for member in self.members],
            network=self._operator.network(),
            chance=random.Random(f"{self.mix.seed} {name} {self._clients}"),
            group_timeout=10.0,
            request_timeout=2.0,
            auto_create_topic=False,
        )


def _broker_config(load: Load) -> BrokerConfig:
    if not load.member_count:
        return BrokerConfig(auto_create_topic=False)
    return BrokerConfig(
        auto_create_topic=False,
        client_silent_max_ms=CLIENT_SILENT_MS,
        queue_lock_max_ms=load.lock_ms,
    )


def _behind(statuses: dict[str, GroupStatus], target: int) -> str:
    """Return who has not taken in entry *target* yet, or ""."""
    for name, status in statuses.items():
        if status.dispatched_index < target:
            return f"{name} has taken in {status.dispatched_index} of {target} entries"
    return ""
