"""Sends that arrive together are handled together: what one receive brought is one chunk a queue.

A connection with many small sends under way delivers hundreds of them at a time.  Handled one by
one they cost ten microseconds each; gathered here by producer and queue they are checked, appended
and acknowledged by column, and what is left for each is a few lookups.

Where their frames are alike too, not even a command is made of each (`take_frames`).

Nothing depends on it: whatever is unusual about a send, or wrong with one of those gathered, makes
all of them go the ordinary way, one by one and in their order, where each gets its own answer.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from broker.errors import BrokerError
from broker.handlers.ordered_sends import OrderedSends, order_of
from broker.handlers.run_request import RunRequest, starts_of
from broker.handlers.send_frames import SendFinder, SendFrames, take_send_frames
from broker.handlers.send_mixed import MixedSends
from broker.protocol.send_headers import SendRecordsRequest
from broker.store.chunk import Chunk, check_chunk, check_records
from broker.store.producers import SequenceState
from dledger.errors import LedgerError
from dledger.remoting.command import FLAG_GROUPED

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.handlers.registry import Handler
    from broker.handlers.send_intake import SendIntake
    from broker.store.columns import IntArray
    from dledger.durability import Durability
    from dledger.remoting.command import Buffer, Command
    from dledger.remoting.server import FrameRun, Session

RUN_MIN = 4  # sends; for fewer the ordinary way costs less
BODY_SIZE_MAX = 8 * 1024  # bytes of a send worth gathering: a larger one is a batch already
CHUNK_SIZE_MAX = 256 * 1024  # bytes gathered for one queue

_Key = tuple[Any, ...]
_PLACE_SIZE = 3  # of a key, what says whose sends they are and where they go
_COLUMNS = {"queueId", "sequence", "sizes"}  # in which the frames of a run may differ


class _Gathered:
    """Sends of one producer to one queue, in their order."""

    __slots__ = ("bodies", "commands", "sequences", "size", "sizes")

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.bodies: list[Buffer] = []
        self.sizes: list[bytes] = []  # the column of each send
        self.sequences: list[int] = []
        self.size = 0  # bytes of the bodies


class SendRuns:
    """Gathers sends and hands them to the append queue."""

    def __init__(self, intake: SendIntake) -> None:
        self._intake = intake
        self._mixed = MixedSends(intake)
        self.finder = SendFinder(intake.limits)

    def take(self, session: Session, commands: list[Command], one_by_one: Handler) -> None:
        """Handle *commands*, requests of one receive, all of them SEND_BATCH_MESSAGE."""
        if _are_mixed(commands):
            self._mixed.take(session, commands, one_by_one)
            return
        gathered: dict[_Key, _Gathered] = {}
        latest: dict[_Key, _Key] = {}  # of a producer and queue, how it was gathered last
        for command in commands:
            key = _key_of(command)
            if key is None:
                # Whatever it is, what came before it goes first.
                self._put_all(session, gathered, one_by_one)
                one_by_one(session, command)
                continue
            sends = gathered.get(key)
            if sends is None:
                # Those that asked for another level go first, or they would overtake each other.
                place = key[:_PLACE_SIZE]
                before = latest.get(place)
                if before in gathered:
                    self._put(session, gathered.pop(before), one_by_one)
                latest[place] = key
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
        if self._intake.open_topic(header.topic, header.queue_id) is None:
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
            firsts = [header.sequence + start for start in starts_of(record_counts).tolist()]
        # Those behind the first must follow it without a gap, as only the first is looked up.
        if header.producer_id and firsts != sends.sequences:
            return False
        chunk = check_chunk(
            b"".join(sends.bodies),
            column,
            topic=header.topic,
            queue_id=header.queue_id,
            limits=self._intake.limits,
        )
        return self._append(
            session,
            chunk,
            producer_id=header.producer_id,
            first_sequence=header.sequence,
            level=self._intake.policy.level_of(header.topic, header.acks, header.flush),
            commands=lambda: sends.commands,
            opaques=[command.opaque for command in sends.commands],
            record_counts=record_counts,
            send_sizes=send_sizes,
        )

    def take_frames(
        self, session: Session, run: FrameRun | SendFrames, one_by_one: Handler
    ) -> list[Command]:
        """Handle a run of SEND_BATCH_MESSAGE; return those that have to go one by one."""
        if isinstance(run, SendFrames):
            return take_send_frames(self._intake, session, run, one_by_one)
        if _key_of(run.first) is None or not run.columns.keys() <= _COLUMNS:
            return run.commands()
        if int(run.body_sizes.max()) > BODY_SIZE_MAX:
            return run.commands()
        try:
            header = SendRecordsRequest.decode(run.first.ext_fields)
        except BrokerError:
            return run.commands()  # one by one it will be told
        queue_ids = run.columns.get("queueId")
        order: IntArray | None = None
        bounds = [0, run.count]  # where the sends of a queue begin, once they are in order
        if queue_ids is not None:
            order = order_of(queue_ids)
            queue_ids = queue_ids[order]
            changes = (queue_ids[1:] != queue_ids[:-1]).nonzero()[0] + 1
            if run.count < RUN_MIN * (len(changes) + 1):
                return run.commands()  # hardly two of it to the same
            bounds[1:1] = changes.tolist()
        try:
            level = self._intake.policy.level_of(header.topic, header.acks, header.flush)
            sizes = self._check_run(run, header)
        except BrokerError:
            return run.commands()
        if sizes is None:
            return run.commands()
        # What is the same for all, and what is taken out of columns, once, and not for each queue.
        sends = OrderedSends(run, order, sizes)
        left: list[Command] = []  # all of a queue, or none: so they keep their order
        for begin, end in pairwise(bounds):
            try:
                taken = self._put_frames(session, sends, begin, end, header, level)
            except (BrokerError, LedgerError):
                taken = False
            if not taken:
                left += sends.commands(begin, end)
        return left

    def _check_run(self, run: FrameRun, header: SendRecordsRequest) -> IntArray | None:
        """Return the sizes of the records of each request, a row each; None where they are odd.

        Raises:
            CorruptRecordError, InvalidMessageError: as `check_records`.
        """
        column = run.columns.get("sizes")
        if column is None:
            column = np.frombuffer(header.sizes, np.uint8)[np.newaxis].repeat(run.count, axis=0)
        each, odd = divmod(column.shape[1], 4)
        if odd or not each:
            return None
        packed = np.ascontiguousarray(column).view(">u4")
        sizes: IntArray = packed.astype(np.int64)
        queue_ids = run.columns.get("queueId")
        if queue_ids is None:
            queue_ids = np.full(run.count, header.queue_id)
        starts = run.body_starts
        if each == 1:
            ends = sizes
        else:
            ends = sizes.cumsum(axis=1)
            starts = np.add(starts[:, np.newaxis], ends - sizes, dtype=np.int64)
            queue_ids = queue_ids.repeat(each)
        if not (ends[:, -1] == run.body_sizes).all():
            return None
        check_records(
            run.data,
            starts.reshape(-1),
            sizes.reshape(-1),
            topic=header.topic,
            queue_ids=queue_ids,
            limits=self._intake.limits,
        )
        return sizes

    def _put_frames(
        self,
        session: Session,
        sends: OrderedSends,
        begin: int,
        end: int,
        header: SendRecordsRequest,
        level: Durability,
    ) -> bool:
        """Append some sends of one queue as one chunk; False, with nothing done, if not so."""
        queue_id = header.queue_id if sends.queue_ids is None else int(sends.queue_ids[begin])
        if self._intake.open_topic(header.topic, queue_id) is None:
            return False
        first_sequence, count, each = header.sequence, end - begin, sends.each
        if sends.sequences is not None:
            first_sequence = int(sends.sequences[begin])
        # Those behind the first must follow it without a gap, as only the first is looked up.
        if header.producer_id and not sends.follow(begin, end):
            return False
        chunk = Chunk(
            topic=header.topic,
            queue_id=queue_id,
            body=sends.bodies(begin, end),
            sizes=sends.sizes[begin * each : end * each],
            record_count=count * each,
        )
        return self._append(
            session,
            chunk,
            producer_id=header.producer_id,
            first_sequence=first_sequence,
            level=level,
            commands=lambda: sends.commands(begin, end),
            opaques=sends.opaques[begin:end],
            record_counts=None if each == 1 else [each] * count,
            send_sizes=sends.send_sizes[begin:end],
        )

    def _append(
        self,
        session: Session,
        chunk: Chunk,
        *,
        producer_id: int,
        first_sequence: int,
        level: Durability,
        commands: Callable[[], list[Command]],
        opaques: list[int] | IntArray,
        record_counts: list[int] | None,
        send_sizes: list[int] | IntArray,
    ) -> bool:
        """Append the records of sends that follow one another; False where one is not new."""
        request = RunRequest(
            self._intake.answers,
            session,
            commands,
            opaques=opaques,
            topic=chunk.topic,
            level=level,
            size=len(chunk.body),
            record_counts=record_counts,
            send_sizes=send_sizes,
        )
        verdict = self._intake.put(
            chunk,
            request,
            producer_id=producer_id,
            first_sequence=first_sequence,
            level=level,
        )
        if verdict.state is not SequenceState.NEW:
            return False
        request.charge()
        return True


def _are_mixed(commands: list[Command]) -> bool:
    """Say whether there are too few for each queue to be gathered."""
    try:
        queues = {(each.ext_fields["topic"], each.ext_fields["queueId"]) for each in commands}
    except (KeyError, TypeError):
        return False
    return len(queues) * RUN_MIN > len(commands)


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


def _each_fills_its_body(column: bytes, record_counts: list[int], send_sizes: list[int]) -> bool:
    """Say whether the records of each send, as its sizes have them, are as long as its body."""
    if len(column) != 4 * sum(record_counts) or min(record_counts) < 1:
        return False  # a column of an odd length, or an empty one
    sizes = np.frombuffer(column, ">u4").astype(np.int64)
    sums: list[int] = np.add.reduceat(sizes, starts_of(record_counts)).tolist()
    return sums == send_sizes
