"""What every way of taking sends works with: one by one, gathered by queue, or mixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors import HeaderError
from broker.protocol.headers import PERM_WRITE
from broker.store.producers import SequenceState

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.handlers.ack_policy import AckPolicy
    from broker.handlers.send_answers import SendAnswers
    from broker.message.limits import MessageLimits
    from broker.metadata.topics import TopicConfig, Topics
    from broker.store.append_queue import AppendQueue
    from broker.store.chunk import Chunk
    from broker.store.producers import SequenceVerdict
    from broker.store.proposals import ManyPut, Put
    from broker.store.send_columns import ReadSends, SendRun
    from dledger.durability import Durability


@dataclass(slots=True)
class SendIntake:
    """The way of checked records into the append queue."""

    queue: AppendQueue  # where chunks go
    topics: Topics  # what exists
    answers: SendAnswers  # answers sends
    policy: AckPolicy  # says how well a message is to be kept before its send is answered
    limits: MessageLimits  # largest body and properties
    is_being_deleted: Callable[[str], bool]  # a topic: nothing is written to it any more
    message_count: int = 0  # messages taken

    def open_topic(self, topic: str, queue_id: int) -> TopicConfig | None:
        """Return the topic of a queue that is open to sends; why it is not, the ordinary way says.

        None where it is not.
        """
        config = self.topics.get(topic)
        if (
            config is not None
            and not self.is_being_deleted(topic)
            and config.perm & PERM_WRITE
            and 0 <= queue_id < config.write_queue_count
        ):
            return config
        return None

    def opened_up_to(self, runs: list[SendRun], begin: int) -> tuple[int, Durability]:
        """Return how far from *begin* on the queues of *runs* are open to sends of one level.

        That is the first whose queue is not, or whose topic asks for another level of durability
        than the one before; and the level, where there are any.
        """
        find, is_being_deleted = self.topics.get, self.is_being_deleted
        level: Durability | None = None
        for number in range(begin, len(runs)):
            target = runs[number].target
            topic = target.topic
            config = find(topic)
            if config is not target.opened_as or config is None or is_being_deleted(topic):
                _, _, queue_id = target.key
                config = self.open_topic(topic, queue_id)
                try:
                    asked_for = None if config is None else self.policy.level_in(config, "", "")
                except HeaderError:
                    asked_for = None  # each will be told that there is no such level
                if asked_for is None:
                    return number, level or self.policy.default
                target.opened_as, target.level = config, asked_for
            if level is not target.level:
                if level is not None and level != target.level:
                    return number, level
                level = target.level
        return len(runs), level or self.policy.default

    def put_sends(
        self, sends: ReadSends, begin: int, end: int, put: ManyPut, *, size: int, level: Durability
    ) -> int:
        """As `put`, of runs *begin* to *end*, all of *size* bytes; return the first not taken.

        Raises:
            LedgerError, InvalidMessageError: as `AppendQueue.put_sends`.
        """
        queue = self.queue
        committed = queue.commit_durability
        taken = queue.put_sends(
            sends, begin, end, put, size=size, level=None if level == committed else level
        )
        for run in sends.runs[begin:taken]:
            self.message_count += run.record_count
        return taken

    def put(
        self, chunk: Chunk, put: Put, *, producer_id: int, first_sequence: int, level: Durability
    ) -> SequenceVerdict:
        """Hand in *chunk*; *put* hears when its records are kept as well as *level* says.

        Raises:
            LedgerError, InvalidMessageError: as `AppendQueue.put_chunk`.
        """
        queue = self.queue
        committed = queue.commit_durability
        verdict = queue.put_chunk(
            chunk,
            put,
            producer_id=producer_id,
            first_sequence=first_sequence,
            # What comes with the commit has not to be waited for by itself.
            level=None if level is committed or level == committed else level,
        )
        if verdict.state is SequenceState.NEW:
            self.message_count += chunk.record_count
        return verdict
