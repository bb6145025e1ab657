"""SEND_MESSAGE, SEND_MESSAGE_V2 and SEND_BATCH_MESSAGE: from a request to records in the log.

Our own client sends commit-log records as they will be stored; everyone else sends body and
properties, and the record is made here.  Either way a checked chunk goes to the append queue, and
the answer is given when the entry that carries it is committed: one frame with all acks of a
group for a connection that understands it, one response each otherwise.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, NamedTuple

from broker.errors import HeaderError, InvalidMessageError, NoPermissionError, TopicNotFoundError
from broker.handlers.registry import (
    answer,
    error_response,
    handles,
    handles_runs,
    holding_cost,
)
from broker.handlers.send_runs import SendRuns
from broker.message.batch import decode_batch_body, encode_sizes
from broker.message.codec import encode_record
from broker.message.limits import RETRY_PREFIX
from broker.message.message_id import UniqueKeyGenerator, encode_offset_id, month_start_ms
from broker.message.properties import (
    NAME_VALUE_SEPARATOR,
    PROPERTY_SEPARATOR,
    UNIQUE_KEY,
    decode_properties,
)
from broker.protocol.bodies import ACK
from broker.protocol.headers import (
    PERM_WRITE,
    SendMessageRequest,
    SendMessageResponse,
    SendRecordsRequest,
    SendRecordsResponse,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.store.chunk import Chunk, check_chunk
from broker.store.commit_log import Receipt
from broker.store.producers import SequenceState, SequenceVerdict
from dledger.errors import LedgerBusyError, NotLeaderError, OutcomeUnknownError
from dledger.remoting.command import FLAG_GROUPED, FLAG_RESPONSE, Command, response

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.handlers.forward import Forwarder
    from broker.handlers.registry import Handler
    from broker.message.limits import MessageLimits
    from broker.message.model import HostAddress
    from broker.metadata.topics import Topics
    from broker.store.append_queue import AppendQueue
    from dledger.clock import Clock
    from dledger.errors import LedgerError
    from dledger.remoting.command import Buffer
    from dledger.remoting.server import Session


AWAITING_SIZE_MAX = 64 * 1024 * 1024  # bytes of sends that wait for their topic
AWAITING_COUNT_MAX = 10_000  # so many sends: they are handled in one go when it is there


class _Expected(NamedTuple):
    """How a plain (not record-format) send wants its answer."""

    unique_key: str  # joined by commas for a batch; empty where the sender gave none


class SendRequest:
    """One send that waits for its entry."""

    __slots__ = ("command", "expected", "handlers", "session")

    def __init__(
        self, handlers: SendHandlers, session: Session, command: Command, expected: _Expected | None
    ) -> None:
        self.handlers = handlers
        self.session = session
        self.command = command
        self.expected = expected

    def succeeded(self, receipt: Receipt) -> None:
        """See `Put`."""
        self.handlers.acknowledge(self, receipt)

    def failed(self, error: LedgerError) -> None:
        """See `Put`."""
        self.handlers.refuse(self.session, self.command, error)


class SendHandlers:
    """The family of sends, on the serving leader."""

    def __init__(
        self,
        *,
        queue: AppendQueue,
        topics: Topics,
        forwarder: Forwarder,
        clock: Clock,
        limits: MessageLimits,
        host: HostAddress,
        auto_create_topic: bool,
        default_queue_count: int,
        committed_index: Callable[[], int],
        create_topic: Callable[[str, int, Callable[[int, LedgerError | None], None]], None],
        is_being_deleted: Callable[[str], bool],
    ) -> None:
        """Make the family.

        Args:
            queue: where chunks go.
            topics: what exists.
            forwarder: takes what this node, no leader any more, has not written.
            clock: born time of messages whose sender gives none.
            limits: largest body and properties.
            host: this broker's address, part of offset message ids.
            auto_create_topic: whether a send to an unknown topic creates it.
            default_queue_count: queues of a topic created like that.
            committed_index: up to where entries are committed.
            create_topic: proposes a new topic with so many queues.
            is_being_deleted: whether a topic is about to go: nothing is written to it any more.
        """
        self._queue = queue
        self._topics = topics
        self._forwarder = forwarder
        self._clock = clock
        self._limits = limits
        self._host = host
        self._auto_create_topic = auto_create_topic
        self._default_queue_count = default_queue_count
        self._committed_index = committed_index
        self._create_topic = create_topic
        self._is_being_deleted = is_being_deleted
        self._runs = SendRuns(self, queue=queue, limits=limits)
        self._acks: dict[Session, list[bytes]] = {}
        self._answered: set[Session] = set()
        self._duplicates: list[tuple[int, int, SendRequest, Receipt]] = []
        self._order = itertools.count()
        self._awaiting_topic: dict[str, list[tuple[Session, Command]]] = {}
        self._awaiting_count = 0
        self._awaiting_size = 0  # bytes, by `holding_cost`
        self._next_queue = itertools.count()
        # Told from another node's by address and port, from those before a restart by the time.
        self._unique_keys = UniqueKeyGenerator(
            ip=host.ip,
            process_id=host.port,
            process_hash=clock.wall_ms(),
            wall_ms=clock.wall_ms,
            month_start_ms=month_start_ms,
        )
        self.message_count = 0
        self.duplicate_count = 0

    @property
    def awaiting_count(self) -> int:
        """Return how many sends wait for their topic to be created."""
        return self._awaiting_count

    # -- requests -------------------------------------------------------------------------------

    @handles_runs(RequestCode.SEND_BATCH_MESSAGE)
    def send_runs(self, session: Session, commands: list[Command], one_by_one: Handler) -> None:
        """Take many batches that arrived together."""
        self._runs.take(session, commands, one_by_one)

    @handles(RequestCode.SEND_BATCH_MESSAGE, on_leader=True)
    def send_batch(self, session: Session, command: Command) -> None:
        """Take a batch: ours (records, ``recordFormat``) or RocketMQ's own batch body."""
        if "recordFormat" in command.ext_fields:
            self._send_records(session, command)
            return
        header = SendMessageRequest.decode_v2(command.ext_fields)
        self._send_batch_body(session, command, header)

    @handles(RequestCode.SEND_MESSAGE_V2, on_leader=True)
    def send_v2(self, session: Session, command: Command) -> None:
        """Take one message whose header uses the short names a to n."""
        self._send_plain(session, command, SendMessageRequest.decode_v2(command.ext_fields))

    @handles(RequestCode.SEND_MESSAGE, on_leader=True)
    def send(self, session: Session, command: Command) -> None:
        """Take one message."""
        header = SendMessageRequest.decode(command.ext_fields)
        if header.batch:
            self._send_batch_body(session, command, header)
        else:
            self._send_plain(session, command, header)

    def _send_records(self, session: Session, command: Command) -> None:
        header = SendRecordsRequest.decode(command.ext_fields)
        if not self._topic_is_there(session, command, header.topic, header.queue_id):
            return
        chunk = check_chunk(
            _body_of(command),
            header.sizes,
            topic=header.topic,
            queue_id=header.queue_id,
            limits=self._limits,
        )
        self._put(
            SendRequest(self, session, command, None),
            chunk,
            producer_id=header.producer_id,
            first_sequence=header.sequence,
        )

    def _send_plain(self, session: Session, command: Command, header: SendMessageRequest) -> None:
        if not self._topic_is_there(
            session,
            command,
            header.topic,
            max(header.queue_id, 0),
            queue_count=self._queue_count_of(header),
        ):
            return
        queue_id = self._pick_queue(header)
        properties, unique_key = self._with_unique_key(header.properties.encode())
        record = self._encode(header, queue_id, properties, _body_of(command))
        self._put_encoded(session, command, header.topic, queue_id, [record], unique_key)

    def _send_batch_body(
        self, session: Session, command: Command, header: SendMessageRequest
    ) -> None:
        if not self._topic_is_there(
            session,
            command,
            header.topic,
            max(header.queue_id, 0),
            queue_count=self._queue_count_of(header),
        ):
            return
        queue_id = self._pick_queue(header)
        body = _body_of(command)
        if not len(body):
            raise InvalidMessageError("the batch is empty; send at least one message")
        messages = decode_batch_body(body)
        records = []
        keys = []
        for message in messages:
            properties, unique_key = self._with_unique_key(bytes(message.properties))
            keys.append(unique_key)
            records.append(self._encode(header, queue_id, properties, message.body))
        self._put_encoded(session, command, header.topic, queue_id, records, ",".join(keys))

    def _with_unique_key(self, properties: bytes) -> tuple[bytes, str]:
        """Return *properties* with a unique key, and the key: ours where the client gave none."""
        found = decode_properties(properties).get(UNIQUE_KEY)
        if found:
            return properties, found
        key = self._unique_keys.next_key()
        added = f"{UNIQUE_KEY}{NAME_VALUE_SEPARATOR}{key}".encode()
        if properties and not properties.endswith(PROPERTY_SEPARATOR.encode()):
            properties += PROPERTY_SEPARATOR.encode()
        return properties + added, key

    def _pick_queue(self, header: SendMessageRequest) -> int:
        if header.queue_id >= 0:
            return int(header.queue_id)
        topic = self._topics.get(header.topic)
        assert topic is not None
        return next(self._next_queue) % topic.write_queue_count

    def _encode(
        self,
        header: SendMessageRequest,
        queue_id: int,
        properties: bytes,
        body: Buffer,
    ) -> bytes:
        return encode_record(
            topic=header.topic.encode(),
            queue_id=queue_id,
            body=body,
            properties=properties,
            flag=header.flag,
            system_flag=header.sys_flag,
            born_timestamp_ms=header.born_timestamp or self._clock.wall_ms(),
            reconsume_times=header.reconsume_times,
            limits=self._limits,
        )

    def _put_encoded(
        self,
        session: Session,
        command: Command,
        topic: str,
        queue_id: int,
        records: list[bytes],
        unique_key: str,
    ) -> None:
        chunk = check_chunk(
            b"".join(records),
            encode_sizes([len(record) for record in records]),
            topic=topic,
            queue_id=queue_id,
            limits=self._limits,
        )
        request = SendRequest(self, session, command, _Expected(unique_key))
        self._put(request, chunk, producer_id=0, first_sequence=0)

    def _topic_is_there(
        self,
        session: Session,
        command: Command,
        topic: str,
        queue_id: int,
        *,
        queue_count: int | None = None,
    ) -> bool:
        config = self._topics.get(topic)
        if config is None:
            if not self._auto_create_topic:
                raise TopicNotFoundError(
                    f"topic {topic!r} does not exist; create it with `dledger topic create "
                    f"{topic}`, or set auto_create_topic"
                )
            cost = holding_cost(command)
            if self._awaiting_size and (
                self._awaiting_size + cost > AWAITING_SIZE_MAX
                or self._awaiting_count >= AWAITING_COUNT_MAX
            ):
                raise LedgerBusyError(
                    f"sends of {self._awaiting_size} bytes wait for topics that are being created; "
                    "send again later"
                )
            waiting = self._awaiting_topic.get(topic)
            if waiting is not None:
                waiting.append((session, command))
                self._awaiting_count += 1
                self._awaiting_size += cost
                return False
            self._awaiting_topic[topic] = [(session, command)]
            self._awaiting_count += 1
            self._awaiting_size += cost
            try:
                self._create_topic(
                    topic,
                    queue_count or self._default_queue_count,
                    lambda _, error: self._created(topic, error),
                )
            except BaseException:
                self._take_awaiting(topic)
                raise
            return False
        if self._is_being_deleted(topic):
            raise TopicNotFoundError(f"topic {topic!r} is being deleted; nothing was written")
        if not config.perm & PERM_WRITE:
            raise NoPermissionError(
                f"topic {topic!r} may not be written (perm {config.perm}); allow it, or send to "
                "another topic"
            )
        if not 0 <= queue_id < config.write_queue_count:
            raise HeaderError(
                f"queue {queue_id} is not one of the {config.write_queue_count} writable queues "
                f"of topic {topic!r}",
                field="queueId",
            )
        return True

    def _queue_count_of(self, header: SendMessageRequest) -> int:
        """Return how many queues the topic gets if this send creates it.

        Source: RocketMQ ``TopicConfigManager.createTopicInSendMessageMethod``: no more than the
        client asks for, and those of a group's own topics one.
        """
        if header.topic.startswith(RETRY_PREFIX):
            return 1
        if header.default_topic is None:
            return self._default_queue_count
        return max(1, min(header.default_topic_queue_nums, self._default_queue_count))

    def may_write(self, topic: str, queue_id: int) -> bool:
        """Return whether a queue is there and open to sends; why not, the ordinary way says."""
        config = self._topics.get(topic)
        return (
            config is not None
            and not self._is_being_deleted(topic)
            and bool(config.perm & PERM_WRITE)
            and 0 <= queue_id < config.write_queue_count
        )

    def _created(self, topic: str, error: LedgerError | None) -> None:
        if error is not None:
            for session, command in self._take_awaiting(topic):
                self.refuse(session, command, error)

    def topics_changed(self) -> list[tuple[Session, Command]]:
        """Return the sends whose topic has come into being, to be handled again."""
        ready: list[tuple[Session, Command]] = []
        for topic in list(self._awaiting_topic):
            if self._topics.get(topic) is not None:
                ready += self._take_awaiting(topic)
        return ready

    def _take_awaiting(self, topic: str) -> list[tuple[Session, Command]]:
        waiting = self._awaiting_topic.pop(topic, [])
        self._awaiting_count -= len(waiting)
        self._awaiting_size -= sum(holding_cost(command) for _, command in waiting)
        return waiting

    # -- answers --------------------------------------------------------------------------------

    def _put(
        self, request: SendRequest, chunk: Chunk, *, producer_id: int, first_sequence: int
    ) -> None:
        verdict = self._queue.put_chunk(
            chunk, request, producer_id=producer_id, first_sequence=first_sequence
        )
        if verdict.state is SequenceState.NEW:
            self.message_count += chunk.record_count
        else:
            self._answer_verdict(request, chunk, verdict, first_sequence)

    def _answer_verdict(
        self, request: SendRequest, chunk: Chunk, verdict: SequenceVerdict, first_sequence: int
    ) -> None:
        if verdict.state is SequenceState.DUPLICATE:
            self.duplicate_count += 1
            receipt = Receipt(chunk.queue_id, verdict.queue_offset, -1)
            if verdict.entry_index <= self._committed_index():
                request.succeeded(receipt)
            else:
                # The first try is in the log and not committed: neither is the second, then.
                item = (verdict.entry_index, next(self._order), request, receipt)
                heapq.heappush(self._duplicates, item)
            return
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
        self._answered.add(request.session)

    def acknowledge(self, request: SendRequest, receipt: Receipt) -> None:
        """Queue the answer to a send whose entry is committed."""
        session, command = request.session, request.command
        if session.closed:
            return
        if command.is_grouped and request.expected is None:
            self.add_acks(session, ACK.pack(command.opaque, 0, *receipt))
            return
        if request.expected is None:
            ext_fields = SendRecordsResponse(
                queue_id=receipt.queue_id,
                queue_offset=receipt.queue_offset,
                position=receipt.position,
            ).encode()
        else:
            ext_fields = SendMessageResponse(
                msg_id=encode_offset_id(self._host, receipt.position),
                queue_id=receipt.queue_id,
                queue_offset=receipt.queue_offset,
                transaction_id=request.expected.unique_key or None,
            ).encode()
        answer(session, command, response(command, int(ResponseCode.SUCCESS), None, ext_fields))
        self._answered.add(session)

    def add_acks(self, session: Session, rows: bytes) -> None:
        """Queue rows of grouped acks for a connection."""
        acks = self._acks.get(session)
        if acks is None:
            self._acks[session] = [rows]
        else:
            acks.append(rows)

    def refuse(self, session: Session, command: Command, error: LedgerError) -> None:
        """Answer a send that failed, or hand it on where nothing was written."""
        if session.closed:
            return
        if isinstance(error, NotLeaderError):
            self._forwarder.hold_again(session, command)
            return
        answer(session, command, error_response(command, error))
        self._answered.add(session)

    def send_answers(self) -> None:
        """Send what was queued: all acks for one connection in one frame."""
        for session, acks in self._acks.items():
            if not session.closed:
                session.reply(
                    Command(
                        code=int(ResponseCode.SUCCESS),
                        flag=FLAG_RESPONSE | FLAG_GROUPED,
                        body=b"".join(acks),
                    )
                )
                session.flush()
        self._acks.clear()
        for session in self._answered:
            if not session.closed:
                session.flush()
        self._answered.clear()

    def committed_to(self, index: int) -> None:
        """Answer the duplicates of entries that are committed now."""
        while self._duplicates and self._duplicates[0][0] <= index:
            _, _, request, receipt = heapq.heappop(self._duplicates)
            request.succeeded(receipt)

    def lost_lead(self) -> None:
        """Give up what only the leader of the past could have answered."""
        duplicates, self._duplicates = self._duplicates, []
        for _, _, request, _ in duplicates:
            request.failed(
                OutcomeUnknownError("the lead was lost before the first try was committed")
            )
        awaiting, self._awaiting_topic = self._awaiting_topic, {}
        self._awaiting_count = self._awaiting_size = 0
        for waiting in awaiting.values():
            for session, command in waiting:
                self._forwarder.hold_again(session, command)
        self.send_answers()


def _body_of(command: Command) -> Buffer:
    body = command.body
    assert not isinstance(body, list), "a received body is one piece"
    return body
