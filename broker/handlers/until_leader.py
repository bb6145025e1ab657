"""Questions for the group's status that wait for a leader.

Who has lost a leader wants to know who leads next, and soon: by asking again and again a thousand
clients would take the processors from the election they wait for.  So each asks once, of every node
that it reaches, and is answered when there is something to tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

from broker.handlers.registry import holding_cost, open_requests_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dledger.clock import Clock
    from dledger.remoting.command import Command
    from dledger.remoting.server import Session

SECONDS_MAX = 30.0  # longest time that a question may wait
LOOK_SECONDS = 0.050  # between two looks for those whose time is up
ANSWERS_AT_ONCE = 256  # as many are answered before anybody else has a turn


class _Question(NamedTuple):
    command: Command
    newer_than: int  # a leader of this term, or of an older one, is no news
    deadline: float
    cost: int  # bytes of memory


class UntilLeader:
    """The questions that wait at one node: of each connection the last one."""

    def __init__(
        self,
        clock: Clock,
        *,
        knows_newer: Callable[[int], bool],
        answer: Callable[[list[tuple[Session, Command]]], None],
    ) -> None:
        """Make it with nobody waiting.

        Args:
            clock: measures how long a question may wait.
            knows_newer: whether this node leads, or knows a leader of a newer term than that.
            answer: answers questions, of different connections.
        """
        self._clock = clock
        self._knows_newer = knows_newer
        self._answer = answer
        self._waiting: dict[Session, _Question] = {}
        self._wake = trio.Event()

    def __len__(self) -> int:
        """Return how many questions wait."""
        return len(self._waiting)

    def ask(self, session: Session, command: Command, newer_than: int, seconds: float) -> None:
        """Answer a question now, or when a leader of a newer term than *newer_than* is known.

        At the latest it is answered after *seconds*, or when the same connection asks once more.
        """
        if session in self._waiting:
            self._release([session])
        if seconds <= 0 or self._knows_newer(newer_than):
            self._answer([(session, command)])
            return
        if (known := open_requests_of(session)) is not None:
            known.hold(command)
        cost = holding_cost(command)
        session.charge(cost)
        if not self._waiting:
            self._wake.set()
        deadline = self._clock.now() + min(seconds, SECONDS_MAX)
        self._waiting[session] = _Question(command, newer_than, deadline, cost)

    def leader_changed(self) -> None:
        """Look again who leads; called for every change of role."""
        self._wake.set()

    def drop_session(self, session: Session) -> None:
        """Forget what a client waited for that is gone."""
        question = self._waiting.pop(session, None)
        if question is not None:
            session.release(question.cost)

    async def run(self) -> None:
        """Answer those for whom there is something to tell or whose time is up, until cancelled."""
        while True:
            self._wake = trio.Event()
            await self._answer_due()
            with trio.move_on_after(LOOK_SECONDS if self._waiting else float("inf")):
                await self._wake.wait()

    async def _answer_due(self) -> None:
        now = self._clock.now()
        due = [
            session
            for session, question in self._waiting.items()
            if question.deadline <= now or self._knows_newer(question.newer_than)
        ]
        for first in range(0, len(due), ANSWERS_AT_ONCE):
            self._release(due[first : first + ANSWERS_AT_ONCE])
            await trio.lowlevel.checkpoint()

    def _release(self, sessions: Iterable[Session]) -> None:
        answered = []
        for session in sessions:
            question = self._waiting.pop(session, None)  # None: gone since it was found due
            if question is not None:
                session.release(question.cost)
                answered.append((session, question.command))
        self._answer(answered)
