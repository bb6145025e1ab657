"""W6: topics that come and go, groups put elsewhere while others commit for them, settings.

Those who commit are our own clients, which name the epoch in which they began, and one that speaks
as RocketMQ's do and names none: the node it is connected to does it.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from broker.client.errors import ClientError, NotWrittenError
from broker.errors import BrokerError, InvalidMessageError, NoPermissionError, TopicNotFoundError
from broker.protocol.request_code import RequestCode
from dledger.remoting.command import Command
from jepsen_like.workloads.appends import TOPIC
from jepsen_like.workloads.stock import CLUSTERING, NotDoneError, StockClient, UnclearError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from broker.client.connect import Client
    from jepsen_like.history import History
    from jepsen_like.workloads.load import WireClients

# What a topic keeps its messages for says which command it was: no two have the same time, and all
# are longer than anything that is run.
RETENTION_MS_FROM = 1_000_000_000_000
PAUSE_SECONDS = 0.5  # on average, between two questions of one client
OPERATION_SECONDS = 8.0
MARKERS = 2  # clients that commit for one group
SETTINGS = "jepsen"  # namespace of what a name server is told to keep
# Settings of one client.  What is lost shows until the setting is changed again: of one alone only
# the last change could ever be missed.
KEYS = 12
OFFSET_MAX = 30  # a group is put somewhere below it: what is committed for it is told apart

_REFUSED = (
    NotWrittenError,
    TopicNotFoundError,
    NoPermissionError,
    InvalidMessageError,
    NotDoneError,
)


class Administration:
    """For each topic one client that makes, alters, fills and deletes it; groups beside it.

    For each set of settings one client that sets them and takes them away.
    """

    def __init__(self, clients: WireClients, history: History) -> None:
        self.clients = clients
        self.history = history
        self.is_over = False
        self._number = 0

    async def run(self) -> None:
        """Keep all of them going until `is_over`."""
        async with trio.open_nursery() as nursery:
            for number in range(self.clients.load.side_topic_count):
                nursery.start_soon(self._keep, f"topic {number}", self._tend(f"s{number}"))
                nursery.start_soon(self._keep, f"resets {number}", self._put_elsewhere)
                nursery.start_soon(self._keep_marking, number)
                for marker in range(MARKERS):
                    nursery.start_soon(self._keep, f"marks {number} {marker}", self._mark)
            for number in range(self.clients.load.setting_count):
                nursery.start_soon(self._keep, f"setting {number}", self._set(f"k{number}"))

    async def _keep(
        self,
        name: str,
        act: Callable[[Client, int, random.Random], Awaitable[bool]],
    ) -> None:
        chance = random.Random(f"{self.clients.load.seed} {name}")
        process = self.history.new_process()
        async with self.clients.client(name, chance) as client:
            while not self.is_over:
                await trio.sleep(chance.expovariate(1 / PAUSE_SECONDS))
                if not await act(client, process, chance):
                    process = self.history.new_process()

    def _new_number(self) -> int:
        self._number += 1
        return self._number

    # -- topics ---------------------------------------------------------------------------------

    def _tend(self, name: str) -> Callable[[Client, int, random.Random], Awaitable[bool]]:
        async def act(client: Client, p: int, chance: random.Random) -> bool:
            kinds = ("create", "alter", "delete", "put", "look")
            kind = chance.choices(kinds, (2, 2, 2, 6, 4))[0]
            if kind == "put":
                return await self._put(client, p, name)
            if kind == "look":
                return await self._look(client, p, name)
            return await self._change(client, p, name, kind)

        return act

    async def _change(self, client: Client, p: int, name: str, kind: str) -> bool:
        number = RETENTION_MS_FROM + self._new_number()

        async def change() -> None:
            if kind == "create":
                await client.admin.create_topic(name, queue_count=1, retention_ms=number)
            elif kind == "alter":
                await client.admin.alter_topic(name, retention_ms=number)
            else:
                await client.admin.delete_topic(name)

        value = [name, kind, None if kind == "delete" else number]
        return await self._ask(p, "topic", change, v=value)

    async def _put(self, client: Client, p: int, name: str) -> bool:
        value = f"side-{self._new_number()}"

        async def put() -> None:
            timeout = self.clients.load.send_timeout
            async with client.producer(send_timeout=timeout) as producer:
                await producer.send(name, value.encode(), queue=0)

        return await self._ask(p, "put", put, v=[name, value])

    async def _look(self, client: Client, p: int, name: str) -> bool:
        """Read the topic from its first message to its end."""
        found: list[str] = []
        answer = {"v": [name, found]}

        async def look() -> None:
            end = await client.admin.max_offset(name, 0)
            if await client.admin.min_offset(name, 0) >= end:
                return
            async with client.consumer("looks", name, queues=[0], start="first") as consumer:
                while consumer.position(0) < end:
                    message = await anext(consumer)
                    found.append(bytes(message.body).decode("latin-1"))

        return await self._ask(p, "look", look, answer, v=[name, []])

    # -- settings -------------------------------------------------------------------------------

    def _set(self, name: str) -> Callable[[Client, int, random.Random], Awaitable[bool]]:
        async def act(client: Client, p: int, chance: random.Random) -> bool:
            key = f"{name}.{chance.randrange(KEYS)}"
            # Settings are for the tools of RocketMQ to make.
            requests = (await client.admin._groups.only("settings")).requests  # noqa: SLF001
            asked: dict[str, object] = {
                "namespace": SETTINGS,
                "key": key,
                "requestId": requests.new_id(),
            }
            value = None if chance.random() < 0.3 else str(self._new_number())
            code = RequestCode.PUT_KV_CONFIG
            if value is None:
                code = RequestCode.DELETE_KV_CONFIG
            else:
                asked["value"] = value

            async def change() -> None:
                await requests.ask_leader(
                    lambda: Command(code, ext_fields=dict(asked)), f"setting {key}"
                )

            return await self._ask(p, "setting", change, v=[key, value])

        return act

    # -- groups ---------------------------------------------------------------------------------

    async def _put_elsewhere(self, client: Client, p: int, chance: random.Random) -> bool:
        wanted = chance.randrange(OFFSET_MAX)
        answer: dict[str, int] = {}

        async def reset() -> None:
            done = await client.admin.reset_offsets("marked", TOPIC, wanted, queue=0)
            answer.update(v=done.queues[0].after, o=done.epoch)

        return await self._ask(p, "reset", reset, answer, g="marked", k=0, v=wanted)

    async def _mark(self, client: Client, p: int, chance: random.Random) -> bool:
        """Ask where the group is, think about it, and commit as one who began there and then."""
        place: dict[str, int | None] = {}

        async def ask() -> None:
            offset, epoch = await client.admin.group_progress("marked", TOPIC, 0)
            place.update(o=offset, v=epoch)

        if not await self._ask(p, "place", ask, place, g="marked", k=0):
            return False
        if "v" not in place:
            return True
        await trio.sleep(chance.expovariate(1 / PAUSE_SECONDS))
        # Higher than any reset goes, and never the same twice.
        mark = [OFFSET_MAX + self._new_number(), place["v"]]
        refused: dict[str, object] = {}

        async def commit() -> None:
            is_taken = await client.admin.commit_offset(
                "marked", TOPIC, 0, mark[0] or 0, epoch=mark[1]
            )
            if not is_taken:
                refused["type"] = "info"  # an earlier attempt may have counted before the reset

        return await self._ask(p, "mark", commit, refused, g="marked", k=0, v=mark)

    async def _keep_marking(self, number: int) -> None:
        """Commit as RocketMQ's clients do, with no word of epochs."""
        name = f"stock marker {number}"
        chance = random.Random(f"{self.clients.load.seed} {name}")
        process = self.history.new_process()
        async with trio.open_nursery() as nursery:
            client = StockClient(
                name,
                network=self.clients.network_of(name),
                nodes=self.clients.nodes,
                chance=chance,
                nursery=nursery,
            )
            while not self.is_over:
                await trio.sleep(chance.expovariate(1 / PAUSE_SECONDS))
                if not await self._mark_as_stock(client, process, chance):
                    process = self.history.new_process()
            nursery.cancel_scope.cancel()

    async def _mark_as_stock(self, client: StockClient, p: int, chance: random.Random) -> bool:
        place: dict[str, int | None] = {}

        async def ask() -> None:
            await client.beat("marked", [TOPIC], CLUSTERING)
            at = client.node
            offset, epoch = await client.place("marked", TOPIC, 0)
            if client.node == at:
                place.update(o=offset, v=epoch)

        if not await self._ask(p, "place", ask, place, g="marked", k=0):
            return False
        if "v" not in place:
            return True
        await trio.sleep(chance.expovariate(1 / PAUSE_SECONDS))
        mark = [OFFSET_MAX + self._new_number(), place["v"]]

        async def commit() -> None:
            # By another connection nobody would know that it consumes, nor since when.
            await client.commit("marked", TOPIC, 0, mark[0] or 0, anew=False)

        return await self._ask(p, "mark", commit, g="marked", k=0, v=mark)

    # -- history --------------------------------------------------------------------------------

    async def _ask(
        self,
        p: int,
        f: str,
        do: Callable[[], Awaitable[None]],
        answer: Mapping[str, object] | None = None,
        **fields: object,
    ) -> bool:
        """Do something and write down what it was and what came of it; whether *p* may go on."""
        history = self.history
        history.add(p, "invoke", f, **fields)  # type: ignore[arg-type]
        try:
            with trio.fail_after(OPERATION_SECONDS):
                await do()
        except _REFUSED as error:
            history.add(p, "fail", f, err=_why(error), **fields)  # type: ignore[arg-type]
            return True
        except (ClientError, BrokerError, UnclearError, trio.TooSlowError) as error:
            history.add(p, "info", f, err=_why(error), **fields)  # type: ignore[arg-type]
            return False
        except trio.Cancelled:
            history.add(p, "info", f, err="client crashed", **fields)  # type: ignore[arg-type]
            raise
        told = {"type": "ok", **fields, **(answer or {})}
        kind = str(told.pop("type"))
        history.add(p, kind, f, **told)  # type: ignore[arg-type]
        return kind == "ok"


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
