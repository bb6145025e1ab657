"""SEND_MESSAGE, SEND_MESSAGE_V2 and SEND_BATCH_MESSAGE: from a request to records in the log.

Our own client sends commit-log records as they will be stored; everyone else sends body and
properties, and the record is made here.  Either way a checked chunk goes to the append queue, and
the answer is given when the entry that carries it is committed: one frame with all acks of a
group for a connection that understands it, one response each otherwise.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from broker.errors import InvalidMessageError
from broker.handlers.born_host import born_host_of
from broker.handlers.dead_letters import redirected
from broker.handlers.delayed import check_delayed
from broker.handlers.registry import handles, handles_frame_runs, handles_runs
from broker.handlers.repeats import EarlierTries, given_key
from broker.handlers.send_answers import Expected, SendAnswers, SendRequest
from broker.handlers.send_intake import SendIntake
from broker.handlers.send_runs import SendRuns
from broker.handlers.send_topics import SendTopics
from broker.message.batch import PRODUCER_ID_MAX, decode_batch_body, encode_sizes
from broker.message.codec import encode_record
from broker.message.delay import SCHEDULE_TOPIC, delay_asked_for, hide
from broker.message.message_id import UniqueKeyGenerator, month_start_ms
from broker.message.properties import (
    NAME_VALUE_SEPARATOR,
    PROPERTY_SEPARATOR,
    UNIQUE_KEY,
    decode_properties,
    encode_properties,
)
from broker.protocol import send_headers
from broker.protocol.request_code import RequestCode
from broker.protocol.send_headers import SendMessageRequest, SendRecordsRequest
from broker.store.chunk import Chunk, check_chunk
from broker.store.producers import SequenceState

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.delivery.schedule import Schedule
    from broker.handlers.ack_policy import AckPolicy
    from broker.handlers.registry import Handler
    from broker.handlers.send_frames import SendFrames
    from broker.message.limits import MessageLimits
    from broker.message.model import HostAddress
    from broker.metadata.subscription_groups import SubscriptionGroups
    from broker.metadata.topics import Topics
    from broker.store.append_queue import AppendQueue
    from dledger.clock import Clock
    from dledger.errors import LedgerError
    from dledger.remoting.command import Buffer, Command
    from dledger.remoting.server import FrameRun, Session

assert send_headers.PRODUCER_ID_MAX == PRODUCER_ID_MAX


class SendHandlers:
    """The family of sends, on the serving leader."""

    def __init__(
        self,
        *,
        queue: AppendQueue,
        topics: Topics,
        answers: SendAnswers,
        policy: AckPolicy,
        clock: Clock,
        limits: MessageLimits,
        host: HostAddress,
        auto_create_topic: bool,
        held_count_max: int,
        held_size_max: int,
        default_queue_count: int,
        create_topic: Callable[[str, int, Callable[[int, LedgerError | None], None]], None],
        is_being_deleted: Callable[[str], bool],
        schedule: Schedule,
        earlier_tries: EarlierTries,
        groups: SubscriptionGroups,
    ) -> None:
        """Make the family.

        Args:
            queue: where chunks go.
            topics: what exists.
            answers: answers sends.
            policy: says how well a message is to be kept before its send is answered.
            clock: born time of messages whose sender gives none.
            limits: largest body and properties.
            host: this broker's address, part of the unique keys it gives.
            auto_create_topic: whether a send to an unknown topic creates it.
            held_count_max: most sends that wait for topics: they are handled in one go.
            held_size_max: most bytes of such sends; see `holding_cost`.
            default_queue_count: queues of a topic created like that.
            create_topic: proposes a new topic with so many queues.
            is_being_deleted: whether a topic is about to go: nothing is written to it any more.
            schedule: where messages wait that are to be delivered later.
            earlier_tries: finds what was handed to a leader of the past and written by it.
            groups: how often their messages may come again.
        """
        self._queue = queue
        self._topics = topics
        self._answers = answers
        self._policy = policy
        self._clock = clock
        self._limits = limits
        self._schedule = schedule
        self._earlier_tries = earlier_tries
        self._groups = groups
        self._intake = SendIntake(queue, topics, answers, policy, limits, is_being_deleted)
        self._runs = SendRuns(self._intake)
        self._send_topics = SendTopics(
            topics,
            answers,
            auto_create_topic=auto_create_topic,
            held_count_max=held_count_max,
            held_size_max=held_size_max,
            default_queue_count=default_queue_count,
            create_topic=create_topic,
            is_being_deleted=is_being_deleted,
        )
        self.awaiting_topic = self._send_topics.waiting
        self._next_queue = itertools.count()
        # Told from another node's by address and port, from those before a restart by the time.
        self._unique_keys = UniqueKeyGenerator(
            ip=host.ip,
            process_id=host.port,
            process_hash=clock.wall_ms(),
            wall_ms=clock.wall_ms,
            month_start_ms=month_start_ms,
        )

    def topics_changed(self) -> list[tuple[Session, Command]]:
        """Return the sends whose topic has come into being, to be handled again."""
        return self._send_topics.changed()

    @property
    def message_count(self) -> int:
        """Return how many messages were taken."""
        return self._intake.message_count

    @property
    def awaiting_count(self) -> int:
        """Return how many sends wait for their topic to be created."""
        return self._send_topics.waiting_count

    # -- requests -------------------------------------------------------------------------------

    @handles_runs(RequestCode.SEND_BATCH_MESSAGE)
    def send_runs(self, session: Session, commands: list[Command], one_by_one: Handler) -> None:
        """Take many batches that arrived together."""
        self._runs.take(session, commands, one_by_one)

    @handles_frame_runs(RequestCode.SEND_BATCH_MESSAGE)
    def send_frame_run(
        self, session: Session, run: FrameRun | SendFrames, one_by_one: Handler
    ) -> list[Command]:
        """Take many batches whose frames are alike; return those that are to go one by one."""
        return self._runs.take_frames(session, run, one_by_one)

    def find_frames(
        self, data: bytes, at: int, *, frame_size_max: int
    ) -> tuple[SendFrames | None, int]:
        """Return the batches to many queues that begin at *at*; see `RemotingServer`."""
        return self._runs.finder.find(data, at, frame_size_max=frame_size_max)

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
        self._send_stock(session, command, SendMessageRequest.decode_v2(command.ext_fields))

    @handles(RequestCode.SEND_MESSAGE, on_leader=True)
    def send(self, session: Session, command: Command) -> None:
        """Take one message."""
        self._send_stock(session, command, SendMessageRequest.decode(command.ext_fields))

    def _send_stock(self, session: Session, command: Command, header: SendMessageRequest) -> None:
        if header.batch:
            self._send_batch_body(session, command, header)
        else:
            self._send_plain(session, command, header)

    def _send_records(self, session: Session, command: Command) -> None:
        header = SendRecordsRequest.decode(command.ext_fields)
        _, topic, queue_id, _, sizes, producer_id, sequence, acks, flush = header
        if topic == SCHEDULE_TOPIC:
            check_delayed(header, _body_of(command), now_ms=self._clock.wall_ms())
            self._schedule.ensure_topic()
            config = self._topics.get(topic)
        else:
            config = self._send_topics.find(session, command, topic, queue_id)
            if config is None:
                return
        body = command.body
        assert not isinstance(body, list), "a received body is one piece"
        chunk = check_chunk(body, sizes, topic=topic, queue_id=queue_id, limits=self._limits)
        level = self._policy.level_in(config, acks, flush)
        self._put(
            SendRequest(self._answers, session, command, None, topic, level),
            chunk,
            producer_id=producer_id,
            first_sequence=sequence,
        )

    def _send_plain(self, session: Session, command: Command, header: SendMessageRequest) -> None:
        if self._earlier_tries.must_wait(session, command):
            return
        header = redirected(header, version=command.version, groups=self._groups)
        if not self._send_topics.has_topic_of(session, command, header):
            return
        queue_id = self._pick_queue(header)
        properties, found = self._with_unique_key(header.properties.encode(), given_key(command))
        level = self._policy.level_of_plain(header, [found])
        delay = delay_asked_for(found, now_ms=self._clock.wall_ms())
        topic, asked_queue_id = header.topic, queue_id
        if delay is not None:
            self._schedule.ensure_topic()
            properties = encode_properties(hide(found, delay, topic=topic, queue_id=queue_id))
            topic, queue_id = SCHEDULE_TOPIC, delay.queue_id
        born_host = born_host_of(session, command)
        record = self._encode(header, topic, queue_id, properties, _body_of(command), born_host)
        expected = Expected(found[UNIQUE_KEY], queue_id=asked_queue_id)
        request = SendRequest(self._answers, session, command, expected, topic, level)
        key, times, born_ms = found[UNIQUE_KEY], header.reconsume_times, header.born_timestamp
        earlier = self._earlier_tries.find_waiting(
            command, real_topic=header.topic, unique_key=key, times=times, born_ms=born_ms
        )
        if earlier is not None:
            request.succeeded(earlier, self._queue.commit_durability)
            return
        self._put_encoded(request, queue_id, [record], key, times, born_ms)

    def _send_batch_body(
        self, session: Session, command: Command, header: SendMessageRequest
    ) -> None:
        if self._earlier_tries.must_wait(session, command):
            return
        if not self._send_topics.has_topic_of(session, command, header):
            return
        queue_id = self._pick_queue(header)
        body = _body_of(command)
        if not len(body):
            raise InvalidMessageError("the batch is empty; send at least one message")
        messages = decode_batch_body(body)
        born_host = born_host_of(session, command)
        records = []
        found = []
        for number, message in enumerate(messages):
            given = None if number else given_key(command)
            properties, each = self._with_unique_key(bytes(message.properties), given)
            found.append(each)
            records.append(
                self._encode(header, header.topic, queue_id, properties, message.body, born_host)
            )
        level = self._policy.level_of_plain(header, found)
        # By these codes RocketMQ takes the batch for one message, and its clients expect one id.
        is_one = command.code in (RequestCode.SEND_MESSAGE, RequestCode.SEND_MESSAGE_V2)
        expected = Expected(
            ",".join(each[UNIQUE_KEY] for each in found),
            sizes=() if is_one else tuple(map(len, records)),
        )
        request = SendRequest(self._answers, session, command, expected, header.topic, level)
        key, times, born_ms = found[0][UNIQUE_KEY], header.reconsume_times, header.born_timestamp
        self._put_encoded(request, queue_id, records, key, times, born_ms)

    def next_unique_key(self) -> str:
        """Return a unique key for a message that has none."""
        return self._unique_keys.next_key()

    def _with_unique_key(
        self, properties: bytes, given: str | None = None
    ) -> tuple[bytes, dict[str, str]]:
        """Return *properties* with a unique key, ours where the client gave none; also decoded.

        *given* is what the node chose that the client asked, if it has.
        """
        found = decode_properties(properties)
        if found.get(UNIQUE_KEY):
            return properties, found
        key = found[UNIQUE_KEY] = given or self._unique_keys.next_key()
        added = f"{UNIQUE_KEY}{NAME_VALUE_SEPARATOR}{key}".encode()
        if properties and not properties.endswith(PROPERTY_SEPARATOR.encode()):
            properties += PROPERTY_SEPARATOR.encode()
        return properties + added, found

    def _pick_queue(self, header: SendMessageRequest) -> int:
        if header.queue_id >= 0:
            return int(header.queue_id)
        topic = self._topics.get(header.topic)
        assert topic is not None
        return next(self._next_queue) % topic.write_queue_count

    def _encode(
        self,
        header: SendMessageRequest,
        topic: str,
        queue_id: int,
        properties: bytes,
        body: Buffer,
        born_host: HostAddress,
    ) -> bytes:
        return encode_record(
            topic=topic.encode(),
            queue_id=queue_id,
            body=body,
            properties=properties,
            flag=header.flag,
            system_flag=header.sys_flag,
            born_timestamp_ms=header.born_timestamp or self._clock.wall_ms(),
            born_host=born_host,
            reconsume_times=header.reconsume_times,
            limits=self._limits,
        )

    def _put_encoded(
        self,
        request: SendRequest,
        queue_id: int,
        records: list[bytes],
        unique_key: str,
        times: int,
        born_ms: int,
    ) -> None:
        earlier = self._earlier_tries.find(
            request.command,
            topic=request.topic,
            queue_ids=(queue_id,),
            unique_key=unique_key,
            times=times,
            born_ms=born_ms,
        )
        if earlier is not None:  # a batch is in the log as a whole, or not at all
            request.succeeded(earlier, self._queue.commit_durability)
            return
        chunk = check_chunk(
            b"".join(records),
            encode_sizes([len(record) for record in records]),
            topic=request.topic,
            queue_id=queue_id,
            limits=self._limits,
        )
        self._put(request, chunk, producer_id=0, first_sequence=0)

    # -- answers --------------------------------------------------------------------------------

    def _put(
        self, request: SendRequest, chunk: Chunk, *, producer_id: int, first_sequence: int
    ) -> None:
        request.charged = charged = len(request.command.body)  # which came in one piece
        request.session.charge(charged)
        try:
            verdict = self._intake.put(
                chunk,
                request,
                producer_id=producer_id,
                first_sequence=first_sequence,
                level=request.level,
            )
        except BaseException:
            request.release()
            raise
        if verdict.state is not SequenceState.NEW:
            self._answers.verdict(request, chunk, verdict, first_sequence)

    def lost_lead(self) -> None:
        """Give up what only the leader of the past could have answered."""
        for session, command in self._send_topics.give_up():
            self._answers.hold_again(session, command)
        self._answers.lost_lead()


def _body_of(command: Command) -> Buffer:
    body = command.body
    assert not isinstance(body, list), "a received body is one piece"
    return body
