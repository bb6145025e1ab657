"""Requests that wait for dispatch to take in what is committed already.

Who has just heard that a message is stored may ask for it by its key: dispatch comes a moment
after the acknowledgement.  And who was handed a message by a follower may send it back before the
leader has taken it in: nodes dispatch each for itself, and none waits for the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import BrokerError
from broker.handlers.registry import answer, error_response
from broker.handlers.until_dispatched import UntilDispatched
from dledger.errors import LedgerBusyError, LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.store.derived import DerivedState
    from dledger.remoting.command import Command
    from dledger.remoting.server import Session

LAG_MAX = 1000  # entries; a node that lags by more answers from what it has
WAITING_MAX = 4096  # requests; one question more is answered at once


class CaughtUp:
    """Lets requests wait until all that was committed when they came has been taken in."""

    def __init__(self, derived: DerivedState, committed_index: Callable[[], int]) -> None:
        self._derived = derived
        self._committed_index = committed_index
        self.waiting: UntilDispatched[tuple[Session, Command, Callable[[], None]]] = (
            UntilDispatched()
        )

    def when(self, session: Session, command: Command, act: Callable[[], None]) -> None:
        """Call *act*, which answers *command*, now or soon; its errors become the answer."""
        needed = self._committed_index()
        lag = needed - self._derived.dispatched_index
        if 0 < lag <= LAG_MAX and len(self.waiting) < WAITING_MAX:
            self.waiting.append((needed, (session, command, act)))
        else:
            act()

    def when_surely(self, session: Session, command: Command, act: Callable[[], None]) -> None:
        """As `when`, but never before: for what would do wrong, and not only know less.

        Raises:
            LedgerBusyError: too many wait already.
        """
        needed = self._committed_index()
        if self._derived.dispatched_index >= needed:
            act()
        elif len(self.waiting) < WAITING_MAX:
            self.waiting.append((needed, (session, command, act)))
        else:
            raise LedgerBusyError(
                f"{WAITING_MAX} requests wait for this node to take in its log: send again later"
            )

    def dispatched(self) -> None:
        """Do what waited for dispatch to come so far."""
        if not self.waiting:
            return
        for session, command, act in self.waiting.take(self._derived.dispatched_index):
            if session.closed:
                continue
            try:
                act()
            except (BrokerError, LedgerError) as error:
                answer(session, command, error_response(command, error))
            session.flush_soon()
