"""Topics: their list, and how one comes to be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from broker.errors import InvalidMessageError, InvalidTopicError, TopicNotFoundError
from broker.handlers.registry import answer, handles
from broker.message.limits import check_not_reserved, check_topic
from broker.metadata.topic_config import ATTRIBUTE_FIELDS, TopicConfig, attribute_values
from broker.metadata.topics import (
    MISSING,
    alter_topic,
    create_topic,
    delete_topic,
    put_topic,
    queue_count_of,
)
from broker.protocol.bodies import TopicEntry, encode_topic_config, encode_topic_table
from broker.protocol.headers import CreateTopicRequest, DeleteTopicRequest, TopicRequest
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command, response

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.handlers.commands import Commands
    from broker.handlers.forward import Forwarder
    from broker.metadata.topics import Topics
    from broker.store.append_queue import AppendQueue
    from dledger.errors import LedgerError
    from dledger.remoting.server import Session


class TopicHandlers:
    """The family of topics."""

    def __init__(
        self,
        *,
        commands: Commands,
        queue: AppendQueue,
        topics: Topics,
        forwarder: Forwarder,
        topics_max: int,
        queues_max: int,
    ) -> None:
        """Make the family.

        Args:
            commands: proposes what is asked for and answers.
            queue: takes topics that are made on first use.
            topics: what exists.
            forwarder: takes what this node may only not have heard of yet.
            topics_max: most topics there may be.
            queues_max: most queues of all topics together.
        """
        self._commands = commands
        self._queue = queue
        self._topics = topics
        self._forwarder = forwarder
        self._topics_max = topics_max
        self._queues_max = queues_max
        self._deleting: dict[str, int] = {}  # deletions on their way

    @handles(RequestCode.UPDATE_AND_CREATE_TOPIC, on_leader=True)
    def create(self, session: Session, command: Command) -> None:
        """Create a topic or alter one; answered when this node can be asked for it."""
        header = CreateTopicRequest.decode(command.ext_fields)
        check_not_reserved(header.topic)
        known = self._topics.get(header.topic)
        if header.only_if_there and known is None:
            raise self._not_there(header.topic)
        given = _fields_given(header)
        if header.only_if_there:
            assert known is not None
            config = replace(known, **given)
            wanted = alter_topic(known, given)
        else:
            config = TopicConfig(topic=header.topic, **given)
            if header.only_if_missing:
                wanted = create_topic(config)
            else:
                wanted = put_topic(config, keep=set(ATTRIBUTE_FIELDS) - given.keys())
        if not header.only_if_missing:
            _check_shrinking(known, config)
        if known is None or not header.only_if_missing:
            self._check_limits(known, config)

        def finish(result: str) -> Command:
            if result == MISSING:  # somebody deleted it a moment before
                raise self._not_there(header.topic)
            return response(command, int(ResponseCode.SUCCESS))

        self._commands.propose(session, command, wanted.only_once(header.request_id), finish)

    @handles(RequestCode.DELETE_TOPIC_IN_BROKER, on_leader=True)
    def delete(self, session: Session, command: Command) -> None:
        """Delete a topic with its messages and what groups have committed in it.

        A success also when there is none, as with RocketMQ: who asks again, because the first
        answer was lost, hears that it is done.
        """
        header = DeleteTopicRequest.decode(command.ext_fields)
        check_topic(header.topic)
        check_not_reserved(header.topic)
        topic = header.topic

        def over() -> None:
            self._deleting[topic] -= 1
            if not self._deleting[topic]:
                del self._deleting[topic]

        def finish(_: str) -> Command:
            over()
            return response(command, int(ResponseCode.SUCCESS))

        wanted = delete_topic(topic).only_once(header.request_id)
        self._commands.propose(session, command, wanted, finish, over)
        # What is sent from now on would stand behind the deletion in the log.
        self._deleting[topic] = self._deleting.get(topic, 0) + 1

    def is_being_deleted(self, topic: str) -> bool:
        """Return whether a deletion of *topic* is on its way: nothing may be appended behind it."""
        return topic in self._deleting

    def create_missing(
        self, topic: str, queue_count: int, done: Callable[[int, LedgerError | None], None]
    ) -> None:
        """Propose a topic that a send has asked for.

        Raises:
            InvalidTopicError: no topic can have that name, or there are too many.
        """
        check_not_reserved(topic)
        config = TopicConfig(
            topic=topic, read_queue_count=queue_count, write_queue_count=queue_count
        )
        self._check_limits(None, config)
        self._queue.put_command(create_topic(config), done)

    def _check_limits(self, known: TopicConfig | None, wanted: TopicConfig) -> None:
        """Raise `InvalidTopicError` when there would be more topics or queues than are allowed."""
        topics = self._topics
        if known is None and len(topics) >= self._topics_max:
            raise InvalidTopicError(
                f"topic {wanted.topic!r}: there are {len(topics)} topics, and topics_max is "
                f"{self._topics_max}; delete one, or raise topics_max on every node"
            )
        more = queue_count_of(wanted) - (queue_count_of(known) if known is not None else 0)
        if more > 0 and topics.queue_count + more > self._queues_max:
            raise InvalidTopicError(
                f"topic {wanted.topic!r}: {more} more queues than the {topics.queue_count} of all "
                f"topics would pass queues_max, {self._queues_max}; take fewer, delete a topic, or "
                "raise queues_max on every node"
            )

    @staticmethod
    def _not_there(topic: str) -> TopicNotFoundError:
        return TopicNotFoundError(
            f"topic {topic!r} does not exist; create it with `dledger topic create {topic}`"
        )

    @handles(RequestCode.GET_ALL_TOPIC_CONFIG)
    def list_topics(self, session: Session, command: Command) -> None:
        """Answer all topics this node knows of."""
        table = map(_entry, self._topics)
        body = encode_topic_table(table, version=self._topics.version)
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.GET_TOPIC_CONFIG)
    def topic_config(self, session: Session, command: Command) -> None:
        """Answer what one topic has."""
        config = self._topics.get(topic := TopicRequest.decode(command.ext_fields).topic)
        if config is None:
            raise self._not_there(topic)
        body = encode_topic_config(_entry(config))
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))


def _entry(config: TopicConfig) -> TopicEntry:
    return TopicEntry(
        config.topic,
        config.read_queue_count,
        config.write_queue_count,
        config.perm,
        order=config.order,
        filter_type=config.filter_type,
        system_flag=config.system_flag,
        retention_ms=config.retention_ms,
        retention_bytes=config.retention_bytes,
        acks=config.acks,
        flush=config.flush,
    )


def _fields_given(header: CreateTopicRequest) -> dict[str, Any]:
    """Return the fields of a `TopicConfig` that *header* names."""
    given = {
        "read_queue_count": header.read_queue_nums,
        "write_queue_count": header.write_queue_nums,
        "perm": header.perm,
        "filter_type": header.topic_filter_type,
        "system_flag": header.topic_sys_flag,
        "order": header.order,
    }
    named = {name: value for name, value in given.items() if value is not None}
    return named | attribute_values(header.attributes)


def _check_shrinking(known: TopicConfig | None, wanted: TopicConfig) -> None:
    if known is not None and wanted.read_queue_count < known.read_queue_count:
        raise InvalidMessageError(
            f"topic {known.topic!r} has {known.read_queue_count} queues; with "
            f"{wanted.read_queue_count} the messages of the others could not be read any more; "
            f"keep readQueueNums at {known.read_queue_count}, writeQueueNums may be less"
        )
