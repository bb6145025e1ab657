"""Bugs of groups whose members come and go, of locks, delays, retries and dead letters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from broker.delivery import schedule
from broker.delivery.schedule import Schedule
from broker.groups.consumers import Consumers
from broker.groups.locks import QueueLock, QueueLocks
from broker.handlers.clients import ClientHandlers
from broker.handlers.commands import Commands
from broker.handlers.locks import LockHandlers
from broker.handlers.registry import answer
from broker.handlers.send_back import _SentBack
from broker.message.delay import DELAY_LEVELS_MS, SCHEDULE_TOPIC
from broker.metadata.consumer_offsets import ConsumerOffsets
from dledger.remoting.command import response
from jepsen_like.mutants.grounds import MEMBERS, SLOW_MEMBERS
from jepsen_like.mutants.mutant import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@mutant(on=MEMBERS)
def members_known_to_the_leader_alone() -> Sequence[Patch]:
    """Who is in a group is forgotten with the leader that knew it."""
    stock = ClientHandlers.began_to_serve

    def began_to_serve(self: Any) -> None:
        self._consumers.restore(None)
        stock(self)

    return [(ClientHandlers, "began_to_serve", began_to_serve)]


@mutant(on=MEMBERS)
def a_member_that_leaves_stays() -> Sequence[Patch]:
    """A client that says goodbye is kept in its group."""
    return [(Consumers, "_leave", lambda *_: False)]


@mutant(on=MEMBERS)
def nobody_is_missed() -> Sequence[Patch]:
    """A client whose connection ends, or that is silent, stays in its groups."""
    return [(ClientHandlers, "_leave_all", lambda *_: None)]


@mutant(on=MEMBERS)
def locks_end_with_their_leader() -> Sequence[Patch]:
    """A new leader takes every lock for one that has run out."""

    def began_to_serve(self: Any) -> None:
        self._changing.clear()
        self._deadlines = {}

    return [(LockHandlers, "began_to_serve", began_to_serve)]


class _Forgetful(set[Any]):
    """Holds nothing."""

    def update(self, *_: object) -> None:
        """Forget at once."""


@mutant(on=MEMBERS)
def locks_are_taken_from_anybody() -> Sequence[Patch]:
    """Of two that want a free lock at one time the second takes it from the first."""
    stock = LockHandlers.__init__
    stock_take = QueueLocks._take

    def init(self: Any, **rest: Any) -> None:
        stock(self, **rest)
        self._changing = _Forgetful()

    def take(self: Any, args: Mapping[str, Any]) -> int:
        queues = [
            [topic, queue_id, self.holder(QueueLock(args["group"], topic, queue_id))]
            for topic, queue_id, _ in args["queues"]
        ]
        return stock_take(self, {**args, "queues": queues})

    return [(LockHandlers, "__init__", init), (QueueLocks, "_take", take)]


@mutant(on=MEMBERS)
def locks_last_half_as_long_as_is_believed() -> Sequence[Patch]:
    """A lock is free again before its holder stops believing in it."""
    stock = LockHandlers.__init__

    def init(self: Any, *, lock_seconds: float, **rest: Any) -> None:
        stock(self, lock_seconds=lock_seconds / 6, **rest)

    return [(LockHandlers, "__init__", init)]


@mutant(on=SLOW_MEMBERS)
def delays_begin_again_behind_the_committed_progress() -> Sequence[Patch]:
    """A new leader goes by what was committed of a level, and not by what was delivered."""
    stock = Schedule.began_to_serve

    def began_to_serve(self: Any) -> None:
        self._last_delivered = lambda _: -1
        stock(self)

    return [(Schedule, "began_to_serve", began_to_serve)]


@mutant(on=MEMBERS)
def delays_go_on_behind_what_waits() -> Sequence[Patch]:
    """A new leader delivers only what came to wait under it."""
    stock = Schedule.began_to_serve

    def began_to_serve(self: Any) -> None:
        stock(self)
        for level in range(len(self._next)):
            queue = self._reader._queues.get(SCHEDULE_TOPIC, level)
            if queue is not None:
                self._next[level] = queue.max_offset

    return [(Schedule, "began_to_serve", began_to_serve)]


@mutant(on=MEMBERS)
def delays_are_shorter() -> Sequence[Patch]:
    """A message that waits comes a tenth before its time."""
    shorter = tuple(delay * 9 // 10 for delay in DELAY_LEVELS_MS)
    return [(schedule, "DELAY_LEVELS_MS", shorter)]


@mutant(on=MEMBERS)
def delays_sleep_until_something_comes() -> Sequence[Patch]:
    """A new leader looks at what waits when something else comes to wait, or is due."""

    def began_to_serve(self: Any) -> None:
        wake, self._wake = self._wake, _Deaf()
        stock(self)
        self._wake = wake

    class _Deaf:
        def set(self) -> None:
            pass

    stock = Schedule.began_to_serve
    return [
        (Schedule, "began_to_serve", began_to_serve),
        (Schedule, "arrived", lambda *_: None),
    ]


@mutant(on=SLOW_MEMBERS)
def sent_back_says_done_early() -> Sequence[Patch]:
    """A message sent back is acknowledged before it is in the log."""
    stock = _SentBack.__init__

    def init(self: Any, session: Any, command: Any, forwarder: Any) -> None:
        stock(self, session, command, forwarder)
        answer(session, command, response(command, 0))
        session.flush_soon()

    return [
        (_SentBack, "__init__", init),
        (_SentBack, "succeeded", lambda *_: None),
        (_SentBack, "failed", lambda *_: None),
    ]


@mutant(on=MEMBERS)
def sent_back_counts_nothing() -> Sequence[Patch]:
    """A message that comes again has the count it had."""
    stock = Schedule.put

    def put(self: Any, outgoing: Any, *rest: Any, **more: Any) -> None:
        times = outgoing.message.reconsume_times
        stock(self, outgoing._replace(reconsume_times=times), *rest, **more)

    return [(Schedule, "put", put)]


@mutant(on=MEMBERS)
def one_time_more_is_dead() -> Sequence[Patch]:
    """A message goes to the dead letters one time too late."""

    def put(self: Any, outgoing: Any, delay: Any, *rest: Any, **more: Any) -> None:
        topic = outgoing.topic
        if topic.startswith("%DLQ%") and outgoing.reconsume_times == 3:
            retry = "%RETRY%" + topic.removeprefix("%DLQ%")
            outgoing = outgoing._replace(topic=retry, queue_id=0)
        stock(self, outgoing, delay, *rest, **more)

    stock = Schedule.put
    return [(Schedule, "put", put)]


@mutant(on=MEMBERS)
def dead_letters_come_again() -> Sequence[Patch]:
    """What goes to the dead letters comes again as well."""

    def put(self: Any, outgoing: Any, delay: Any, waiting: Any, **more: Any) -> None:
        stock(self, outgoing, delay, waiting, **more)
        topic = outgoing.topic
        if topic.startswith("%DLQ%"):
            retry = "%RETRY%" + topic.removeprefix("%DLQ%")
            again = outgoing._replace(topic=retry, queue_id=0)
            stock(self, again, None, schedule._Nobody(), **more)

    stock = Schedule.put
    return [(Schedule, "put", put)]


@mutant(on=MEMBERS)
def the_last_commit_counts() -> Sequence[Patch]:
    """A commit that comes late takes back a later one."""
    stock = ConsumerOffsets._commit

    def commit(self: Any, args: Mapping[str, Any]) -> bool:
        for queue_id, offset in args["queues"]:
            progress = self._progress.get((args["group"], args["topic"]))
            if progress is not None and offset < progress.queues.get(queue_id, 0):
                progress.queues[queue_id] = offset
        return stock(self, args)

    return [(ConsumerOffsets, "_commit", commit)]


@mutant(on=MEMBERS)
def locks_are_told_before_they_are_kept() -> Sequence[Patch]:
    """Who asks for a free lock is told that it has it before a majority knows."""

    def propose(
        self: Any,
        session: Any,
        command: Any,
        wanted: Any,
        finish: Callable[[Any], Any],
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        if wanted.kind == "lock.take":
            self._queue.put_command(wanted, lambda *_: failed())
            answer(session, command, _told(command, wanted))
        else:
            stock(self, session, command, wanted, finish, failed)

    stock = Commands.propose
    return [(Commands, "propose", propose)]


def _told(command: Any, wanted: Any) -> Any:
    """Return an answer that gives everything that was asked for."""
    queues = [
        {"brokerName": "b", "queueId": queue_id, "topic": topic}
        for topic, queue_id, _ in wanted.args["queues"]
    ]
    return response(command, 0, body=json.dumps({"lockOKMQSet": queues}).encode())
