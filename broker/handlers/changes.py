"""Requests that ask for several changes at once: answered when all of them are applied here.

`broker.handlers.commands` is for one change, and tells what it came to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.handlers.registry import answer, error_response
from broker.handlers.until_dispatched import UntilDispatched
from broker.protocol.response_code import ResponseCode
from dledger.errors import NotLeaderError
from dledger.remoting.command import Command, response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.errors import BrokerError
    from broker.handlers.forward import Forwarder
    from broker.store.append_queue import AppendQueue, MetadataCommand
    from broker.store.derived import DerivedState
    from dledger.errors import LedgerError
    from dledger.remoting.server import Session

    Done = Callable[[int, LedgerError | None], None]


class _Request:
    """One that is answered when all it asked to change is applied here."""

    __slots__ = ("command", "index", "is_done", "missing", "refusal", "session")

    def __init__(
        self,
        session: Session,
        command: Command,
        missing: int,
        refusal: BrokerError | LedgerError | None,
    ) -> None:
        self.session = session
        self.command = command
        self.missing = missing
        self.refusal = refusal
        self.index = 0
        self.is_done = False


class Changes:
    """Proposes changes on the serving leader, and answers who asked for them."""

    def __init__(self, *, queue: AppendQueue, derived: DerivedState, forwarder: Forwarder) -> None:
        """Make one with nothing proposed.

        Args:
            queue: where commands go.
            derived: tells how far entries are applied.
            forwarder: takes what this node, no leader any more, has not written.
        """
        self._queue = queue
        self._derived = derived
        self._forwarder = forwarder
        self.waiting: UntilDispatched[_Request] = UntilDispatched()

    def propose(
        self,
        session: Session,
        command: Command,
        wanted: Iterable[MetadataCommand | Callable[[Done], None]],
        *,
        refusal: BrokerError | LedgerError | None = None,
    ) -> None:
        """Propose changes; answer when this node has applied all of them.

        Args:
            session: who asks.
            command: the request.
            wanted: commands, or what proposes one when it is given what to call at its end.
            refusal: the answer nevertheless: some of what was asked cannot be.

        Raises:
            NotLeaderError, LedgerBusyError, LedgerError, InvalidMessageError: as
                `AppendQueue.put_command`; what was proposed before it may come to pass.
        """
        changes = list(wanted)
        request = _Request(session, command, len(changes), refusal)
        if not changes:
            self._answer(request)
            return

        def done(index: int, error: LedgerError | None) -> None:
            if request.is_done:
                return
            if error is not None:
                request.is_done = True
                self._failed(session, command, error)
                return
            request.index = max(request.index, index)
            request.missing -= 1
            if not request.missing:
                self.waiting.append((request.index, request))
                self.dispatched()

        try:
            for change in changes:
                if callable(change):
                    change(done)
                else:
                    self._queue.put_command(change, done)
        except BaseException:
            request.is_done = True  # the error is the answer; what was proposed may come to pass
            raise

    def dispatched(self) -> None:
        """Answer the requests whose entries have been applied."""
        if not self.waiting:
            return
        for request in self.waiting.take(self._derived.dispatched_index):
            self._answer(request)
            if not request.session.closed:
                request.session.flush_soon()

    def _answer(self, request: _Request) -> None:
        reply = (
            response(request.command, int(ResponseCode.SUCCESS))
            if request.refusal is None
            else error_response(request.command, request.refusal)
        )
        answer(request.session, request.command, reply)

    def _failed(self, session: Session, command: Command, error: LedgerError) -> None:
        if isinstance(error, NotLeaderError):
            if not session.closed:
                self._forwarder.hold_again(session, command)
            return
        answer(session, command, error_response(command, error))
        if not session.closed:
            session.flush_soon()
