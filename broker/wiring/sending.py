"""Topics, and what messages come in by: sends, delayed ones, those that a group gives back."""

from __future__ import annotations

from broker.delivery.schedule import Schedule
from broker.handlers.ack_policy import COPIES_OF_ROLE, AckPolicy
from broker.handlers.caught_up import CaughtUp
from broker.handlers.repeats import EarlierTries
from broker.handlers.send import SendHandlers
from broker.handlers.send_answers import SendAnswers
from broker.handlers.send_back import SendBackHandlers
from broker.handlers.topics import TopicHandlers
from broker.message.limits import MessageLimits
from broker.store.reader import Reader
from broker.wiring.log_path import LogPath
from dledger.config import FlushDiskType
from dledger.durability import Durability


class Sending(LogPath):
    """The families of requests that write messages."""

    def _make_sending(self) -> None:
        """Make the rooms that messages come in by."""
        config, files, clock = self.config, self._files, self._clock
        self._reader = Reader(files.store, files.derived.queues)
        self.topics = TopicHandlers(
            commands=self.commands,
            queue=self.queue,
            topics=files.topics,
            forwarder=self.forwarder,
            topics_max=config.broker.topics_max,
            queues_max=config.broker.queues_max,
        )
        limits = MessageLimits(body_size_max=config.broker.body_size_max)
        self.schedule = Schedule(
            queue=self.queue,
            reader=self._reader,
            topics=files.topics,
            offsets=files.offsets,
            clock=clock,
            limits=limits,
            is_serving=self._is_serving,
            is_being_deleted=self.topics.is_being_deleted,
            last_delivered=self.queue.last_sequence_of,
        )
        self.send_answers = SendAnswers(
            ledger=self.ledger, queue=self.queue, forwarder=self.forwarder, host=self._store_host
        )
        synced = config.store.flush_disk_type is FlushDiskType.SYNC_FLUSH
        self.earlier_tries = EarlierTries(
            log=files.store,
            queues=files.derived.queues,
            queue=self.queue,
            forwarder=self.forwarder,
            dispatched_index=lambda: files.derived.dispatched_index,
        )
        self.sends = SendHandlers(
            queue=self.queue,
            topics=files.topics,
            answers=self.send_answers,
            policy=AckPolicy(
                topics=files.topics,
                default=Durability(COPIES_OF_ROLE[config.broker.broker_role], synced),
            ),
            clock=clock,
            limits=limits,
            host=self._store_host,
            held_count_max=config.broker.requests_held_max,
            held_size_max=config.broker.requests_held_size_max,
            auto_create_topic=config.broker.auto_create_topic,
            default_queue_count=config.broker.default_topic_queue_count,
            create_topic=self.topics.create_missing,
            is_being_deleted=self.topics.is_being_deleted,
            schedule=self.schedule,
            earlier_tries=self.earlier_tries,
            groups=files.groups,
        )
        self.caught_up = CaughtUp(files.derived, lambda: self.ledger.committed_index)
        self.send_backs = SendBackHandlers(
            log=files.store,
            queues=files.derived.queues,
            schedule=self.schedule,
            topics=files.topics,
            groups=files.groups,
            forwarder=self.forwarder,
            clock=clock,
            host=self._store_host,
            create_topic=self.topics.create_missing,
            is_being_deleted=self.topics.is_being_deleted,
            earlier_tries=self.earlier_tries,
            caught_up=self.caught_up,
            is_serving=self._is_serving,
        )
        for family in (self.topics, self.sends, self.send_backs):
            self.registry.register(family)
