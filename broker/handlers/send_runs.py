"""Sends that arrive together are handled together: what one receive brought is one chunk a queue.

A connection with many small sends under way delivers hundreds of them at a time.  Handled one by
one they cost ten microseconds each; gathered here by producer and queue they are checked, appended
and acknowledged by column, and what is left for each is a few lookups.

Nothing depends on it: whatever is unusual about a send, or wrong with one of those gathered, makes
all of them go the ordinary way, one by one and in their order, where each gets its own answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from broker.errors import BrokerError
from broker.protocol.bodies import ACK_SIZE
from broker.protocol.headers import SendRecordsRequest
from broker.store.chunk import check_chunk
from broker.store.producers import SequenceState
from dledger.errors import LedgerError
from dledger.remoting.command import FLAG_GROUPED

if TYPE_CHECKING:
    from broker.handlers.registry import Handler
    from broker.handlers.send import SendHandlers
    from broker.message.limits import MessageLimits
    from broker.store.append_queue import AppendQueue
    from broker.store.chunk import Chunk
    from broker.store.columns import IntArray
    from broker.store.commit_log import Receipt
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

    __slots__ = ("_commands", "_handlers", "_record_counts", "_send_sizes", "_session")

    def __init__(
        self,
        handlers: SendHandlers,
        session: Session,
        commands: list[Command],
        *,
        record_counts: IntArray,
        send_sizes: IntArray,
    ) -> None:
        self._handlers = handlers
        self._session = session
        self._commands = commands
        self._record_counts = record_counts
        self._send_sizes = send_sizes

    def succeeded(self, receipt: Receipt) -> None:
        """See `Put`: the records of the sends lie back to back, in their order."""
        rows = np.zeros(len(self._commands), _ACK_ROW)
        rows["opaque"] = [command.opaque for command in self._commands]
        rows["queue_id"] = receipt.queue_id
        counts, sizes = self._record_counts, self._send_sizes
        rows["queue_offset"] = receipt.queue_offset + np.cumsum(counts) - counts
        rows["position"] = receipt.position + np.cumsum(sizes) - sizes
        self._handlers.add_acks(self._session, rows.tobytes())

    def failed(self, error: LedgerError) -> None:
        """See `Put`."""
        for command in self._commands:
            self._handlers.refuse(self._session, command, error)


class SendRuns:
    """Gathers sends and hands them to the append queue."""

    def __init__(
        self, handlers: SendHandlers, *, queue: AppendQueue, limits: MessageLimits
    ) -> None:
        self._handlers = handlers
        self._queue = queue
        self._limits = limits

    def take(self, session: Session, commands: list[Command], one_by_one: Handler) -> None:
        """Handle *commands*, requests of one receive, all of them SEND_BATCH_MESSAGE."""
        gathered: dict[_Key, _Gathered] = {}
        for command in commands:
            get = command.ext_fields.get
            sizes, sequence, body = get("sizes"), get("sequence"), command.body
            if (
                command.flag != FLAG_GROUPED
                or type(sizes) is not bytes
                or type(sequence) is not int
                or type(body) is not memoryview
                or len(body) > BODY_SIZE_MAX
            ):
                # Whatever it is, what came before it goes first.
                self._put_all(session, gathered, one_by_one)
                one_by_one(session, command)
                continue
            key = (
                get("topic"),
                get("queueId"),
                get("producerId"),
                get("producerGroup"),
                get("recordFormat"),
            )
            try:
                sends = gathered.get(key)
            except TypeError:  # a list or map where a number or a text belongs
                self._put_all(session, gathered, one_by_one)
                one_by_one(session, command)
                continue
            if sends is None:
                sends = gathered[key] = _Gathered()
            sends.commands.append(command)
            sends.bodies.append(body)
            sends.sizes.append(sizes)
            sends.sequences.append(sequence)
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
        record_counts = np.array([len(sizes) for sizes in sends.sizes], np.int64) >> 2
        send_sizes = np.array([len(body) for body in sends.bodies], np.int64)
        if not _each_fills_its_body(column, record_counts, send_sizes):
            return False
        if header.producer_id:
            # Those behind the first must follow it without a gap, as only the first is looked up.
            firsts = np.cumsum(record_counts) - record_counts + header.sequence
            if firsts.tolist() != sends.sequences:
                return False
        chunk: Chunk = check_chunk(
            b"".join(sends.bodies),
            column,
            topic=header.topic,
            queue_id=header.queue_id,
            limits=self._limits,
        )
        request = RunRequest(
            self._handlers,
            session,
            sends.commands,
            record_counts=record_counts,
            send_sizes=send_sizes,
        )
        verdict = self._queue.put_chunk(
            chunk, request, producer_id=header.producer_id, first_sequence=header.sequence
        )
        if verdict.state is not SequenceState.NEW:
            return False
        self._handlers.message_count += chunk.record_count
        return True


def _each_fills_its_body(column: bytes, record_counts: IntArray, send_sizes: IntArray) -> bool:
    """Say whether the records of each send, as its sizes have them, are as long as its body."""
    if len(column) != 4 * int(record_counts.sum()) or int(record_counts.min()) < 1:
        return False  # a column of an odd length, or an empty one
    sizes = np.frombuffer(column, ">u4").astype(np.int64)
    if len(sizes) != len(send_sizes):
        sizes = np.add.reduceat(sizes, np.cumsum(record_counts) - record_counts)
    return bool((sizes == send_sizes).all())
