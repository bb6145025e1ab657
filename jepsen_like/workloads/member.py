"""One member of a consumer group, as RocketMQ's clients are: it shares out queues by itself.

It sends heartbeats, asks who else there is, takes its share of the queues, and reads each of them
from where its group has come to.  In order: only queues that it holds the lock of, and no longer
than it may believe in it.  What it fails to deal with it sends back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from broker.message.limits import RETRY_PREFIX
from jepsen_like.workloads.appends import value_of
from jepsen_like.workloads.stock import BROADCASTING, NotDoneError, Pulled, UnclearError

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Iterable

    from broker.message.model import StoredMessage
    from jepsen_like.history import History
    from jepsen_like.workloads.stock import StockClient

WORK_TOPIC = "w"
TIMES_MAX = 2  # messages that were consumed again so often are dead
# The clients' 30 s, 20 s and 5 s, made short as the brokers' times are.
BEAT_SECONDS = 2.0
BALANCE_SECONDS = 2.0
COMMIT_SECONDS = 0.5
HOLD_SECONDS = 2.0
AGAIN_SECONDS = 0.2  # until the next try of what was refused
DELAYS_MS = {1: 1000, 2: 5000}  # of the levels that are asked for
RETRY_DELAY_MS = 10_000  # of a first retry, where the broker chooses
GREEDY_SHARE = 0.3  # of requests for locks: they ask for the others' queues as well
LATE_SHARE = 0.2  # of commits: one that lies behind them comes later
LATE_COUNT = 3  # messages
CHOOSES_SHARE = 0.15  # of first retries: the broker says how long they wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What the members of a group have in common."""

    group: str
    model: str
    queue_count: int
    is_ordered: bool = False
    fails: bool = False  # it sends messages back, as often as they say
    is_ours: bool = False  # its members are clients of the project's own library
    lock_seconds: float = 60.0  # a lock holds for so long at the broker; it believes half of it

    @property
    def retry_topic(self) -> str:
        """Where what was sent back comes again."""
        return RETRY_PREFIX + self.group

    @property
    def is_broadcasting(self) -> bool:
        """Whether each member gets everything."""
        return self.model == BROADCASTING

    @property
    def topics(self) -> list[str]:
        """What its members read."""
        return [WORK_TOPIC, self.retry_topic] if self.fails else [WORK_TOPIC]

    def queues_of(self, topic: str) -> list[int]:
        """Return the numbers of a topic's queues."""
        return list(range(self.queue_count)) if topic == WORK_TOPIC else [0]


Place = tuple[str, int]  # topic, queue


class _Reading:
    """One queue that is read."""

    def __init__(self) -> None:
        self.pulling = trio.CancelScope()
        self.ended = trio.Event()
        self.done = -1  # offset of the next message to deal with; -1: not known yet
        self.committed = -1
        self.is_over = False  # the message at hand is the last one


