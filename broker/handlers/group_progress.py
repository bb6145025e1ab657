"""How far consumer groups have come, and who is in them: looked up for those who ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.message.limits import RETRY_PREFIX
from broker.protocol.admin_bodies import QueuePlace, language_name, table
from broker.protocol.descriptions import (
    GroupMember,
    GroupQueueDescription,
    GroupTopicDescription,
)

if TYPE_CHECKING:
    from broker.groups.consumers import Consumers
    from broker.handlers.queue_state import QueueStates
    from broker.metadata.consumer_offsets import ConsumerOffsets
    from broker.metadata.topics import Topics


class GroupProgress:
    """Looks at groups on the node that answers."""

    def __init__(
        self,
        *,
        offsets: ConsumerOffsets,
        topics: Topics,
        states: QueueStates,
        consumers: Consumers,
        group_name: str,
    ) -> None:
        """Make it.

        Args:
            offsets: what groups have committed.
            topics: what exists.
            states: looks at queues.
            consumers: who is in which group.
            group_name: of the broker group: RocketMQ's name of the broker.
        """
        self._offsets = offsets
        self._topics = topics
        self._states = states
        self._consumers = consumers
        self._group_name = group_name

    def in_topic(self, group: str, topic: str) -> GroupTopicDescription:
        """Return how far *group* has come in each queue of *topic*.

        Raises:
            TopicNotFoundError: there is no such topic.
        """
        config = self._topics.existing(topic)
        offsets = self._offsets
        queues = []
        for queue_id in range(config.read_queue_count):
            committed = offsets.get(group, topic, queue_id)
            first, end = self._states.ends(topic, queue_id)
            queues.append(
                GroupQueueDescription(
                    queue_id=queue_id,
                    committed=-1 if committed is None else committed,
                    min_offset=first,
                    max_offset=end,
                    consumed_ms=self._states.store_time(topic, queue_id, (committed or 0) - 1),
                )
            )
        return GroupTopicDescription(
            topic=topic,
            epoch=offsets.epoch(group, topic),
            committed_ms=offsets.committed_ms(group, topic),
            queues=tuple(queues),
            out_rate=self._states.out_rate(topic, group),
        )

    def in_topics(self, group: str) -> list[GroupTopicDescription]:
        """Return how far *group* has come, in each topic in which it has committed anything.

        What waits for it in its retry topic is behind it though it has never committed there.
        """
        topics = self._offsets.topics_of(group)
        described = [self.in_topic(group, topic) for topic in topics]
        retry_topic = RETRY_PREFIX + group
        if retry_topic not in topics and self._topics.get(retry_topic) is not None:
            retries = self.in_topic(group, retry_topic)
            if retries.lag:
                described.insert(0, retries)
        return described

    def members(self, group: str) -> tuple[GroupMember, ...]:
        """Return who consumes for *group*, sorted by client id."""
        found = []
        for client_id, data in sorted(self._consumers.of(group).items()):
            origin = self._consumers.origin(group, client_id)
            found.append(
                GroupMember(
                    client_id=client_id,
                    address=origin.address,
                    language="" if origin.language < 0 else language_name(origin.language),
                    version=origin.version,
                    message_model=data.message_model,
                    subscriptions={item.topic: item.expression for item in data.subscriptions},
                )
            )
        return tuple(found)

    def stats_body(self, described: list[GroupTopicDescription]) -> str:
        """Return RocketMQ's ``ConsumeStats`` of a group in some topics."""
        rate = sum(topic.out_rate.messages_per_second for topic in described)
        rows = (
            (
                QueuePlace(topic.topic, self._group_name, queue.queue_id),
                {
                    "brokerOffset": queue.max_offset,
                    "consumerOffset": max(queue.committed, 0),
                    "lastTimestamp": max(queue.consumed_ms, 0),
                },
            )
            for topic in described
            for queue in topic.queues
        )
        return f'{{"consumeTps":{round(rate, 3)},"offsetTable":{table(rows)}}}'
