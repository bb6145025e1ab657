"""The topic of a send: it is there and takes messages, or is created first and the send waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import HeaderError, NoPermissionError, TopicNotFoundError
from broker.handlers.registry import holding_cost
from broker.message.limits import DLQ_PREFIX, RETRY_PREFIX
from broker.protocol.headers import PERM_WRITE
from dledger.errors import LedgerBusyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.handlers.send_answers import SendAnswers
    from broker.metadata.topics import TopicConfig, Topics
    from broker.protocol.send_headers import SendMessageRequest
    from dledger.errors import LedgerError
    from dledger.remoting.command import Command
    from dledger.remoting.server import Session

OF_GROUPS = (RETRY_PREFIX, DLQ_PREFIX)  # topics that come to be with their groups


class SendTopics:
    """Finds the topics of sends, and keeps those sends whose topic is being created.

    Attributes:
        waiting: the sends that wait, by topic.
        waiting_count: how many they are.
        waiting_size: their bytes, by `holding_cost`.
    """

    def __init__(
        self,
        topics: Topics,
        answers: SendAnswers,
        *,
        auto_create_topic: bool,
        held_count_max: int,
        held_size_max: int,
        default_queue_count: int,
        create_topic: Callable[[str, int, Callable[[int, LedgerError | None], None]], None],
        is_being_deleted: Callable[[str], bool],
    ) -> None:
        """Begin with none; the arguments are those of `SendHandlers`."""
        self.waiting: dict[str, list[tuple[Session, Command]]] = {}
        self.waiting_count = 0
        self.waiting_size = 0
        self._topics = topics
        self._answers = answers
        self._auto_create_topic = auto_create_topic
        self._held_count_max = held_count_max
        self._held_size_max = held_size_max
        self._default_queue_count = default_queue_count
        self._create_topic = create_topic
        self._is_being_deleted = is_being_deleted

    def find(
        self,
        session: Session,
        command: Command,
        topic: str,
        queue_id: int,
        *,
        queue_count: int | None = None,
    ) -> TopicConfig | None:
        """Return the topic, to which may be written; None: the send waits for it to be created.

        Raises:
            TopicNotFoundError: it is not there, and is not created for a send, or about to go.
            NoPermissionError: it takes no messages.
            HeaderError: it has no such queue.
            LedgerBusyError: too many sends wait for theirs.
        """
        config = self._topics.get(topic)
        if config is None:
            if not self._auto_create_topic and not topic.startswith(OF_GROUPS):
                raise TopicNotFoundError(
                    f"topic {topic!r} does not exist; create it with `dledger topic create "
                    f"{topic}`, or set auto_create_topic"
                )
            cost = holding_cost(command)
            if self.waiting_size and (
                self.waiting_size + cost > self._held_size_max
                or self.waiting_count >= self._held_count_max
            ):
                raise LedgerBusyError(
                    f"{self.waiting_count} sends with {self.waiting_size} bytes wait for "
                    f"topics that are being created, topic {topic!r} among them; the limits are "
                    f"requests_held_max = {self._held_count_max} and requests_held_size_max = "
                    f"{self._held_size_max}: send again later"
                )
            session.charge(cost)
            self.waiting_count += 1
            self.waiting_size += cost
            waiting = self.waiting.get(topic)
            if waiting is not None:
                waiting.append((session, command))
                return None
            self.waiting[topic] = [(session, command)]
            try:
                self._create_topic(
                    topic,
                    queue_count or self._default_queue_count,
                    lambda _, error: self._created(topic, error),
                )
            except BaseException:
                self._take(topic)
                raise
            return None
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
        return config

    def has_topic_of(self, session: Session, command: Command, header: SendMessageRequest) -> bool:
        """Say whether the topic of *header* may be written to; if not, the send waits for it.

        Raises:
            BrokerError, LedgerBusyError: as `find`.
        """
        topic, queue_id = header.topic, max(header.queue_id, 0)
        queue_count = self._queue_count_of(header)
        return self.find(session, command, topic, queue_id, queue_count=queue_count) is not None

    def changed(self) -> list[tuple[Session, Command]]:
        """Return the sends whose topic has come into being, to be handled again."""
        ready: list[tuple[Session, Command]] = []
        for topic in list(self.waiting):
            if self._topics.get(topic) is not None:
                ready += self._take(topic)
        return ready

    def give_up(self) -> list[tuple[Session, Command]]:
        """Return all sends that wait, which do so no more."""
        return [held for topic in list(self.waiting) for held in self._take(topic)]

    def _queue_count_of(self, header: SendMessageRequest) -> int:
        """Return how many queues the topic gets if this send creates it.

        Source: RocketMQ ``TopicConfigManager.createTopicInSendMessageMethod``: no more than the
        client asks for, and those of a group's own topics one.
        """
        if header.topic.startswith(OF_GROUPS):
            return 1
        if header.default_topic is None:
            return self._default_queue_count
        return max(1, min(header.default_topic_queue_nums, self._default_queue_count))

    def _created(self, topic: str, error: LedgerError | None) -> None:
        if error is not None:
            for session, command in self._take(topic):
                self._answers.refuse(session, command, error)

    def _take(self, topic: str) -> list[tuple[Session, Command]]:
        waiting = self.waiting.pop(topic, [])
        self.waiting_count -= len(waiting)
        for session, command in waiting:
            cost = holding_cost(command)
            session.release(cost)
            self.waiting_size -= cost
        return waiting
