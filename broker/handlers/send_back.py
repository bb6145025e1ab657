"""CONSUMER_SEND_MSG_BACK: a message that could not be consumed comes again, later, or is given up.

It goes to the group's retry topic after a delay that grows with each time, 10 s to 2 h; after as
many times as the group allows it goes to the group's dead letters.

Source: RocketMQ ``AbstractSendMessageProcessor.consumerSendMsgBack``.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from broker.delivery.schedule import Outgoing
from broker.errors import CorruptRecordError, HeaderError
from broker.handlers.dead_letters import QUEUE_COUNT, times_max_of
from broker.handlers.registry import answer, error_response, handles
from broker.message.codec import RECORD_SIZE_MIN, decode_record, record_size
from broker.message.delay import (
    DELAY_MS_MAX,
    RETRY_LEVEL_FIRST,
    Delay,
    delay_by_level,
    delay_until,
)
from broker.message.limits import DLQ_PREFIX, RETRY_PREFIX, check_group, check_group_characters
from broker.message.message_id import encode_offset_id
from broker.message.properties import DELAY, ORIGIN_MESSAGE_ID, RETRY_TOPIC
from broker.protocol.headers import ConsumerSendBackRequest
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.protocol.subscription_group import SubscriptionGroupConfig
from dledger.errors import NotLeaderError, OutcomeUnknownError
from dledger.remoting.command import Command, response
from dledger.store.entry_index import EntryNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.delivery.schedule import Schedule
    from broker.handlers.caught_up import CaughtUp
    from broker.handlers.forward import Forwarder
    from broker.handlers.repeats import EarlierTries
    from broker.message.model import HostAddress, StoredMessage
    from broker.metadata.subscription_groups import SubscriptionGroups
    from broker.metadata.topics import Topics
    from broker.store.commit_log import Receipt
    from broker.store.consume_queues import ConsumeQueues
    from broker.store.log_view import LogView
    from dledger.clock import Clock
    from dledger.durability import Durability
    from dledger.errors import LedgerError
    from dledger.remoting.server import Session


class _SentBack:
    """One request that waits for its message to be in the log."""

    __slots__ = ("_command", "_forwarder", "_session")

    def __init__(self, session: Session, command: Command, forwarder: Forwarder) -> None:
        self._session = session
        self._command = command
        self._forwarder = forwarder

    def succeeded(self, receipt: Receipt, reached: Durability) -> None:
        """See `Put`."""
        self._tell(response(self._command, int(ResponseCode.SUCCESS)))

    def failed(self, error: LedgerError) -> None:
        """See `Put`."""
        if isinstance(error, NotLeaderError):
            if not self._session.closed:
                self._forwarder.hold_again(self._session, self._command)
            return
        if (
            isinstance(error, OutcomeUnknownError)
            and not self._session.closed
            and self._forwarder.ask_next(self._session, self._command)
        ):
            return
        self._tell(error_response(self._command, error))

    def _tell(self, reply: Command) -> None:
        answer(self._session, self._command, reply)
        if not self._session.closed:
            self._session.flush_soon()


class SendBackHandlers:
    """The family of messages that come again."""

    def __init__(
        self,
        *,
        log: LogView,
        queues: ConsumeQueues,
        schedule: Schedule,
        topics: Topics,
        groups: SubscriptionGroups,
        forwarder: Forwarder,
        clock: Clock,
        host: HostAddress,
        create_topic: Callable[[str, int, Callable[[int, LedgerError | None], None]], None],
        is_being_deleted: Callable[[str], bool],
        earlier_tries: EarlierTries,
        caught_up: CaughtUp,
        is_serving: Callable[[], bool],
    ) -> None:
        """Make the family.

        Args:
            log: has the message that is sent back.
            queues: prove that it is one.
            schedule: where it waits.
            topics: what topics there are.
            groups: how often, and after which delays.
            forwarder: takes what this node, no leader any more, has not written.
            clock: the time of day.
            host: this broker's address, part of message ids.
            create_topic: proposes a new topic with so many queues.
            is_being_deleted: whether a topic is about to go: nothing is written to it any more.
            earlier_tries: finds what was handed to a leader of the past and written by it.
            caught_up: where requests wait for what is committed already.
            is_serving: whether this node is the leader and lags behind nobody.
        """
        self._log = log
        self._queues = queues
        self._schedule = schedule
        self._topics = topics
        self._groups = groups
        self._forwarder = forwarder
        self._clock = clock
        self._host = host
        self._create_topic = create_topic
        self._is_being_deleted = is_being_deleted
        self._earlier_tries = earlier_tries
        self._caught_up = caught_up
        self._is_serving = is_serving
        self._next_queue = itertools.count()

    @handles(RequestCode.CONSUMER_SEND_MSG_BACK, on_leader=True)
    def send_back(self, session: Session, command: Command) -> None:
        """Let a message come again, or give it up."""
        header = ConsumerSendBackRequest.decode(command.ext_fields)
        check_group(header.group)
        check_group_characters(header.group)
        config = self._groups.get(header.group) or SubscriptionGroupConfig(group=header.group)
        if config.retry_queue_count <= 0:
            answer(session, command, response(command, int(ResponseCode.SUCCESS)))
            return
        if self._earlier_tries.must_wait(session, command):
            return

        def go_on() -> None:
            if self._is_serving():
                self._send_back(session, command, header, config)
            else:
                self._forwarder.hold_again(session, command)

        # Who sends it back has it from a follower, perhaps, that has come further than the leader.
        self._caught_up.when_surely(session, command, go_on)

    def _send_back(
        self,
        session: Session,
        command: Command,
        header: ConsumerSendBackRequest,
        config: SubscriptionGroupConfig,
    ) -> None:
        message = self._find(header.offset)
        times_max = times_max_of(config, version=command.version, asked=header.max_reconsume_times)
        properties = dict(message.properties)
        properties.setdefault(RETRY_TOPIC, message.topic)
        properties.setdefault(ORIGIN_MESSAGE_ID, encode_offset_id(self._host, message.position))
        properties.pop(DELAY, None)
        times = -1 if header.count_anew else message.reconsume_times
        if times >= times_max or header.delay_level < 0:
            topic, queue_count, delay = DLQ_PREFIX + header.group, QUEUE_COUNT, None
        else:
            topic, queue_count = RETRY_PREFIX + header.group, config.retry_queue_count
            delay = self._delay(config, header, max(times, 0))
        found = self._topics.get(topic)
        is_going = self._is_being_deleted(topic)
        kept = queue_count if found is None else found.write_queue_count
        key, born_ms = message.unique_key or "", message.born_timestamp_ms
        if self._earlier_tries.find_waiting(
            command, real_topic=topic, unique_key=key, times=times + 1, born_ms=born_ms
        ) or self._earlier_tries.find(
            command,
            topic=topic,
            queue_ids=range(kept),
            unique_key=key,
            times=times + 1,
            born_ms=born_ms,
        ):
            answer(session, command, response(command, int(ResponseCode.SUCCESS)))
            return
        if found is None or is_going:
            # Behind a deletion on its way stands the creation, and the message behind both.
            self._create_topic(topic, queue_count, lambda _index, _error: None)
        if found is not None:
            # Should the deletion come to nothing the topic stays as it is.
            queue_count = min(queue_count, kept) if is_going else kept
        self._schedule.put(
            Outgoing(
                topic,
                next(self._next_queue) % queue_count,
                message,
                properties,
                times + 1,
            ),
            delay,
            _SentBack(session, command, self._forwarder),
        )

    def _delay(
        self, config: SubscriptionGroupConfig, header: ConsumerSendBackRequest, times: int
    ) -> Delay | None:
        if header.delay_level > 0:
            return delay_by_level(header.delay_level)
        if header.delay_millis is not None:
            now = self._clock.wall_ms()
            return delay_until(now + min(header.delay_millis, DELAY_MS_MAX), now_ms=now)
        if not config.retry_delays_ms:
            return delay_by_level(RETRY_LEVEL_FIRST + times)
        delays = config.retry_delays_ms
        now = self._clock.wall_ms()
        return delay_until(now + delays[min(times, len(delays) - 1)], now_ms=now)

    def _find(self, position: int) -> StoredMessage:
        """Return the message at a position of the log; that it is one, its queue says."""
        try:
            if position < 0:
                raise EntryNotFoundError("it is negative")
            size = record_size(self._log.bytes_at(position, RECORD_SIZE_MIN))
            message = decode_record(self._log.bytes_at(position, size))
        except (EntryNotFoundError, CorruptRecordError) as error:
            raise self._not_there(position) from error
        queue = self._queues.get(message.topic, message.queue_id)
        if (
            queue is None
            or not queue.min_offset <= message.queue_offset < queue.max_offset
            or queue.position_at(message.queue_offset) != position
        ):
            raise self._not_there(position)
        return message

    @staticmethod
    def _not_there(position: int) -> HeaderError:
        return HeaderError(f"no message lies at position {position} of the log", field="offset")
