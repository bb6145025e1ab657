"""Pulls that found nothing and wait: woken by arrival, answered at the latest when time is up.

There is no task for a held pull.  One heap keeps the deadlines, one table finds the pulls of a
queue, one those of a client, so that ten thousand clients that vanish at once cost no more than
what they held; in the heap a pull that no longer waits is skipped when its turn comes.

Source: RocketMQ ``PullRequestHoldService``; it looks every 5 s, here arrival alone wakes.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from broker.protocol.headers import PullMessageRequest
    from dledger.clock import Clock
    from dledger.remoting.command import Command
    from dledger.remoting.server import Session

# Pulls answered before anybody else has a turn: some 30 us each, and a hundred thousand may be due
# at the same moment.  The leader that answered them all at once was one no longer.
ANSWERS_AT_ONCE = 256

QueueKey = tuple[str, int]
_Key = TypeVar("_Key")


class HeldPull:
    """One pull that waits for a message at *queue_offset*."""

    __slots__ = (
        "begin_offset",
        "command",
        "deadline",
        "header",
        "is_due",
        "key",
        "queue_offset",
        "session",
        "tags_codes",
        "waiting",
    )

    def __init__(
        self,
        *,
        session: Session,
        command: Command,
        header: PullMessageRequest,
        key: QueueKey,
        queue_offset: int,
        deadline: float,
        tags_codes: frozenset[int] | None = None,
        begin_offset: int | None = None,
    ) -> None:
        self.session = session
        self.command = command
        self.header = header
        self.key = key
        self.queue_offset = queue_offset
        self.deadline = deadline
        self.tags_codes = tags_codes  # of the tags it wants; None for all
        # Where it began; it may have passed over messages that it does not want since.
        self.begin_offset = queue_offset if begin_offset is None else begin_offset
        self.waiting = True
        self.is_due = False  # its messages are there, and it has a place among those to be answered


class PullHold:
    """The pulls held by one node, at most *count_max* of them."""

    def __init__(
        self, clock: Clock, *, count_max: int, answer: Callable[[HeldPull, bool], None]
    ) -> None:
        """Make an empty table.

        Args:
            clock: measures how long a pull may wait.
            count_max: most pulls held at once.
            answer: answers one pull; told whether its time is up.  Without new messages it may
                hold the pull again.
        """
        self._clock = clock
        self.count_max = count_max
        self._answer = answer
        # Dicts for sets: hashed by identity, and walked in the order of arrival.
        self._by_queue: dict[QueueKey, dict[HeldPull, None]] = {}
        self._by_session: dict[Session, dict[HeldPull, None]] = {}
        self._deadlines: list[tuple[float, int, HeldPull]] = []
        self._due: deque[HeldPull] = deque()  # woken, and not answered at once as there were many
        self._order = itertools.count()
        self._count = 0
        self._wake = trio.Event()

    @property
    def count(self) -> int:
        """Return how many pulls are held."""
        return self._count

    @property
    def held(self) -> Collection[object]:
        """Who has pulls here; one collection as long as this lives, empty when none is held."""
        return self._by_session

    @property
    def due_count(self) -> int:
        """Return how many have been woken and wait for their turn to be answered."""
        return len(self._due)

    @property
    def is_full(self) -> bool:
        """Return whether no further pull can be held."""
        return self._count >= self.count_max

    def add(self, pull: HeldPull) -> None:
        """Hold *pull* until something arrives in its queue or its deadline has come."""
        self._by_queue.setdefault(pull.key, {})[pull] = None
        self._by_session.setdefault(pull.session, {})[pull] = None
        first = self._deadlines[0][0] if self._deadlines else None
        heapq.heappush(self._deadlines, (pull.deadline, next(self._order), pull))
        self._count += 1
        if first is None or pull.deadline < first:
            self._wake.set()

    def notify_arrivals(self, ends: Mapping[QueueKey, int]) -> None:
        """Answer the pulls that wait for what is before the *ends* of these queues now."""
        for key, end_offset in ends.items():
            self.notify_arrival(key, end_offset)

    def notify_arrival(self, key: QueueKey, end_offset: int) -> None:
        """Answer the pulls of *key* that wait for an offset below *end_offset*."""
        held = self._by_queue.get(key)
        if held is None:
            return
        woken = [
            pull
            for pull in held
            if not pull.is_due and (pull.queue_offset < end_offset or pull.session.closed)
        ]
        for pull in woken[:ANSWERS_AT_ONCE]:
            self._answer_due(pull)
        if len(woken) > ANSWERS_AT_ONCE:
            for pull in woken[ANSWERS_AT_ONCE:]:
                pull.is_due = True
                self._due.append(pull)
            self._wake.set()

    def wake(self, keys: Iterable[QueueKey]) -> None:
        """Look again at the pulls of *keys*, whatever they wait for: their queues have changed."""
        woken = [pull for key in keys for pull in self._by_queue.get(key, ()) if not pull.is_due]
        for pull in woken:
            pull.is_due = True
        self._due.extend(woken)
        if woken:
            self._wake.set()

    def keys_of(self, topic: str) -> list[QueueKey]:
        """Return the queues of *topic* that pulls wait for."""
        return [key for key in self._by_queue if key[0] == topic]

    def _answer_due(self, pull: HeldPull) -> None:
        if pull.waiting:
            self._release(pull)
            if not pull.session.closed:
                self._answer(pull, False)

    def drop_session(self, session: Session) -> None:
        """Forget the pulls of a client that is gone; they no longer count."""
        for pull in list(self._by_session.get(session, ())):
            self._release(pull)

    def _release(self, pull: HeldPull) -> None:
        assert pull.waiting
        pull.waiting = False
        self._count -= 1
        _remove(self._by_queue, pull.key, pull)
        _remove(self._by_session, pull.session, pull)

    async def run(self) -> None:
        """Answer pulls whose time is up, until cancelled."""
        while True:
            self._wake = trio.Event()
            for _ in range(min(len(self._due), ANSWERS_AT_ONCE)):
                self._answer_due(self._due.popleft())
            if self._answer_expired() or self._due:
                await trio.lowlevel.checkpoint()
                continue
            if not self._deadlines:
                await self._wake.wait()
                continue
            # A hair late, so that "deadline reached" holds on any clock.
            delay = self._deadlines[0][0] - self._clock.now() + 0.001
            with trio.move_on_after(max(delay, 0.0)):
                await self._wake.wait()

    def _answer_expired(self) -> bool:
        """Answer pulls whose time is up; whether there may be more of them."""
        now = self._clock.now()
        answered = 0
        while self._deadlines and (
            self._deadlines[0][0] <= now or not self._deadlines[0][2].waiting
        ):
            if answered >= ANSWERS_AT_ONCE:
                return True
            pull = heapq.heappop(self._deadlines)[2]
            if not pull.waiting:
                continue
            self._release(pull)
            if not pull.session.closed:
                answered += 1
                self._answer(pull, True)
        return False


def _remove(table: dict[_Key, dict[HeldPull, None]], key: _Key, pull: HeldPull) -> None:
    """Take *pull* out of *table*, and its key with the last one."""
    pulls = table[key]
    del pulls[pull]
    if not pulls:
        del table[key]
