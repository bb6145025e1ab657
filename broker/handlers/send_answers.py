"""What senders are told, and when: acks, what was reached instead, refusals, duplicates.

All acks of one moment for one connection share a frame, one for each level of durability.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from broker.handlers.registry import answer, error_response, open_requests_of
from broker.message.message_id import encode_offset_id
from broker.protocol.bodies import ACK
from broker.protocol.response_code import ResponseCode
from broker.protocol.send_headers import SendMessageResponse, SendRecordsResponse
from broker.store.commit_log import Receipt
from broker.store.producers import SequenceState, SequenceVerdict
from dledger.durability import Copies
from dledger.errors import NotLeaderError, OutcomeUnknownError
from dledger.remoting.command import FLAG_GROUPED, FLAG_RESPONSE, Command, response
from dledger.remoting.frame import frame_with_header
from dledger.remoting.header_codec import encode_header

if TYPE_CHECKING:
    from broker.handlers.forward import Forwarder
    from broker.message.model import HostAddress
    from broker.store.append_queue import AppendQueue
    from broker.store.chunk import Chunk
    from dledger.durability import Durability
    from dledger.errors import LedgerError
    from dledger.remoting.server import Session
    from dledger.server import LedgerServer


class Expected(NamedTuple):
    """How a plain (not record-format) send wants its answer."""

    unique_key: str  # joined by commas for a batch; empty where the sender gave none
    sizes: tuple[int, ...] = ()  # bytes of each record, where each is to be named by an id
    queue_id: int | None = None  # named in the answer in the place of where a message waits


class SendRequest(msgspec.Struct, eq=False):
    """One send that waits for its entry.

    A struct, since one is made for every message that comes alone.
    """

    answers: SendAnswers
    session: Session
    command: Command
    expected: Expected | None
    topic: str
    level: Durability  # what was asked for
    charged: int = 0  # bytes that count against its connection until it is answered

    def release(self) -> None:
        """Count it no longer."""
        self.session.release(self.charged)
        self.charged = 0

    def succeeded(self, receipt: Receipt, reached: Durability) -> None:
        """See `Put`."""
        self.session.release(self.charged)
        self.charged = 0
        self.answers.acknowledge(self, receipt, reached)

    def failed(self, error: LedgerError) -> None:
        """See `Put`."""
        self.release()
        self.answers.refuse(self.session, self.command, error)


class _Acks(msgspec.Struct, eq=False):
    """Rows of grouped acks for one connection, all of one level."""

    reached: Durability
    rows: list[bytes]


class SendAnswers:
    """Answers to sends, on their way to connections."""

    def __init__(
        self, *, ledger: LedgerServer, queue: AppendQueue, forwarder: Forwarder, host: HostAddress
    ) -> None:
        """Begin with nothing to answer.

        Args:
            ledger: knows what is committed, and who is connected.
            queue: tells when an entry has reached a level of durability.
            forwarder: takes what this node, no leader any more, has not written.
            host: this broker's address, part of offset message ids.
        """
        self._ledger = ledger
        self._queue = queue
        self._forwarder = forwarder
        self._host = host
        self._acks: dict[Session, _Acks] = {}
        self._answered: dict[Session, None] = {}  # in order: a set goes by where they lie in memory
        self._duplicates: list[tuple[int, int, SendRequest, Receipt]] = []
        self._order = itertools.count()
        # What a frame of acks begins with, encoded, and the level of durability that it names.
        self._header_level: Durability | None = None
        self._header = b""
        self.duplicate_count = 0

    # -- what senders hear ----------------------------------------------------------------------

    def acknowledge(self, request: SendRequest, receipt: Receipt, reached: Durability) -> None:
        """Queue the answer to a send whose entry is kept as well as *reached* says."""
        session, command = request.session, request.command
        if session.closed:
            return
        level = request.level
        falls_short = reached is not level and reached != level and not reached.covers(level)
        if request.expected is None and not falls_short and command.is_grouped:
            if (known := open_requests_of(session)) is not None:
                known.end(command, 0)
            self.add_acks(session, ACK.pack(command.opaque, 0, *receipt), reached)
            return
        if request.expected is None:
            ext_fields = SendRecordsResponse(
                queue_id=receipt.queue_id,
                queue_offset=receipt.queue_offset,
                position=receipt.position,
                durability=str(reached),
            ).encode()
        else:
            ext_fields = SendMessageResponse(
                msg_id=self._offset_ids(receipt.position, request.expected.sizes),
                queue_id=(
                    receipt.queue_id
                    if request.expected.queue_id is None
                    else request.expected.queue_id
                ),
                queue_offset=receipt.queue_offset,
                transaction_id=request.expected.unique_key or None,
                durability=str(reached),
            ).encode()
        code, remark = ResponseCode.SUCCESS, None
        if falls_short:
            code, remark = self._shortfall(request, receipt, reached)
        answer(session, command, response(command, int(code), remark, ext_fields))
        self._answered[session] = None

    def _shortfall(
        self, request: SendRequest, receipt: Receipt, reached: Durability
    ) -> tuple[ResponseCode, str]:
        """Return code and remark for a message that is stored, but not as well as was asked.

        Source: RocketMQ ``CommitLog.handleDiskFlushAndHA``.
        """
        core, wanted = self._ledger.core, request.level
        gone = [peer for peer in core.engine.peer_ids if peer not in core.connected_peers]
        why = "their disks have not confirmed it"
        if reached.copies >= wanted.copies:
            code = ResponseCode.FLUSH_DISK_TIMEOUT
        elif gone and wanted.copies is Copies.ALL:
            code = ResponseCode.SLAVE_NOT_AVAILABLE
            why = f"{', '.join(gone)} cannot be reached"
        else:
            code = ResponseCode.FLUSH_SLAVE_TIMEOUT
            why = "not all members have confirmed it"
        return code, (
            f"stored in queue {receipt.queue_id} of topic {request.topic!r} by node "
            f"{core.config.node_id}, kept as {reached} and not as {wanted} in time "
            f"(ack_timeout_ms): {why}; do not send it again"
        )

    def verdict(
        self, request: SendRequest, chunk: Chunk, verdict: SequenceVerdict, first_sequence: int
    ) -> None:
        """Answer a send of which nothing was appended now."""
        if verdict.state is SequenceState.DUPLICATE:
            self._answer_duplicate(request, chunk, verdict)
            return
        request.release()
        where = f"sequence {first_sequence} for queue {chunk.queue_id} of topic {chunk.topic!r}"
        code, remark = {
            SequenceState.PENDING: (
                ResponseCode.NOT_READY,
                f"{where} is being written by an earlier try; ask again in a moment",
            ),
            SequenceState.GAP: (
                ResponseCode.OUT_OF_ORDER_SEQUENCE,
                f"{where} does not follow the last one here; send again from the first that was "
                "not acknowledged",
            ),
            SequenceState.UNKNOWN: (
                ResponseCode.UNKNOWN_PRODUCER,
                f"{where} comes from a producer of which nothing is known; begin anew with "
                "another producer id",
            ),
        }[verdict.state]
        answer(request.session, request.command, response(request.command, int(code), remark))
        self._answered[request.session] = None

    def _answer_duplicate(
        self, request: SendRequest, chunk: Chunk, verdict: SequenceVerdict
    ) -> None:
        self.duplicate_count += 1
        receipt = Receipt(chunk.queue_id, verdict.queue_offset, -1)
        if request.level != self._queue.commit_durability:

            def reached(found: Durability | None) -> None:
                if found is None:
                    request.failed(_lost_with_the_first())
                else:
                    request.succeeded(receipt, found)
                self._queue.told_some()

            self._queue.await_level_of_older(verdict.entry_index, request.level, reached)
        elif verdict.entry_index <= self._ledger.committed_index:
            request.succeeded(receipt, self._queue.commit_durability)
        else:
            # The first try is in the log and not committed: neither is the second, then.
            item = (verdict.entry_index, next(self._order), request, receipt)
            heapq.heappush(self._duplicates, item)

    def _offset_ids(self, position: int, sizes: tuple[int, ...]) -> str:
        """Return the ids of records that lie back to back, the first at *position*."""
        places = itertools.accumulate(sizes[:-1], initial=position)
        return ",".join(encode_offset_id(self._host, place) for place in places)

    def add_acks(self, session: Session, rows: bytes, reached: Durability) -> None:
        """Queue rows of grouped acks for a connection."""
        acks = self._acks.get(session)
        if acks is None:
            self._acks[session] = _Acks(reached, [rows])
        elif acks.reached == reached:
            acks.rows.append(rows)
        else:
            session.write([self._frame_of(acks)])
            self._acks[session] = _Acks(reached, [rows])

    def refuse(self, session: Session, command: Command, error: LedgerError) -> None:
        """Answer a send that failed, or hand it on where nothing was written."""
        if session.closed:
            return
        if isinstance(error, NotLeaderError):
            self._forwarder.hold_again(session, command)
            return
        if isinstance(error, OutcomeUnknownError) and self._forwarder.ask_next(session, command):
            return
        answer(session, command, error_response(command, error))
        self._answered[session] = None

    def hold_again(self, session: Session, command: Command) -> None:
        """Let a send wait for the next leader."""
        self._forwarder.hold_again(session, command)

    # -- when -----------------------------------------------------------------------------------

    def send(self) -> None:
        """Send what was queued: all acks for one connection in one frame."""
        if self._acks:
            for session, acks in self._acks.items():
                if not session.closed:
                    session.send([self._frame_of(acks)])
            self._acks.clear()
        if self._answered:
            for session in self._answered:
                if not session.closed:
                    session.flush()
            self._answered.clear()

    def _frame_of(self, acks: _Acks) -> bytes:
        """Return the frame with these acks."""
        reached, rows = acks.reached, acks.rows
        if reached is not self._header_level:
            # The same for nearly all: what a commit stands for.
            self._header_level, self._header = (
                reached,
                encode_header(
                    Command(
                        code=int(ResponseCode.SUCCESS),
                        flag=FLAG_RESPONSE | FLAG_GROUPED,
                        ext_fields={"durability": str(reached)},
                    )
                ),
            )
        return frame_with_header(self._header, rows[0] if len(rows) == 1 else b"".join(rows))

    def committed_to(self, index: int) -> None:
        """Answer the duplicates of entries that are committed now."""
        while self._duplicates and self._duplicates[0][0] <= index:
            _, _, request, receipt = heapq.heappop(self._duplicates)
            request.succeeded(receipt, self._queue.commit_durability)

    def lost_lead(self) -> None:
        """Give up what only the leader of the past could have answered."""
        duplicates, self._duplicates = self._duplicates, []
        for _, _, request, _ in duplicates:
            request.failed(_lost_with_the_first())
        self.send()


def _lost_with_the_first() -> OutcomeUnknownError:
    return OutcomeUnknownError("the lead was lost before the first try was committed")
