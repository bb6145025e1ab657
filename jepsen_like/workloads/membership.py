"""W7: groups whose members come and go, locks, delays, retries and dead letters.

Three groups read one topic, by the wire that RocketMQ's clients speak: one at once and with
retries, one in order by locks, and one whose only member gets everything (broadcasting).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from broker.message.limits import DLQ_PREFIX
from jepsen_like.history import operations
from jepsen_like.workloads.member import (
    TIMES_MAX,
    WORK_TOPIC,
    GroupMember,
    Kind,
    make_value,
)
from jepsen_like.workloads.own_member import OwnMember
from jepsen_like.workloads.stock import (
    BROADCASTING,
    CLUSTERING,
    NotDoneError,
    StockClient,
    UnclearError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from jepsen_like.history import History
    from jepsen_like.workloads.load import StockClients

QUEUES = 4
SETTLE_SECONDS = 40.0  # until everything was handed out, with two retries of which one waits 10 s
PAUSE_SECONDS = 0.5  # on average: between two messages of a sender
NEXT_SECONDS = 0.7  # until somebody takes the place of a member that has gone
KEYS = ("x", "y", "z")  # messages of one key are sent one after another, to one queue
DELAYED_KEY = "d"
FAILS = ((0, 1, 2, 9), (12, 3, 1, 2))  # how often a message is sent back, and how likely it is
GROUP, ORDERED_GROUP, ALL_GROUP = "w-group", "w-ordered", "w-all"
OWN_GROUP, OWN_ORDERED_GROUP = "w-own", "w-own-ordered"
WORK_TOPICS = (WORK_TOPIC, f"%RETRY%{GROUP}", DLQ_PREFIX + GROUP)


class Membership:
    """Senders, and three groups."""

    def __init__(self, clients: StockClients, history: History) -> None:
        self.clients = clients
        self.history = history
        self.is_over = False  # nothing is sent any more
        self._settling = trio.Event()
        self._settled = trio.Event()
        self._members: dict[str, GroupMember | OwnMember] = {}
        self._numbers: dict[str, int] = {}
        self._count = 0
        lock_seconds = clients.load.lock_ms / 1000
        self._kinds = (
            Kind(group=GROUP, model=CLUSTERING, queue_count=QUEUES, fails=True),
            Kind(
                group=ORDERED_GROUP,
                model=CLUSTERING,
                queue_count=QUEUES,
                is_ordered=True,
                lock_seconds=lock_seconds,
            ),
            Kind(group=ALL_GROUP, model=BROADCASTING, queue_count=QUEUES),
            Kind(group=OWN_GROUP, model=CLUSTERING, queue_count=QUEUES, fails=True, is_ours=True),
            Kind(
                group=OWN_ORDERED_GROUP,
                model=CLUSTERING,
                queue_count=QUEUES,
                is_ordered=True,
                lock_seconds=lock_seconds,
                is_ours=True,
            ),
        )

    async def run(self) -> None:
        """Keep everything going; it ends after `settle`."""
        async with trio.open_nursery() as nursery:
            for key in KEYS:
                nursery.start_soon(self._send_along, key)
            nursery.start_soon(self._send_along, DELAYED_KEY)
            for kind in self._kinds:
                count = 1 if kind.is_broadcasting else self.clients.load.member_count
                for slot in range(count):
                    nursery.start_soon(self._keep_place, kind, slot)

    async def settle(self) -> None:
        """Send nothing more, let all members live on, and wait until they have got everything."""
        self.is_over = True
        self._settling.set()
        missing = "nothing was looked at"
        with trio.move_on_after(SETTLE_SECONDS):
            while missing:
                await trio.sleep(0.5)
                missing = await self._strangers() or self._unread()
        self.history.note("settled", err=missing or None)
        self._settled.set()

    def _unread(self) -> str:
        """Return what somebody has not got yet."""
        got: dict[str, set[tuple[str, int]]] = {}
        for event in self.history.events:
            if event.f == "got" and event.g is not None:
                _, _, value, times = event.v
                got.setdefault(event.g, set()).add((value, times))
        sent = [send.v for send in operations(self.history.events, "issue") if send.type == "ok"]
        for kind in self._kinds:
            mine = got.get(kind.group, set())
            for value in sent:
                if (value, 0) not in mine:
                    return f"group {kind.group} was not handed {value}"
        for back in operations(self.history.events, "back"):
            value, times, _ = back.v[1]
            if back.end is None:
                return f"{value} is being sent back"
            if back.type == "ok" and times < TIMES_MAX and (value, times + 1) not in got[GROUP]:
                return f"{value} did not come for the {times + 1}. time"
        return self._unread_by_own(got.get(OWN_GROUP, set()))

    def _unread_by_own(self, got: set[tuple[str, int]]) -> str:
        """Return what members of our own make failed, and nobody got again.

        What one has failed it may have lost, when it crashes: then it comes as it came before.
        """
        sure = {
            (commit.v[1][0], commit.v[1][1]): commit.v[1][2]
            for commit in operations(self.history.events, "advance")
            if commit.g == OWN_GROUP
        }
        places = {
            (event.v[2], event.v[3]): (event.v[0], event.k, event.v[1])
            for event in self.history.events
            if event.f == "got" and event.g == OWN_GROUP
        }
        for event in self.history.events:
            if event.f == "failed" and event.g == OWN_GROUP:
                value, times, _ = event.v
                topic, queue, offset = places[value, times]
                is_passed = offset < sure.get((topic, queue), 0)
                if is_passed and times < TIMES_MAX and (value, times + 1) not in got:
                    return f"{value} did not come to {OWN_GROUP} for the {times + 1}. time"
        return ""

    async def _strangers(self) -> str:
        """Return which group has other members than those that live."""
        for kind in self._kinds:
            alive = {id_: each for id_, each in self._members.items() if each.kind is kind}
            for member in alive.values():
                listed = await member.list_members()
                if listed is None:
                    return f"nobody says who is in group {kind.group}"
                if sorted(listed) != sorted(alive):
                    return f"group {kind.group} has {listed}, and {sorted(alive)} live"
                break
            else:
                return f"nobody lives in group {kind.group}"
        return ""

    # -- members --------------------------------------------------------------------------------

    async def _keep_place(self, kind: Kind, slot: int) -> None:
        """One member after another, until all is settled."""
        load = self.clients.load
        chance = random.Random(f"{load.seed} member {kind.group} {slot}")
        while not self._settled.is_set():
            life = 1.0 + chance.expovariate(1 / load.client_crash_mean)
            async with trio.open_nursery() as nursery:
                member = self._new_member(kind, nursery, chance)
                nursery.start_soon(member.run)
                with trio.move_on_after(float("inf") if kind.is_broadcasting else life):
                    await self._settling.wait()
                if self._settling.is_set():
                    await self._settled.wait()
                if not self._settled.is_set() and chance.random() < 0.5:
                    with trio.move_on_after(3.0):
                        await member.leave()
                del self._members[member.client.client_id]
                nursery.cancel_scope.cancel()  # a crash, unless it has left
            if not self._settled.is_set():
                await trio.sleep(chance.expovariate(1 / NEXT_SECONDS))

    def _new_member(
        self, kind: Kind, nursery: trio.Nursery, chance: random.Random
    ) -> GroupMember | OwnMember:
        self._count += 1
        client_id = f"10.9.0.{self._count}@{self._count}"
        if kind.is_ours:
            own = self._members[client_id] = OwnMember(
                kind, client_id, clients=self.clients, history=self.history, chance=chance
            )
            return own
        process = self.history.new_process()

        def cut(node: str) -> None:
            self.history.add(process, "ok", "cut", g=kind.group, v=client_id, node=node)

        client = self._client(client_id, nursery, chance, cut)
        member = GroupMember(kind, client, self.history, chance)
        self._members[client_id] = member
        return member

    def _client(
        self,
        client_id: str,
        nursery: trio.Nursery,
        chance: random.Random,
        on_cut: Callable[[str], None] = lambda _: None,
    ) -> StockClient:
        return StockClient(
            client_id,
            network=self.clients.network_of(client_id),
            nodes=self.clients.nodes,
            chance=chance,
            nursery=nursery,
            on_cut=on_cut,
        )

    # -- senders --------------------------------------------------------------------------------

    async def _send_along(self, key: str) -> None:
        chance = random.Random(f"{self.clients.load.seed} issues {key}")
        async with trio.open_nursery() as nursery:
            client = self._client(f"10.8.0.1@{key}", nursery, chance)
            while not self.is_over:
                with trio.move_on_after(chance.expovariate(1 / PAUSE_SECONDS)):
                    await self._settling.wait()
                if not self.is_over:
                    await self._send_one(client, key, chance)
            await self._settled.wait()
            nursery.cancel_scope.cancel()

    async def _send_one(self, client: StockClient, key: str, chance: random.Random) -> None:
        """Send one message and write down what was asked: with its delay in milliseconds."""
        history = self.history
        number = self._numbers[key] = self._numbers.get(key, 0) + 1
        value = make_value(key, number, chance.choices(*FAILS)[0])
        queue = KEYS.index(key) if key in KEYS else chance.randrange(QUEUES)
        delay_ms, properties = 0, ""
        wall_ms = self.clients.wall_ms()
        if key == DELAYED_KEY:
            delay_ms = chance.choice((1000, 1000, 5000, 1700, 3300))
            if delay_ms in (1000, 5000):
                properties = f"DELAY\x01{1 if delay_ms == 1000 else 2}\x02"
            else:
                properties = f"__STARTDELIVERTIME\x01{wall_ms + delay_ms}\x02"
        p = history.new_process()
        history.add(p, "invoke", "issue", k=queue, v=value, o=delay_ms)
        try:
            await client.send(WORK_TOPIC, queue, f"{value} ".encode(), properties, wall_ms=wall_ms)
        except NotDoneError as error:
            history.add(p, "fail", "issue", k=queue, v=value, o=delay_ms, err=str(error))
        except UnclearError as error:
            history.add(p, "info", "issue", k=queue, v=value, o=delay_ms, err=str(error))
        except trio.Cancelled:
            history.add(p, "info", "issue", k=queue, v=value, o=delay_ms, err="client crashed")
            raise
        else:
            history.add(p, "ok", "issue", k=queue, v=value, o=delay_ms)
