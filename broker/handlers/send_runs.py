"""Sends that arrive together are handled together: what one receive brought is one chunk a queue.

A connection with many small sends under way delivers hundreds of them at a time.  Handled one by
one they cost ten microseconds each; gathered here by producer and queue they are checked, appended
and acknowledged by column, and what is left for each is a few lookups.

Nothing depends on it: whatever is unusual about a send, or wrong with one of those gathered, makes
all of them go the ordinary way, one by one and in their order, where each gets its own answer.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from broker.errors import BrokerError
from broker.handlers.send_answers import SendRequest
from broker.protocol.bodies import ACK, ACK_SIZE
from broker.protocol.headers import SendRecordsRequest
from broker.store.chunk import check_chunk
from broker.store.columns import COLUMN_MIN
from broker.store.commit_log import Receipt
from broker.store.producers import SequenceState
from dledger.errors import LedgerError
from dledger.remoting.command import FLAG_GROUPED

if TYPE_CHECKING:
    from broker.handlers.ack_policy import AckPolicy
    from broker.handlers.registry import Handler
    from broker.handlers.send import SendHandlers
    from broker.handlers.send_answers import SendAnswers
    from broker.message.limits import MessageLimits
    from broker.store.append_queue import AppendQueue
    from broker.store.chunk import Chunk
    from broker.store.columns import IntArray
    from dledger.durability import Durability
    from dledger.remoting.command import Buffer, Command
    from dledger.remoting.server import Session

RUN_MIN = 4  # sends; for fewer the ordinary way costs less
BODY_SIZE_MAX = 8 * 1024  # bytes of a send worth gathering: a larger one is a batch already
CHUNK_SIZE_MAX = 256 * 1024  # bytes gathered for one queue: as much as one receive brings

# Rows of grouped acks, as `broker.protocol.bodies` describes them.
_ACK_ROW = np.dtype(
    [
        ("opaque", ">u4"),
        ("code", ">i4"),
        ("queue_id", ">i4"),
        ("queue_offset", ">i8"),
        ("position", ">i8"),
    ]
)
assert _ACK_ROW.itemsize == ACK_SIZE

_Key = tuple[Any, ...]


class _Gathered:
    """Sends of one producer to one queue, in their order."""

    __slots__ = ("bodies", "commands", "sequences", "size", "sizes")

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.bodies: list[Buffer] = []
        self.sizes: list[bytes] = []  # the column of each send
        self.sequences: list[int] = []
        self.size = 0  # bytes of the bodies


class RunRequest:
    """Gathered sends that wait for their entry."""

    __slots__ = (
        "_answers",
        "_charged",
        "_commands",
        "_level",
        "_record_counts",
        "_send_sizes",
        "_session",
        "_topic",
    )

    def __init__(
        self,
        answers: SendAnswers,
        session: Session,
        commands: list[Command],
        *,
        topic: str,
        level: Durability,
        record_counts: list[int] | None,
        send_sizes: list[int],
    ) -> None:
        self._answers = answers
        self._topic = topic
        self._level = level  # what was asked for
        self._session = session
        self._commands = commands
        self._record_counts = record_counts  # None: each send has one
        self._send_sizes = send_sizes
        self._charged = sum(send_sizes)

    def charge(self) -> None:
        """Count what they take against their connection, until they are answered."""
        self._session.charge(self._charged)

    def release(self) -> None:
        """Count them no longer."""
        self._session.release(self._charged)

    def succeeded(self, receipt: Receipt, reached: Durability) -> None:
        """See `Put`: the records of the sends lie back to back, in their order."""
        self.release()
        if not reached.covers(self._level):
            self._tell_each(receipt, reached)
            return
        counts = self._record_counts
        if counts is None and len(self._commands) < COLUMN_MIN:
            rows = self._few_rows(receipt)
        else:
            rows = self._rows(receipt)
        self._answers.add_acks(self._session, rows, reached)

    def _tell_each(self, receipt: Receipt, reached: Durability) -> None:
        """Answer each send by itself: it has to hear why it did not get what it asked for."""
        queue_id, queue_offset, position = receipt
        counts = self._record_counts or [1] * len(self._commands)
        for command, count, size in zip(self._commands, counts, self._send_sizes, strict=True):
            request = SendRequest(
                self._answers, self._session, command, None, self._topic, self._level
            )
            request.succeeded(Receipt(queue_id, queue_offset, position), reached)
            queue_offset += count
            position += size

    def _few_rows(self, receipt: Receipt) -> bytes:
        queue_id, queue_offset, position = receipt
        pack = ACK.pack
        rows = []
        for command, size in zip(self._commands, self._send_sizes, strict=True):
            rows.append(pack(command.opaque, 0, queue_id, queue_offset, position))
            queue_offset += 1
            position += size
        return b"".join(rows)

    def _rows(self, receipt: Receipt) -> bytes:
        count = len(self._commands)
        rows = np.zeros(count, _ACK_ROW)
        rows["opaque"] = [command.opaque for command in self._commands]
        rows["queue_id"] = receipt.queue_id
        rows["queue_offset"] = receipt.queue_offset + (
            np.arange(count) if self._record_counts is None else _starts(self._record_counts)
        )
        rows["position"] = receipt.position + _starts(self._send_sizes)
        return rows.tobytes()

    def failed(self, error: LedgerError) -> None:
        """See `Put`."""
        self.release()
        for command in self._commands:
            self._answers.refuse(self._session, command, error)


class SendRuns:
    """Gathers sends and hands them to the append queue."""

    def __init__(
        self,
        handlers: SendHandlers,
        *,
        queue: AppendQueue,
        policy: AckPolicy,
        answers: SendAnswers,
        limits: MessageLimits,
    ) -> None:
        self._handlers = handlers
        self._queue = queue
        self._policy = policy
        self._answers = answers
        self._limits = limits

    def take(self, session: Session, commands: list[Command], one_by_one: Handler) -> None:
        """Handle *commands*, requests of one receive, all of them SEND_BATCH_MESSAGE."""
        gathered: dict[_Key, _Gathered] = {}
        for command in commands:
            key = _key_of(command)
            if key is None:
                # Whatever it is, what came before it goes first.
                self._put_all(session, gathered, one_by_one)
                one_by_one(session, command)
                continue
            sends = gathered.get(key)
            if sends is None:
                sends = gathered[key] = _Gathered()
            ext, body = command.ext_fields, command.body
            sends.commands.append(command)
            sends.bodies.append(body)  # type: ignore[arg-type]
            sends.sizes.append(ext["sizes"])
            sends.sequences.append(ext["sequence"])
            sends.size += len(body)
            if sends.size >= CHUNK_SIZE_MAX:
                del gathered[key]
                self._put(session, sends, one_by_one)
        self._put_all(session, gathered, one_by_one)

    def _put_all(
        self, session: Session, gathered: dict[_Key, _Gathered], one_by_one: Handler
    ) -> None:
        for sends in gathered.values():
            self._put(session, sends, one_by_one)
        gathered.clear()

    def _put(self, session: Session, sends: _Gathered, one_by_one: Handler) -> None:
        try:
            taken = len(sends.commands) >= RUN_MIN and self._put_together(session, sends)
        except (BrokerError, LedgerError):
            taken = False  # one by one it will show whose error it is
        if not taken:
            for command in sends.commands:
                one_by_one(session, command)

    def _put_together(self, session: Session, sends: _Gathered) -> bool:
        """Append *sends* as one chunk; return False, with nothing done, where that cannot be."""
        # One header stands for all: they are equal in everything but sizes and sequence.
        header = SendRecordsRequest.decode(sends.commands[0].ext_fields)
        if not self._handlers.may_write(header.topic, header.queue_id):
            return False
        column = b"".join(sends.sizes)
        send_sizes = [len(body) for body in sends.bodies]
        record_counts: list[int] | None = None
        if set(map(len, sends.sizes)) == {4}:
            # One record each, as from clients that do not gather themselves.
            if list(_sizes_of(column)) != send_sizes:
                return False
            firsts = list(range(header.sequence, header.sequence + len(send_sizes)))
        else:
            record_counts = [len(sizes) // 4 for sizes in sends.sizes]
            if not _each_fills_its_body(column, record_counts, send_sizes):
                return False
            # Not by column: a sequence may be any 64 bits, and int64 has 63.
            firsts = [header.sequence + start for start in _starts(record_counts).tolist()]
        # Those behind the first must follow it without a gap, as only the first is looked up.
        if header.producer_id and firsts != sends.sequences:
            return False
        chunk: Chunk = check_chunk(
            b"".join(sends.bodies),
            column,
            topic=header.topic,
            queue_id=header.queue_id,
            limits=self._limits,
        )
        level = self._policy.level_of(header.topic, header.acks, header.flush)
        request = RunRequest(
            self._answers,
            session,
            sends.commands,
            topic=header.topic,
            level=level,
            record_counts=record_counts,
            send_sizes=send_sizes,
        )
        verdict = self._queue.put_chunk(
            chunk,
            request,
            producer_id=header.producer_id,
            first_sequence=header.sequence,
            level=self._policy.to_wait_for(level),
        )
        if verdict.state is not SequenceState.NEW:
            return False
        request.charge()
        self._handlers.message_count += chunk.record_count
        return True


def _key_of(command: Command) -> _Key | None:
    """Return what is the same in all sends that go together; None for one that goes alone."""
    ext, body = command.ext_fields, command.body
    try:
        if (
            command.flag == FLAG_GROUPED
            and type(ext["sizes"]) is bytes
            and type(ext["sequence"]) is int
            and type(body) is memoryview
            and len(body) <= BODY_SIZE_MAX
        ):
            key = (
                ext["topic"],
                ext["queueId"],
                ext["producerId"],
                ext["producerGroup"],
                ext["recordFormat"],
                ext["acks"] if "acks" in ext else None,  # noqa: SIM401 - no call for each send
                ext["flush"] if "flush" in ext else None,  # noqa: SIM401
            )
            hash(key)
            return key
    except (KeyError, TypeError):  # a field is missing, or a list where a number belongs
        pass
    return None


def _sizes_of(column: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(column) // 4}I", column)


def _starts(lengths: list[int]) -> IntArray:
    """Return where each of *lengths* laid end to end begins."""
    array = np.array(lengths, np.int64)
    return np.cumsum(array) - array


def _each_fills_its_body(column: bytes, record_counts: list[int], send_sizes: list[int]) -> bool:
    """Say whether the records of each send, as its sizes have them, are as long as its body."""
    if len(column) != 4 * sum(record_counts) or min(record_counts) < 1:
        return False  # a column of an odd length, or an empty one
    sizes = np.frombuffer(column, ">u4").astype(np.int64)
    sums: list[int] = np.add.reduceat(sizes, _starts(record_counts)).tolist()
    return sums == send_sizes
