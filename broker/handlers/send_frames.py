"""Sends that the compiled loop reads from their frames, and hears of together.

No command is made of each: one loop reads their headers, proves their records (`Loops.read_sends`)
and puts those of one producer and queue together, however many queues there are; each such run goes
into the group as one chunk, and its acks are one column.  Without compiled loops, and for whatever
is unusual about a send, there are the ways of `broker.handlers.send_runs`, `send_mixed` and of a
send by itself: the log and the answers are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import BrokerError
from broker.handlers.registry import begin_each, begin_many, end_many
from broker.handlers.send_answers import SendRequest
from broker.protocol.bodies import ACK_SIZE
from broker.protocol.request_code import RequestCode
from broker.store import compiled
from broker.store.commit_log import Receipt
from broker.store.send_columns import ReadSends, SendRun, Targets
from dledger.errors import LedgerError
from dledger.remoting.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.handlers.registry import Handler
    from broker.handlers.send_answers import SendAnswers
    from broker.handlers.send_intake import SendIntake
    from broker.message.limits import MessageLimits
    from dledger.durability import Durability
    from dledger.remoting.command import Command
    from dledger.remoting.server import Session

_CODE = int(RequestCode.SEND_BATCH_MESSAGE)
COUNT_MIN = 4  # sends; for fewer the ordinary way costs less
# Of so many sends one may be handled by itself amid the others: so they take twice as long at most.
SINGLES_SHARE = 16


class SendFrames:
    """Frames of sends, back to back, that were read and proved sound."""

    code = _CODE

    def __init__(self, begin: int, end: int, sends: ReadSends) -> None:
        self.begin = begin
        self.end = end
        self.sends = sends
        self._commands: list[Command] | None = None

    def commands(self) -> list[Command]:
        """Return each by itself, as it would have been without being read together."""
        if self._commands is None:
            connection = Connection()
            connection.receive_data(self.sends.data[self.begin : self.end])
            self._commands = connection.commands()
        return self._commands

    def commands_of(self, runs: Iterable[SendRun]) -> list[Command]:
        """Return those of some runs, in the order they came."""
        commands, rows_of = self.commands(), self.sends.rows_of
        return [commands[nth] for nth in sorted(row.number for run in runs for row in rows_of(run))]


class SendFinder:
    """Finds such frames in what a connection receives."""

    def __init__(self, limits: MessageLimits) -> None:
        self._limits = limits
        self._targets = Targets()

    def find(self, data: bytes, at: int, *, frame_size_max: int) -> tuple[SendFrames | None, int]:
        """Return the sends from *at* on, where a whole frame begins, and where they end.

        None where they are few.
        """
        if compiled.loops is None:
            return None, at
        limits, targets = self._limits, self._targets
        (runs, rows), end = compiled.loops.read_sends(
            data,
            at,
            frame_size_max,
            limits.body_size_max,
            limits.properties_size_max,
            SendRun,
            targets.by_bytes,
            targets.make,
        )
        sends = ReadSends(data, runs, rows)
        return (SendFrames(at, end, sends) if sends.count >= COUNT_MIN else None), end


class _SomeSends:
    """Runs of one receive that share an entry; hear where they are as a `ManyPut`."""

    __slots__ = ("_answers", "_begun", "_charged", "_frames", "_level", "_runs", "_session")

    def __init__(
        self, answers: SendAnswers, session: Session, frames: SendFrames, level: Durability
    ) -> None:
        self._answers = answers
        self._session = session
        self._frames = frames
        self._level = level
        self._begun = begin_many(session)
        self._charged = 0
        self._runs: list[SendRun] = []

    def charge(self, runs: list[SendRun]) -> int:
        """Count what *runs*, which were taken, have against their connection; return it."""
        self._runs = runs
        for run in runs:
            self._charged += run.size
        self._session.charge(self._charged)
        return self._charged

    def succeeded(self, receipts: list[Receipt], reached: Durability) -> None:
        """See `ManyPut`."""
        session = self._session
        session.release(self._charged)
        if not reached.covers(self._level):
            self._tell_each(receipts, reached)
            return
        assert compiled.loops is not None, "nothing else reads them"
        acks = compiled.loops.acks_of(self._frames.sends.rows, self._runs, receipts)
        end_many(session, _CODE, self._begun, count=len(acks) // ACK_SIZE)
        self._answers.add_acks(session, acks, reached)

    def _tell_each(self, receipts: list[Receipt], reached: Durability) -> None:
        """Answer each send by itself: it has to hear why it did not get what it asked for."""
        commands, sends = self._frames.commands(), self._frames.sends
        begin_each(self._session, self._frames.commands_of(self._runs), self._begun)
        for run, (queue_id, queue_offset, position) in zip(self._runs, receipts, strict=True):
            for row in sends.rows_of(run):
                request = SendRequest(
                    self._answers, self._session, commands[row.number], None, run.target.topic,
                    self._level,
                )  # fmt: skip
                request.succeeded(Receipt(queue_id, queue_offset, position), reached)
                queue_offset += row.record_count
                position += row.size

    def failed(self, error: LedgerError) -> None:
        """See `ManyPut`."""
        self._session.release(self._charged)
        commands = self._frames.commands_of(self._runs)
        begin_each(self._session, commands, self._begun)
        for command in commands:
            self._answers.refuse(self._session, command, error)


def take_send_frames(
    intake: SendIntake, session: Session, frames: SendFrames, one_by_one: Handler
) -> list[Command]:
    """Append sends that were read together; return those that are left, in their order.

    A few that cannot be appended so are handled *one_by_one* amid the others, in their turn.  Where
    they are many, the first of them and all behind it are left: it is for the server to give others
    a turn between them.
    """
    sends = frames.sends
    runs = sends.runs
    size = 0  # bytes that are not handled yet
    for run in runs:
        size += run.size
    singles_left = sends.count // SINGLES_SHARE
    nth = opened = 0
    level = intake.policy.default
    while nth < len(runs) and not session.closed:
        if opened <= nth:  # looked at once: nothing that is handled here changes a topic at once
            opened, level = intake.opened_up_to(runs, nth)
        if opened > nth:
            some = _SomeSends(intake.answers, session, frames, level)
            try:
                taken = intake.put_sends(sends, nth, opened, some, size=size, level=level)
            except (BrokerError, LedgerError):
                break  # by itself each will show what is wrong
            if taken > nth:
                size -= some.charge(runs[nth:taken])
                nth = taken
                continue
        run = runs[nth]
        singles_left -= run.end - run.begin
        if singles_left < 0:
            break
        for command in frames.commands_of((run,)):
            one_by_one(session, command)
        size -= run.size
        nth += 1
    return frames.commands_of(runs[nth:]) if nth < len(runs) else []