class GroupMember:
    """A consumer in a process of its own."""

    def __init__(
        self, kind: Kind, client: StockClient, history: History, chance: random.Random
    ) -> None:
        """Make one that is in no group yet."""
        self.kind = kind
        self.client = client
        self.history = history
        self.process = history.new_process()
        self._chance = chance
        self._readings: dict[Place, _Reading] = {}
        self._nursery: trio.Nursery | None = None
        self._believes_until: dict[int, float] = {}  # by queue; when ordered
        self._locking = trio.Lock()
        self._is_leaving = False

    async def run(self) -> None:
        """Consume until cancelled, which is a crash, or until it has left."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._keep_beating)
                nursery.start_soon(self._keep_balancing)
                if not self.kind.is_broadcasting:
                    nursery.start_soon(self._keep_committing)
                if self.kind.is_ordered:
                    nursery.start_soon(self._keep_locks)
        finally:
            self._tell("gone")

    async def leave(self) -> None:
        """End in peace: deal with what is at hand, commit, give back locks, say goodbye."""
        self._is_leaving = True
        await self._drop(sorted(self._readings))
        await self._ask("quit", lambda: self.client.leave(self.kind.group))

    # -- membership -----------------------------------------------------------------------------

    async def _keep_beating(self) -> None:
        kind = self.kind
        while not self._is_leaving:
            beat = await self._ask(
                "beat", lambda: self.client.beat(kind.group, kind.topics, kind.model)
            )
            await trio.sleep(BEAT_SECONDS if beat else AGAIN_SECONDS)

    async def _keep_balancing(self) -> None:
        while True:
            with trio.move_on_after(BALANCE_SECONDS):
                await self.client.changed.wait()
            self.client.changed = trio.Event()
            if self._is_leaving:
                return
            ids = await self.list_members()
            if ids is not None and not self._is_leaving:
                await self._balance(ids)

    async def list_members(self) -> list[str] | None:
        """Return who is in the group, as the broker says; None: it said nothing."""
        found: list[str] = []

        async def ask() -> None:
            found.extend(await self.client.members(self.kind.group))

        return found if await self._ask("list", ask, None, found) else None

    async def _balance(self, ids: list[str]) -> None:
        mine: set[Place] = set()
        for topic in self.kind.topics:
            queues = self.kind.queues_of(topic)
            share = (
                queues if self.kind.is_broadcasting else _share(queues, ids, self.client.client_id)
            )
            mine.update((topic, queue) for queue in share)
        await self._drop(sorted(self._readings.keys() - mine))
        wanted = sorted(mine - self._readings.keys())
        if self.kind.is_ordered and wanted:
            await self._lock([queue for _, queue in wanted])
            wanted = [place for place in wanted if self._holds(place[1])]
        assert self._nursery is not None
        for place in wanted:
            if self._is_leaving:
                return
            reading = self._readings[place] = _Reading()
            self._nursery.start_soon(self._read, place, reading)

    async def _drop(self, places: list[Place]) -> None:
        """Read some queues no longer: the message at hand is dealt with, and committed."""
        readings = [(place, self._readings.pop(place)) for place in places]
        for _, reading in readings:
            reading.is_over = True
            reading.pulling.cancel()
        for place, reading in readings:
            await reading.ended.wait()
            if not self.kind.is_broadcasting:
                await self._commit(place, reading)
        if self.kind.is_ordered and readings:
            await self._unlock([queue for (_, queue), _ in readings])

    # -- locks ----------------------------------------------------------------------------------

    def _holds(self, queue: int) -> bool:
        return trio.current_time() < self._believes_until.get(queue, 0.0)

    async def _keep_locks(self) -> None:
        while not self._is_leaving:
            await trio.sleep(self.kind.lock_seconds / 3)
            queues = sorted(queue for _, queue in self._readings)
            others = []
            if self._chance.random() < GREEDY_SHARE:
                others = [q for q in range(self.kind.queue_count) if q not in queues]
            if queues or others:
                await self._lock([*queues, *others])
            taken = [
                queue
                for queue in others
                if self._holds(queue) and (WORK_TOPIC, queue) not in self._readings
            ]
            if taken:
                await self._unlock(taken)
            lost = [place for place in sorted(self._readings) if not self._holds(place[1])]
            await self._drop(lost)

    async def _lock(self, queues: list[int]) -> None:
        async with self._locking:
            belief = self.kind.lock_seconds / 2
            held: list[int] = []

            async def lock() -> None:
                held.extend(await self.client.lock(self.kind.group, WORK_TOPIC, queues))

            if not await self._ask("lock", lock, queues, held, o=int(belief * 1000)):
                return
            for queue in queues:
                self._believes_until.pop(queue, None)
                if queue in held:
                    self._believes_until[queue] = trio.current_time() + belief

    async def _unlock(self, queues: list[int]) -> None:
        async with self._locking:
            for queue in queues:
                self._believes_until.pop(queue, None)
            await self._ask(
                "unlock", lambda: self.client.unlock(self.kind.group, WORK_TOPIC, queues), queues
            )

    # -- messages -------------------------------------------------------------------------------

    async def _read(self, place: Place, reading: _Reading) -> None:
        try:
            reading.done = await self._begin(place, reading)
            while not reading.is_over:
                await self._read_some(place, reading)
        finally:
            reading.ended.set()

    async def _begin(self, place: Place, reading: _Reading) -> int:
        if self.kind.is_broadcasting:
            return 0
        while not reading.is_over:
            found: list[int | None] = []

            async def ask(found: list[int | None] = found) -> None:
                found.append(await self.client.offset(self.kind.group, *place))

            if await self._ask("stand", ask, list(place), found):
                return found[0] or 0
            await trio.sleep(AGAIN_SECONDS)
        return -1

    async def _read_some(self, place: Place, reading: _Reading) -> None:
        topic, queue = place
        pulled = Pulled([], reading.done)
        with trio.CancelScope() as reading.pulling:
            try:
                pulled = await self.client.pull(
                    self.kind.group, topic, queue, reading.done, hold_seconds=HOLD_SECONDS
                )
            except (NotDoneError, UnclearError):
                await trio.sleep(AGAIN_SECONDS)
                return
        for message in pulled.messages:
            if reading.is_over or (self.kind.is_ordered and not self._holds(queue)):
                return
            await self._deal_with(place, message)
            reading.done = message.queue_offset + 1
        reading.done = max(reading.done, pulled.next_offset)

    async def _deal_with(self, place: Place, message: StoredMessage) -> None:
        value, times = value_of(message.body), message.reconsume_times
        what = [place[0], message.queue_offset, value, times]
        self.history.add(self.process, "ok", "got", g=self.kind.group, k=place[1], v=what)
        if not self.kind.fails or times >= fails_of(value):
            return
        chooses = times == 0 and self._chance.random() < CHOOSES_SHARE
        level = 0 if chooses else 1
        delay_ms = RETRY_DELAY_MS if chooses else DELAYS_MS[level]

        async def back() -> None:
            await self.client.send_back(
                self.kind.group, message.position, level=level, times_max=TIMES_MAX
            )

        while True:
            if await self._ask("back", back, [value, times, delay_ms]):
                return
            await trio.sleep(AGAIN_SECONDS)

    async def _keep_committing(self) -> None:
        while True:
            await trio.sleep(COMMIT_SECONDS)
            for place, reading in sorted(self._readings.items()):
                await self._commit(place, reading)

    async def _commit(self, place: Place, reading: _Reading) -> None:
        offset = reading.done
        if offset > reading.committed and await self._commit_at(place, offset):
            reading.committed = offset
            if self._chance.random() < LATE_SHARE:
                await self._commit_at(place, max(0, offset - LATE_COUNT))

    async def _commit_at(self, place: Place, offset: int) -> bool:
        async def commit() -> None:
            await self.client.commit(self.kind.group, *place, offset)

        return await self._ask("advance", commit, [*place, offset])

    # -- history --------------------------------------------------------------------------------

    def _tell(self, f: str) -> None:
        self.history.add(self.process, "ok", f, g=self.kind.group, v=self.client.client_id)

    async def _ask(
        self,
        f: str,
        do: Callable[[], Awaitable[None]],
        asked: object = None,
        found: object = None,
        *,
        o: int | None = None,
    ) -> bool:
        """Ask for something and write down what came of it: client, question and answer."""
        history, group, node = self.history, self.kind.group, self.client.node.name
        p = history.new_process()
        value = [self.client.client_id, asked]
        history.add(p, "invoke", f, g=group, v=value, node=node)
        try:
            await do()
        except NotDoneError as error:
            history.add(p, "fail", f, g=group, v=value, node=node, err=str(error))
            return False
        except UnclearError as error:
            history.add(p, "info", f, g=group, v=value, node=node, err=str(error))
            return False
        except trio.Cancelled:
            history.add(p, "info", f, g=group, v=value, node=node, err="client crashed")
            raise
        answer = value if found is None else [*value, found]
        history.add(p, "ok", f, g=group, v=answer, node=node, o=o)
        return True


def _share(queues: Iterable[int], ids: list[str], own: str) -> list[int]:
    """Return one member's share. Source: RocketMQ ``AllocateMessageQueueAveragely``."""
    queues, ids = list(queues), sorted(ids)
    if own not in ids:
        return []
    at, size = ids.index(own), len(ids)
    rest = len(queues) % size
    each = 1 if len(queues) <= size else len(queues) // size + (1 if rest and at < rest else 0)
    begin = at * each if rest and at < rest else at * each + rest
    return queues[begin : begin + each]


def fails_of(value: str) -> int:
    """Return how often a value wants to be sent back."""
    _, _, fails = value.rpartition("-f")
    return int(fails) if fails.isdigit() else 0


def make_value(key: str, number: int, fails: int) -> str:
    """Return a value that says what it is: ordered by number within its key."""
    return f"{key}-{number}-f{fails}"
