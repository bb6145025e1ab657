"""Sends to many queues that the compiled loop reads from their frames, and hears of together.

Where the frames of a receive are alike but for topic, queue and numbers, no command is made of
each: one loop reads their headers and proves their records (`Loops.read_sends`), one puts them into
the group, and their acks are one column.  Without compiled loops, and for whatever is unusual about
a send, there are the ways of `broker.handlers.send_mixed` and of a send by itself: the log and the
answers are the same.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

from broker.errors import BrokerError
from broker.handlers.registry import begin_many, end_many
from broker.handlers.send_answers import SendRequest
from broker.protocol.bodies import ACK
from broker.protocol.request_code import RequestCode
from broker.store import compiled
from broker.store.send_columns import SendColumns, Targets
from dledger.errors import LedgerError
from dledger.remoting.connection import RUN_MIN, Connection

if TYPE_CHECKING:
    from broker.handlers.registry import Handler
    from broker.handlers.send_answers import SendAnswers
    from broker.handlers.send_intake import SendIntake
    from broker.message.limits import MessageLimits
    from broker.store.commit_log import Receipt
    from dledger.durability import Durability
    from dledger.remoting.command import Command
    from dledger.remoting.server import Session

_CODE = int(RequestCode.SEND_BATCH_MESSAGE)


class SendFrames:
    """Frames of sends, back to back, that were read and proved sound."""

    code = _CODE

    def __init__(self, data: bytes, begin: int, end: int, sends: SendColumns) -> None:
        self.data = data
        self.begin = begin
        self.end = end
        self.sends = sends
        self._commands: list[Command] | None = None

    def commands(self) -> list[Command]:
        """Return each by itself, as it would have been without being read together."""
        if self._commands is None:
            connection = Connection()
            connection.receive_data(self.data[self.begin : self.end])
            self._commands = connection.commands()
        return self._commands


class SendFinder:
    """Finds such frames in what a connection receives."""

    def __init__(self, limits: MessageLimits) -> None:
        self._limits = limits
        self._targets = Targets()

    def find(
        self, data: bytes, at: int, *, frame_size_max: int, count_min: int = RUN_MIN
    ) -> tuple[SendFrames | None, int]:
        """Return the sends from *at* on, where a whole frame begins, and where they end.

        None where they are few.
        """
        if compiled.loops is None:
            return None, at
        limits, targets = self._limits, self._targets
        columns, end = compiled.loops.read_sends(
            data,
            at,
            frame_size_max,
            limits.body_size_max,
            limits.properties_size_max,
            targets.by_bytes,
            targets.make,
        )
        sends = SendColumns(*columns)
        found = SendFrames(data, at, end, sends) if len(sends.opaques) >= count_min else None
        return found, end


class _SomeSends:
    """Sends of one receive that share an entry; hear where they are as a `ManyPut`."""

    __slots__ = ("_answers", "_begun", "_charged", "_frames", "_level", "_session", "begin", "end")

    def __init__(
        self, answers: SendAnswers, session: Session, frames: SendFrames, level: Durability
    ) -> None:
        self._answers = answers
        self._session = session
        self._frames = frames
        self._level = level
        self._begun = begin_many(session)
        self._charged = 0
        self.begin = self.end = 0

    def charge(self) -> None:
        """Count what they take against their connection, until they are answered."""
        sends = self._frames.sends
        begins, ends = sends.begins, sends.ends
        self._charged = sum(ends[self.begin : self.end]) - sum(begins[self.begin : self.end])
        self._session.charge(self._charged)

    def succeeded(self, receipts: list[Receipt], reached: Durability) -> None:
        """See `ManyPut`."""
        session = self._session
        session.release(self._charged)
        if not reached.covers(self._level):
            self._tell_each(receipts, reached)
            return
        end_many(session, _CODE, self._begun, count=len(receipts))
        opaques = self._frames.sends.opaques[self.begin : self.end]
        rows = b"".join(map(ACK.pack, opaques, repeat(0), *zip(*receipts, strict=True)))
        self._answers.add_acks(session, rows, reached)

    def _tell_each(self, receipts: list[Receipt], reached: Durability) -> None:
        """Answer each send by itself: it has to hear why it did not get what it asked for."""
        targets = self._frames.sends.targets[self.begin : self.end]
        commands = self._frames.commands()[self.begin : self.end]
        for command, target, receipt in zip(commands, targets, receipts, strict=True):
            request = SendRequest(
                self._answers, self._session, command, None, target.topic, self._level
            )
            request.succeeded(receipt, reached)

    def failed(self, error: LedgerError) -> None:
        """See `ManyPut`."""
        self._session.release(self._charged)
        for command in self._frames.commands()[self.begin : self.end]:
            self._answers.refuse(self._session, command, error)


def take_send_frames(
    intake: SendIntake, session: Session, frames: SendFrames, one_by_one: Handler
) -> bool:
    """Append sends that were read together, those that cannot be in their turn *one_by_one*.

    Return False, with nothing done, where not even the first can be: its topic is not there, or
    says itself when sends are acknowledged, and so it is with the others, mostly.  Handled singly
    they leave turns to other connections.
    """
    sends = frames.sends
    view = memoryview(frames.data)
    count = len(sends.opaques)
    level = intake.policy.default
    nth, opened = 0, intake.opened_up_to(sends.targets, 0)
    if not opened:
        return False
    while nth < count:
        if opened <= nth:  # looked at once: nothing that is handled here changes a topic at once
            opened = intake.opened_up_to(sends.targets, nth)
        if opened > nth and not session.closed:
            some = _SomeSends(intake.answers, session, frames, level)
            try:
                taken = intake.put_sends(view, sends, nth, opened, some, level=level)
            except (BrokerError, LedgerError):
                taken = nth  # by itself each will show what is wrong
            some.begin, some.end = nth, taken
            some.charge()
            nth = taken
            if nth == count:
                break
        one_by_one(session, frames.commands()[nth])
        nth += 1
    return True
