"""Sends that arrive together and go to many queues, hardly two to the same.

Gathered by queue they would be as many chunks as sends, and one by one each would be looked up,
timed and answered as if it were alone.  Here each is checked and appended by itself, and what is
the same for all that one receive brought is done once.

As with those that are gathered (`broker.handlers.send_runs`), whatever is unusual about a send goes
the ordinary way, in its turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import BrokerError
from broker.handlers.registry import begin_each, begin_many, end_many
from broker.handlers.send_answers import SendRequest
from broker.protocol.bodies import ACK
from broker.protocol.request_code import RequestCode
from broker.protocol.send_headers import SendRecordsRequest
from broker.store.chunk import check_chunk
from broker.store.producers import SequenceState
from dledger.errors import LedgerError
from dledger.remoting.command import FLAG_GROUPED

if TYPE_CHECKING:
    from broker.handlers.registry import Handler
    from broker.handlers.send_answers import SendAnswers
    from broker.handlers.send_intake import SendIntake
    from broker.store.commit_log import Receipt
    from dledger.durability import Durability
    from dledger.remoting.command import Command
    from dledger.remoting.server import Session

_CODE = int(RequestCode.SEND_BATCH_MESSAGE)


class _Receive:
    """What one receive brought, as far as it waits for its entries."""

    __slots__ = ("answers", "begun", "count", "left", "session")

    def __init__(self, answers: SendAnswers, session: Session) -> None:
        self.answers = answers
        self.session = session
        self.begun = begin_many(session)
        self.count = self.left = 0

    def one_is_through(self) -> None:
        """Take note that a send is answered; behind the last tell how long they took."""
        self.left -= 1
        if not self.left and self.count:
            end_many(self.session, _CODE, self.begun, count=self.count)
            self.count = 0  # it may go on: some are through while others are only being read


class _MixedSend:
    """One of them; hears where it is as a `Put`."""

    __slots__ = ("_command", "_level", "_receive", "_topic")

    def __init__(self, receive: _Receive, command: Command, topic: str, level: Durability) -> None:
        self._receive = receive
        self._command = command
        self._topic = topic
        self._level = level

    def succeeded(self, receipt: Receipt, reached: Durability) -> None:
        """See `Put`."""
        receive, command, level = self._receive, self._command, self._level
        session = receive.session
        session.release(len(command.body))
        if reached is level or reached == level or reached.covers(level):
            row = ACK.pack(command.opaque, 0, *receipt)
            receive.answers.add_acks(session, row, reached)
            receive.one_is_through()
            return
        # It has to hear why it did not get what it asked for.
        receive.count -= 1
        receive.one_is_through()
        begin_each(session, (command,), receive.begun)
        request = SendRequest(receive.answers, session, command, None, self._topic, level)
        request.succeeded(receipt, reached)

    def failed(self, error: LedgerError) -> None:
        """See `Put`."""
        receive = self._receive
        receive.session.release(len(self._command.body))
        receive.count -= 1
        receive.one_is_through()
        begin_each(receive.session, (self._command,), receive.begun)
        receive.answers.refuse(receive.session, self._command, error)


class MixedSends:
    """Hands sends to the append queue, each as a chunk of its own."""

    def __init__(self, intake: SendIntake) -> None:
        self._intake = intake

    def take(self, session: Session, commands: list[Command], one_by_one: Handler) -> None:
        """Handle *commands*, requests of one receive, all of them SEND_BATCH_MESSAGE."""
        receive = _Receive(self._intake.answers, session)
        for command in commands:
            try:
                is_taken = self._put(receive, command)
            except (BrokerError, LedgerError):
                is_taken = False  # by itself it will show what is wrong
            if not is_taken:
                one_by_one(session, command)

    def _put(self, receive: _Receive, command: Command) -> bool:
        """Append one send; return False, with nothing done, where it is not as most are."""
        body = command.body
        if command.flag != FLAG_GROUPED or type(body) is not memoryview or receive.session.closed:
            return False
        header = SendRecordsRequest.decode(command.ext_fields)
        _, topic, queue_id, _, sizes, producer_id, sequence, acks, flush = header
        config = self._intake.open_topic(topic, queue_id)
        if config is None:
            return False
        level = self._intake.policy.level_in(config, acks, flush)
        chunk = check_chunk(body, sizes, topic=topic, queue_id=queue_id, limits=self._intake.limits)
        verdict = self._intake.put(
            chunk,
            _MixedSend(receive, command, topic, level),
            producer_id=producer_id,
            first_sequence=sequence,
            level=level,
        )
        if verdict.state is not SequenceState.NEW:
            return False
        receive.session.charge(len(body))
        receive.count += 1
        receive.left += 1
        return True
